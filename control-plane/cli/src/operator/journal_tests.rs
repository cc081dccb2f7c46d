//! Tests of `qrelay journal` on the embedded store and a journal that a dead process left.

use std::sync::Arc;

use qrelay_store::{
    clock::{SharedClock, SystemClock, Timestamp},
    id::{PartitionId, Seq},
    record::{BatchBuilder, Record},
    store::{Batch, Log as _, Store as _},
};
use tempfile::TempDir;

use super::*;
use crate::output::{Format, capture::Captured};

const P: PartitionId = PartitionId::new(0);

/// A data directory, and beside it the journal of a process that died with two of its three scans there.
struct Left {
    dir: TempDir,
    writer: WriterId,
}

impl Left {
    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn journal_dir(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    fn store_args(&self) -> StoreArgs {
        StoreArgs {
            data_dir: self.data_dir(),
        }
    }

    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let row = WriterRow::new("node", &clock);
        let left = Self {
            dir,
            writer: row.writer,
        };
        let store = SqliteStore::open(&left.data_dir(), &sqlite::Options::default()).unwrap();
        let journal = Journal::open(JournalConfig::new(left.journal_dir())).unwrap();
        journal.begin(&row, store.install()).await.unwrap();
        store.register_writer(&row).await.unwrap();
        store.append(batch(row.writer, 1)).await.unwrap();
        for seq in 2..=3 {
            journal.write(batch(row.writer, seq)).await.unwrap();
        }
        left
    }

    async fn row(&self) -> WriterRow {
        let store = self.store_args().open().unwrap();
        store.writers().await.unwrap().remove(0)
    }

    async fn last(&self) -> Option<Seq> {
        self.row()
            .await
            .closed
            .map(|last| last.get(&P).copied().unwrap_or_default())
    }
}

pub(crate) fn batch(writer: WriterId, seq: u64) -> Batch {
    let mut builder = BatchBuilder::default();
    builder.push(&Record::Redacted).unwrap();
    let at = Timestamp::from_millis(1_772_548_338_000);
    Batch {
        partition: P,
        writer,
        seq: Seq::new(seq),
        first_at: at,
        last_at: at,
        count: builder.count(),
        body: builder.finish().into(),
    }
}

fn json_of(captured: &Captured) -> Value {
    serde_json::from_str(captured.text().trim()).unwrap()
}

#[tokio::test]
async fn a_journal_is_shown_without_its_store_and_nothing_is_changed() {
    let left = Left::new().await;
    for _ in 0..2 {
        let captured = Captured::default();
        inspect(&left.journal_dir(), &mut captured.output(Format::Json)).unwrap();
        let all = json_of(&captured);
        assert_eq!((&all["in_use_by"], &all["kept_aside"]), (&Value::Null, &json!(0)));
        let shown = &all["writers"][0];
        assert_eq!(shown["writer"], left.writer.to_string());
        assert_eq!((&shown["node"], &shown["damaged"]), (&json!("node"), &json!(0)));
        assert_eq!((&shown["batches"], &shown["events"]), (&json!(2), &json!(2)));
        assert_eq!(shown["last_at"], "2026-03-03T14:32:18.000Z");
    }
    assert_eq!(left.last().await, None);
}

#[tokio::test]
async fn a_journal_in_use_is_shown_and_neither_shipped_nor_given_up() {
    let left = Left::new().await;
    let journal = open(left.journal_dir()).unwrap();
    let captured = Captured::default();
    inspect(&left.journal_dir(), &mut captured.output(Format::Json)).unwrap();
    let shown = json_of(&captured);
    assert_eq!(shown["in_use_by"], format!("process {}", std::process::id()));
    assert_eq!(shown["writers"][0]["batches"], 2);
    let (args, mut out) = (left.store_args(), Captured::default().output(Format::Json));
    let refused = ship(left.journal_dir(), &args, &mut out).await.unwrap_err();
    assert!(
        refused.message.contains("in use by process"),
        "{}",
        refused.message
    );
    assert!(refused.hint.unwrap().contains("ships its journal itself"));
    let refused = Abandon::new(Some(left.journal_dir()), Vec::new(), &args).await;
    assert!(refused.is_err_and(|error| error.message.contains("in use by process")));
    drop(journal);
    assert_eq!(left.last().await, None);
}

