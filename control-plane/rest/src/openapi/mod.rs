//! The OpenAPI 3.1 document, from the same descriptors and routes that serve the requests.
//!
//! Invariant: it describes what [`crate::json`] reads and writes; a rule changed there is changed in
//! [`schema`], too.

mod operation;
mod schema;

use serde_json::{Map, Value, json};

use crate::{config::Config, http_rule::Routes, schema::Schema};

/// The whole document.
pub(crate) fn document(schema: &Schema, routes: &Routes, config: &Config) -> Value {
    let mut components = schema::Components::new(schema);
    let mut ids = operation::Ids::default();
    let mut paths = Map::new();
    let mut tags = Map::new();
    let mut sorted: Vec<_> = routes.iter().collect();
    sorted.sort_by_key(|route| route.template.to_string());
    for route in sorted {
        let service = route.rpc.parent_service();
        let comment = schema.comment(&service.parent_file(), service.path());
        tags.insert(
            service.name().to_owned(),
            json!({"name": service.name(), "description": comment}),
        );
        let item = paths
            .entry(route.template.to_string())
            .or_insert_with(|| json!({}));
        let operation = operation::operation(schema, config, route, &mut components, &mut ids);
        item[route.verb.as_str().to_ascii_lowercase()] = operation;
    }
    tags.sort_keys();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": config.openapi.title,
            "version": config.openapi.version,
            "description": config.openapi.description,
        },
        "servers": [{"url": "/"}],
        "tags": tags.into_iter().map(|(_, tag)| tag).collect::<Vec<_>>(),
        "security": security(config),
        "paths": paths,
        "components": {
            "securitySchemes": security_schemes(config),
            "responses": operation::error_responses(),
            "schemas": components.finish(),
        },
    })
}

/// Any one of the schemes is enough.
fn security(config: &Config) -> Value {
    match config.api_key_header {
        Some(_) => json!([{"bearer": []}, {"api_key": []}]),
        None => json!([{"bearer": []}]),
    }
}

fn security_schemes(config: &Config) -> Value {
    let mut schemes = json!({
        "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    });
    if let Some(header) = &config.api_key_header {
        schemes["api_key"] = json!({"type": "apiKey", "in": "header", "name": header});
    }
    schemes
}

#[cfg(test)]
mod tests;
