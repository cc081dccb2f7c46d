//! Compiles the contract without a system `protoc`: messages and services for tonic, and the descriptor set
//! with comments and `google.api.http` options for reflection, REST and OpenAPI.

use std::{env, error::Error, fs, path::PathBuf};

const PUBLIC: [&str; 7] = [
    "qrelay/v1/tenant.proto",
    "qrelay/v1/code.proto",
    "qrelay/v1/endpoint.proto",
    "qrelay/v1/event.proto",
    "qrelay/v1/conversion.proto",
    "qrelay/v1/rate_limit.proto",
    "qrelay/v1/replay.proto",
];

/// What processes of one install say to each other. No part of the descriptor set: nobody else is to call it.
const INTERNAL: [&str; 1] = ["qrelay/internal/v1/hints.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=qrelay");
    println!("cargo:rerun-if-changed=google");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(PUBLIC)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_transport(true)
        // These hold secrets: src/masked.rs says how they look.
        .skip_debug([
            "qrelay.v1.ApiKey",
            "qrelay.v1.Endpoint",
            "qrelay.v1.PreviewEndpointResponse",
            "qrelay.v1.RotateSecretRequest",
            "qrelay.v1.TlsClient",
        ])
        .compile_fds(compiler.file_descriptor_set())?;
    let mut internal = protox::Compiler::new(["."])?;
    internal.include_source_info(true).open_files(INTERNAL)?;
    tonic_prost_build::configure()
        .build_transport(true)
        .compile_fds(internal.file_descriptor_set())?;
    Ok(())
}
