//! The JSON shape of the contract's messages, as REST answers them: proto field names, lower-case enums without
//! their type's prefix, RFC 3339 times with milliseconds, counts as numbers.
//!
//! Walks the descriptors, so that a field added to the contract is shown without a change here.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage, Value as Reflected,
};
use qrelay_proto::v1;
use qrelay_store::Timestamp;
use serde_json::{Map, Number, Value};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(qrelay_proto::FILE_DESCRIPTOR_SET)
        .expect("invariant: the build wrote a valid descriptor set")
});

/// A message that commands print.
pub(crate) trait Shown: Message {
    /// Its full name in the contract.
    const NAME: &'static str;
}

macro_rules! shown {
    ($($name:ident),* $(,)?) => {
        $(impl Shown for v1::$name {
            const NAME: &'static str = concat!("qrelay.v1.", stringify!($name));
        })*

        #[cfg(test)]
        const ALL: &[&str] = &[$(<v1::$name as Shown>::NAME),*];
    };
}

shown!(
    ApiKey,
    Code,
    Delivery,
    Endpoint,
    Event,
    ListApiKeysResponse,
    ListCodesResponse,
    ListDeliveriesResponse,
    ListEndpointsResponse,
    ListEventsResponse,
    ListTenantsResponse,
    StreamEventsResponse,
    Tenant,
    TestEndpointResponse,
    Usage,
);

/// The message as REST would answer it.
pub(crate) fn json<M: Shown>(message: &M) -> Value {
    let descriptor = descriptor(M::NAME);
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("invariant: generated types and descriptors come from the same files");
    message_json(&dynamic)
}

fn descriptor(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(name)
        .expect("invariant: every shown message is in the contract")
}

fn message_json(message: &DynamicMessage) -> Value {
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => timestamp_json(message),
        "google.protobuf.Duration" => duration_json(message),
        "google.protobuf.Struct" => map_json(message, "fields"),
        "google.protobuf.ListValue" => field_json(message, "values"),
        "google.protobuf.Value" => {
            let set = descriptor.fields().find(|field| message.has_field(field));
            match set {
                Some(field) if field.name() != "null_value" => field_json(message, field.name()),
                _ => Value::Null,
            }
        }
        _ => {
            let shown = descriptor
                .fields()
                .filter(|field| !field.supports_presence() || message.has_field(field));
            let fields = shown.map(|field| {
                (
                    field.name().to_owned(),
                    value_json(&field, &message.get_field(&field)),
                )
            });
            Value::Object(fields.collect())
        }
    }
}

fn field_json(message: &DynamicMessage, name: &str) -> Value {
    let field = message
        .descriptor()
        .get_field_by_name(name)
        .expect("invariant: a well-known type has its fields");
    value_json(&field, &message.get_field(&field))
}

fn map_json(message: &DynamicMessage, name: &str) -> Value {
    match field_json(message, name) {
        Value::Object(map) => Value::Object(map),
        _ => Value::Object(Map::new()),
    }
}

