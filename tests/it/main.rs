//! The end-to-end tests, in one binary: a module per promise or plane.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking with the place where it did"
)]
#![allow(
    clippy::print_stdout,
    reason = "seeds and ledgers are printed, to be seen when a test fails"
)]
#![allow(
    clippy::too_many_lines,
    reason = "a contract is walked from its beginning to its end"
)]

mod architecture;
mod clients;
mod contract;
mod conversions;
mod cql;
mod crash_ledger;
mod durability;
mod egress;
mod endpoint_health;
mod filters;
mod fuzz_seeds;
mod hostile;
mod journal;
mod k6;
mod large_tenants;
mod ordering;
mod payloads;
mod presets;
mod process;
mod readme;
mod replays;
mod resume;
mod roles;
mod signatures;
mod spine;
mod three_nodes;

/// The product's binary.
const BINARY: &str = env!("CARGO_BIN_EXE_qrelay-under-test");
