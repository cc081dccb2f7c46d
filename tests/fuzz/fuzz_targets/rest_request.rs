//! Fuzzes what the REST transcoder reads of a request; the body is in entry.rs.
#![no_main]

#[allow(dead_code, reason = "each target uses one of them")]
#[path = "../entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::rest_request(data));
