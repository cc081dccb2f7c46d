//! Draws a QR code with half blocks, two modules a character, so that it is square on a terminal.

use std::fmt::Write as _;

use qrcodegen::{QrCode, QrCodeEcc};

/// Light modules around the symbol: what ISO/IEC 18004 asks for.
const QUIET_ZONE: i32 = 4;

/// How dark and light are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ink {
    /// With colours: black on white, whatever the terminal's own are.
    Colours,
    /// Without: light modules are blocks, as on a terminal that is dark.
    Blocks,
}

/// A text that fits into no QR code.
#[derive(Debug, thiserror::Error)]
#[error("too long for a QR code")]
pub(crate) struct TooLong;

/// The drawing, several lines, each ended.
pub(crate) fn draw(text: &str, ink: Ink) -> Result<String, TooLong> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).map_err(|_| TooLong)?;
    let range = -QUIET_ZONE..code.size() + QUIET_ZONE;
    let mut drawing = String::new();
    for y in range.clone().step_by(2) {
        let line: String = range
            .clone()
            .map(|x| half_blocks(code.get_module(x, y), code.get_module(x, y + 1)))
            .collect();
        let written = match ink {
            Ink::Blocks => writeln!(drawing, "{line}"),
            Ink::Colours => writeln!(drawing, "\u{1b}[38;5;231;48;5;16m{line}\u{1b}[0m"),
        };
        written.expect("invariant: a String takes text");
    }
    Ok(drawing)
}

/// Light is drawn, dark is left out.
fn half_blocks(upper_is_dark: bool, lower_is_dark: bool) -> char {
    match (upper_is_dark, lower_is_dark) {
        (false, false) => '█',
        (false, true) => '▀',
        (true, false) => '▄',
        (true, true) => ' ',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drawing_holds_the_codes_modules_and_a_quiet_zone() {
        let text = "https://qr.example/k7m2p9qx";
        let code = QrCode::encode_text(text, QrCodeEcc::Medium).unwrap();
        let drawing = draw(text, Ink::Blocks).unwrap();
        let lines: Vec<Vec<char>> = drawing.lines().map(|line| line.chars().collect()).collect();
        let is_dark = |x: i32, y: i32| {
            let (column, row) = (
                usize::try_from(x + QUIET_ZONE).unwrap(),
                usize::try_from(y + QUIET_ZONE).unwrap(),
            );
            match (lines[row / 2][column], row % 2) {
                ('█', _) | ('▀', 0) | ('▄', 1) => false,
                (' ', _) | ('▀', 1) | ('▄', 0) => true,
                (other, _) => panic!("{other}"),
            }
        };
        for y in -QUIET_ZONE..code.size() + QUIET_ZONE {
            for x in -QUIET_ZONE..code.size() + QUIET_ZONE {
                assert_eq!(is_dark(x, y), code.get_module(x, y), "at {x}, {y}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(draw(&"x".repeat(5000), Ink::Blocks).is_err());
    }
}
