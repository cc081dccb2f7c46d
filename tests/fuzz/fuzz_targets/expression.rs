//! Fuzzes filter expressions; the body is in entry.rs.
#![no_main]

#[allow(dead_code, reason = "each target uses one of them")]
#[path = "../entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(
    // The compiler contains panics of the parser it uses and answers with an error; libFuzzer's hook would end the
    // process before it can. A panic that nobody catches still does.
    init: drop(std::panic::take_hook()),
    |data: &[u8]| entry::expression(data)
);
