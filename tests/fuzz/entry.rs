//! The bodies of the fuzz targets: one for each parser of bytes that come from elsewhere.
//!
//! Included by the targets beside it and by the end-to-end tests, which run them on a stable toolchain over the seeds
//! and mutations of them. A body returns nothing: a finding is a panic, a hang or memory without end.

use std::sync::LazyLock;

use qrelay_rest::{Config, Transcoder};
use qrelay_store::{
    expression::{self, Subject},
    record::{BatchBuilder, decode_batch},
};

/// A connection of the edge: requests, and the PROXY header that may come first.
pub fn request_head(data: &[u8]) {
    qrelay_edge::fuzzing::request_heads(data);
    let _parsed_or_not = qrelay_edge::fuzzing::proxy_header(data);
}

/// A REST request: `METHOD URI`, a line end, the body.
pub fn rest_request(data: &[u8]) {
    static TRANSCODER: LazyLock<Transcoder> = LazyLock::new(|| {
        Transcoder::new(qrelay_proto::FILE_DESCRIPTOR_SET, Config::default())
            .expect("invariant: the contract can be served over REST")
    });
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, body) = data.split_at(end);
    let Ok(line) = str::from_utf8(line) else { return };
    let Some((method, uri)) = line.trim_end_matches('\r').split_once(' ') else {
        return;
    };
    qrelay_rest::fuzz_request(&TRANSCODER, method, uri, body.get(1..).unwrap_or_default());
}

/// A batch of the log: the bytes after its checksum, which is computed here so that it hides nothing. What can be
/// decoded can be written again and read back.
pub fn log_codec(data: &[u8]) {
    let _refused = decode_batch(data);
    let mut body = crc32fast::hash(data).to_le_bytes().to_vec();
    body.extend_from_slice(data);
    let Ok(records) = decode_batch(&body) else { return };
    let mut builder = BatchBuilder::default();
    let mut kept = Vec::new();
    for record in records.into_iter().flatten().take(1000) {
        if builder.push(&record).is_ok() {
            kept.push(record);
        }
    }
    let again = builder.finish();
    let read: Vec<_> = decode_batch(&again)
        .expect("invariant: what was written has its checksum")
        .into_iter()
        .map(|record| record.expect("invariant: what was written can be read"))
        .collect();
    assert_eq!(read, kept, "what was read differs from what was written");
}

/// A filter expression, compiled and, if it is one, evaluated over an event. Twice: it must not remember.
pub fn expression(data: &[u8]) {
    static EVENT: LazyLock<Subject> = LazyLock::new(|| {
        let event = serde_json::json!({
            "type": "scan.created", "id": "evt_aaaaaaaaaaaaaaaaaaaaaaaaaa", "created_at": "2026-05-01T10:00:00.000Z",
            "data": {
                "short_id": "abc23456", "country": "DE", "city": null, "is_bot": false, "tags": ["a", "b"],
                "metadata": {"shelf": "12", "n": 3, "x": 1.5}, "user_agent": "Mozilla/5.0 (iPhone)"
            }
        });
        Subject::new(&event)
    });
    let Ok(source) = str::from_utf8(data) else { return };
    let Ok(compiled) = expression::compile(source) else {
        return;
    };
    let first = compiled.evaluate(&EVENT);
    assert_eq!(
        first,
        compiled.evaluate(&EVENT),
        "the same expression and event gave something else"
    );
    let _decided_or_not = compiled.matches(&EVENT);
}
