//! An endpoint's filter: what a caller may write, and how it looks on the wire.

use std::{collections::BTreeSet, time::Duration};

use qrelay_proto::v1;
use qrelay_store::{
    Timestamp,
    event::{Event, EventType},
    expression::{self, CompileError, EvaluateError, Subject},
    id::{ConfigSeq, EventAddress, IdCipher, TenantId},
    limits,
    model::Filter,
    payload,
    record::Classification,
};
use tonic::Status;

use crate::{
    field,
    refusal::{self, Violations},
};

/// When to try again after no thread was to be had.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The paths of the field, for update masks.
pub(crate) const PATHS: [&str; 7] = [
    "filter",
    "filter.codes",
    "filter.tags",
    "filter.campaigns",
    "filter.classifications",
    "filter.humans_only",
    "filter.expression",
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
    if named("filter.tags") {
        let path = "filter.tags";
        filter.tags = texts(path, &given.tags, limits::TAG_CHARS_MAX, violations);
    }
    if named("filter.campaigns") {
        let path = "filter.campaigns";
        filter.campaigns = texts(path, &given.campaigns, limits::REFERENCE_CHARS_MAX, violations);
    }
    if named("filter.expression") {
        filter.expression.clone_from(&given.expression);
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

fn texts(path: &str, given: &[String], chars_max: usize, violations: &mut Violations) -> BTreeSet<String> {
    let entries = entries(path, given, limits::FILTER_TAGS_MAX, violations);
    let kept = entries.map(|(at, text)| {
        field::required_line(violations, &format!("{path}[{at}]"), text, chars_max);
        text.clone()
    });
    kept.collect()
}

/// Judges the expression: what evaluates to no boolean for a sample scan is none.
///
/// # Errors
/// UNAVAILABLE when it cannot be judged now.
pub(crate) async fn check_expression(filter: &Filter, violations: &mut Violations) -> Result<(), Status> {
    let text = filter.expression.clone();
    if text.is_empty() {
        return Ok(());
    }
    let judged = tokio::task::spawn_blocking(move || {
        let compiled = expression::compile_for_template(&text)?;
        Ok(compiled.matches(&sample()))
    });
    let judged = judged.await.unwrap_or(Err(CompileError::Busy));
    match judged {
        Err(CompileError::Busy) => {
            let message = CompileError::Busy.to_string();
            return Err(refusal::unavailable("SERVER_BUSY", &message, RETRY_AFTER));
        }
        Err(error) => violations.add("filter.expression", format!("is refused: {error}")),
        Ok(Err(error @ EvaluateError::NotBoolean)) => {
            violations.add("filter.expression", format!("is refused: {error}"));
        }
        // A sample has not all that a tenant's own events have.
        Ok(_) => {}
    }
    Ok(())
}

fn sample() -> Subject {
    let (at, tenant) = (Timestamp::from_millis(0), TenantId::from_bytes([0; 10]));
    let (ids, address) = (
        IdCipher::new(&[0; 16]),
        EventAddress::config(ConfigSeq::new(1), 0),
    );
    let (event, code) = Event::sample_of(EventType::ScanCreated, &ids, address, at, tenant);
    payload::subject(&event, code.as_ref())
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
        tags: filter.tags.iter().cloned().collect(),
        campaigns: filter.campaigns.iter().cloned().collect(),
        expression: filter.expression.clone(),
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
            tags: vec!["lobby".into(), "poster".into()],
            campaigns: vec!["spring".into()],
            expression: "data.country == 'CA'".into(),
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

        let judged = |codes: &[&str], classes: &[&str], tags: &[&str]| {
            let texts = |given: &[&str]| given.iter().map(ToString::to_string).collect();
            let given = v1::Filter {
                codes: texts(codes),
                classifications: texts(classes),
                tags: texts(tags),
                ..v1::Filter::default()
            };
            let mut violations = Violations::default();
            set(&mut Filter::default(), "filter", Some(&given), &mut violations);
            violations.finish().unwrap_err().message().to_owned()
        };
        for (codes, classes, tags, refusal) in [
            (
                &["menu"][..],
                &[][..],
                &[][..],
                "filter.codes[0] must be a code's id",
            ),
            (
                &[],
                &["human", "Bot"],
                &[],
                "filter.classifications[1] must be one of human,",
            ),
            (
                &[],
                &["human"; 8],
                &[],
                "filter.classifications must have at most 7",
            ),
            (&["x"; 501], &[], &[], "filter.codes must have at most 500"),
            (&[], &[], &["x"; 101], "filter.tags must have at most 100"),
            (&[], &[], &["x", " "], "filter.tags[1] must not be empty"),
        ] {
            let judged = judged(codes, classes, tags);
            assert!(judged.starts_with(refusal), "{judged}");
        }
    }
}
