//! A REST request to an RPC's request message: body, URL variables, query and headers, each into its fields.
//!
//! Pure: no server, no clock. A field may be given in one place only; where two places agree that is accepted,
//! where they differ it is refused, since no order of precedence would be what every caller means.

use std::collections::HashSet;

use http::{HeaderMap, Method, header};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, ReflectMessage as _, Value,
};
use serde_json::{Map, Value as Json};

use crate::{
    config::{Config, HeaderConflict, HeaderField},
    error::RequestError,
    http_rule::{BodyRule, Matched, Route},
    json::{self, Decoder, Path, WellKnown},
    mask,
    schema::Schema,
    uri,
};

/// A request that passed: which RPC it calls, and with what.
#[derive(Debug, Clone)]
pub struct ParsedRequest {
    /// The RPC.
    pub rpc: MethodDescriptor,
    /// Its request message.
    pub message: DynamicMessage,
}

/// Refuses a body that is not declared as JSON in UTF-8. `has_body` is false when nothing was sent.
pub(crate) fn check_media_type(headers: &HeaderMap, has_body: bool) -> Result<(), RequestError> {
    if !has_body {
        return Ok(());
    }
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(RequestError::MediaType(
            "the body must not be compressed (content-encoding)",
        ));
    }
    let declared = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut parts = declared.split(';').map(str::trim);
    if !parts
        .next()
        .unwrap_or_default()
        .eq_ignore_ascii_case("application/json")
    {
        return Err(RequestError::MediaType(
            "the body must have content-type application/json",
        ));
    }
    let is_utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
            let value = value.trim_matches('"');
            value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
        }
        _ => true,
    };
    if parts.all(is_utf8) {
        Ok(())
    } else {
        Err(RequestError::MediaType("the body must be UTF-8"))
    }
}

/// The request message of a matched request.
pub(crate) fn message(
    schema: &Schema,
    config: &Config,
    matched: &Matched<'_>,
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<DynamicMessage, RequestError> {
    let route = matched.route;
    let mut filling = Filling {
        config,
        route,
        decoder: Decoder::new(schema),
        message: DynamicMessage::new(route.rpc.input()),
    };
    let object = filling.body(body)?;
    for (field, text) in &matched.variables {
        filling.text(field, text);
    }
    filling.query(uri::query_pairs(query)?, matched);
    for header_field in &config.header_fields {
        filling.header(header_field, headers);
    }
    filling.derive_mask(schema, &object);
    filling.decoder.violations.into_result()?;
    Ok(filling.message)
}

/// A request message on its way.
struct Filling<'a> {
    config: &'a Config,
    route: &'a Route,
    decoder: Decoder<'a>,
    message: DynamicMessage,
}

