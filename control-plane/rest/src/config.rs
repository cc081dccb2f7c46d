//! What a [`Transcoder`](crate::Transcoder) can be told, with defaults and their reasons.

use std::time::Duration;

use http::HeaderName;

/// Limits, times and names. `Config::default()` suits a service with resources of a few tens of kilobytes.
#[derive(Debug, Clone)]
pub struct Config {
    /// Full names of the services to expose. Empty: every service with a `google.api.http` option.
    pub services: Vec<String>,
    /// Largest request body, in bytes; above it 413. 256 KiB: a resource of 32 KiB of text in the worst JSON
    /// escaping (six bytes for one), rounded up.
    pub body_bytes_max: usize,
    /// Largest answer of a unary call and largest message of a stream, in bytes of protobuf. 32 MiB: a page of
    /// 500 resources of 32 KiB, doubled. It bounds what a broken handler can make this process hold.
    pub response_bytes_max: usize,
    /// How deep JSON may nest: 1 to 32. 24 by default: one level of `google.protobuf.Struct` takes three of
    /// prost's 100 levels of nesting, so that deeper input would be refused by the decoder as an internal error.
    pub depth_max: usize,
    /// How long a request may take until its answer (or a stream's headers) is complete: 504 after it.
    /// 30 s, above the slowest handler and below the usual 60 s of a load balancer.
    pub timeout: Duration,
    /// Pause after which a silent stream sends a comment, so that proxies keep it open. 15 s, as the HTML
    /// standard advises for server-sent events.
    pub heartbeat: Duration,
    /// How long a stream's headers wait for its first message, so that an error before it is a plain HTTP error.
    pub first_message_wait: Duration,
    /// Request headers that stand for a field of the request message.
    pub header_fields: Vec<HeaderField>,
    /// Fields that may stand in the query although the body is the whole request message (`body: "*"`): what says
    /// whose request it is. All others may not, since one of them may be a secret, and URLs are logged.
    pub query_beside_body: Vec<String>,
    /// Fields that never enter an update mask made from a PATCH body. `etag` by default: it is a precondition
    /// (AIP-154), never a change.
    pub mask_ignored: Vec<String>,
    /// Fields (full names: `package.Message.field`) that are shown only where their message is the whole answer: in
    /// a list of such messages they are left out, since an empty list there would not mean that there is none.
    pub detail_fields: Vec<String>,
    /// What whole numbers in the URL are told to be where they are none, in place of their type's range.
    pub ranges: Vec<FieldRange>,
    /// Header that OpenAPI shows as the second way to authenticate, beside `Authorization: Bearer`.
    pub api_key_header: Option<String>,
    /// Title page of the OpenAPI document.
    pub openapi: OpenApiInfo,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            body_bytes_max: 256 << 10,
            response_bytes_max: 32 << 20,
            depth_max: 24,
            timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
            first_message_wait: Duration::from_millis(50),
            header_fields: vec![
                HeaderField {
                    header: HeaderName::from_static("idempotency-key"),
                    field: "request_id".to_owned(),
                    conflict: HeaderConflict::Refuse,
                    description: "Makes a retry safe: the same key and body create once.".to_owned(),
                },
                HeaderField {
                    header: HeaderName::from_static("last-event-id"),
                    field: "resume_token".to_owned(),
                    conflict: HeaderConflict::HeaderWins,
                    description: "Where to go on: the last `id:` received. Browsers send it by themselves."
                        .to_owned(),
                },
            ],
            query_beside_body: vec!["tenant_id".to_owned(), "request_id".to_owned()],
            mask_ignored: vec!["etag".to_owned()],
            detail_fields: Vec::new(),
            ranges: Vec::new(),
            api_key_header: Some("X-API-Key".to_owned()),
            openapi: OpenApiInfo::default(),
        }
    }
}

/// A request header that fills a top-level string field of the request message, where the message has it.
#[derive(Debug, Clone)]
pub struct HeaderField {
    /// The header.
    pub header: HeaderName,
    /// The field's proto name.
    pub field: String,
    /// What happens when the request gives the field another value elsewhere.
    pub conflict: HeaderConflict,
    /// What OpenAPI says about it.
    pub description: String,
}

/// What happens when a header and the query (or body) give one field different values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderConflict {
    /// Refused with 400, as is an empty header or query parameter: a client that sends an empty idempotency
    /// key believes itself safe.
    Refuse,
    /// The header is used: a browser that reconnects repeats its URL and adds a newer `Last-Event-ID`.
    /// An empty header counts as absent.
    HeaderWins,
}

/// What a whole number must be, as its handler judges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRange {
    /// The field's proto name, in any request.
    pub field: String,
    /// The least value.
    pub least: i64,
    /// The greatest value.
    pub most: i64,
}

/// The `info` object of the OpenAPI document.
#[derive(Debug, Clone)]
pub struct OpenApiInfo {
    /// Name of the API.
    pub title: String,
    /// Version of the API.
    pub version: String,
    /// What it is for, in Markdown.
    pub description: String,
}

impl Default for OpenApiInfo {
    fn default() -> Self {
        Self {
            title: "API".to_owned(),
            version: "1".to_owned(),
            description: String::new(),
        }
    }
}
