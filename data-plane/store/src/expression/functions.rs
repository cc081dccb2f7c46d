//! Our own functions, all of one argument: times in the forms that receivers document, numbers that were kept as text,
//! and those of [`texts`]. Pure, so that a body has the same bytes each time.

use cel::ExecutionError;
use cel::common::functions::Function;
use cel::common::types::{CelInt, CelString};
use cel::common::value::CowVal;

use super::texts;
use crate::clock::Timestamp;

/// Names and what they do; the contract of templates lists them.
pub(super) const ALL: [(&str, Function); 9] = [
    ("time_s", time_s),
    ("time_us", time_us),
    ("unix", unix),
    ("number_or_text", number_or_text),
    ("browser", texts::browser),
    ("bare", texts::bare),
    ("joined", texts::joined),
    ("slack", texts::slack),
    ("discord", texts::discord),
];

/// Whether there is a function of ours with this name.
pub(super) fn is_known(name: &str) -> bool {
    ALL.iter().any(|(known, _)| *known == name)
}

type Args<'b, 'v> = Vec<CowVal<'b, 'v>>;

/// `2026-05-09T14:01:23Z`: whole seconds.
fn time_s<'b, 'v>(args: Args<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = time("time_s", &args)?.to_string();
    let (seconds, _) = text.split_once('.').unwrap_or((&text, ""));
    Ok(CowVal::owned(CelString::from(format!("{seconds}Z"))))
}

/// `2026-01-01T10:00:00.000000+00:00`: microseconds and a numeric offset.
fn time_us<'b, 'v>(args: Args<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = time("time_us", &args)?.to_string();
    let millis = text.strip_suffix('Z').unwrap_or(&text);
    Ok(CowVal::owned(CelString::from(format!("{millis}000+00:00"))))
}

/// Whole seconds since 1970.
fn unix<'b, 'v>(args: Args<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    Ok(CowVal::owned(CelInt::from(time("unix", &args)?.as_secs())))
}

/// A text that is a whole number as JSON writes it (`42`, not `042`) as that number; any other value as it is.
fn number_or_text<'b, 'v>(mut args: Args<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let Some(value) = args.pop() else {
        return Err(ExecutionError::invalid_argument_count(1, 0));
    };
    let number = value.downcast_ref::<CelString>().and_then(|text| {
        let number: i64 = text.inner().parse().ok()?;
        (number.to_string() == text.inner()).then_some(number)
    });
    Ok(number.map_or(value, |number| CowVal::owned(CelInt::from(number))))
}

fn time(function: &str, args: &[CowVal<'_, '_>]) -> Result<Timestamp, ExecutionError> {
    let [value] = args else {
        return Err(ExecutionError::invalid_argument_count(1, args.len()));
    };
    value
        .downcast_ref::<CelString>()
        .and_then(|text| text.inner().parse().ok())
        .ok_or_else(|| ExecutionError::function_error(function, "takes a time such as created_at"))
}
