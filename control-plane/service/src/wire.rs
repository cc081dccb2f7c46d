//! Between the contract's well-known types and ours. Pure.

use std::time::Duration;

use prost_types::{ListValue, Struct, Value, value::Kind};
use qrelay_store::Timestamp;
use serde_json::{Map, Number, Value as Json};

/// Whole numbers up to here are exact in the double that a `Struct` holds (2^53).
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A time.
pub(crate) fn time(at: Timestamp) -> prost_types::Timestamp {
    let ms = at.as_millis();
    let nanos = ms.rem_euclid(1000) * 1_000_000;
    prost_types::Timestamp {
        seconds: ms.div_euclid(1000),
        nanos: i32::try_from(nanos).expect("invariant: below a second"),
    }
}

/// A caller's time, cut to milliseconds; none outside the years 1970 to 9999.
pub(crate) fn to_time(at: &prost_types::Timestamp) -> Option<Timestamp> {
    let nanos = i64::from(at.nanos);
    let ms = at.seconds.checked_mul(1000)?.checked_add(nanos / 1_000_000)?;
    let valid = (0..1_000_000_000).contains(&nanos) && Timestamp::from_millis(ms).as_millis() == ms;
    valid.then(|| Timestamp::from_millis(ms))
}

/// A duration of whole milliseconds.
pub(crate) fn duration(ms: u64) -> prost_types::Duration {
    let nanos = i32::try_from(ms % 1000 * 1_000_000).expect("invariant: below a second");
    prost_types::Duration {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanos,
    }
}

/// A caller's duration; none when it is negative or malformed.
pub(crate) fn to_duration(duration: &prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(duration.seconds).ok()?, nanos))
}

/// A count as the contract's signed number.
pub(crate) fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A small count as the contract's signed number.
pub(crate) fn small_count(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A JSON object as a `Struct`.
pub(crate) fn to_struct(map: &Map<String, Json>) -> Struct {
    Struct {
        fields: map
            .iter()
            .map(|(name, value)| (name.clone(), to_value(value)))
            .collect(),
    }
}

fn to_value(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values.iter().map(to_value).collect(),
        }),
        Json::Object(map) => Kind::StructValue(to_struct(map)),
    };
    Value { kind: Some(kind) }
}

/// A `Struct` as a JSON object. Prost has bounded its nesting already.
///
/// # Errors
/// What is wrong with it, to go on from the field's name.
pub(crate) fn to_map(fields: Struct, depth_max: usize) -> Result<Map<String, Json>, String> {
    let depth = depth_max.checked_sub(1).ok_or("is nested too deeply")?;
    fields
        .fields
        .into_iter()
        .map(|(name, value)| Ok((name, to_json(value, depth)?)))
        .collect()
}

fn to_json(value: Value, depth_max: usize) -> Result<Json, String> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        Some(Kind::NumberValue(number)) => Json::Number(to_number(number)?),
        Some(Kind::StringValue(text)) => Json::String(text),
        Some(Kind::StructValue(fields)) => Json::Object(to_map(fields, depth_max)?),
        Some(Kind::ListValue(list)) => {
            let depth = depth_max.checked_sub(1).ok_or("is nested too deeply")?;
            let values = list.values.into_iter().map(|value| to_json(value, depth));
            Json::Array(values.collect::<Result<_, _>>()?)
        }
    })
}

/// Whole numbers become integers, so that they print without `.0`.
#[allow(clippy::cast_possible_truncation, reason = "guarded: whole and within 2^53")]
fn to_number(number: f64) -> Result<Number, String> {
    if number.fract() == 0.0 && number.abs() <= EXACT_MAX {
        return Ok(Number::from(number as i64));
    }
    Number::from_f64(number).ok_or_else(|| "must not hold infinite numbers or NaN".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_survive_the_wire() {
        let object =
            json!({"a": 1, "b": -2.5, "c": [true, null, {"d": "x"}], "e": 9_007_199_254_740_992_i64});
        let map = object.as_object().unwrap().clone();
        let back = to_map(to_struct(&map), 16).unwrap();
        assert_eq!(Json::Object(back.clone()), object);
        assert_eq!(serde_json::to_string(&back).unwrap().matches(".0").count(), 0);
    }

    #[test]
    fn nesting_and_numbers_without_a_value_are_refused() {
        let deep = (0..16).fold(json!(1), |inner, _| json!({"a": inner}));
        assert!(to_map(to_struct(deep.as_object().unwrap()), 16).is_ok());
        assert!(to_map(to_struct(deep.as_object().unwrap()), 15).is_err());
        let list = json!({"a": [[[1]]]});
        assert!(to_map(to_struct(list.as_object().unwrap()), 3).is_err());
        let nan = Struct {
            fields: [(
                "a".to_owned(),
                Value {
                    kind: Some(Kind::NumberValue(f64::NAN)),
                },
            )]
            .into(),
        };
        assert!(to_map(nan, 16).is_err());
    }

    proptest! {
        #[test]
        fn times_survive_the_wire_or_are_refused(ms in 0_i64..253_402_300_799_999, seconds: i64, nanos: i32) {
            let at = Timestamp::from_millis(ms);
            prop_assert_eq!(to_time(&time(at)), Some(at));
            let _checked = to_time(&prost_types::Timestamp { seconds, nanos });
            let _checked = to_duration(&prost_types::Duration { seconds, nanos });
        }

        #[test]
        fn durations_survive_the_wire(ms in 0_u64..10_000_000_000) {
            prop_assert_eq!(to_duration(&duration(ms)), Some(Duration::from_millis(ms)));
        }
    }
}
