//! The store: domain types, and the traits behind which a backend keeps them.
//!
//! Everything that qrelay remembers goes through this crate: the registry (tenants, keys, codes, endpoints,
//! secrets), the log of scans, the configuration log, leases and checkpoints, the attempt log and commands.
//! The rules that make the promises hold are written beside the traits ([`store`]); backends are judged by one
//! conformance suite (`conformance`, feature `testing`).
//!
//! Invariant: this crate knows neither hyper, tonic nor prost. Who serves, sends or speaks gRPC is elsewhere.

pub mod appender;
pub mod checkpoint;
pub mod clock;
#[cfg(feature = "testing")]
pub mod conformance;
mod directory_lock;
pub mod event;
pub mod expression;
#[cfg(feature = "testing")]
pub mod fault;
pub mod hints;
pub mod id;
pub mod journal;
pub mod limits;
pub mod model;
pub mod payload;
pub mod reader;
pub mod record;
pub mod scylla;
pub mod seal;
#[cfg(feature = "testing")]
pub mod seeded;
pub mod seldom;
pub mod signature;
pub mod sqlite;
pub mod store;
pub mod target;

pub use clock::{Clock, Timestamp};
pub use hints::Hints;
pub use store::{Store, StoreError};
