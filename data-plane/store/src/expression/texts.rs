//! Our functions over texts: strangers' words made harmless for the programs that show them, and names in the forms
//! that receivers document. What is not a text is an error, which a template writes as null.

use cel::ExecutionError;
use cel::common::types::{CelList, CelString};
use cel::common::value::CowVal;

use super::environment::TOO_LARGE;
use crate::limits::{EXPRESSION_OUTPUT_BYTES_MAX, SHOWN_TEXT_CHARS_MAX};

type Args<'b, 'v> = Vec<CowVal<'b, 'v>>;

/// `Safari` for `Mobile Safari`, `Chrome` for `Chrome Mobile iOS`: the browser without the variant.
pub(super) fn browser<'b, 'v>(args: Args<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    const VARIANTS: [&str; 4] = ["Mobile", "iOS", "WebView", "UI/WKWebView"];
    let name = text("browser", &args)?;
    let words: Vec<_> = name.split(' ').filter(|word| !VARIANTS.contains(word)).collect();
    Ok(made(if words.is_empty() {
        name.to_owned()
    } else {
        words.join(" ")
    }))
}

/// An id without its prefix: `4k2…` for `evt_4k2…`.
pub(super) fn bare<'b, 'v>(args: Args<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let id = text("bare", &args)?;
    Ok(made(id.split_once('_').map_or(id, |(_, bare)| bare).to_owned()))
}

/// Words for Slack: `&`, `<` and `>` are escaped, so that nothing is a mention or a link with a text of its own. Slack has
/// no escape for what formats (`*`, `_`, `~`, a backtick): a message that shows strangers' words says `"mrkdwn": false`.
pub(super) fn slack<'b, 'v>(args: Args<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let mut shown = String::new();
    for character in shown_characters(text("slack", &args)?) {
        match character {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            other => shown.push(other),
        }
    }
    Ok(made(shown))
}

/// Words for Discord's Markdown: whatever could format, link or mention is behind a backslash.
pub(super) fn discord<'b, 'v>(args: Args<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let mut shown = String::new();
    for character in shown_characters(text("discord", &args)?) {
        if "\\*_~`|>#[]()<@:-".contains(character) {
            shown.push('\\');
        }
        shown.push(character);
    }
    Ok(made(shown))
}

/// The texts of a list, with `, ` between them.
pub(super) fn joined<'b, 'v>(args: Args<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let wrong = |why| ExecutionError::function_error("joined", why);
    let [list] = &args[..] else {
        return Err(ExecutionError::invalid_argument_count(1, args.len()));
    };
    let list = list
        .downcast_ref::<CelList<'_>>()
        .ok_or_else(|| wrong("takes a list of texts"))?;
    let mut text = String::new();
    for (at, value) in list.inner().iter().enumerate() {
        let word = value
            .downcast_ref::<CelString>()
            .ok_or_else(|| wrong("takes a list of texts"))?;
        if text.len().saturating_add(word.inner().len()) > EXPRESSION_OUTPUT_BYTES_MAX {
            return Err(wrong(TOO_LARGE));
        }
        if at > 0 {
            text.push_str(", ");
        }
        text.push_str(word.inner());
    }
    Ok(made(text))
}

/// The first [`SHOWN_TEXT_CHARS_MAX`] characters that can be seen, `…` for the rest; control characters are spaces.
fn shown_characters(text: &str) -> impl Iterator<Item = char> {
    let seen = || text.chars().filter(|character| !is_unseen(*character));
    let rest = seen().nth(SHOWN_TEXT_CHARS_MAX).map(|_| '…');
    let plain = |character: char| {
        if character.is_control() { ' ' } else { character }
    };
    seen().take(SHOWN_TEXT_CHARS_MAX).map(plain).chain(rest)
}

/// Whether a character has no width, or turns the direction of what follows: with those a text looks like another one.
const fn is_unseen(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}

fn text<'a>(function: &str, args: &'a [CowVal<'_, '_>]) -> Result<&'a str, ExecutionError> {
    let [value] = args else {
        return Err(ExecutionError::invalid_argument_count(1, args.len()));
    };
    value
        .downcast_ref::<CelString>()
        .map(CelString::inner)
        .ok_or_else(|| ExecutionError::function_error(function, "takes a text"))
}

fn made<'b, 'v>(text: String) -> CowVal<'b, 'v> {
    CowVal::owned(CelString::from(text))
}
