//! Fuzzes the codec of the log; the body is in entry.rs.
#![no_main]

#[allow(dead_code, reason = "each target uses one of them")]
#[path = "../entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::log_codec(data));
