//! JSON Schemas of messages and enums, as components with names.

use std::collections::{BTreeMap, HashMap};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::{
    json::{WellKnown, enum_json_names},
    schema::Schema,
};

/// Name of the schema of errors, which no message may take.
pub(super) const ERROR: &str = "Error";

/// Whether a message is described as a resource or as the body of a PATCH, where nothing is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    Whole,
    Patch,
}

/// The components that operations refer to, made when first referred to.
pub(super) struct Components<'s> {
    schema: &'s Schema,
    /// How many declarations have a short name.
    uses: HashMap<String, usize>,
    done: BTreeMap<String, Value>,
}

impl<'s> Components<'s> {
    pub(super) fn new(schema: &'s Schema) -> Self {
        let mut uses = HashMap::from([(ERROR.to_owned(), 1)]);
        let messages = schema
            .pool
            .all_messages()
            .map(|message| short_name(message.full_name(), message.package_name()));
        let enums = schema
            .pool
            .all_enums()
            .map(|one| short_name(one.full_name(), one.package_name()));
        for name in messages.chain(enums) {
            *uses.entry(name).or_default() += 1;
        }
        Self {
            schema,
            uses,
            done: BTreeMap::from([(ERROR.to_owned(), error_schema())]),
        }
    }

    pub(super) fn finish(self) -> Value {
        Value::Object(self.done.into_iter().collect())
    }

    /// A reference to a message's schema, or the schema itself where JSON has a form of its own for it.
    pub(super) fn message(&mut self, message: &MessageDescriptor, variant: Variant) -> Value {
        if let Some(well_known) = WellKnown::of(message) {
            return well_known_schema(well_known, message);
        }
        let mut name = self.name(message.full_name(), message.package_name());
        if variant == Variant::Patch {
            name.push_str("Patch");
        }
        if !self.done.contains_key(&name) {
            // Known before its fields are: a message may hold itself.
            self.done.insert(name.clone(), Value::Null);
            let comment = self.schema.comment(&message.parent_file(), message.path());
            let object = self.object(message.fields(), variant, comment);
            self.done.insert(name.clone(), object);
        }
        reference(&name)
    }

    /// An object of these fields.
    pub(super) fn object(
        &mut self,
        fields: impl Iterator<Item = FieldDescriptor>,
        variant: Variant,
        comment: &str,
    ) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in fields {
            if variant == Variant::Whole && self.schema.is_required(&field) {
                required.push(field.name().to_owned());
            }
            properties.insert(field.name().to_owned(), self.field(&field, variant));
        }
        let mut object = json!({"type": "object", "properties": properties});
        if !comment.is_empty() {
            object["description"] = json!(comment);
        }
        if !required.is_empty() {
            object["required"] = json!(required);
        }
        object
    }

    /// A field with its comment and behaviour.
    pub(super) fn field(&mut self, field: &FieldDescriptor, variant: Variant) -> Value {
        let kind = field.kind();
        let mut schema = match (&kind, field.is_map(), field.is_list()) {
            (Kind::Message(entry), true, _) => {
                let value = self.kind(&entry.map_entry_value_field().kind(), Variant::Whole);
                json!({"type": "object", "additionalProperties": value})
            }
            (_, _, true) => json!({"type": "array", "items": self.kind(&kind, Variant::Whole)}),
            _ => self.kind(&kind, variant),
        };
        let comment = self
            .schema
            .comment(&field.parent_message().parent_file(), field.path());
        if !comment.is_empty() {
            schema["description"] = json!(comment);
        }
        if self.schema.is_output_only(field) {
            schema["readOnly"] = json!(true);
        }
        if self.schema.is_input_only(field) {
            schema["writeOnly"] = json!(true);
        }
        schema
    }

    fn kind(&mut self, kind: &Kind, variant: Variant) -> Value {
        match kind {
            Kind::Message(message) => self.message(message, variant),
            Kind::Enum(one) => self.enumeration(one),
            scalar => scalar_schema(scalar),
        }
    }

    fn enumeration(&mut self, one: &EnumDescriptor) -> Value {
        if one.full_name() == "google.protobuf.NullValue" {
            return json!({"type": "null"});
        }
        let name = self.name(one.full_name(), one.package_name());
        let names = enum_json_names(one);
        let file = one.parent_file();
        let mut text = self.schema.comment(&file, one.path()).to_owned();
        for (value, name) in one.values().zip(&names) {
            let comment = self.schema.comment(&file, value.path());
            text.push_str(&format!("\n- `{name}`: {comment}"));
        }
        self.done.insert(
            name.clone(),
            json!({"type": "string", "enum": names, "description": text}),
        );
        reference(&name)
    }

    /// The short name where only one declaration has it, the full one otherwise.
    fn name(&self, full_name: &str, package: &str) -> String {
        let short = short_name(full_name, package);
        let is_unique = self.uses.get(&short).is_none_or(|uses| *uses == 1);
        if is_unique { short } else { full_name.to_owned() }
    }
}

fn short_name(full_name: &str, package: &str) -> String {
    let inner = full_name.strip_prefix(package).unwrap_or(full_name);
    inner.trim_start_matches('.').to_owned()
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn scalar_schema(kind: &Kind) -> Value {
    match kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Double => json!({"type": "number", "format": "double"}),
        Kind::Float => json!({"type": "number", "format": "float"}),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
        Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "format": "int64", "minimum": 0}),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "integer", "format": "int64"}),
        Kind::Uint64 | Kind::Fixed64 => json!({"type": "integer", "minimum": 0}),
        Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Kind::String | Kind::Message(_) | Kind::Enum(_) => json!({"type": "string"}),
    }
}

fn well_known_schema(well_known: WellKnown, message: &MessageDescriptor) -> Value {
    match well_known {
        WellKnown::Timestamp => json!({"type": "string", "format": "date-time"}),
        WellKnown::Duration => {
            json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$", "examples": ["60s", "0.500s"]})
        }
        WellKnown::FieldMask => json!({"type": "string", "examples": ["name,privacy.ip"]}),
        WellKnown::Struct => json!({"type": "object", "additionalProperties": true}),
        WellKnown::Value => json!({}),
        WellKnown::ListValue => json!({"type": "array", "items": {}}),
        WellKnown::Any => any_schema(),
        WellKnown::Wrapper => {
            let value = message.get_field_by_name("value").map(|field| field.kind());
            value.as_ref().map_or_else(|| json!({}), scalar_schema)
        }
    }
}

fn any_schema() -> Value {
    json!({
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "additionalProperties": true,
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "Why a request failed.",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "status", "message", "details"],
                "properties": {
                    "code": {"type": "integer", "description": "The HTTP status."},
                    "status": {"type": "string", "description": "The name in google.rpc.Code."},
                    "message": {"type": "string", "description": "For a person."},
                    "details": {
                        "type": "array",
                        "description": "For a program: google.rpc.BadRequest names each bad field.",
                        "items": any_schema(),
                    },
                },
            },
        },
    })
}