#[tokio::test]
async fn what_is_shipped_is_in_the_store_and_its_writer_is_closed_behind_it() {
    let left = Left::new().await;
    let captured = Captured::default();
    let (args, mut out) = (left.store_args(), captured.output(Format::Json));
    ship(left.journal_dir(), &args, &mut out).await.unwrap();
    let expected = json!({"writers": [{
        "writer": left.writer.to_string(), "node": "node", "batches": 2, "damaged": 0, "past_the_end": 0,
    }]});
    assert_eq!(json_of(&captured), expected);
    assert_eq!(left.last().await, Some(Seq::new(3)));
    let store = left.store_args().open().unwrap();
    assert_eq!(store.tail(P, left.writer, Seq::ZERO).await.unwrap(), Seq::new(3));
    assert!(journal::inspect(&left.journal_dir()).unwrap().writers.is_empty());
    drop(store);
    // Once more there is nothing to do, and that is no error.
    let mut out = Captured::default().output(Format::Json);
    ship(left.journal_dir(), &left.store_args(), &mut out)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_is_told_after_the_rest_was_shipped() {
    let left = Left::new().await;
    let dead = journal::inspect(&left.journal_dir()).unwrap().writers.remove(0);
    let contents = dead.contents().unwrap();
    let mut bytes = std::fs::read(&contents[0].file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&contents[0].file, bytes).unwrap();
    let captured = Captured::default();
    let mut out = captured.output(Format::Json);
    let told = ship(left.journal_dir(), &left.store_args(), &mut out)
        .await
        .unwrap_err();
    let writer = left.writer;
    assert_eq!(
        told.details,
        [format!("{writer}: 1 of its pieces cannot be read")]
    );
    let shown = &json_of(&captured)["writers"][0];
    assert_eq!((&shown["batches"], &shown["damaged"]), (&json!(1), &json!(1)));
    assert_eq!(left.last().await, Some(Seq::new(2)));
    assert_eq!(journal::inspect(&left.journal_dir()).unwrap().aside.len(), 1);
}

#[tokio::test]
async fn a_journal_is_given_up_only_when_that_is_confirmed() {
    let left = Left::new().await;
    let args = left.store_args();
    let abandon = || Abandon::new(Some(left.journal_dir()), Vec::new(), &args);
    let captured = Captured::default();
    let mut out = captured.output(Format::Json);
    let refused = abandon().await.unwrap().run(false, &mut out).await.unwrap_err();
    assert!(refused.hint.unwrap().contains("--yes"));
    let told = &json_of(&captured)["writers"][0];
    assert_eq!((&told["batches"], &told["events"]), (&json!(2), &json!(2)));
    assert_eq!(left.last().await, None);
    assert_eq!(journal::inspect(&left.journal_dir()).unwrap().writers.len(), 1);
    let mut out = Captured::default().output(Format::Json);
    abandon().await.unwrap().run(true, &mut out).await.unwrap();
    assert_eq!(
        left.last().await,
        Some(Seq::new(1)),
        "where the store's part ends"
    );
    let seen = journal::inspect(&left.journal_dir()).unwrap();
    assert!(seen.writers.is_empty());
    assert_eq!(seen.aside.len(), 1, "nothing is deleted that is in no log");
}

#[tokio::test]
async fn a_writer_whose_journal_is_lost_is_closed_by_its_name() {
    let left = Left::new().await;
    let args = left.store_args();
    let mut out = Captured::default().output(Format::Json);
    let abandon = Abandon::new(None, vec![left.writer], &args).await.unwrap();
    abandon.run(true, &mut out).await.unwrap();
    assert_eq!(left.last().await, Some(Seq::new(1)));
    let unknown = Abandon::new(None, vec![WriterId::from_u64(1)], &args).await;
    assert!(unknown.is_err_and(|error| error.message.contains("000000000001")));
}

#[tokio::test]
async fn another_installs_journal_is_neither_shipped_nor_given_up() {
    let (left, other) = (Left::new().await, Left::new().await);
    let (args, mut out) = (other.store_args(), Captured::default().output(Format::Json));
    let refused = ship(left.journal_dir(), &args, &mut out).await.unwrap_err();
    assert!(refused.message.contains("another install"), "{}", refused.message);
    let refused = Abandon::new(Some(left.journal_dir()), Vec::new(), &args).await;
    assert!(refused.is_err_and(|error| error.message.contains("another install")));
    assert_eq!((left.last().await, other.last().await), (None, None));
}

#[tokio::test]
async fn where_no_journal_is_none_is_made() {
    let left = Left::new().await;
    let (args, mut out) = (left.store_args(), Captured::default().output(Format::Json));
    let empty = left.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for dir in [empty.clone(), left.dir.path().join("none"), left.data_dir()] {
        let refused = ship(dir.clone(), &args, &mut out).await.unwrap_err();
        assert_eq!(refused.exit, crate::failure::Exit::Usage);
        assert!(refused.hint.unwrap().contains("--journal-dir"));
        assert!(inspect(&dir, &mut out).is_err());
        assert!(Abandon::new(Some(dir), Vec::new(), &args).await.is_err());
    }
    assert_eq!(std::fs::read_dir(empty).unwrap().count(), 0);
    assert!(!left.dir.path().join("none").exists());
}

#[test]
fn a_store_that_is_not_there_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let args = StoreArgs {
        data_dir: dir.path().join("data"),
    };
    assert!(
        args.open()
            .is_err_and(|error| error.message.contains("data directory"))
    );
    assert!(!args.data_dir.exists());
}

#[test]
fn writers_are_named_by_twelve_hexadecimal_digits() {
    assert_eq!(writer("0000000000ff"), Ok(WriterId::from_u64(255)));
    for wrong in ["ff", "", "00000000000g", "0000000000ff0"] {
        assert!(writer(wrong).is_err(), "{wrong}");
    }
}
