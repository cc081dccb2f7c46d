//! An endpoint's filter: what a caller may write, and how it looks on the wire.

use std::collections::BTreeSet;

use qrelay_proto::v1;
use qrelay_store::{limits, model::Filter, record::Classification};

use crate::refusal::Violations;

/// The paths of the field, for update masks.
pub(crate) const PATHS: [&str; 4] = [
    "filter",
    "filter.codes",
    "filter.classifications",
    "filter.humans_only",
];

/// Sets what one of [`PATHS`] names, and notes what is wrong with it; the rest stays.
pub(crate) fn set(filter: &mut Filter, path: &str, given: Option<&v1::Filter>, violations: &mut Violations) {
    let none = v1::Filter::default();
    let given = given.unwrap_or(&none);
    let named = |part: &str| path == "filter" || path == part;
    if named("filter.codes") {
        let entries = entries("filter.codes", &given.codes, limits::FILTER_CODES_MAX, violations);
        let parsed = entries.filter_map(|(at, text)| {
            let id = text.parse().ok();
            if id.is_none() {
                violations.add(format!("filter.codes[{at}]"), "must be a code's id");
            }
            id
        });
        filter.codes = parsed.collect::<BTreeSet<_>>();
    }
    if named("filter.classifications") {
        let path = "filter.classifications";
        let entries = entries(
            path,
            &given.classifications,
            Classification::ALL.len(),
            violations,
        );
        let parsed = entries.filter_map(|(at, text)| {
            let class = Classification::ALL
                .into_iter()
                .find(|class| class.as_str() == text);
            if class.is_none() {
                let all = Classification::ALL.map(Classification::as_str).join(", ");
                violations.add(format!("{path}[{at}]"), format!("must be one of {all}"));
            }
            class
        });
        filter.classifications = parsed.collect();
    }
    if named("filter.humans_only") {
        filter.humans_only = given.humans_only;
    }
}

/// The entries with their places; none of a list that is too long.
fn entries<'a>(
    path: &str,
    given: &'a [String],
    max: usize,
    violations: &mut Violations,
) -> impl Iterator<Item = (usize, &'a String)> + use<'a> {
    let fits = given.len() <= max;
    if !fits {
        violations.add(path, format!("must have at most {max} entries"));
    }
    given.iter().enumerate().take(if fits { max } else { 0 })
}

/// The filter on the wire; none when it asks nothing.
pub(crate) fn show(filter: &Filter) -> Option<v1::Filter> {
    let classes = filter.classifications.iter();
    (*filter != Filter::default()).then(|| v1::Filter {
        codes: filter.codes.iter().map(ToString::to_string).collect(),
        classifications: classes.map(|class| class.as_str().to_owned()).collect(),
        humans_only: filter.humans_only,
    })
}

#[cfg(test)]
mod tests {
    use qrelay_store::id::CodeId;

    use super::*;

    #[test]
    fn what_is_set_shows_the_same_and_wrong_entries_are_named() {
        let given = v1::Filter {
            codes: vec![CodeId::from_bytes([1; 10]).to_string()],
            classifications: vec!["human".into(), "tool".into()],
            humans_only: true,
        };
        let mut filter = Filter::default();
        let mut violations = Violations::default();
        set(&mut filter, "filter", Some(&given), &mut violations);
        assert_eq!(show(&filter), Some(given));
        assert_eq!(show(&Filter::default()), None);
        let part = v1::Filter::default();
        set(&mut filter, "filter.codes", Some(&part), &mut violations);
        assert!(filter.codes.is_empty() && filter.humans_only);
        assert!(violations.is_empty());

        let judged = |codes: &[&str], classes: &[&str]| {
            let texts = |given: &[&str]| given.iter().map(ToString::to_string).collect();
            let given = v1::Filter {
                codes: texts(codes),
                classifications: texts(classes),
                humans_only: false,
            };
            let mut violations = Violations::default();
            set(&mut Filter::default(), "filter", Some(&given), &mut violations);
            violations.finish().unwrap_err().message().to_owned()
        };
        assert!(judged(&["menu"], &[]).starts_with("filter.codes[0] must be a code's id"));
        assert!(
            judged(&[], &["human", "Bot"]).starts_with("filter.classifications[1] must be one of human,")
        );
        assert!(judged(&[], &["human"; 8]).starts_with("filter.classifications must have at most 7"));
        assert!(judged(&["x"; 501], &[]).starts_with("filter.codes must have at most 500"));
    }
}
