//! One operation of the document: parameters, body, answers.

use std::collections::HashSet;

use http::Method;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value, json};

use super::schema::{Components, ERROR, Variant, reference};
use crate::{
    config::Config,
    http_rule::{BodyRule, Route},
    json::WellKnown,
    request::{PATH_NAMES_MAX, leaf},
    schema::Schema,
    sse,
};

/// Operation ids that are taken.
#[derive(Debug, Default)]
pub(super) struct Ids {
    taken: HashSet<String>,
}

impl Ids {
    /// `CodeService_CreateCode`; the second binding of an RPC has `_2` after it.
    fn unique(&mut self, route: &Route) -> String {
        let base = format!("{}_{}", route.rpc.parent_service().name(), route.rpc.name());
        let mut id = base.clone();
        let mut number = 1;
        while !self.taken.insert(id.clone()) {
            number += 1;
            id = format!("{base}_{number}");
        }
        id
    }
}

pub(super) fn operation(
    schema: &Schema,
    config: &Config,
    route: &Route,
    components: &mut Components<'_>,
    ids: &mut Ids,
) -> Value {
    let service = route.rpc.parent_service();
    let comment = schema.comment(&route.rpc.parent_file(), route.rpc.path());
    let (summary, _) = comment
        .split_once(". ")
        .or_else(|| comment.split_once("\n\n"))
        .unwrap_or((comment, ""));
    let mut operation = json!({
        "tags": [service.name()],
        "operationId": ids.unique(route),
        "summary": summary.trim_end_matches('.'),
        "description": comment,
        "responses": responses(route, components),
    });
    let mut parameters = url_parameters(route, components);
    query_parameters(config, route, &route.rpc.input(), "", components, &mut parameters);
    parameters.extend(header_parameters(config, route));
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if let Some(body) = request_body(schema, route, components) {
        operation["requestBody"] = body;
    }
    operation
}

fn url_parameters(route: &Route, components: &mut Components<'_>) -> Vec<Value> {
    let input = route.rpc.input();
    let fields = route
        .template
        .variables()
        .filter_map(|path| Some((path, leaf(&input, path)?)));
    fields
        .map(|(path, field)| parameter("path", path, &field, components))
        .collect()
}

fn query_parameters(
    config: &Config,
    route: &Route,
    message: &MessageDescriptor,
    prefix: &str,
    components: &mut Components<'_>,
    parameters: &mut Vec<Value>,
) {
    for field in message.fields() {
        let path = format!("{prefix}{}", field.name());
        let in_body = matches!(&route.body, BodyRule::Field(body) if body.name() == path);
        if in_body || route.template.variables().any(|variable| variable == path) {
            continue;
        }
        match field.kind() {
            Kind::Message(inner)
                if WellKnown::of(&inner).is_none() && !field.is_list() && !field.is_map() =>
            {
                if path.split('.').count() < PATH_NAMES_MAX {
                    query_parameters(config, route, &inner, &format!("{path}."), components, parameters);
                }
            }
            _ if leaf(&route.rpc.input(), &path).is_none() => {}
            // The body holds it, and the query must not.
            _ if matches!(route.body, BodyRule::Whole) && !config.query_beside_body.contains(&path) => {}
            _ => parameters.push(parameter("query", &path, &field, components)),
        }
    }
}

fn parameter(place: &str, path: &str, field: &FieldDescriptor, components: &mut Components<'_>) -> Value {
    let mut schema = components.field(field, Variant::Whole);
    let description = schema
        .as_object_mut()
        .and_then(|schema| schema.shift_remove("description"));
    let mut parameter = json!({"name": path, "in": place, "required": place == "path", "schema": schema});
    if let Some(description) = description {
        parameter["description"] = description;
    }
    parameter
}

fn header_parameters(config: &Config, route: &Route) -> Vec<Value> {
    let input = route.rpc.input();
    let rules = config
        .header_fields
        .iter()
        .filter(|rule| input.get_field_by_name(&rule.field).is_some());
    rules
        .map(|rule| {
            let name: Vec<String> = rule.header.as_str().split('-').map(capitalized).collect();
            let description = format!("{} The same as the parameter `{}`.", rule.description, rule.field);
            json!({
                "name": name.join("-"),
                "in": "header",
                "required": false,
                "description": description,
                "schema": {"type": "string"},
            })
        })
        .collect()
}

