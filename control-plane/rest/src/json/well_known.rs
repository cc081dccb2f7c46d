//! The messages of `google.protobuf` that JSON writes in a form of their own.

use prost_reflect::{DynamicMessage, MessageDescriptor, Value};

use super::{scalar, time};

/// A message with its own JSON form. `Empty` is not among them: it is an object without fields like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WellKnown {
    Timestamp,
    Duration,
    FieldMask,
    Struct,
    Value,
    ListValue,
    Any,
    /// `StringValue` and its kin: a scalar that may be absent.
    Wrapper,
}

impl WellKnown {
    pub(crate) fn of(descriptor: &MessageDescriptor) -> Option<Self> {
        Some(match descriptor.full_name().strip_prefix("google.protobuf.")? {
            "Timestamp" => Self::Timestamp,
            "Duration" => Self::Duration,
            "FieldMask" => Self::FieldMask,
            "Struct" => Self::Struct,
            "Value" => Self::Value,
            "ListValue" => Self::ListValue,
            "Any" => Self::Any,
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
            | "BoolValue" | "StringValue" | "BytesValue" => Self::Wrapper,
            _ => return None,
        })
    }

    /// Whether a URL can hold it.
    pub(crate) fn has_text(&self) -> bool {
        matches!(
            self,
            Self::Timestamp | Self::Duration | Self::FieldMask | Self::Wrapper
        )
    }
}

/// Text as one of the messages that JSON writes as a string, or a wrapper of a scalar.
pub(crate) fn text_to_message(descriptor: &MessageDescriptor, text: &str) -> Result<DynamicMessage, String> {
    let mut message = DynamicMessage::new(descriptor.clone());
    match WellKnown::of(descriptor) {
        Some(WellKnown::Timestamp) => set_parts(&mut message, time::parse_timestamp(text)?),
        Some(WellKnown::Duration) => set_parts(&mut message, time::parse_duration(text)?),
        Some(WellKnown::FieldMask) => {
            let paths = text.split(',').filter(|path| !path.is_empty());
            let paths = paths.map(|path| Value::String(path.to_owned())).collect();
            message.set_field_by_name("paths", Value::List(paths));
        }
        Some(WellKnown::Wrapper) => {
            let kind = wrapped_kind(descriptor);
            message.set_field_by_name("value", scalar::from_text(&kind, text)?);
        }
        _ => return Err("cannot be given as text".to_owned()),
    }
    Ok(message)
}

/// The kind of the scalar inside a wrapper.
pub(crate) fn wrapped_kind(wrapper: &MessageDescriptor) -> prost_reflect::Kind {
    wrapper
        .get_field_by_name("value")
        .expect("invariant: every wrapper has a field `value`")
        .kind()
}

fn set_parts(message: &mut DynamicMessage, (seconds, nanos): (i64, i32)) {
    message.set_field_by_name("seconds", Value::I64(seconds));
    message.set_field_by_name("nanos", Value::I32(nanos));
}

/// The seconds and nanoseconds of a `Timestamp` or `Duration`.
pub(crate) fn parts(message: &DynamicMessage) -> Option<(i64, i32)> {
    let seconds = message.get_field_by_name("seconds")?.as_i64()?;
    let nanos = message.get_field_by_name("nanos")?.as_i32()?;
    Some((seconds, nanos))
}
