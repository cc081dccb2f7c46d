//! The deliverer: leases partitions, matches events, signs and sends webhooks.

pub mod attempt;
pub mod bodies;
pub mod checkpoint;
pub mod config;
pub mod cursor;
pub mod exchange;
mod filters;
pub mod health;
pub mod identities;
pub mod lease;
pub mod ledger;
mod membership;
pub mod metrics;
pub mod outstanding;
mod owner;
pub mod pace;
pub mod paces;
pub mod payloads;
pub mod permits;
pub mod queue;
pub mod replay_paces;
pub mod run;
pub mod schedule;
pub mod secrets;
pub mod turns;
pub mod usage;

pub use config::{Config, Deps, Dispatcher};

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod simulation;
