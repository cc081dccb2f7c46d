//! A writer with a journal over the embedded store behind faults, with a paused clock.

mod lives;

use std::{borrow::Cow, fs};

use tempfile::TempDir;
use tokio::runtime::Handle;

use super::*;
use crate::{
    appender::{AppendError, Appender, Pending},
    clock::{SharedClock, SystemClock, Timestamp},
    conformance::{
        Fixture,
        samples::{P, Q},
    },
    fault::{Fault, FaultStore, Op},
    id::{EventAddress, PartitionId, WriterId},
    journal::JournalConfig,
    record::{ConversionRecord, Record, decode_batch},
    sqlite::conformance::{Embedded, in_memory_dir},
    store::{Heads, Log, SharedStore, Store, WriterRow},
};

const HEADS_PERIOD: Duration = Duration::from_millis(50);
const BUDGET: Duration = limits::APPEND_BUDGET_JOURNALED;
/// Of a record that fills a batch.
const LARGE: usize = 60 * 1024;

struct Bench {
    store: Arc<FaultStore>,
    appender: Appender,
    dir: TempDir,
    _fixture: Embedded,
}

impl Bench {
    async fn start() -> Self {
        Self::with_bytes_max(limits::JOURNAL_BYTES_MAX_DEFAULT).await
    }

    async fn with_bytes_max(bytes_max: u64) -> Self {
        let (fixture, dir) = (Embedded::open().await, in_memory_dir());
        let store = FaultStore::new(fixture.store());
        let config = JournalConfig {
            bytes_max,
            ..JournalConfig::new(dir.path().to_owned())
        };
        let journal = Journal::open(config).unwrap();
        let appender = start(&store, journal).await;
        Self {
            store,
            appender,
            dir,
            _fixture: fixture,
        }
    }

    fn append(&self, text: &str) -> Result<Pending, AppendError> {
        append(&self.appender, P, text)
    }

    async fn stored(&self, address: EventAddress) -> Option<String> {
        stored(&self.store, address).await
    }

    fn head(&self, partition: PartitionId) -> Option<Seq> {
        let heads = self.store.hints().partition(partition).heads();
        heads.get(&self.appender.writer()).copied()
    }

    async fn row(&self) -> WriterRow {
        let rows = self.store.writers().await.unwrap();
        let mine = |row: &WriterRow| row.writer == self.appender.writer();
        rows.into_iter().find(mine).unwrap()
    }

