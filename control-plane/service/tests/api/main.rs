//! The control plane over real connections: gRPC and REST on port 0, on the embedded store.

mod codes;
mod harness;
mod tenants;