/// As documents write header names; names themselves have no case.
fn capitalized(word: &str) -> String {
    let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
    if word == "id" {
        "ID".to_owned()
    } else {
        format!("{}{rest}", first.to_ascii_uppercase())
    }
}

fn request_body(schema: &Schema, route: &Route, components: &mut Components<'_>) -> Option<Value> {
    let variant = if route.verb == Method::PATCH {
        Variant::Patch
    } else {
        Variant::Whole
    };
    let (body, is_required) = match &route.body {
        BodyRule::None => return None,
        BodyRule::Field(field) => {
            let kind = field.kind();
            (
                components.message(kind.as_message()?, variant),
                schema.is_required(field),
            )
        }
        BodyRule::Whole => {
            let in_url =
                |field: &FieldDescriptor| route.template.variables().any(|path| path == field.name());
            let fields: Vec<_> = route
                .rpc
                .input()
                .fields()
                .filter(|field| !in_url(field))
                .collect();
            let is_required = fields.iter().any(|field| schema.is_required(field));
            (components.object(fields.into_iter(), variant, ""), is_required)
        }
    };
    Some(json!({"required": is_required, "content": {"application/json": {"schema": body}}}))
}

fn responses(route: &Route, components: &mut Components<'_>) -> Value {
    let output = route.rpc.output();
    let content = if route.rpc.is_server_streaming() {
        let shape = sse::Shape::of(&output);
        let data = match shape.data.map(|field| field.kind()) {
            Some(Kind::Message(message)) => components.message(&message, Variant::Whole),
            _ => components.message(&output, Variant::Whole),
        };
        json!({"text/event-stream": {"schema": {
            "type": "string",
            "description": "Server-sent events; the `data:` of each is JSON. `event: error` carries an Error and \
                            is the last one.",
            "contentMediaType": "application/json",
            "contentSchema": data,
        }}})
    } else {
        json!({"application/json": {"schema": components.message(&output, Variant::Whole)}})
    };
    let comment = if route.rpc.is_server_streaming() {
        "A stream of events."
    } else {
        "Done."
    };
    let mut responses = json!({"200": {"description": comment, "content": content}});
    let mut add = |status: &str, name: &str| {
        responses[status] = json!({"$ref": format!("#/components/responses/{name}")});
    };
    add("400", "BadRequest");
    add("401", "Unauthenticated");
    add("403", "PermissionDenied");
    if route.template.variables().next().is_some() {
        add("404", "NotFound");
    }
    if route.verb != Method::GET {
        add("409", "Conflict");
    }
    if !matches!(route.body, BodyRule::None) {
        add("413", "BodyTooLarge");
        add("415", "MediaType");
    }
    add("429", "TooManyRequests");
    add("default", "Error");
    responses
}

/// The answers that all operations share.
pub(super) fn error_responses() -> Value {
    let error = |description: &str| json!({"description": description, "content": {"application/json": {"schema": reference(ERROR)}}});
    let retry_after = json!({"Retry-After": {
        "description": "Seconds to wait.",
        "schema": {"type": "integer", "minimum": 0},
    }});
    let mut responses = json!({
        "BadRequest": error("A field, parameter or the body is not as it must be; details name each field."),
        "Unauthenticated": error("No key, or none that is known."),
        "PermissionDenied": error("The key's role does not allow this."),
        "NotFound": error("It does not exist, or it is another's."),
        "Conflict": error("It exists already, or was changed by somebody else (a stale etag)."),
        "BodyTooLarge": error("The body is too large."),
        "MediaType": error("The body is not application/json in UTF-8."),
        "TooManyRequests": error("A limit was reached."),
        "Error": error("Any other failure."),
    });
    responses["TooManyRequests"]["headers"] = retry_after;
    responses
}
