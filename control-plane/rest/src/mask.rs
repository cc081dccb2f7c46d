//! The update mask of a PATCH, from the fields that its body gives.
//!
//! A field counts when its key is there, whatever its value: `null` asks for it to be cleared. An object given for
//! a message counts by its own keys (`privacy.ip`), so that `{}` changes nothing; everything else, also maps,
//! lists and the messages with a JSON form of their own, counts as a whole.

use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Map, Value};

use crate::{json::WellKnown, schema::Schema};

/// The paths in the order of the body. Fields that only the server sets are left out, and at the top level those
/// that are `ignored`; unknown fields were refused before.
pub(crate) fn paths_present(
    schema: &Schema,
    descriptor: &MessageDescriptor,
    body: &Map<String, Value>,
    ignored: &[String],
) -> Vec<String> {
    let mut paths = Vec::new();
    collect(schema, descriptor, body, "", &mut paths);
    paths.retain(|path| !ignored.contains(path));
    paths
}

fn collect(
    schema: &Schema,
    descriptor: &MessageDescriptor,
    object: &Map<String, Value>,
    prefix: &str,
    paths: &mut Vec<String>,
) {
    for (name, value) in object {
        let Some(field) = descriptor.get_field_by_name(name) else {
            continue;
        };
        if schema.is_output_only(&field) {
            continue;
        }
        let path = format!("{prefix}{name}");
        match (field.kind(), value) {
            (Kind::Message(inner), Value::Object(fields))
                if !field.is_map() && !field.is_list() && WellKnown::of(&inner).is_none() =>
            {
                collect(schema, &inner, fields, &format!("{path}."), paths);
            }
            _ => paths.push(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::test_schema;

    fn mask(message: &str, body: Value) -> Vec<String> {
        let schema = test_schema();
        let descriptor = schema.pool.get_message_by_name(message).expect("known");
        paths_present(
            &schema,
            &descriptor,
            body.as_object().expect("an object"),
            &["etag".to_owned()],
        )
    }

    #[test]
    fn present_fields_count_nested_messages_by_their_own_fields() {
        let body = json!({"name": "x", "privacy": {"ip": "drop"}, "status": null});
        assert_eq!(mask("qrelay.v1.Tenant", body), ["name", "privacy.ip", "status"]);
        assert_eq!(mask("qrelay.v1.Tenant", json!({"privacy": null})), ["privacy"]);
        assert!(mask("qrelay.v1.Tenant", json!({"privacy": {}})).is_empty());
    }

    #[test]
    fn structs_lists_and_times_count_whole() {
        let body = json!({"metadata": {"a": {"b": 1}}, "tags": ["x"]});
        assert_eq!(mask("qrelay.v1.Code", body), ["metadata", "tags"]);
        let body = json!({"retry_schedule": ["0s"]});
        assert_eq!(mask("qrelay.v1.Endpoint", body), ["retry_schedule"]);
        assert_eq!(
            mask("qrelay.v1.ApiKey", json!({"expires_at": "x"})),
            ["expires_at"]
        );
    }

    #[test]
    fn what_only_the_server_sets_and_the_etag_never_enter() {
        let body = json!({"id": "code_1", "etag": "e", "version": 3, "name": "x"});
        assert_eq!(mask("qrelay.v1.Code", body), ["name"]);
    }
}
