//! Contracts for unit tests, compiled from text: what the product's own contract does not use.

use std::{path::PathBuf, sync::LazyLock};

use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

use crate::{config::Config, error::BuildError, schema::Schema, service::Transcoder};

/// A message with every kind of field, and services with every kind of binding that is supported.
pub(crate) const KINDS: &str = r#"
    message Kinds {
      bool a_bool = 1;
      sint32 a_sint32 = 2;
      int64 an_int64 = 3;
      fixed64 a_fixed64 = 4;
      float a_float = 5;
      double a_double = 6;
      bytes a_bytes = 7;
      Color color = 8;
      repeated Color colors = 9;
      map<string, Kinds> by_name = 10;
      map<int32, string> by_number = 11;
      oneof choice { string text = 12; int64 number = 13; Leaf leaf = 14; }
      optional string maybe = 15;
      google.protobuf.Int64Value wrapped = 16;
      google.protobuf.Any any = 17;
      google.protobuf.Value value = 18;
      google.protobuf.ListValue list = 19;
      google.protobuf.Struct struct = 20;
      google.protobuf.FieldMask mask = 21;
      google.protobuf.Duration duration = 22;
      google.protobuf.Timestamp timestamp = 23;
      google.protobuf.Empty empty = 24;
      google.protobuf.NullValue null = 25;
      repeated google.protobuf.Timestamp times = 26;
      Leaf leaf_alone = 27;
      string server_set = 28 [(google.api.field_behavior) = OUTPUT_ONLY];
      repeated string names = 29;
    }
    message Leaf { string name = 1; uint32 size = 2; }
    enum Color { COLOR_UNSPECIFIED = 0; COLOR_RED = 1; COLOR_DARK_BLUE = 2; }
    message Put { string id = 1; Kinds kinds = 2; string note = 3; google.protobuf.FieldMask update_mask = 4; }
    service Things {
      rpc Get(Kinds) returns (Kinds) {
        option (google.api.http) = {
          get: "/v1/things/{text}"
          additional_bindings { get: "/v1/sizes/{leaf_alone.size}/of/{leaf_alone.name=*}" }
          additional_bindings { get: "/v1/things/all" }
          additional_bindings { post: "/v1/things/{text}:get" body: "*" }
        };
      }
      rpc Put(Put) returns (Kinds) {
        option (google.api.http) = {
          put: "/v1/things/{id}" body: "kinds"
          additional_bindings { patch: "/v1/things/{id}" body: "kinds" }
        };
      }
      rpc Unbound(Kinds) returns (Kinds);
    }
"#;

struct Text(String);

impl FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == "test.proto" {
            File::from_source(name, &self.0)
        } else {
            Err(protox::Error::file_not_found(name))
        }
    }
}

/// The encoded descriptor set of declarations in the package `test`.
pub(crate) fn compile(declarations: &str) -> Vec<u8> {
    let imports = [
        "any",
        "duration",
        "empty",
        "field_mask",
        "struct",
        "timestamp",
        "wrappers",
    ];
    let imports: String = imports
        .iter()
        .map(|name| format!("import \"google/protobuf/{name}.proto\";\n"))
        .collect();
    let source = format!(
        "syntax = \"proto3\";\npackage test;\n{imports}import \"google/api/annotations.proto\";\n\
         import \"google/api/field_behavior.proto\";\n{declarations}"
    );
    let protos = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto"));
    let mut resolver = ChainFileResolver::new();
    resolver.add(Text(source));
    resolver.add(IncludeFileResolver::new(protos));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_file("test.proto")
        .expect("it compiles");
    compiler.encode_file_descriptor_set()
}

/// A transcoder of [`KINDS`]; built once, since random tests ask for it a thousand times.
pub(crate) fn kinds() -> Transcoder {
    static KINDS_TRANSCODER: LazyLock<Transcoder> =
        LazyLock::new(|| transcoder(KINDS).expect("it is supported"));
    KINDS_TRANSCODER.clone()
}

/// The schema of [`KINDS`].
pub(crate) fn kinds_schema() -> &'static Schema {
    static KINDS_SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::load(&compile(KINDS)).expect("valid"));
    &KINDS_SCHEMA
}

pub(crate) fn transcoder(declarations: &str) -> Result<Transcoder, BuildError> {
    Transcoder::new(&compile(declarations), Config::default())
}
