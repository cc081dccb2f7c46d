//! Rules for single fields that several resources share, and update masks. Pure.

use prost_types::FieldMask;
use qrelay_store::limits;

use crate::refusal::Violations;

/// A line of text that people read: at most `chars_max` characters, no control characters.
pub(crate) fn line(violations: &mut Violations, field: &str, text: &str, chars_max: usize) {
    if text.chars().nth(chars_max).is_some() {
        violations.add(field, format!("must have at most {chars_max} characters"));
    }
    if text.chars().any(char::is_control) {
        violations.add(field, "must not hold control characters");
    }
}

/// The same, but not empty.
pub(crate) fn required_line(violations: &mut Violations, field: &str, text: &str, chars_max: usize) {
    if text.trim().is_empty() {
        violations.add(field, "must not be empty");
    }
    line(violations, field, text, chars_max);
}

/// A caller's request id; none when it is not given.
pub(crate) fn request_id(violations: &mut Violations, text: &str) -> Option<String> {
    line(violations, "request_id", text, limits::REQUEST_ID_CHARS_MAX);
    (!text.is_empty()).then(|| text.to_owned())
}

/// The paths that a create or an update may set.
pub(crate) struct Settable {
    /// Fields that are set as a whole only.
    pub(crate) fields: &'static [&'static str],
    /// The paths of each field whose parts may be named too, its own name first.
    pub(crate) messages: &'static [&'static [&'static str]],
}

impl Settable {
    /// All of them, in the order in which they are set.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &'static str> {
        let parts = self.messages.iter().copied().flatten();
        self.fields.iter().chain(parts).copied()
    }
}

/// Which fields an update changes: those of the mask, or without a mask those that are `populated` (AIP-134).
///
/// A path that is `settable` is kept, one that only the server sets is ignored (AIP-203), any other is a violation.
pub(crate) fn masked(
    violations: &mut Violations,
    mask: Option<&FieldMask>,
    settable: &Settable,
    ignored: &[&str],
    populated: impl Fn(&str) -> bool,
) -> Vec<&'static str> {
    let Some(mask) = mask.filter(|mask| !mask.paths.is_empty()) else {
        return settable.paths().filter(|path| populated(path)).collect();
    };
    let mut paths = Vec::new();
    for path in &mask.paths {
        match settable.paths().find(|known| known == path) {
            Some(known) if !paths.contains(&known) => paths.push(known),
            Some(_) => {}
            None if ignored.contains(&path.as_str()) => {}
            None => {
                let shown: String = path.chars().filter(|c| !c.is_control()).take(100).collect();
                violations.add(
                    "update_mask",
                    format!("has a path that cannot be changed: `{shown}`"),
                );
            }
        }
    }
    paths
}

/// A resource's etag.
pub(crate) fn etag(version: u64) -> String {
    format!("v{version}")
}

/// Whether what a caller expects (nothing, if empty) is what stands there.
pub(crate) fn etag_matches(given: &str, version: u64) -> bool {
    given.is_empty() || given == etag(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(given: Option<&[&str]>) -> Result<Vec<&'static str>, String> {
        let mask = given.map(|paths| FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        });
        let mut violations = Violations::default();
        let paths = masked(
            &mut violations,
            mask.as_ref(),
            &Settable {
                fields: &["name", "tags"],
                messages: &[&["limit", "limit.burst"]],
            },
            &["id"],
            |path| path == "tags",
        );
        violations
            .finish()
            .map(|()| paths)
            .map_err(|status| status.message().to_owned())
    }

    #[test]
    fn a_mask_names_what_changes_and_without_one_the_populated_fields_do() {
        assert_eq!(paths(Some(&["name", "name", "id"])), Ok(vec!["name"]));
        assert_eq!(
            paths(Some(&["limit.burst", "limit"])),
            Ok(vec!["limit.burst", "limit"])
        );
        assert!(paths(Some(&["limit.nope"])).is_err());
        assert_eq!(paths(None), Ok(vec!["tags"]));
        assert_eq!(paths(Some(&[])), Ok(vec!["tags"]));
        assert!(paths(Some(&["name", "nope"])).unwrap_err().contains("`nope`"));
        assert!(paths(Some(&["*"])).is_err());
        assert!(paths(Some(&["tags.0"])).is_err());
    }

    #[test]
    fn lines_are_counted_in_characters_and_hold_no_control_characters() {
        for (text, fits) in [
            ("äöü", true),
            ("äöüß", false),
            ("a\nb", false),
            ("a\u{1b}", false),
            ("", true),
        ] {
            let mut violations = Violations::default();
            line(&mut violations, "name", text, 3);
            assert_eq!(violations.is_empty(), fits, "{text:?}");
        }
        let mut violations = Violations::default();
        required_line(&mut violations, "name", "  ", 3);
        assert!(!violations.is_empty());
    }
}
