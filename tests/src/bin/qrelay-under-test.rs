//! The product's binary under a name of its own: cargo hands a test only the binaries of its own package.

fn main() -> std::process::ExitCode {
    qrelay::main()
}
