//! What a power failure leaves of the log: the WAL may end anywhere after the last sync, and nothing that was
//! acknowledged before may be gone.

use std::fs;

use super::*;
use crate::sqlite::conformance::{copy_as_after_a_crash, in_memory_dir};

const APPENDS: u64 = 12;
const BYTES: usize = 5_000;
/// Cuts are tried at this distance: a prime, so that they fall on all parts of a page.
const CUT_STEP: usize = 1_999;

/// A WAL as it was, and its length after each acknowledgement.
struct Written {
    dir: tempfile::TempDir,
    writer: WriterId,
    acknowledged: Vec<usize>,
}

async fn written() -> Written {
    let (live, dir) = (in_memory_dir(), in_memory_dir());
    let store = SqliteStore::open(live.path(), &Options::default()).unwrap();
    let writer = registered(&store).await;
    let mut acknowledged = Vec::new();
    for seq in 1..=APPENDS {
        store.append(sized(writer, seq, BYTES)).await.unwrap();
        let wal = fs::metadata(live.path().join("log.db-wal")).unwrap();
        acknowledged.push(usize::try_from(wal.len()).unwrap());
    }
    // Too short for a checkpoint, so that the length is what the commits wrote.
    assert!(acknowledged.is_sorted_by(|a, b| a < b));
    for schema in [&LOG, &MAIN] {
        copy_as_after_a_crash(live.path(), dir.path(), schema);
    }
    Written {
        dir,
        writer,
        acknowledged,
    }
}

/// Opens a copy whose WAL is `wal`, and says how many batches it has.
async fn survivors(written: &Written, wal: &[u8]) -> u64 {
    let image = in_memory_dir();
    for entry in fs::read_dir(written.dir.path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), image.path().join(entry.file_name())).unwrap();
    }
    fs::write(image.path().join("log.db-wal"), wal).unwrap();
    let store = SqliteStore::open(image.path(), &Options::default()).unwrap();
    let tail = store.tail(P, written.writer, Seq::ZERO).await.unwrap().as_u64();
    assert_holds(&store, written.writer, tail, BYTES).await;
    // And it goes on from there.
    store
        .append(sized(written.writer, tail + 1, BYTES))
        .await
        .unwrap();
    tail
}

#[tokio::test]
async fn a_wal_cut_off_anywhere_after_an_acknowledgement_keeps_what_was_acknowledged() {
    let written = written().await;
    let wal = fs::read(written.dir.path().join("log.db-wal")).unwrap();
    let first = written.acknowledged[0];
    for cut in (first..wal.len()).step_by(CUT_STEP) {
        let before = written.acknowledged.iter().filter(|end| **end <= cut).count();
        let kept = survivors(&written, &wal[..cut]).await;
        assert_eq!(kept, u64::try_from(before).unwrap(), "cut at {cut}");
    }
}

#[tokio::test]
async fn garbage_after_the_last_sync_is_not_taken_for_a_batch() {
    let written = written().await;
    let wal = fs::read(written.dir.path().join("log.db-wal")).unwrap();
    for (at, end) in written.acknowledged.iter().enumerate().step_by(3) {
        // A later sync that only wrote some of its sectors, in any order.
        let mut torn = wal.clone();
        for (sector, bytes) in torn[*end..].chunks_mut(512).enumerate() {
            if sector % 3 == at % 3 {
                bytes.fill(0xFF);
            }
        }
        let kept = survivors(&written, &torn).await;
        assert!(kept >= u64::try_from(at + 1).unwrap(), "{kept} of {}", at + 1);
    }
}

#[tokio::test]
async fn a_power_failure_during_checkpoints_loses_nothing_acknowledged() {
    let live = in_memory_dir();
    let store = SqliteStore::open(live.path(), &Options::default()).unwrap();
    let writer = registered(&store).await;
    // Some three checkpoints' worth of pages, and an image every now and then.
    for seq in 1..=120 {
        store.append(sized(writer, seq, 20_000)).await.unwrap();
        if seq % 13 == 0 {
            let image = in_memory_dir();
            for schema in [&LOG, &MAIN] {
                copy_as_after_a_crash(live.path(), image.path(), schema);
            }
            let after = SqliteStore::open(image.path(), &Options::default()).unwrap();
            assert_holds(&after, writer, seq, 20_000).await;
        }
    }
    let wal = fs::metadata(live.path().join("log.db-wal")).unwrap().len();
    assert!(wal < 2_000_000, "checkpoints keep the WAL short: {wal} bytes");
}
