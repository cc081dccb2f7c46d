//! The JSON shape of the contract's messages, as REST answers them, and the contract's times and objects.
//!
//! The shape itself is [`qrelay_rest`]'s; a field added to the contract is shown without a change here.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use qrelay_proto::v1;
use qrelay_rest::Transcoder;
use qrelay_store::Timestamp;
use serde_json::{Map, Value, json};

struct Contract {
    pool: DescriptorPool,
    transcoder: Transcoder,
}

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| Contract {
    pool: DescriptorPool::decode(qrelay_proto::FILE_DESCRIPTOR_SET)
        .expect("invariant: the build wrote a valid descriptor set"),
    transcoder: Transcoder::new(qrelay_proto::FILE_DESCRIPTOR_SET, qrelay_control::rest_config())
        .expect("invariant: the contract can be served over REST, which the control plane's tests check"),
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
    Conversion,
    Delivery,
    Endpoint,
    Event,
    ListApiKeysResponse,
    ListCodesResponse,
    ListDeliveriesResponse,
    ListEndpointsResponse,
    ListEventsResponse,
    ListReplaysResponse,
    ListTenantsResponse,
    Replay,
    StreamEventsResponse,
    Tenant,
    TestEndpointResponse,
    Usage,
);

/// The message as REST would answer it. A time out of its range, which no server of ours sends, is shown as the
/// text that says so.
pub(crate) fn json<M: Shown>(message: &M) -> Value {
    let descriptor = CONTRACT
        .pool
        .get_message_by_name(M::NAME)
        .expect("invariant: every shown message is in the contract");
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("invariant: generated types and descriptors come from the same files");
    CONTRACT
        .transcoder
        .message_to_json(&dynamic)
        .unwrap_or_else(|error| json!({ "error": error }))
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
            assert!(CONTRACT.pool.get_message_by_name(name).is_some(), "{name}");
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
            @r#"{"id":"ep_1","url":"","description":"","events":["scan.*"],"status":"degraded","consecutive_failures":1099511627776,"retry_schedule":["0s","1.500s"],"max_concurrency":0,"etag":"","created_at":"2026-03-03T14:32:18.000Z","tenant_id":"","ordering":"unspecified"}"#
        );
    }

    #[test]
    fn lists_leave_out_what_only_a_single_answer_shows() {
        let delivery = v1::Delivery::default();
        assert!(json(&delivery).get("attempt_log").is_some());
        let list = v1::ListDeliveriesResponse {
            deliveries: vec![delivery],
            ..v1::ListDeliveriesResponse::default()
        };
        assert!(json(&list)["deliveries"][0].get("attempt_log").is_none());
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
            let at = proto_time(Timestamp::from_millis(ms));
            assert_eq!(at.seconds * 1000 + i64::from(at.nanos) / 1_000_000, ms);
        }
    }
}
