//! Short ids: what is printed.
//!
//! Generated ones are lower case, of an alphabet without look-alikes and without vowels (so that they make no
//! words); given ones keep their case. Whatever is in lower case is found in any case.

use qrelay_store::{id::random, limits};

use crate::refusal::Violations;

/// 28 symbols: no 0/o, 1/l/i, no a, e, u.
const ALPHABET: &[u8; 28] = b"23456789bcdfghjkmnpqrstvwxyz";
/// 28^8 is 3.8e11: at ten million codes one in 38,000 ids is taken, and is drawn again.
const CHARS: usize = 8;

/// Draws one. Later attempts are longer, so that a crowded space cannot hold up a create.
pub(crate) fn generate(attempt: u32) -> String {
    let chars = CHARS + usize::try_from(attempt / 2).unwrap_or(0) * 2;
    let mut text = String::with_capacity(chars);
    while text.len() < chars {
        for byte in random::<16>() {
            // 252 is the largest multiple of 28 in a byte: above it symbols would not be equally likely.
            if byte < 252 && text.len() < chars {
                text.push(char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
            }
        }
    }
    text
}

/// Judges a given one.
pub(crate) fn check(violations: &mut Violations, text: &str) {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if text.len() > limits::SHORT_ID_CHARS_MAX || !text.bytes().all(allowed) {
        violations.add("short_id", "must be 1 to 64 of A-Z, a-z, 0-9, - and _");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn generated_ids_are_lower_case_without_look_alikes_and_differ() {
        let ids: HashSet<String> = (0..1000).map(|_| generate(0)).collect();
        assert_eq!(ids.len(), 1000);
        for id in &ids {
            assert!(
                id.len() == 8 && id.bytes().all(|byte| ALPHABET.contains(&byte)),
                "{id}"
            );
        }
        assert_eq!(generate(4).len(), 12);
    }

    #[test]
    fn given_ids_are_letters_digits_dashes_and_underscores() {
        for (text, fits) in [
            ("Menu-7_x", true),
            (&"a".repeat(64), true),
            (&"a".repeat(65), false),
            ("a b", false),
            ("a/b", false),
            ("ä", false),
            (".", false),
        ] {
            let mut violations = Violations::default();
            check(&mut violations, text);
            assert_eq!(violations.is_empty(), fits, "{text}");
        }
    }
}