impl Filling<'_> {
    /// Puts the body where the rule says, and gives back its object.
    fn body(&mut self, bytes: &[u8]) -> Result<Map<String, Json>, RequestError> {
        if matches!(self.route.body, BodyRule::None) && !bytes.is_empty() {
            self.decoder.violations.add("body", "this method takes no body");
            return Ok(Map::new());
        }
        let object = match bytes.is_empty() {
            true => Map::new(),
            false => match json::parse_strict(bytes, self.config.depth_max)? {
                Json::Object(object) => object,
                other => {
                    let given = format!("must be a JSON object, not {}", name_of(&other));
                    self.decoder.violations.add("body", given);
                    return Ok(Map::new());
                }
            },
        };
        match &self.route.body {
            BodyRule::None => {}
            BodyRule::Whole => {
                self.message = self
                    .decoder
                    .message(&self.route.rpc.input(), &object, &Path::Root);
            }
            BodyRule::Field(field) => {
                let kind = field.kind();
                let inner = kind
                    .as_message()
                    .expect("invariant: checked when the route was built");
                let value = self.decoder.message(inner, &object, &Path::Root);
                self.message.set_field(field, Value::Message(value));
            }
        }
        Ok(object)
    }

    fn query(&mut self, pairs: Vec<(String, String)>, matched: &Matched<'_>) {
        let in_url = |name: &str| matched.variables.iter().any(|(field, _)| field == name);
        let in_body = |name: &str| match &self.route.body {
            BodyRule::Field(field) => name.split('.').next() == Some(field.name()),
            BodyRule::Whole => !self.config.query_beside_body.iter().any(|field| field == name),
            BodyRule::None => false,
        };
        let mut given: HashSet<&str> = HashSet::new();
        for (name, text) in &pairs {
            if in_url(name) || in_body(name) {
                self.decoder.violations.add(
                    name,
                    "unknown query parameter: it is given in the URL or the body",
                );
                continue;
            }
            let repeated = leaf(&self.route.rpc.input(), name).is_some_and(|field| field.is_list());
            if !given.insert(name) && !repeated {
                self.decoder
                    .violations
                    .add(name, "the query parameter is given twice");
                continue;
            }
            if text.is_empty() && self.refuses_empty(name) {
                self.decoder.violations.add(name, "must not be empty");
                continue;
            }
            self.text(name, text);
        }
    }

    /// Whether an empty value is a mistake, as it is in the header that stands for the same field.
    fn refuses_empty(&self, name: &str) -> bool {
        let mut rules = self.config.header_fields.iter();
        rules.any(|rule| rule.field == name && rule.conflict == HeaderConflict::Refuse)
    }

    fn header(&mut self, rule: &HeaderField, headers: &HeaderMap) {
        let input = self.route.rpc.input();
        let Some(field) = input.get_field_by_name(&rule.field) else {
            return;
        };
        let mut values = headers.get_all(&rule.header).iter();
        let Some(value) = values.next() else { return };
        let text = value.to_str().ok().filter(|_| values.next().is_none());
        let Some(text) = text else {
            self.decoder
                .violations
                .add(&rule.header, "must be one header of visible ASCII");
            return;
        };
        match (rule.conflict, text.is_empty()) {
            (HeaderConflict::Refuse, true) => self.decoder.violations.add(&rule.header, "must not be empty"),
            (HeaderConflict::HeaderWins, true) => {}
            (HeaderConflict::Refuse, false) => self.text(&rule.field, text),
            (HeaderConflict::HeaderWins, false) => {
                self.message.clear_field(&field);
                self.text(&rule.field, text);
            }
        }
    }

    /// Sets the field at a path of proto names from text.
    fn text(&mut self, path: &str, text: &str) {
        let Some(field) = leaf(&self.route.rpc.input(), path) else {
            self.decoder.violations.add(path, "unknown query parameter");
            return;
        };
        let value = match field.kind() {
            Kind::Message(descriptor) => json::text_to_message(&descriptor, text).map(Value::Message),
            kind => {
                json::scalar_from_text(&kind, text).map_err(|reason| self.range_of(path).unwrap_or(reason))
            }
        };
        let holder = holder_mut(&mut self.message, path);
        match value {
            Err(reason) => self.decoder.violations.add(path, reason),
            Ok(value) if field.is_list() => {
                if let Some(list) = holder.get_field_mut(&field).as_list_mut() {
                    list.push(value);
                }
            }
            Ok(value) if holder.has_field(&field) && *holder.get_field(&field) != value => {
                self.decoder
                    .violations
                    .add(path, "is given twice with different values");
            }
            Ok(value) => holder.set_field(&field, value),
        }
    }

    /// What a number must be, where more is known than its type's range.
    fn range_of(&self, path: &str) -> Option<String> {
        let range = self.config.ranges.iter().find(|range| range.field == path)?;
        Some(format!(
            "must be a whole number from {} to {}",
            range.least, range.most
        ))
    }

    /// A PATCH whose body is the resource changes the fields present, unless the query names them.
    fn derive_mask(&mut self, schema: &Schema, object: &Map<String, Json>) {
        let BodyRule::Field(body) = &self.route.body else {
            return;
        };
        let Some(field) = self.message.descriptor().get_field_by_name("update_mask") else {
            return;
        };
        let kind = field.kind();
        let (Some(resource), Some(mask)) = (body.kind().as_message().cloned(), kind.as_message()) else {
            return;
        };
        let wanted = self.route.verb == Method::PATCH && WellKnown::of(mask) == Some(WellKnown::FieldMask);
        if !wanted || self.message.has_field(&field) {
            return;
        }
        let paths = mask::paths_present(schema, &resource, object, &self.config.mask_ignored);
        let mut value = DynamicMessage::new(mask.clone());
        value.set_field_by_name(
            "paths",
            Value::List(paths.into_iter().map(Value::String).collect()),
        );
        self.message.set_field(&field, Value::Message(value));
    }
}

/// What a JSON value is called.
fn name_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "true or false",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

/// How many names a field's path in a URL may have. A message may hold itself, and then a query could nest as
/// deeply as it is long.
pub(crate) const PATH_NAMES_MAX: usize = 4;

/// The field at the end of a path through single messages. Maps, and messages without a text form, have none.
pub(crate) fn leaf(message: &MessageDescriptor, path: &str) -> Option<FieldDescriptor> {
    if path.split('.').nth(PATH_NAMES_MAX).is_some() {
        return None;
    }
    let (name, rest) = path
        .split_once('.')
        .map_or((path, None), |(name, rest)| (name, Some(rest)));
    let field = message.get_field_by_name(name).filter(|field| !field.is_map())?;
    match (field.kind(), rest) {
        (Kind::Message(inner), Some(rest)) if !field.is_list() && WellKnown::of(&inner).is_none() => {
            leaf(&inner, rest)
        }
        (_, Some(_)) => None,
        (Kind::Message(inner), None) => WellKnown::of(&inner).filter(WellKnown::has_text).map(|_| field),
        (_, None) => Some(field),
    }
}

/// The message that holds the last field of a path which [`leaf`] found.
fn holder_mut<'m>(message: &'m mut DynamicMessage, path: &str) -> &'m mut DynamicMessage {
    match path.split_once('.') {
        None => message,
        Some((name, rest)) => {
            let inner = message
                .get_field_by_name_mut(name)
                .and_then(Value::as_message_mut);
            holder_mut(
                inner.expect("invariant: leaf() walked this path through messages"),
                rest,
            )
        }
    }
}

#[cfg(test)]
mod tests;
