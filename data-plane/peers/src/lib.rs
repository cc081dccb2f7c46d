//! Hints between the processes of one install: that a head moved, a command came, the configuration changed.
//!
//! Each process listens ([`PeerServer`]) and tells ([`tell`]) the processes that it finds in the store: of new heads the
//! owner of their partition, of everything else all. What it learns goes into the store's [`Hints`], as if it had been said
//! here, but is never passed on. Whoever has not the peer key, or belongs to another install, is refused; messages are
//! authenticated one by one and hold no secret, so they are not encrypted.
//!
//! Invariants: nothing here is needed for correctness. A hint that is lost, late, repeated or wrong costs waiting, never an
//! event; nothing is queued: of what happened while a message was under way, the last word about each thing goes with the
//! next one.
//!
//! [`Hints`]: qrelay_store::Hints

mod key;
mod link;
mod roster;
mod server;
mod teller;
#[cfg(test)]
mod tests;
mod wire;

use metrics::{describe_counter, describe_gauge};

pub use self::{
    key::{PeerKey, WeakPeerKey},
    server::PeerServer,
    teller::{Teller, tell},
};

/// Describes the metrics of hints between processes. Harmless when repeated.
pub fn describe() {
    describe_counter!(
        "qrelay_peer_messages_total",
        "Messages of hints that another process answered."
    );
    describe_counter!(
        "qrelay_peer_refused_total",
        "Streams of hints that were refused: without the peer key, from another install, or malformed."
    );
    describe_gauge!(
        "qrelay_peers_connected",
        "Other processes that hear of what happens here."
    );
}
