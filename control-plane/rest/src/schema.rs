//! The descriptor pool, and what is read from it once: field behaviours and comments.
//!
//! The pool holds the services' files and `google.rpc`, so that error details become readable JSON. It leaves the
//! `google.api.http` options to [`crate::http_rule`].

use std::collections::{HashMap, HashSet};

use prost::Message as _;
use prost_reflect::{DescriptorPool, ExtensionDescriptor, FieldDescriptor, FileDescriptor, Value};
use prost_types::FileDescriptorSet;

use crate::error::BuildError;

/// `google.api.FieldBehavior.REQUIRED`.
const REQUIRED: i32 = 2;
/// `google.api.FieldBehavior.OUTPUT_ONLY`.
const OUTPUT_ONLY: i32 = 3;
/// `google.api.FieldBehavior.INPUT_ONLY`.
const INPUT_ONLY: i32 = 4;

/// Everything known about the messages.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) pool: DescriptorPool,
    required: HashSet<String>,
    output_only: HashSet<String>,
    input_only: HashSet<String>,
    comments: HashMap<(String, Vec<i32>), String>,
}

impl Schema {
    /// Reads an encoded `FileDescriptorSet` that holds all its imports.
    pub(crate) fn load(descriptor_set: &[u8]) -> Result<Self, BuildError> {
        let mut pool = DescriptorPool::decode(descriptor_set).map_err(BuildError::Descriptors)?;
        add_rpc_types(&mut pool)?;
        let mut schema = Self {
            required: HashSet::new(),
            output_only: HashSet::new(),
            input_only: HashSet::new(),
            comments: pool.files().flat_map(|file| comments_of(&file)).collect(),
            pool,
        };
        schema.read_behaviours();
        Ok(schema)
    }

    fn read_behaviours(&mut self) {
        let Some(behaviour) = self.pool.get_extension_by_name("google.api.field_behavior") else {
            return;
        };
        for message in self.pool.all_messages() {
            for field in message.fields() {
                for number in behaviours(&field, &behaviour) {
                    let set = match number {
                        REQUIRED => &mut self.required,
                        OUTPUT_ONLY => &mut self.output_only,
                        INPUT_ONLY => &mut self.input_only,
                        _ => continue,
                    };
                    set.insert(field.full_name().to_owned());
                }
            }
        }
    }

    /// Whether only the server sets the field: what a caller gives for it is ignored.
    pub(crate) fn is_output_only(&self, field: &FieldDescriptor) -> bool {
        self.output_only.contains(field.full_name())
    }

    pub(crate) fn is_required(&self, field: &FieldDescriptor) -> bool {
        self.required.contains(field.full_name())
    }

    pub(crate) fn is_input_only(&self, field: &FieldDescriptor) -> bool {
        self.input_only.contains(field.full_name())
    }

    /// The comment before a declaration, as Markdown paragraphs of one line each; empty if there is none.
    pub(crate) fn comment(&self, file: &FileDescriptor, path: &[i32]) -> &str {
        self.comments
            .get(&(file.name().to_owned(), path.to_vec()))
            .map_or("", String::as_str)
    }
}

fn behaviours(field: &FieldDescriptor, extension: &ExtensionDescriptor) -> Vec<i32> {
    match field.options().get_extension(extension).as_ref() {
        Value::List(values) => values.iter().filter_map(Value::as_enum_number).collect(),
        _ => Vec::new(),
    }
}

/// Adds `google.rpc` (and what it imports) where the services' own set lacks it.
fn add_rpc_types(pool: &mut DescriptorPool) -> Result<(), BuildError> {
    let mut rpc = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .expect("invariant: tonic-types ships a valid descriptor set");
    rpc.file
        .retain(|file| pool.get_file_by_name(file.name()).is_none());
    pool.add_file_descriptor_protos(rpc.file)
        .map_err(BuildError::Descriptors)
}

fn comments_of(file: &FileDescriptor) -> Vec<((String, Vec<i32>), String)> {
    let Some(info) = &file.file_descriptor_proto().source_code_info else {
        return Vec::new();
    };
    let commented = info
        .location
        .iter()
        .filter(|location| !location.leading_comments().is_empty());
    commented
        .map(|location| {
            (
                (file.name().to_owned(), location.path.clone()),
                paragraphs(location.leading_comments()),
            )
        })
        .collect()
}

/// Joins the wrapped lines of each paragraph: a comment is wrapped for the proto's reader, not for a web page.
fn paragraphs(comment: &str) -> String {
    let mut text = String::with_capacity(comment.len());
    for line in comment.trim().lines().map(str::trim) {
        if line.is_empty() {
            text.push_str("\n\n");
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    text
}

#[cfg(test)]
pub(crate) fn test_schema() -> Schema {
    Schema::load(qrelay_proto::FILE_DESCRIPTOR_SET).expect("the contract is valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviours_and_comments_are_read_from_the_descriptors() {
        let schema = test_schema();
        let code = schema.pool.get_message_by_name("qrelay.v1.Code").expect("known");
        let field = |name| code.get_field_by_name(name).expect("known");
        assert!(schema.is_output_only(&field("id")) && !schema.is_output_only(&field("name")));
        assert!(schema.is_required(&field("destination_url")));
        let comment = schema.comment(&code.parent_file(), field("name").path());
        assert_eq!(comment, "What people call it: at most 200 characters.");
    }

    #[test]
    fn garbage_is_no_descriptor_set() {
        assert!(matches!(
            Schema::load(b"\xff\xff"),
            Err(BuildError::Descriptors(_))
        ));
    }

    #[test]
    fn wrapped_lines_of_a_comment_are_joined_and_paragraphs_kept() {
        assert_eq!(paragraphs(" One\n two.\n\n Three.\n"), "One two.\n\nThree.");
    }
}
