//! The JSON of this REST contract, both ways. All its rules live here:
//!
//! - fields have their proto names, in the order of their numbers; camelCase is refused with a hint;
//! - enums are their value's name in lower case without the type's prefix, never a number;
//! - 64-bit integers are numbers (accepted as decimal strings, too); whole numbers print without `.0`;
//! - `Timestamp` prints as RFC 3339 in UTC with exactly milliseconds, any valid RFC 3339 is accepted; `Duration`
//!   is `"60s"` or `"0.500s"`; `FieldMask` is `"a,b.c"`; bytes are base64;
//! - defaults are printed; unset `optional` fields, members of a `oneof` and messages are left out;
//! - a `null` in a request means "not given", but is kept inside `Struct` and `Value`;
//! - keys of maps and `Struct` print sorted: they have no order on the wire, and prost stores them sorted;
//! - `OUTPUT_ONLY` fields in a request are ignored, so that an answer can be edited and sent back;
//! - duplicate keys, unknown fields, and a number in a `Struct` that would change are refused.

mod decode;
mod encode;
mod names;
mod number;
mod path;
mod scalar;
mod strict;
mod time;
mod well_known;

pub(crate) use decode::Decoder;
pub(crate) use encode::{any_to_json, message_to_json};
pub(crate) use names::enum_json_names;
pub(crate) use path::Path;
pub(crate) use scalar::from_text as scalar_from_text;
pub(crate) use strict::parse as parse_strict;
pub(crate) use well_known::{WellKnown, text_to_message};

#[cfg(test)]
mod round_trip;
