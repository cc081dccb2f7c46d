//! The deliverer: leases partitions, matches events, signs and sends webhooks.

pub mod exchange;
pub mod signature;