    /// Waits until nothing is left in the journal.
    async fn shipped(&self) {
        while !segments(&self.dir).is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn close(&self) -> Result<(), AppendError> {
        self.appender.close(Instant::now() + Duration::from_secs(5)).await
    }
}

async fn start(store: &Arc<FaultStore>, journal: Journal) -> Appender {
    let shared = Arc::clone(store) as SharedStore;
    let clock: SharedClock = Arc::new(SystemClock);
    Appender::start_journaled(&Handle::current(), shared, &clock, "node", HEADS_PERIOD, journal)
        .await
        .unwrap()
}

fn append(appender: &Appender, partition: PartitionId, text: &str) -> Result<Pending, AppendError> {
    let record = Record::Conversion(ConversionRecord {
        external_id: Cow::Borrowed(text),
        ..crate::conformance::samples::conversion("").record
    });
    appender.append(partition, Timestamp::from_millis(1000), &record)
}

async fn stored(store: &Arc<FaultStore>, address: EventAddress) -> Option<String> {
    let batch = store
        .batch(address.partition, address.writer, address.seq)
        .await
        .unwrap()?;
    let records = decode_batch(&batch.body).unwrap();
    match &records[usize::from(address.index)] {
        Ok(Record::Conversion(record)) => Some(record.external_id.clone().into_owned()),
        other => panic!("{other:?}"),
    }
}

fn segments(dir: &TempDir) -> Vec<String> {
    let files = fs::read_dir(dir.path()).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".journal")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_fast_enough_needs_no_journal() {
    let bench = Bench::start().await;
    bench
        .store
        .break_all(Op::Append, Fault::Late(BUDGET - Duration::from_millis(1)));
    for number in 1..=3 {
        let address = bench.append("one").unwrap().durable().await.unwrap();
        assert_eq!(address.seq, Seq::new(number));
    }
    assert!(segments(&bench.dir).is_empty());
    bench.close().await.unwrap();
    assert_eq!(bench.row().await.closed, Some(Heads::from([(P, Seq::new(3))])));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_does_not_acknowledge_within_the_budget_is_durable_in_the_journal() {
    let bench = Bench::start().await;
    bench.store.break_all(Op::Append, Fault::Stall);
    let begun = Instant::now();
    let address = bench.append("one").unwrap().durable().await.unwrap();
    assert_eq!(begun.elapsed(), BUDGET);
    assert!(!bench.appender.is_failing());
    // It is in no log yet, and no reader may think so.
    sleep(HEADS_PERIOD * 3).await;
    assert_eq!((bench.stored(address).await, bench.head(P)), (None, None));
    assert!(bench.row().await.heads.is_empty());
    bench.store.heal(Op::Append);
    bench.shipped().await;
    assert_eq!(bench.stored(address).await.as_deref(), Some("one"));
    assert_eq!(bench.head(P), Some(address.seq));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_costs_no_budget() {
    let bench = Bench::start().await;
    bench.store.break_all(Op::Append, Fault::Unavailable);
    let begun = Instant::now();
    for _ in 0..10 {
        bench.append("one").unwrap().durable().await.unwrap();
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn later_batches_follow_into_the_journal_and_all_are_shipped_in_order() {
    let bench = Bench::start().await;
    let before = bench.append("before").unwrap().durable().await.unwrap();
    bench.store.break_all(Op::Append, Fault::Stall);
    let mut addresses = Vec::new();
    for number in 0..40 {
        let text = number.to_string();
        addresses.push(bench.append(&text).unwrap().durable().await.unwrap());
    }
    // Another partition has nothing to do with it.
    bench.store.break_next(Op::Append, 0, Fault::Stall);
    let other = append(&bench.appender, Q, "other").unwrap();
    let other = other.durable().await.unwrap();
    assert_eq!(bench.head(P), Some(before.seq));
    bench.store.heal(Op::Append);
    bench.shipped().await;
    let last = addresses.last().unwrap().seq;
    let tail = bench.store.tail(P, bench.appender.writer(), Seq::ZERO).await;
    assert_eq!((tail.unwrap(), bench.head(P)), (last, Some(last)));
    for (number, address) in addresses.into_iter().enumerate() {
        assert_eq!(bench.stored(address).await, Some(number.to_string()));
    }
    assert_eq!(bench.stored(other).await.as_deref(), Some("other"));
    // And then the store has it at once again.
    let calls = bench.store.calls(Op::Append);
    let after = bench.append("after").unwrap().durable().await.unwrap();
    assert_eq!(
        (after.seq, bench.store.calls(Op::Append)),
        (last.next(), calls + 1)
    );
    assert!(segments(&bench.dir).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_does_no_harm() {
    let bench = Bench::start().await;
    bench
        .store
        .break_next(Op::Append, 1, Fault::Late(BUDGET + Duration::from_millis(5)));
    let one = bench.append("one").unwrap().durable().await.unwrap();
    assert_eq!(
        bench.head(P),
        None,
        "nobody said yet that it is stored, though it is"
    );
    bench.shipped().await;
    assert_eq!((bench.head(P), bench.store.calls(Op::Append)), (Some(one.seq), 1));
    let two = bench.append("two").unwrap().durable().await.unwrap();
    assert_eq!(bench.stored(two).await.as_deref(), Some("two"));
    // An answer that is lost: the batch is shipped again, under its key.
    bench.store.break_next(Op::Append, 3, Fault::LoseAnswer);
    let three = bench.append("three").unwrap().durable().await.unwrap();
    bench.shipped().await;
    assert_eq!(bench.head(P), Some(three.seq));
    assert_eq!(bench.store.batches_before(P, None, 10).await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_append_that_is_never_answered_is_made_again() {
    let bench = Bench::start().await;
    let never = Fault::Late(Duration::from_secs(1_000_000));
    bench.store.break_next(Op::Append, 1, never);
    let begun = Instant::now();
    let one = bench.append("one").unwrap().durable().await.unwrap();
    bench.shipped().await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!((bench.head(P), bench.store.calls(Op::Append)), (Some(one.seq), 2));
}

#[tokio::test(start_paused = true)]
async fn a_lane_under_load_gets_out_of_its_journal() {
    let bench = Bench::start().await;
    let late = Fault::Late(BUDGET * 2);
    bench.store.break_next(Op::Append, 1, late);
    bench.append("one").unwrap().durable().await.unwrap();
    // Nearly as slow as it may be: a batch journaled meanwhile would follow each batch that is shipped.
    bench
        .store
        .break_all(Op::Append, Fault::Late(Duration::from_millis(20)));
    let load = async {
        loop {
            drop(bench.append("more"));
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = load => {}
        () = bench.shipped() => {}
    }
    let last = bench.append("last").unwrap().durable().await.unwrap();
    assert_eq!(bench.head(P), Some(last.seq), "the store had it first");
}

#[tokio::test(start_paused = true)]
async fn a_full_journal_refuses_until_it_is_shipped_and_loses_nothing() {
    let bench = Bench::with_bytes_max(1024 * 1024).await;
    bench.store.break_all(Op::Append, Fault::Unavailable);
    let (text, mut durable) = ("x".repeat(LARGE), Vec::new());
    let refused = loop {
        assert!(durable.len() < 100, "nothing is refused");
        match bench.append(&text) {
            Ok(pending) => match pending.durable().await {
                Ok(address) => durable.push(address),
                Err(error) => assert_eq!(error, AppendError::NotDurable),
            },
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::Refused);
    assert!(
        bench.appender.is_failing() && durable.len() >= 15,
        "{}",
        durable.len()
    );
    let begun = Instant::now();
    assert_eq!(bench.append("no").unwrap_err(), AppendError::Refused);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    bench.store.heal_all();
    while bench.appender.is_failing() {
        sleep(Duration::from_millis(10)).await;
    }
    for address in durable {
        assert_eq!(bench.stored(address).await.as_deref(), Some(text.as_str()));
    }
    bench.append("after").unwrap().durable().await.unwrap();
    bench.shipped().await;
    bench.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn with_a_full_journal_a_slow_store_is_waited_for_as_without_one() {
    let bench = Bench::with_bytes_max(0).await;
    let late = BUDGET + Duration::from_millis(40);
    bench.store.break_all(Op::Append, Fault::Late(late));
    let begun = Instant::now();
    let address = bench.append("slow").unwrap().durable().await.unwrap();
    assert_eq!(begun.elapsed(), late);
    assert_eq!(bench.stored(address).await.as_deref(), Some("slow"));
    assert!(!bench.appender.is_failing());
    bench.store.break_all(Op::Append, Fault::Stall);
    let stuck = bench.append("stuck").unwrap();
    assert_eq!(stuck.durable().await, Err(AppendError::NotDurable));
    while !bench.appender.is_failing() {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(bench.append("no").unwrap_err(), AppendError::Refused);
    bench.store.heal_all();
    while bench.appender.is_failing() {
        sleep(Duration::from_millis(10)).await;
    }
    bench.append("again").unwrap().durable().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_journal_and_leaves_nothing() {
    let bench = Bench::start().await;
    bench.store.break_all(Op::Append, Fault::Stall);
    let one = bench.append("one").unwrap().durable().await.unwrap();
    let healing = async {
        sleep(Duration::from_secs(1)).await;
        bench.store.heal(Op::Append);
    };
    let (closed, ()) = tokio::join!(bench.close(), healing);
    closed.unwrap();
    assert_eq!(bench.stored(one).await.as_deref(), Some("one"));
    assert_eq!(bench.row().await.closed, Some(Heads::from([(P, one.seq)])));
    let left = fs::read_dir(bench.dir.path()).unwrap().count();
    assert_eq!(left, 1, "the lock's file alone");
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_cannot_ship_leaves_the_writer_open() {
    let bench = Bench::start().await;
    bench.store.break_all(Op::Append, Fault::Unavailable);
    bench.append("one").unwrap().durable().await.unwrap();
    assert_eq!(bench.close().await, Err(AppendError::NotDurable));
    assert_eq!(bench.row().await.closed, None);
    assert_eq!(segments(&bench.dir).len(), 1);
}
