//! Makes strangers' text safe to print: a user agent, a name or an error may hold terminal control sequences.

use std::{borrow::Cow, fmt::Write as _};

/// The text with every character that could move the cursor, colour, hide or reorder what stands on a terminal
/// written as an escape: controls (C0, C1, DEL), line separators, and the bidirectional and invisible marks.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts_on_a_terminal) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            _ if acts_on_a_terminal(character) => {
                write!(escaped, "\\u{{{:x}}}", u32::from(character)).expect("invariant: a String takes text");
            }
            _ => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

fn acts_on_a_terminal(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_shown_and_everything_else_stays() {
        for (given, shown) in [
            ("plain", "plain"),
            ("Zürich 東京 🙂", "Zürich 東京 🙂"),
            ("\u{1b}]0;owned\u{7}", "\\u{1b}]0;owned\\u{7}"),
            ("a\u{202e}b\u{9b}2J", "a\\u{202e}b\\u{9b}2J"),
            ("two\r\nlines\t", "two\\r\\nlines\\t"),
        ] {
            assert_eq!(printable(given), shown);
        }
    }
}
