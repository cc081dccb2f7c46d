//! The document as a whole; a public validator checks it in the repository's tests, too.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::{Config, Transcoder, testing};

fn qrelay() -> Value {
    Transcoder::new(qrelay_proto::FILE_DESCRIPTOR_SET, Config::default())
        .expect("supported")
        .openapi()
}

fn walk<'v>(value: &'v Value, visit: &mut dyn FnMut(&'v str, &'v Value)) {
    match value {
        Value::Object(object) => object.iter().for_each(|(name, inner)| {
            visit(name, inner);
            walk(inner, visit);
        }),
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_id_is_unique() {
    for document in [qrelay(), testing::kinds().openapi()] {
        let mut ids = HashSet::new();
        walk(&document, &mut |name, value| match (name, value.as_str()) {
            ("$ref", Some(target)) => {
                let found = document.pointer(target.trim_start_matches('#'));
                assert!(found.is_some_and(Value::is_object), "{target}");
            }
            ("operationId", Some(id)) => assert!(ids.insert(id.to_owned()), "{id}"),
            _ => {}
        });
        assert!(ids.len() > 5, "{ids:?}");
    }
}

#[test]
fn a_resource_has_comments_behaviours_and_lower_case_enums() {
    let document = qrelay();
    let code = &document["components"]["schemas"]["Code"];
    assert_eq!(code["required"], json!(["destination_url"]));
    assert_eq!(code["properties"]["id"]["readOnly"], true);
    assert_eq!(
        code["properties"]["name"]["description"],
        "What people call it: at most 200 characters."
    );
    assert_eq!(code["properties"]["version"]["type"], "integer");
    assert_eq!(code["properties"]["metadata"]["type"], "object");
    let status = &document["components"]["schemas"]["CodeStatus"];
    assert_eq!(
        status["enum"],
        json!(["unspecified", "active", "paused", "deleted", "blocked"])
    );
    assert!(
        document["components"]["schemas"]["CodePatch"]
            .get("required")
            .is_none()
    );
}

#[test]
fn operations_have_their_parameters_bodies_and_answers() {
    let document = qrelay();
    let create = &document["paths"]["/v1/codes"]["post"];
    let names: Vec<_> = create["parameters"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|p| &p["name"])
        .collect();
    assert_eq!(names, ["request_id", "tenant_id", "Idempotency-Key"]);
    assert_eq!(create["summary"], "Creates a code");
    assert_eq!(create["requestBody"]["required"], true);
    let patch = &document["paths"]["/v1/codes/{id}"]["patch"];
    let schema = &patch["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(schema["$ref"], "#/components/schemas/CodePatch");
    let rotate = &document["paths"]["/v1/endpoints/{id}/rotate"]["post"];
    let names: Vec<_> = rotate["parameters"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|p| &p["name"])
        .collect();
    assert_eq!(names, ["id", "tenant_id"], "a secret is for the body only");
    let stream = &document["paths"]["/v1/events:stream"]["get"];
    let schema = &stream["responses"]["200"]["content"]["text/event-stream"]["schema"];
    assert_eq!(schema["contentSchema"]["$ref"], "#/components/schemas/Event");
    assert_eq!(document["security"], json!([{"bearer": []}, {"api_key": []}]));
}

#[test]
fn names_in_two_places_are_told_apart() {
    let document = testing::transcoder(
        "message Outer { message Error { string a = 1; } Error inner = 1; Error2 other = 2; Outer again = 3; }
         message Error2 { string b = 1; }
         message Error { string c = 1; Outer outer = 2; }
         service S { rpc R(Outer) returns (Error) { option (google.api.http) = { get: \"/v1\" }; } }",
    );
    let document = document.expect("supported").openapi();
    let answer =
        &document["paths"]["/v1"]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(answer["$ref"], "#/components/schemas/test.Error");
    assert!(document["components"]["schemas"]["Outer.Error"].is_object());
    assert!(document["components"]["schemas"]["Error"]["properties"]["error"].is_object());
}
