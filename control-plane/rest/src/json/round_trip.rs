//! Any message that prints is read back as it was, and arbitrary input never panics.

use std::collections::HashMap;

use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use super::{Decoder, Path, WellKnown, message_to_json, parse_strict};
use crate::{schema::Schema, testing};

/// Makes messages out of random bytes; without more bytes everything is empty, so that it ends.
struct Source<'a> {
    schema: &'a Schema,
    bytes: std::slice::Iter<'a, u8>,
}

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        self.bytes.next().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u64 {
        let bytes: [u8; 8] = std::array::from_fn(|_| self.byte());
        // Small numbers and extremes are as likely as others.
        if bytes[0] < 128 {
            u64::from(bytes[1])
        } else {
            u64::from_le_bytes(bytes)
        }
    }

    fn text(&mut self) -> String {
        let count = usize::from(self.byte() % 6);
        (0..count)
            .map(|_| char::from_u32(u32::from(self.byte()) * 37).unwrap_or('\u{0}'))
            .collect()
    }

    fn message(&mut self, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        match WellKnown::of(descriptor) {
            Some(WellKnown::Timestamp) => {
                let seconds = i64::try_from(self.word() % 253_402_300_799).expect("small");
                message.set_field_by_name("seconds", Value::I64(seconds));
                message.set_field_by_name("nanos", Value::I32(i32::from(self.byte()) * 1_000_000));
            }
            Some(WellKnown::Duration) => {
                let seconds = i64::try_from(self.word() % 315_576_000_000).expect("small");
                message.set_field_by_name("seconds", Value::I64(-seconds));
                message.set_field_by_name("nanos", Value::I32(i32::from(self.byte()) * -1_001));
            }
            Some(WellKnown::Any) => {
                let leaf = self.schema.pool.get_message_by_name("test.Leaf").expect("known");
                let bytes = self.message(&leaf, depth + 1).encode_to_vec();
                message.set_field_by_name("type_url", Value::String("x/test.Leaf".to_owned()));
                message.set_field_by_name("value", Value::Bytes(bytes.into()));
            }
            Some(WellKnown::FieldMask) => {
                let paths = vec![Value::String("a".to_owned()); usize::from(self.byte() % 3)];
                message.set_field_by_name("paths", Value::List(paths));
            }
            Some(WellKnown::Value) => self.dynamic(&mut message, depth),
            _ => {
                for field in descriptor.fields() {
                    let taken = field
                        .containing_oneof()
                        .is_some_and(|oneof| oneof.fields().any(|other| message.has_field(&other)));
                    if !self.schema.is_output_only(&field) && !taken && depth < 5 && self.byte() % 3 == 1 {
                        let value = self.field(&field, depth);
                        message.set_field(&field, value);
                    }
                }
            }
        }
        message
    }

    fn dynamic(&mut self, message: &mut DynamicMessage, depth: usize) {
        let pool = &self.schema.pool;
        let choice = if depth < 5 { self.byte() % 6 } else { 0 };
        let inner = |name: &str| pool.get_message_by_name(name).expect("known");
        match choice {
            1 => message.set_field_by_name("bool_value", Value::Bool(true)),
            2 => message.set_field_by_name("string_value", Value::String(self.text())),
            3 => message.set_field_by_name("number_value", Value::F64(f64::from(self.byte()) / 4.0)),
            4 => {
                let value = self.message(&inner("google.protobuf.Struct"), depth + 1);
                message.set_field_by_name("struct_value", Value::Message(value));
            }
            5 => {
                let value = self.message(&inner("google.protobuf.ListValue"), depth + 1);
                message.set_field_by_name("list_value", Value::Message(value));
            }
            _ => message.set_field_by_name("null_value", Value::EnumNumber(0)),
        }
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        let kind = field.kind();
        let count = self.byte() % 4;
        match &kind {
            Kind::Message(entry) if field.is_map() => {
                let (key, value) = (
                    entry.map_entry_key_field().kind(),
                    entry.map_entry_value_field().kind(),
                );
                let mut map = HashMap::new();
                for _ in 0..count {
                    let key: MapKey = self.value(&key, depth).into_map_key().expect("a key");
                    map.insert(key, self.value(&value, depth + 1));
                }
                Value::Map(map)
            }
            kind if field.is_list() => Value::List((0..count).map(|_| self.value(kind, depth + 1)).collect()),
            kind => self.value(kind, depth + 1),
        }
    }

    fn value(&mut self, kind: &Kind, depth: usize) -> Value {
        match kind {
            Kind::Bool => Value::Bool(self.byte() % 2 == 1),
            Kind::Double => Value::F64(f64::from_bits(self.word())),
            Kind::Float => Value::F32(f32::from_bits(u32::from(self.byte()) << 23 | 12_345)),
            Kind::String => Value::String(self.text()),
            Kind::Bytes => Value::Bytes(self.text().into_bytes().into()),
            Kind::Message(descriptor) => Value::Message(self.message(descriptor, depth)),
            Kind::Enum(descriptor) => {
                let index = usize::from(self.byte()) % descriptor.values().len();
                Value::EnumNumber(descriptor.values().nth(index).expect("in range").number())
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(i32::from(self.byte()) - 128),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(self.word().cast_signed()),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(u32::from(self.byte()) << 24),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.word()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_printed_message_is_read_back(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let schema = testing::kinds_schema();
        let descriptor = schema.pool.get_message_by_name("test.Kinds").expect("known");
        let message = Source { schema, bytes: bytes.iter() }.message(&descriptor, 0);
        let printed = message_to_json(&message).expect("in range").to_string();
        let json = parse_strict(printed.as_bytes(), 32).expect("valid JSON");
        let mut decoder = Decoder::new(schema);
        let read = decoder.message(&descriptor, json.as_object().expect("an object"), &Path::Root);
        prop_assert_eq!(decoder.violations.list(), &[], "{}", printed);
        prop_assert_eq!(message_to_json(&read).expect("in range").to_string(), printed);
        let on_wire = DynamicMessage::decode(descriptor, read.encode_to_vec().as_slice()).expect("valid");
        prop_assert_eq!(message_to_json(&on_wire).expect("in range"), json);
    }

    #[test]
    fn arbitrary_requests_never_panic(
        method in "GET|HEAD|POST|PUT|PATCH|DELETE|X",
        uri in "/v1/(things|sizes)(/[a-z%:/0-9]{0,6}){0,3}(\\?[a-z_]{1,9}=[ -~]{0,9})?",
        body in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        crate::fuzz_request(&testing::kinds(), &method, &uri, &body);
    }

    #[test]
    fn arbitrary_json_for_known_fields_never_panics(
        name in "a_bool|a_float|by_name|by_number|leaf|wrapped|any|value|list|struct|mask|duration|timestamp",
        value in "(\\{\"@?[a-z]{0,4}\":|\\[)?(\"[ -~]{0,12}\"|-?[0-9]{1,20}(\\.[0-9]{1,3})?|null|true)(\\}|\\])?",
    ) {
        let body = format!("{{\"{name}\": {value}}}");
        crate::fuzz_request(&testing::kinds(), "PUT", "/v1/things/a", body.as_bytes());
    }
}
