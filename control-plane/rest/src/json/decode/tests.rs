//! What requests may say, field by field.

use serde_json::{Value as Json, json};

use crate::{json::message_to_json, testing};

use super::*;

/// The JSON that comes back, without the fields that hold their default; or the violations.
fn check(input: Json) -> Result<Json, Vec<String>> {
    let schema = testing::kinds_schema();
    let descriptor = schema.pool.get_message_by_name("test.Kinds").expect("known");
    let mut decoder = Decoder::new(schema);
    let message = decoder.message(&descriptor, input.as_object().expect("an object"), &Path::Root);
    let violations: Vec<String> = decoder
        .violations
        .list()
        .iter()
        .map(ToString::to_string)
        .collect();
    if !violations.is_empty() {
        return Err(violations);
    }
    let defaults = message_to_json(&DynamicMessage::new(descriptor)).expect("it has JSON");
    let mut output = message_to_json(&message).expect("it has JSON");
    let object = output.as_object_mut().expect("an object");
    object.retain(|name, value| defaults.get(name) != Some(value));
    Ok(output)
}

#[test]
fn every_kind_of_field_comes_back_as_it_was_given() {
    let input = json!({
        "a_bool": true,
        "a_sint32": -7,
        "an_int64": i64::MIN,
        "a_fixed64": u64::MAX,
        "a_float": 0.1,
        "a_double": 1e300,
        "a_bytes": "+/8=",
        "color": "dark_blue",
        "colors": ["red", "unspecified"],
        "by_name": {"x": {"a_bool": true}},
        "by_number": {"-1": "a", "2": "b"},
        "leaf": {"name": "l", "size": 3},
        "maybe": "",
        "wrapped": 0,
        "value": {"a": [1, 1.5, null, "x", {"b": false}]},
        "list": [1, null, []],
        "struct": {"a": {"b": null}, "c": 10},
        "mask": "a,b.c",
        "duration": "-0.500s",
        "timestamp": "2026-05-01T12:00:00.123Z",
        "empty": {},
        "times": ["1970-01-01T00:00:00.000Z"],
        "leaf_alone": {"name": "", "size": 0},
        "names": [""],
    });
    let mut output = check(input.clone()).expect("accepted");
    // An inner message prints its defaults.
    output["by_name"]["x"] = json!({"a_bool": output["by_name"]["x"]["a_bool"]});
    assert_eq!(output, input);
}

#[test]
fn other_spellings_are_read_and_printed_in_one() {
    for (input, output) in [
        (
            json!({"an_int64": "-5", "a_sint32": 2.0}),
            json!({"an_int64": -5, "a_sint32": 2}),
        ),
        (json!({"a_bytes": "-_8"}), json!({"a_bytes": "+/8="})),
        (
            json!({"timestamp": "2026-05-01T14:00:00.9999+02:00"}),
            json!({"timestamp": "2026-05-01T12:00:00.999Z"}),
        ),
        (json!({"duration": "1.5s"}), json!({"duration": "1.500s"})),
        (json!({"a_double": "NaN"}), json!({"a_double": "NaN"})),
        (json!({"a_double": 3.0}), json!({"a_double": 3})),
        (
            json!({"struct": {"z": 1.0, "a": 2e2}}),
            json!({"struct": {"a": 200, "z": 1}}),
        ),
        (json!({"value": null}), json!({"value": null})),
        (
            json!({"maybe": null, "leaf_alone": null, "names": null, "by_name": null}),
            json!({}),
        ),
        (json!({"server_set": {"any": "thing"}}), json!({})),
    ] {
        assert_eq!(check(input.clone()), Ok(output), "{input}");
    }
}

#[test]
fn every_fault_is_reported_by_its_path() {
    let input = json!({
        "aBool": true,
        "nothing": 1,
        "a_bool": "true",
        "a_sint32": 2147483648_u64,
        "color": "COLOR_RED",
        "colors": ["red", 1, null],
        "by_name": {"x": {"by_name": {"y": {"maybe": 1}}}},
        "by_number": {"x": "a", "1": 2},
        "names": "x",
        "leaf_alone": [],
        "timestamp": 5,
        "duration": "1m",
        "struct": {"a": [9007199254740993_u64]},
        "wrapped": "x",
    });
    assert_eq!(
        check(input).expect_err("refused"),
        [
            "aBool: no such field: it is called a_bool",
            "nothing: no such field",
            "a_bool: must be true or false",
            "a_sint32: must be a whole number from -2147483648 to 2147483647",
            "color: must be one of: red, dark_blue",
            "colors[1]: must be one of: red, dark_blue",
            "colors[2]: must be one of: red, dark_blue",
            "by_name.x.by_name.y.maybe: must be a string",
            "by_number.x: the key must be a whole number from -2147483648 to 2147483647",
            "by_number.1: must be a string",
            "names: must be a list",
            "leaf_alone: must be an object",
            "timestamp: must be a string",
            "duration: must be a duration in seconds, like \"60s\" or \"0.500s\"",
            "struct.a[0]: would lose digits as a number: give it as a string",
            "wrapped: must be a whole number from -9223372036854775808 to 9223372036854775807",
        ]
    );
}

#[test]
fn one_member_of_a_oneof_may_be_given() {
    assert_eq!(check(json!({"text": ""})), Ok(json!({"text": ""})));
    assert_eq!(
        check(json!({"text": null, "number": 0})),
        Ok(json!({"number": 0}))
    );
    assert_eq!(
        check(json!({"text": "", "leaf": {}})),
        Err(vec!["leaf: cannot be given together with text".to_owned()])
    );
}

#[test]
fn keys_that_are_one_number_are_duplicates() {
    assert_eq!(
        check(json!({"by_number": {"1": "a", "01": "b"}})),
        Err(vec!["by_number.01: the key is given twice".to_owned()])
    );
}

#[test]
fn a_packed_message_is_read_and_printed_by_its_type() {
    let any = json!({"any": {"@type": "type.googleapis.com/test.Leaf", "name": "x", "size": 1}});
    assert_eq!(check(any.clone()), Ok(any));
    let any = json!({"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}});
    assert_eq!(check(any.clone()), Ok(any));
    for (any, violation) in [
        (json!({}), "any.@type: must be the URL of a known message"),
        (
            json!({"@type": "test.Leaf"}),
            "any.@type: must be the URL of a known message",
        ),
        (
            json!({"@type": "x/test.None"}),
            "any.@type: must be the URL of a known message",
        ),
        (
            json!({"@type": "x/test.Leaf", "value": 1}),
            "any.value: no such field",
        ),
        (
            json!({"@type": "x/google.protobuf.Duration", "value": "1s", "v": 1}),
            "any.v: no such field",
        ),
        (
            json!({"@type": "x/google.protobuf.Duration"}),
            "any.value: must be a string",
        ),
    ] {
        assert_eq!(check(json!({ "any": any })), Err(vec![violation.to_owned()]));
    }
}
