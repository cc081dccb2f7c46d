//! The control plane over real connections: gRPC and REST on port 0, on the embedded store.

#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod access;
mod codes;
mod conversions;
mod endpoints;
mod events;
mod harness;
mod homes;
mod keys;
mod outage;
mod payloads;
mod presets;
mod preview;
mod raw_grpc;
mod replays;
mod server;
mod tenants;
mod tls_client;
