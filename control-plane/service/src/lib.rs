//! The control plane: tenants, keys, codes, endpoints and events, over gRPC and REST on one port.
//!
//! A request passes the gate (`gate.rs`: key, rate, time), then the transcoder if it is REST, then the role table
//! (`access.rs`), then its handler (`handlers.rs` says which). Handlers work on the store's traits alone; edges and
//! dispatchers learn of changes through the configuration log.
//!
//! Invariants: nothing of a request but path and headers is read before its key was found good; what is another
//! tenant's is NOT_FOUND; a secret or key is in the answer that made it and nowhere else, neither in the log nor
//! in `Debug`; the control plane never connects to anything but the store (names of endpoint URLs are resolved,
//! not called).

mod access;
mod api;
mod api_key;
mod api_keys;
mod auth;
mod caller;
mod code_fields;
mod codes;
mod command;
mod config;
mod conversions;
mod deliveries;
mod destination;
mod endpoint_fields;
mod endpoint_filter;
mod endpoint_home;
mod endpoint_preview;
mod endpoint_signature;
mod endpoint_test;
mod endpoints;
mod events;
mod failure_field;
mod field;
mod gate;
mod grpc_timeout;
mod handlers;
mod limiter;
mod measures;
mod own_partitions;
mod page;
mod payload_fields;
mod presets;
mod rate_limit_field;
mod refusal;
mod replays;
mod router;
mod server;
mod short_id;
mod signing_secret;
mod streams;
mod tenants;
pub mod tls;
mod tls_client;
mod usage;
mod wire;

pub use access::{Access, TableMismatch, required};
pub use api_key::{AdminKey, InvalidAdminKey};
pub use config::{Config, Deps, Rates};
pub use router::{BuildError, rest_config};
pub use server::Server;
