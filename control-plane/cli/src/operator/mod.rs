//! The operator's commands, a file per noun: each reads its arguments, makes one call (`tail` follows a stream),
//! and shows the answer. Rules about values are the API's, whose errors name the field. Only `journal` works without the
//! API, on an edge's files and the store.

pub(crate) mod code;
pub(crate) mod conversion;
pub(crate) mod delivery;
pub(crate) mod endpoint;
pub(crate) mod event;
pub(crate) mod journal;
pub(crate) mod key;
pub(crate) mod replay;
pub(crate) mod tail;
pub(crate) mod tenant;
pub(crate) mod when;

use clap::Args;
use prost_types::FieldMask;

use crate::failure::Failure;

/// Which page of a list.
#[derive(Args, Clone, Debug)]
pub(crate) struct PageArgs {
    /// How many to list, at most 500
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=500))]
    pub(crate) page_size: i32,
    /// Where to go on: what the page before said
    #[arg(long, default_value = "", value_name = "TOKEN", hide_default_value = true)]
    pub(crate) page_token: String,
}

/// Makes a create safe to repeat.
#[derive(Args, Clone, Debug)]
pub(crate) struct RequestArgs {
    /// Any text that is never used for another request: repeated within 24 h, the command creates only once
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub(crate) request_id: String,
}

/// Guards a change against somebody else's.
#[derive(Args, Clone, Debug)]
pub(crate) struct EtagArgs {
    /// Fail unless this is still the resource's etag
    #[arg(long, default_value = "", value_name = "ETAG", hide_default_value = true)]
    pub(crate) etag: String,
}

/// Collects which fields an update changes.
#[derive(Default)]
struct Mask(Vec<String>);

impl Mask {
    /// Names the field if a value was given, and returns the value or an empty one.
    fn take<T: Default>(&mut self, field: &str, value: Option<T>) -> T {
        if value.is_some() {
            self.0.push(field.to_owned());
        }
        value.unwrap_or_default()
    }

    /// The mask, unless nothing would change.
    fn finish(self) -> Result<FieldMask, Failure> {
        if self.0.is_empty() {
            return Err(
                Failure::usage("nothing to change").hint("give at least one field; --help lists them")
            );
        }
        Ok(FieldMask { paths: self.0 })
    }
}

/// For options that hold a JSON object.
fn json_object(text: &str) -> Result<prost_types::Struct, String> {
    crate::shape::object(text)
}
