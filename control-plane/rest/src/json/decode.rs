//! JSON to messages. Every fault is noted with its path and the walk goes on, so that a caller learns all at once.
//!
//! Invariant: recursion is bounded by the depth of the JSON, which [`super::strict`] bounds.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde_json::{Map, Value as Json};

use super::{
    Path, number, scalar,
    well_known::{self, WellKnown},
};
use crate::{error::Violations, schema::Schema};

/// A walk over one request's JSON.
#[derive(Debug)]
pub(crate) struct Decoder<'s> {
    schema: &'s Schema,
    pub(crate) violations: Violations,
}

impl<'s> Decoder<'s> {
    pub(crate) fn new(schema: &'s Schema) -> Self {
        Self {
            schema,
            violations: Violations::default(),
        }
    }

    /// The message that an object describes; what was wrong is missing in it and noted.
    pub(crate) fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        object: &Map<String, Json>,
        path: &Path<'_>,
    ) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for (name, json) in object {
            let at = path.field(name);
            match descriptor.get_field_by_name(name) {
                Some(field) if self.schema.is_output_only(&field) => {}
                Some(field) => self.field(&mut message, &field, json, &at),
                None => self.violations.add(at, unknown_field(descriptor, name)),
            }
        }
        message
    }

    fn field(&mut self, message: &mut DynamicMessage, field: &FieldDescriptor, json: &Json, at: &Path<'_>) {
        if json.is_null() && !takes_null(field) {
            return;
        }
        let value = if field.is_map() {
            self.map(field, json, at)
        } else if field.is_list() {
            self.list(field, json, at)
        } else {
            self.value(&field.kind(), json, at)
        };
        let Some(value) = value else { return };
        let others = field
            .containing_oneof()
            .map(|oneof| oneof.fields().collect::<Vec<_>>())
            .unwrap_or_default();
        if let Some(other) = others
            .iter()
            .find(|other| *other != field && message.has_field(other))
        {
            self.violations
                .add(at, format!("cannot be given together with {}", other.name()));
            return;
        }
        message.set_field(field, value);
    }

    fn list(&mut self, field: &FieldDescriptor, json: &Json, at: &Path<'_>) -> Option<Value> {
        let Some(items) = json.as_array() else {
            self.violations.add(at, "must be a list");
            return None;
        };
        let kind = field.kind();
        let values = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| self.value(&kind, item, &at.index(index)));
        Some(Value::List(values.collect()))
    }

    fn map(&mut self, field: &FieldDescriptor, json: &Json, at: &Path<'_>) -> Option<Value> {
        let Some(object) = json.as_object() else {
            self.violations.add(at, "must be an object");
            return None;
        };
        let entry = field.kind();
        let entry = entry
            .as_message()
            .expect("invariant: a map is a list of entry messages");
        let (key_kind, value_kind) = (
            entry.map_entry_key_field().kind(),
            entry.map_entry_value_field().kind(),
        );
        let mut map = HashMap::with_capacity(object.len());
        for (text, item) in object {
            let at = at.field(text);
            match scalar::map_key(&key_kind, text) {
                Ok(key) => {
                    let Some(value) = self.value(&value_kind, item, &at) else {
                        continue;
                    };
                    if map.insert(key, value).is_some() {
                        self.violations.add(at, "the key is given twice");
                    }
                }
                Err(reason) => self.violations.add(at, format!("the key {reason}")),
            }
        }
        Some(Value::Map(map))
    }

    /// One value that is neither a list nor a map.
    fn value(&mut self, kind: &Kind, json: &Json, at: &Path<'_>) -> Option<Value> {
        match kind {
            Kind::Message(descriptor) => self.message_value(descriptor, json, at).map(Value::Message),
            Kind::Enum(descriptor) if is_null_value(descriptor.full_name()) && json.is_null() => {
                Some(Value::EnumNumber(0))
            }
            _ => self.noted(at, scalar::from_json(kind, json)),
        }
    }

    fn message_value(
        &mut self,
        descriptor: &MessageDescriptor,
        json: &Json,
        at: &Path<'_>,
    ) -> Option<DynamicMessage> {
        match WellKnown::of(descriptor) {
            None => {
                let object = self.object(json, at)?;
                Some(self.message(descriptor, object, at))
            }
            Some(WellKnown::Timestamp | WellKnown::Duration | WellKnown::FieldMask) => {
                let text = json.as_str().ok_or_else(|| "must be a string".to_owned());
                self.noted(
                    at,
                    text.and_then(|text| well_known::text_to_message(descriptor, text)),
                )
            }
            Some(WellKnown::Wrapper) => {
                let value = self.noted(at, scalar::from_json(&well_known::wrapped_kind(descriptor), json))?;
                Some(with_field(descriptor, "value", value))
            }
            Some(WellKnown::Struct) => {
                let object = self.object(json, at)?;
                self.structure(descriptor, object, at)
            }
            Some(WellKnown::ListValue) => match json.as_array() {
                Some(items) => self.list_value(descriptor, items, at),
                None => self.noted(at, Err("must be a list".to_owned())),
            },
            Some(WellKnown::Value) => self.dynamic_value(descriptor, json, at),
            Some(WellKnown::Any) => {
                let object = self.object(json, at)?;
                self.any(descriptor, object, at)
            }
        }
    }

    fn structure(
        &mut self,
        descriptor: &MessageDescriptor,
        object: &Map<String, Json>,
        at: &Path<'_>,
    ) -> Option<DynamicMessage> {
        let fields = descriptor.get_field_by_name("fields")?;
        let value = fields.kind().as_message()?.map_entry_value_field().kind();
        let value = value.as_message()?;
        let mut map = HashMap::with_capacity(object.len());
        for (key, json) in object {
            let inner = self.dynamic_value(value, json, &at.field(key))?;
            map.insert(prost_reflect::MapKey::String(key.clone()), Value::Message(inner));
        }
        Some(with_field(descriptor, "fields", Value::Map(map)))
    }

    fn list_value(
        &mut self,
        descriptor: &MessageDescriptor,
        items: &[Json],
        at: &Path<'_>,
    ) -> Option<DynamicMessage> {
        let value = descriptor.get_field_by_name("values")?.kind();
        let value = value.as_message()?;
        let values = items
            .iter()
            .enumerate()
            .map(|(index, item)| self.dynamic_value(value, item, &at.index(index)));
        let values: Option<Vec<_>> = values.map(|inner| inner.map(Value::Message)).collect();
        Some(with_field(descriptor, "values", Value::List(values?)))
    }

    fn dynamic_value(
        &mut self,
        descriptor: &MessageDescriptor,
        json: &Json,
        at: &Path<'_>,
    ) -> Option<DynamicMessage> {
        let inner = |name: &str| descriptor.get_field_by_name(name)?.kind().as_message().cloned();
        let (name, value) = match json {
            Json::Null => ("null_value", Value::EnumNumber(0)),
            Json::Bool(value) => ("bool_value", Value::Bool(*value)),
            Json::String(text) => ("string_value", Value::String(text.clone())),
            Json::Number(number) => {
                let exact = number::exact_double(number)
                    .ok_or_else(|| "would lose digits as a number: give it as a string".to_owned());
                ("number_value", Value::F64(self.noted(at, exact)?))
            }
            Json::Object(object) => (
                "struct_value",
                Value::Message(self.structure(&inner("struct_value")?, object, at)?),
            ),
            Json::Array(items) => (
                "list_value",
                Value::Message(self.list_value(&inner("list_value")?, items, at)?),
            ),
        };
        Some(with_field(descriptor, name, value))
    }

    /// `{"@type": "type.googleapis.com/pkg.Message", …fields}`, or `value` for a message with its own JSON form.
    fn any(
        &mut self,
        descriptor: &MessageDescriptor,
        object: &Map<String, Json>,
        at: &Path<'_>,
    ) -> Option<DynamicMessage> {
        let url = object.get("@type").and_then(Json::as_str).unwrap_or_default();
        let name = url.rsplit_once('/').map_or("", |(_, name)| name);
        let Some(inner) = self.schema.pool.get_message_by_name(name) else {
            self.violations
                .add(at.field("@type"), "must be the URL of a known message");
            return None;
        };
        let mut fields = object.clone();
        fields.shift_remove("@type");
        let message = if WellKnown::of(&inner).is_some() {
            let value = fields.shift_remove("value").unwrap_or(Json::Null);
            for (name, _) in &fields {
                self.violations.add(at.field(name), "no such field");
            }
            self.message_value(&inner, &value, &at.field("value"))?
        } else {
            self.message(&inner, &fields, at)
        };
        let mut any = with_field(descriptor, "type_url", Value::String(url.to_owned()));
        any.set_field_by_name("value", Value::Bytes(Bytes::from(message.encode_to_vec())));
        Some(any)
    }

    fn object<'j>(&mut self, json: &'j Json, at: &Path<'_>) -> Option<&'j Map<String, Json>> {
        let object = json.as_object();
        if object.is_none() {
            self.violations.add(at, "must be an object");
        }
        object
    }

    fn noted<T>(&mut self, at: &Path<'_>, result: Result<T, String>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(reason) => {
                self.violations.add(at, reason);
                None
            }
        }
    }
}

fn with_field(descriptor: &MessageDescriptor, name: &str, value: Value) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    message.set_field_by_name(name, value);
    message
}

fn is_null_value(full_name: &str) -> bool {
    full_name == "google.protobuf.NullValue"
}

/// Whether `null` is a value of this field, rather than its absence.
fn takes_null(field: &FieldDescriptor) -> bool {
    let single = !field.is_list() && !field.is_map();
    single
        && match field.kind() {
            Kind::Message(descriptor) => WellKnown::of(&descriptor) == Some(WellKnown::Value),
            Kind::Enum(descriptor) => is_null_value(descriptor.full_name()),
            _ => false,
        }
}

fn unknown_field(descriptor: &MessageDescriptor, name: &str) -> String {
    match descriptor.get_field_by_json_name(name) {
        Some(field) => format!("no such field: it is called {}", field.name()),
        None => "no such field".to_owned(),
    }
}

#[cfg(test)]
mod tests;
