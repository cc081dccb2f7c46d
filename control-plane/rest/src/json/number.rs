//! Numbers between JSON and protobuf without silent change.

use serde_json::{Number, Value};

/// Above 2^53 not every whole number is a double.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// A double as a JSON number, without `.0` where it is whole; what JSON cannot write is a string, as protobuf's
/// JSON mapping has it.
pub(crate) fn double_to_json(value: f64) -> Value {
    if let Some(whole) = whole(value) {
        return Value::from(whole);
    }
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => Value::from("NaN"),
        None => Value::from(if value > 0.0 { "Infinity" } else { "-Infinity" }),
    }
}

/// A JSON number or decimal string as a whole number; `1.0` and `1e3` are whole.
pub(crate) fn whole_from_json(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => whole_from_text(text),
        Value::Number(number) => {
            let integer = number
                .as_i64()
                .map(i128::from)
                .or_else(|| number.as_u64().map(i128::from));
            integer.or_else(|| number.as_f64().and_then(whole).map(i128::from))
        }
        _ => None,
    }
}

/// `-?[0-9]+`, and nothing around it.
pub(crate) fn whole_from_text(text: &str) -> Option<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// A JSON number as a double, unless it is an integer that the double would change.
pub(crate) fn exact_double(number: &Number) -> Option<f64> {
    let integer = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
    let significant_bits = match integer {
        None | Some(0) => 0,
        Some(magnitude) => u64::BITS - magnitude.leading_zeros() - magnitude.trailing_zeros(),
    };
    if significant_bits > f64::MANTISSA_DIGITS {
        return None;
    }
    number.as_f64()
}

#[allow(clippy::cast_possible_truncation, reason = "whole, and far inside i64")]
fn whole(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() <= WHOLE_MAX).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_doubles_print_without_a_fraction() {
        for (value, text) in [
            (1.0, "1"),
            (-0.0, "0"),
            (0.5, "0.5"),
            (WHOLE_MAX, "9007199254740992"),
            (1e20, "1e+20"),
            (-3.0, "-3"),
            (f64::NAN, "\"NaN\""),
            (f64::NEG_INFINITY, "\"-Infinity\""),
        ] {
            assert_eq!(double_to_json(value).to_string(), text);
        }
    }

    #[test]
    fn whole_numbers_are_read_from_every_spelling_and_nothing_else() {
        for (value, whole) in [
            (json!(7), Some(7)),
            (json!(-7.0), Some(-7)),
            (json!(1e3), Some(1000)),
            (json!(u64::MAX), Some(i128::from(u64::MAX))),
            (json!("9223372036854775808"), Some(9_223_372_036_854_775_808)),
            (json!(1.5), None),
            (json!(1e300), None),
            (json!("1.0"), None),
            (json!("+1"), None),
            (json!(" 1"), None),
            (json!("-"), None),
            (json!(""), None),
            (json!(true), None),
        ] {
            assert_eq!(whole_from_json(&value), whole, "{value}");
        }
    }

    #[test]
    fn an_integer_that_a_double_would_change_is_not_taken() {
        for (integer, exact) in [
            (0, true),
            (1 << 53, true),
            ((1 << 53) + 1, false),
            ((1 << 53) + 2, true),
            (1 << 63, true),
            (u64::MAX, false),
        ] {
            assert_eq!(exact_double(&Number::from(integer)).is_some(), exact, "{integer}");
        }
        assert_eq!(
            exact_double(&Number::from(i64::MIN)),
            Some(-9_223_372_036_854_775_808.0)
        );
        assert_eq!(exact_double(&Number::from(-9_007_199_254_740_993_i64)), None);
    }
}
