//! A code's fields: what a caller may write, and how a row looks on the wire.

use qrelay_proto::v1;
use qrelay_store::{
    limits,
    model::{Code, CodeStatus},
};
use serde_json::{Map, Value};

use crate::{
    api::Api,
    destination,
    field::{self, Settable},
    refusal::Violations,
    wire,
};

/// What a create or an update may set.
pub(crate) const SETTABLE: Settable = Settable {
    fields: &[
        "name",
        "destination_url",
        "status",
        "tags",
        "campaign_id",
        "owner_id",
        "external_id",
        "metadata",
        "recipient",
        "conversion_param",
    ],
    messages: &[],
};

/// What may stand in an update mask without effect. (`short_id` is judged by its value.)
pub(crate) const IGNORED: [&str; 8] = [
    "id",
    "short_id",
    "url",
    "version",
    "etag",
    "created_at",
    "updated_at",
    "tenant_id",
];

/// Whether a field was given, as far as proto3 can tell.
pub(crate) fn is_populated(given: &v1::Code, path: &str) -> bool {
    match path {
        "name" => !given.name.is_empty(),
        "destination_url" => !given.destination_url.is_empty(),
        "status" => given.status != 0,
        "tags" => !given.tags.is_empty(),
        "campaign_id" => !given.campaign_id.is_empty(),
        "owner_id" => !given.owner_id.is_empty(),
        "external_id" => !given.external_id.is_empty(),
        "metadata" => given.metadata.is_some(),
        "recipient" => given.recipient.is_some(),
        "conversion_param" => !given.conversion_param.is_empty(),
        _ => false,
    }
}

/// Sets one field from what was given, and notes what is wrong with it.
pub(crate) fn set(code: &mut Code, path: &str, given: &v1::Code, violations: &mut Violations) {
    let mut reference = |field: &str, text: &str| {
        field::line(violations, field, text, limits::REFERENCE_CHARS_MAX);
        text.to_owned()
    };
    match path {
        "campaign_id" => code.campaign_id = reference(path, &given.campaign_id),
        "owner_id" => code.owner_id = reference(path, &given.owner_id),
        "external_id" => code.external_id = reference(path, &given.external_id),
        "name" => {
            field::line(violations, "name", &given.name, limits::NAME_CHARS_MAX);
            code.name.clone_from(&given.name);
        }
        "destination_url" => {
            if let Err(why) = destination::check(&given.destination_url) {
                violations.add("destination_url", why);
            }
            code.destination_url.clone_from(&given.destination_url);
        }
        "status" => match given.status() {
            v1::CodeStatus::Active => code.status = CodeStatus::Active,
            v1::CodeStatus::Paused => code.status = CodeStatus::Paused,
            v1::CodeStatus::Blocked => code.status = CodeStatus::Blocked,
            v1::CodeStatus::Deleted => violations.add("status", "must not be deleted: use the delete call"),
            v1::CodeStatus::Unspecified => violations.add("status", "must be active or paused"),
        },
        "tags" => {
            check_tags(&given.tags, violations);
            code.tags.clone_from(&given.tags);
        }
        "metadata" => code.metadata = object("metadata", given.metadata.as_ref(), violations),
        "recipient" => code.recipient = object("recipient", given.recipient.as_ref(), violations),
        "conversion_param" => {
            if !is_param(&given.conversion_param) {
                violations.add("conversion_param", "must be [A-Za-z][A-Za-z0-9_-]{0,31}");
            }
            code.conversion_param.clone_from(&given.conversion_param);
        }
        _ => {}
    }
}

/// Empty, or a name that needs no escaping in a query.
fn is_param(name: &str) -> bool {
    let rest = name.strip_prefix(|first: char| first.is_ascii_alphabetic());
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    name.is_empty() || (name.len() <= limits::CONVERSION_PARAM_BYTES_MAX && rest.is_some_and(plain))
}

fn check_tags(tags: &[String], violations: &mut Violations) {
    if tags.len() > limits::TAGS_MAX {
        violations.add("tags", format!("must have at most {} entries", limits::TAGS_MAX));
        return;
    }
    for (at, tag) in tags.iter().enumerate() {
        let field = format!("tags[{at}]");
        field::required_line(violations, &field, tag, limits::TAG_CHARS_MAX);
        if tags[..at].contains(tag) {
            violations.add(field, "repeats an earlier one");
        }
    }
}

/// A field that holds a JSON object.
pub(crate) fn object(
    field: &str,
    given: Option<&prost_types::Struct>,
    violations: &mut Violations,
) -> Map<String, Value> {
    let map = wire::to_map(given.cloned().unwrap_or_default(), limits::METADATA_DEPTH_MAX);
    let map = map.unwrap_or_else(|why| {
        violations.add(field, why);
        Map::new()
    });
    let bytes = serde_json::to_vec(&map).map_or(usize::MAX, |json| json.len());
    if bytes > limits::METADATA_BYTES_MAX {
        violations.add(
            field,
            format!("must have at most {} bytes as JSON", limits::METADATA_BYTES_MAX),
        );
    }
    map
}

/// A row on the wire.
pub(crate) fn show(api: &Api, code: &Code) -> v1::Code {
    let status = match code.status {
        CodeStatus::Active => v1::CodeStatus::Active,
        CodeStatus::Paused => v1::CodeStatus::Paused,
        CodeStatus::Deleted => v1::CodeStatus::Deleted,
        CodeStatus::Blocked => v1::CodeStatus::Blocked,
    };
    let base = api.public_url.as_str().trim_end_matches('/');
    v1::Code {
        id: code.id.to_string(),
        short_id: code.link.short_id.clone(),
        name: code.name.clone(),
        destination_url: code.destination_url.clone(),
        url: format!("{base}/{}", code.link.short_id),
        status: status.into(),
        tags: code.tags.clone(),
        campaign_id: code.campaign_id.clone(),
        owner_id: code.owner_id.clone(),
        external_id: code.external_id.clone(),
        metadata: Some(wire::to_struct(&code.metadata)),
        recipient: Some(wire::to_struct(&code.recipient)),
        version: wire::count(code.version),
        etag: field::etag(code.version),
        created_at: Some(wire::time(code.created_at)),
        updated_at: Some(wire::time(code.updated_at)),
        tenant_id: code.tenant.to_string(),
        conversion_param: code.conversion_param.clone(),
    }
}
