//! Messages to JSON.
//!
//! Invariant: what comes in was decoded from the wire (prost bounds its nesting) or from JSON (bounded, too), so
//! that recursion is bounded.

use data_encoding::BASE64;
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};
use serde_json::{Map, Value as Json, json};

use super::{
    names, number, time,
    well_known::{self, WellKnown},
};

/// A message that has no JSON: a fault of the handler that made it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EncodeError {
    #[error("{message} has seconds or nanos out of range")]
    OutOfRange { message: String },
    #[error("{message} does not hold what its name says")]
    Malformed { message: String },
}

/// The JSON of a message.
pub(crate) fn message_to_json(message: &DynamicMessage) -> Result<Json, EncodeError> {
    let descriptor = message.descriptor();
    if let Some(well_known) = WellKnown::of(&descriptor) {
        return well_known_to_json(well_known, message);
    }
    let mut object = Map::new();
    for field in descriptor.fields() {
        let shown =
            field.is_list() || field.is_map() || !field.supports_presence() || message.has_field(&field);
        if shown {
            object.insert(
                field.name().to_owned(),
                field_to_json(&field, &message.get_field(&field))?,
            );
        }
    }
    Ok(Json::Object(object))
}

fn field_to_json(field: &FieldDescriptor, value: &Value) -> Result<Json, EncodeError> {
    let kind = field.kind();
    match (value, &kind) {
        (Value::Map(map), Kind::Message(entry)) => {
            let value_kind = entry.map_entry_value_field().kind();
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            let object: Result<Map<_, _>, _> = entries
                .into_iter()
                .map(|(key, value)| value_to_json(&value_kind, value).map(|json| (key_to_text(key), json)))
                .collect();
            object.map(Json::Object)
        }
        (Value::List(values), _) => values
            .iter()
            .map(|value| value_to_json(&kind, value))
            .collect::<Result<_, _>>()
            .map(Json::Array),
        _ => value_to_json(&kind, value),
    }
}

fn value_to_json(kind: &Kind, value: &Value) -> Result<Json, EncodeError> {
    Ok(match value {
        Value::Bool(value) => json!(value),
        Value::I32(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::F32(value) => float_to_json(*value),
        Value::F64(value) => number::double_to_json(*value),
        Value::String(text) => json!(text),
        Value::Bytes(bytes) => json!(BASE64.encode(bytes)),
        Value::EnumNumber(number) => match kind {
            Kind::Enum(descriptor) => enum_to_json(descriptor, *number),
            _ => json!(number),
        },
        Value::Message(message) => message_to_json(message)?,
        Value::List(_) | Value::Map(_) => {
            return Err(EncodeError::Malformed {
                message: format!("a value of kind {kind:?}"),
            });
        }
    })
}

/// In the digits that a float has: 0.1 stays 0.1.
fn float_to_json(value: f32) -> Json {
    let shortest = value
        .is_finite()
        .then(|| value.to_string().parse::<f64>().ok())
        .flatten();
    number::double_to_json(shortest.unwrap_or(f64::from(value)))
}

/// A number that this build's contract does not name (a newer server's) stays visible as a number.
fn enum_to_json(descriptor: &EnumDescriptor, number: i32) -> Json {
    if descriptor.full_name() == "google.protobuf.NullValue" {
        return Json::Null;
    }
    descriptor
        .get_value(number)
        .map_or_else(|| json!(number), |value| json!(names::enum_json_name(&value)))
}

fn key_to_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn well_known_to_json(well_known: WellKnown, message: &DynamicMessage) -> Result<Json, EncodeError> {
    let name = || message.descriptor().full_name().to_owned();
    let malformed = || EncodeError::Malformed { message: name() };
    let out_of_range = || EncodeError::OutOfRange { message: name() };
    match well_known {
        WellKnown::Timestamp | WellKnown::Duration => {
            let (seconds, nanos) = well_known::parts(message).ok_or_else(malformed)?;
            let format = if well_known == WellKnown::Timestamp {
                time::format_timestamp
            } else {
                time::format_duration
            };
            format(seconds, nanos).map(Json::String).ok_or_else(out_of_range)
        }
        WellKnown::FieldMask => {
            let paths = message.get_field_by_name("paths").ok_or_else(malformed)?;
            let paths: Vec<&str> = paths
                .as_list()
                .ok_or_else(malformed)?
                .iter()
                .filter_map(Value::as_str)
                .collect();
            Ok(json!(paths.join(",")))
        }
        WellKnown::Struct => field_named(message, "fields").ok_or_else(malformed)?,
        WellKnown::ListValue => field_named(message, "values").ok_or_else(malformed)?,
        WellKnown::Wrapper => field_named(message, "value").ok_or_else(malformed)?,
        // Which member of the oneof is set says what it is; a double that JSON lacks is unknown, so null.
        WellKnown::Value => match message.fields().next() {
            None => Ok(Json::Null),
            Some((_, Value::F64(value))) if !value.is_finite() => Ok(Json::Null),
            Some((field, value)) => field_to_json(&field, value),
        },
        WellKnown::Any => {
            let url = message.get_field_by_name("type_url").ok_or_else(malformed)?;
            let value = message.get_field_by_name("value").ok_or_else(malformed)?;
            let (url, value) = (
                url.as_str().ok_or_else(malformed)?,
                value.as_bytes().ok_or_else(malformed)?,
            );
            Ok(any_to_json(message.descriptor().parent_pool(), url, value))
        }
    }
}

fn field_named(message: &DynamicMessage, name: &str) -> Option<Result<Json, EncodeError>> {
    let field = message.descriptor().get_field_by_name(name)?;
    Some(field_to_json(&field, &message.get_field(&field)))
}

/// A packed message with its `@type`; one that the pool does not know, or cannot read, as base64.
pub(crate) fn any_to_json(pool: &DescriptorPool, type_url: &str, value: &[u8]) -> Json {
    let known = type_url
        .rsplit_once('/')
        .and_then(|(_, name)| pool.get_message_by_name(name));
    let Some(json) = known.and_then(|descriptor| packed_to_json(&descriptor, value)) else {
        return json!({"@type": type_url, "value": BASE64.encode(value)});
    };
    let mut object = Map::new();
    object.insert("@type".to_owned(), json!(type_url));
    match json {
        (None, Json::Object(fields)) => object.extend(fields),
        (_, value) => drop(object.insert("value".to_owned(), value)),
    }
    Json::Object(object)
}

fn packed_to_json(descriptor: &MessageDescriptor, value: &[u8]) -> Option<(Option<WellKnown>, Json)> {
    let message = DynamicMessage::decode(descriptor.clone(), value).ok()?;
    let json = message_to_json(&message).ok()?;
    Some((WellKnown::of(descriptor), json))
}
