//! Tests of the edge as a whole, over real sockets: what is answered, what is recorded, what is survived.

mod embedded;
pub(crate) mod fake_store;
mod fixture;
mod hostile;
mod journal;
mod privacy;
mod redirects;
mod staleness;
