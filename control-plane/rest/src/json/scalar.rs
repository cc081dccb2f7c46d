//! One scalar or enum value, from JSON and from text (URL variables, query parameters, keys of maps).

use bytes::Bytes;
use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD};
use prost_reflect::{EnumDescriptor, Kind, MapKey, Value};
use serde_json::Value as Json;

use super::{names, number};

/// A JSON value as the scalar or enum `kind`. The error says what it must be.
///
/// Messages are not scalars: for them the answer is an error, too.
pub(crate) fn from_json(kind: &Kind, json: &Json) -> Result<Value, String> {
    match kind {
        Kind::Bool => json
            .as_bool()
            .map(Value::Bool)
            .ok_or_else(|| "must be true or false".to_owned()),
        Kind::String => json
            .as_str()
            .map(|text| Value::String(text.to_owned()))
            .ok_or_else(|| "must be a string".to_owned()),
        Kind::Bytes => json
            .as_str()
            .and_then(bytes)
            .ok_or_else(|| "must be a base64 string".to_owned()),
        Kind::Enum(descriptor) => enumeration(descriptor, json.as_str()),
        Kind::Double | Kind::Float => match json {
            Json::Number(number) => double(kind, number.as_f64()),
            Json::String(text) => double(kind, special_double(text)),
            _ => double(kind, None),
        },
        _ => whole(kind, number::whole_from_json(json)),
    }
}

/// Text as the scalar or enum `kind`. The error says what it must be.
pub(crate) fn from_text(kind: &Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Bool => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err("must be true or false".to_owned()),
        },
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Bytes => bytes(text).ok_or_else(|| "must be base64".to_owned()),
        Kind::Enum(descriptor) => enumeration(descriptor, Some(text)),
        Kind::Double | Kind::Float => {
            // Rust also reads "inf" and "infinity" in any case: only the spellings of JSON are let through.
            let plain = text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
            double(
                kind,
                if plain {
                    text.parse().ok()
                } else {
                    special_double(text)
                },
            )
        }
        _ => whole(kind, number::whole_from_text(text)),
    }
}

/// The key of a map, which JSON writes as text.
pub(crate) fn map_key(kind: &Kind, text: &str) -> Result<MapKey, String> {
    from_text(kind, text)?
        .into_map_key()
        .ok_or_else(|| "cannot be a key".to_owned())
}

fn bytes(text: &str) -> Option<Value> {
    let encodings = [BASE64, BASE64URL, BASE64_NOPAD, BASE64URL_NOPAD];
    encodings
        .iter()
        .find_map(|encoding| encoding.decode(text.as_bytes()).ok())
        .map(Bytes::from)
        .map(Value::Bytes)
}

fn enumeration(descriptor: &EnumDescriptor, name: Option<&str>) -> Result<Value, String> {
    let number = name.and_then(|name| names::enum_number(descriptor, name));
    number.map(Value::EnumNumber).ok_or_else(|| {
        let allowed: Vec<String> = descriptor
            .values()
            .filter(|value| value.number() != 0 || !value.name().ends_with("UNSPECIFIED"))
            .map(|value| names::enum_json_name(&value))
            .collect();
        format!("must be one of: {}", allowed.join(", "))
    })
}

fn special_double(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is what a float field does; overflow is checked"
)]
fn double(kind: &Kind, value: Option<f64>) -> Result<Value, String> {
    let value = value.ok_or_else(|| "must be a number".to_owned())?;
    if matches!(kind, Kind::Double) {
        return Ok(Value::F64(value));
    }
    let narrow = value as f32;
    if value.is_finite() && narrow.is_infinite() {
        return Err("must be a number that fits 32 bits".to_owned());
    }
    Ok(Value::F32(narrow))
}

fn whole(kind: &Kind, value: Option<i128>) -> Result<Value, String> {
    let fits = match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => value.and_then(|n| n.try_into().ok()).map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => value.and_then(|n| n.try_into().ok()).map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => value.and_then(|n| n.try_into().ok()).map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => value.and_then(|n| n.try_into().ok()).map(Value::U64),
        _ => return Err("cannot be given as one value".to_owned()),
    };
    fits.ok_or_else(|| {
        let (least, most) = match kind {
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => (i128::from(i32::MIN), i128::from(i32::MAX)),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => (i128::from(i64::MIN), i128::from(i64::MAX)),
            Kind::Uint32 | Kind::Fixed32 => (0, i128::from(u32::MAX)),
            _ => (0, i128::from(u64::MAX)),
        };
        format!("must be a whole number from {least} to {most}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn integers_are_numbers_or_decimal_strings_inside_their_range() {
        assert_eq!(
            from_json(&Kind::Int64, &json!(i64::MIN)),
            Ok(Value::I64(i64::MIN))
        );
        assert_eq!(
            from_json(&Kind::Int64, &json!("9223372036854775807")),
            Ok(Value::I64(i64::MAX))
        );
        assert_eq!(
            from_json(&Kind::Uint64, &json!(u64::MAX)),
            Ok(Value::U64(u64::MAX))
        );
        assert_eq!(from_json(&Kind::Int32, &json!(5.0)), Ok(Value::I32(5)));
        let error = Err("must be a whole number from 0 to 4294967295".to_owned());
        for json in [
            json!(-1),
            json!(4_294_967_296_u64),
            json!(0.5),
            json!("x"),
            json!(null),
            json!([1]),
        ] {
            assert_eq!(from_json(&Kind::Uint32, &json), error, "{json}");
        }
    }

    #[test]
    fn base64_is_read_in_both_alphabets_with_and_without_padding() {
        for text in ["+/8=", "-_8=", "+/8", "-_8"] {
            assert_eq!(
                from_json(&Kind::Bytes, &json!(text)),
                Ok(Value::Bytes(Bytes::from_static(b"\xfb\xff")))
            );
        }
        assert!(from_json(&Kind::Bytes, &json!("a b")).is_err());
    }

    #[test]
    fn doubles_are_read_as_json_spells_them() {
        assert_eq!(from_text(&Kind::Double, "1e3"), Ok(Value::F64(1000.0)));
        assert_eq!(
            from_text(&Kind::Double, "-Infinity"),
            Ok(Value::F64(f64::NEG_INFINITY))
        );
        for text in ["inf", "infinity", "nan", "0x1", "", " 1"] {
            assert!(from_text(&Kind::Double, text).is_err(), "{text}");
        }
        assert!(from_json(&Kind::Float, &json!(1e39)).is_err());
        assert!(from_json(&Kind::Double, &json!("1.5")).is_err());
    }

    #[test]
    fn a_bad_enum_name_is_answered_with_the_allowed_ones() {
        let schema = crate::schema::test_schema();
        let status = Kind::Enum(
            schema
                .pool
                .get_enum_by_name("qrelay.v1.IpPrivacy")
                .expect("known"),
        );
        assert_eq!(from_json(&status, &json!("truncate")), Ok(Value::EnumNumber(2)));
        for json in [
            json!("TRUNCATE"),
            json!("IP_PRIVACY_TRUNCATE"),
            json!(2),
            json!({}),
        ] {
            assert_eq!(
                from_json(&status, &json),
                Err("must be one of: drop, truncate".to_owned())
            );
        }
    }
}
