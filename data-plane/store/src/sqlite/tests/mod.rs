//! What only this backend does: the directory, its lock, its files and their damage. What every backend does is in
//! the conformance suite.

use bytes::Bytes;

use super::*;
use crate::{
    clock::Timestamp,
    id::{PartitionId, Seq, WriterId},
    store::{Batch, Heads, Log, WriterRow},
};

fn batch(writer: WriterId, seq: u64, body: &[u8]) -> Batch {
    Batch {
        partition: PartitionId::new(0),
        writer,
        seq: Seq::new(seq),
        first_at: Timestamp::from_millis(1000),
        last_at: Timestamp::from_millis(2000),
        count: 1,
        body: Bytes::copy_from_slice(body),
    }
}

fn writer_row(writer: WriterId) -> WriterRow {
    WriterRow {
        writer,
        node: "test".to_owned(),
        beat: 0,
        heads: Heads::new(),
        closed: None,
        registered_at: Timestamp::from_millis(1),
    }
}

#[tokio::test]
async fn what_was_appended_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let writer = WriterId::random();
    let store = SqliteStore::open(dir.path(), &Options::default()).unwrap();
    store.register_writer(&writer_row(writer)).await.unwrap();
    for seq in 1..=3 {
        store.append(batch(writer, seq, b"body")).await.unwrap();
    }
    let event = store.install().ids.event_id(crate::id::EventAddress::test());
    let address = store.install().ids.event_address(event);
    drop(store);
    let store = SqliteStore::open(dir.path(), &Options::default()).unwrap();
    assert_eq!(store.install().ids.event_address(event), address);
    let partition = PartitionId::new(0);
    assert_eq!(
        store.tail(partition, writer, Seq::ZERO).await.unwrap(),
        Seq::new(3)
    );
    let read = store
        .read(partition, writer, Seq::ZERO, Seq::new(9), 1 << 20)
        .await
        .unwrap();
    assert_eq!(
        read,
        (1..=3).map(|seq| batch(writer, seq, b"body")).collect::<Vec<_>>()
    );
}

#[test]
fn a_second_owner_is_told_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = SqliteStore::open(dir.path(), &Options::default()).unwrap();
    let error = SqliteStore::open(dir.path(), &Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    drop(first);
    SqliteStore::open(dir.path(), &Options::default()).unwrap();
}
