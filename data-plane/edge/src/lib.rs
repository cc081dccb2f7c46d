//! The redirector: answers a scan from its cache once the scan is durable.
//!
//! A request's host and short id are looked up in a cache that follows the configuration log; the scan is
//! classified, recorded and appended to the log; then the client is redirected. The edge binds nothing and opens
//! no store: it is given listeners, a store and a writer ([`Config::build`], [`Edge::serve`]). Health and metrics
//! are served elsewhere.
//!
//! Invariants: it never waits for a dispatcher or a control plane; a redirect is sent only after its scan is
//! durable (or the tenant said otherwise); nothing that strangers send grows without bound.

mod carrier;
mod classify;
mod client_address;
mod codes;
mod config;
pub mod fuzzing;
mod geo;
mod measures;
mod pages;
mod proxy_protocol;
mod redirect;
mod scan;
mod server;
mod target;

pub use client_address::TrustedProxies;
pub use config::{BuildError, Config, Deps, Edge};
pub use geo::GeoError;
pub use proxy_protocol::{ProxyHeader, ProxyHeaderError};
pub use server::PeerSource;

#[cfg(test)]
mod tests;