fn value_json(field: &FieldDescriptor, value: &Reflected) -> Value {
    match value {
        Reflected::Bool(value) => Value::Bool(*value),
        Reflected::I32(value) => (*value).into(),
        Reflected::I64(value) => (*value).into(),
        Reflected::U32(value) => (*value).into(),
        Reflected::U64(value) => (*value).into(),
        Reflected::F32(value) => number_json(f64::from(*value)),
        Reflected::F64(value) => number_json(*value),
        Reflected::String(text) => Value::String(text.clone()),
        Reflected::Bytes(bytes) => Value::String(data_encoding::BASE64.encode(bytes)),
        Reflected::EnumNumber(number) => match field.kind() {
            Kind::Enum(descriptor) => enum_json(&descriptor, *number),
            _ => (*number).into(),
        },
        Reflected::Message(message) => message_json(message),
        Reflected::List(items) => items.iter().map(|item| value_json(field, item)).collect(),
        Reflected::Map(entries) => {
            let values = match field.kind() {
                Kind::Message(entry) => entry.map_entry_value_field(),
                _ => return Value::Null,
            };
            // A map has no order of its own.
            let mut entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| (key_text(key), value))
                .collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| (key, value_json(&values, value)))
                    .collect(),
            )
        }
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// Whole numbers print without `.0`; what JSON cannot say is null.
#[allow(
    clippy::cast_possible_truncation,
    reason = "only taken where the whole number is exact"
)]
fn number_json(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return (value as i64).into();
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// `CODE_STATUS_ACTIVE` is `active`: the type's name in capitals is the prefix.
fn enum_json(descriptor: &EnumDescriptor, number: i32) -> Value {
    let Some(value) = descriptor.get_value(number) else {
        return number.into();
    };
    let prefix: String = descriptor
        .name()
        .char_indices()
        .flat_map(|(at, c)| {
            (at > 0 && c.is_ascii_uppercase())
                .then_some('_')
                .into_iter()
                .chain([c])
        })
        .map(|c| c.to_ascii_uppercase())
        .chain(['_'])
        .collect();
    let name = value.name().strip_prefix(&prefix).unwrap_or(value.name());
    Value::String(name.to_ascii_lowercase())
}

fn seconds_and_nanos(message: &DynamicMessage) -> (i64, i32) {
    let seconds = message
        .get_field_by_name("seconds")
        .and_then(|value| value.as_i64());
    let nanos = message
        .get_field_by_name("nanos")
        .and_then(|value| value.as_i32());
    (seconds.unwrap_or(0), nanos.unwrap_or(0))
}

fn timestamp_json(message: &DynamicMessage) -> Value {
    let (seconds, nanos) = seconds_and_nanos(message);
    Value::String(time(&prost_types::Timestamp { seconds, nanos }).to_string())
}

fn duration_json(message: &DynamicMessage) -> Value {
    let (seconds, nanos) = seconds_and_nanos(message);
    let millis = nanos / 1_000_000;
    let text = if millis == 0 {
        format!("{seconds}s")
    } else {
        format!("{seconds}.{millis:03}s")
    };
    Value::String(text)
}

/// A contract's time as the product's.
pub(crate) fn time(at: &prost_types::Timestamp) -> Timestamp {
    Timestamp::from_millis(
        at.seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(at.nanos / 1_000_000)),
    )
}

/// The product's time as the contract's.
pub(crate) fn proto_time(at: Timestamp) -> prost_types::Timestamp {
    let ms = at.as_millis();
    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).expect("invariant: below 10^9");
    prost_types::Timestamp {
        seconds: ms.div_euclid(1000),
        nanos,
    }
}

/// Reads a JSON object given on the command line.
pub(crate) fn object(text: &str) -> Result<prost_types::Struct, String> {
    let map: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?;
    Ok(proto_object(map))
}

fn proto_object(map: Map<String, Value>) -> prost_types::Struct {
    prost_types::Struct {
        fields: map
            .into_iter()
            .map(|(name, value)| (name, proto_value(value)))
            .collect(),
    }
}

fn proto_value(value: Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => Kind::ListValue(prost_types::ListValue {
            values: items.into_iter().map(proto_value).collect(),
        }),
        Value::Object(map) => Kind::StructValue(proto_object(map)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shown_message_is_in_the_contract() {
        for name in ALL {
            assert!(POOL.get_message_by_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_message_has_the_shape_that_rest_answers() {
        let endpoint = v1::Endpoint {
            id: "ep_1".to_owned(),
            events: vec!["scan.*".to_owned()],
            status: v1::EndpointStatus::Degraded.into(),
            consecutive_failures: 1 << 40,
            retry_schedule: vec![
                prost_types::Duration { seconds: 0, nanos: 0 },
                prost_types::Duration {
                    seconds: 1,
                    nanos: 500_000_000,
                },
            ],
            created_at: Some(prost_types::Timestamp {
                seconds: 1_772_548_338,
                nanos: 0,
            }),
            ..v1::Endpoint::default()
        };
        insta::assert_snapshot!(
            json(&endpoint),
            @r#"{"id":"ep_1","url":"","description":"","events":["scan.*"],"status":"degraded","consecutive_failures":1099511627776,"retry_schedule":["0s","1.500s"],"max_concurrency":0,"etag":"","created_at":"2026-03-03T14:32:18.000Z","tenant_id":""}"#
        );
    }

    #[test]
    fn free_form_objects_keep_their_values_and_print_whole_numbers_whole() {
        let text = r#"{"big":9007199254740991,"half":0.5,"list":[null,true,"x"],"nested":{"n":-3}}"#;
        let event = v1::Event {
            data: Some(object(text).unwrap()),
            ..v1::Event::default()
        };
        assert_eq!(json(&event)["data"].to_string(), text);
        for bad in ["", "[]", "1", "{", "{\"a\":1} x"] {
            assert!(object(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_survive_the_contract() {
        for ms in [0, 1, 999, 1_772_548_338_492] {
            let at = Timestamp::from_millis(ms);
            assert_eq!(time(&proto_time(at)), at);
        }
    }
}
