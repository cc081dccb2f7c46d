//! What only this backend does: the directory, its lock, its files and their damage. What every backend does is in
//! the conformance suite.

mod disk;
mod open;
mod power;
mod retention;
mod writer;

use bytes::Bytes;

use super::*;
use crate::{
    conformance::samples,
    id::{PartitionId, Seq, WriterId},
    store::{Batch, Log, SharedStore},
};

const P: PartitionId = PartitionId::new(0);

/// A batch of some size whose bytes tell it from others.
fn sized(writer: WriterId, seq: u64, bytes: usize) -> Batch {
    let mut body = format!("{writer}/{seq}/").into_bytes();
    body.resize(bytes.max(body.len()), u8::try_from(seq % 251).unwrap());
    Batch {
        body: Bytes::from(body),
        ..samples::batch(P, writer, seq)
    }
}

async fn registered(store: &Arc<SqliteStore>) -> WriterId {
    samples::registered(&(Arc::clone(store) as SharedStore)).await
}

/// Everything up to `through` is there, as it was appended.
async fn assert_holds(store: &SqliteStore, writer: WriterId, through: u64, bytes: usize) {
    for seq in 1..=through {
        let stored = store.batch(P, writer, Seq::new(seq)).await.unwrap();
        assert_eq!(
            stored,
            Some(sized(writer, seq, bytes)),
            "acknowledged batch {seq}"
        );
    }
}
