//! The qrelay binary. Everything is in the library, so that the end-to-end tests can build the same binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    qrelay::main()
}
