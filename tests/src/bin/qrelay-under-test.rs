//! The product's binary under a name of its own: cargo hands a test only the binaries of its own package.
//!
//! `QRELAY_TEST_CLOCK_AHEAD` sets its clock off by so many seconds, which may be negative.

#[allow(
    clippy::disallowed_methods,
    reason = "a setting of the tests, which the product does not have"
)]
fn main() -> std::process::ExitCode {
    if let Ok(seconds) = std::env::var("QRELAY_TEST_CLOCK_AHEAD") {
        let seconds: i64 = seconds.parse().expect("QRELAY_TEST_CLOCK_AHEAD is a number");
        qrelay_store::clock::set_off(seconds.saturating_mul(1000));
    }
    qrelay::main()
}
