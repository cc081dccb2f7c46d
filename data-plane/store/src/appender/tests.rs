//! The appender over the embedded store behind faults, with a paused clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::Instant;

use super::*;
use crate::{
    clock::SystemClock,
    conformance::{
        Fixture,
        samples::{P, Q},
    },
    fault::{Fault, FaultStore, Op},
    id::{CodeId, TenantId},
    reader::close_dead_writers,
    record::{Classification, ScanRecord, decode_batch},
    sqlite::conformance::Embedded,
    store::{Log, Store},
};

const BODY_BYTES: usize = 60 * 1024;

struct Bench {
    store: Arc<FaultStore>,
    appender: Appender,
    _fixture: Embedded,
}

impl Bench {
    async fn start() -> Self {
        let fixture = Embedded::open().await;
        let store = FaultStore::new(fixture.store());
        let appender = Appender::start(
            Arc::clone(&store) as SharedStore,
            &(Arc::new(SystemClock) as SharedClock),
            "node",
            Duration::from_millis(50),
        )
        .await
        .unwrap();
        Self {
            store,
            appender,
            _fixture: fixture,
        }
    }

    fn append(&self, text: &str) -> Result<Pending, AppendError> {
        self.append_to(P, text)
    }

    fn append_to(&self, partition: PartitionId, text: &str) -> Result<Pending, AppendError> {
        self.appender
            .append(partition, Timestamp::from_millis(1000), &scan(text))
    }

    /// The stored record's text.
    async fn stored(&self, address: EventAddress) -> Option<String> {
        let batch = self
            .store
            .batch(address.partition, address.writer, address.seq)
            .await
            .unwrap()?;
        let records = decode_batch(&batch.body).unwrap();
        assert_eq!(records.len(), usize::from(batch.count));
        match &records[usize::from(address.index)] {
            Ok(Record::Scan(scan)) => Some(scan.classification_reason.clone().into_owned()),
            other => panic!("{other:?}"),
        }
    }

    async fn close(&self) -> Result<(), AppendError> {
        self.appender.close(Instant::now() + Duration::from_secs(5)).await
    }

    async fn row(&self) -> WriterRow {
        let rows = self.store.writers().await.unwrap();
        rows.into_iter()
            .find(|row| row.writer == self.appender.writer())
            .unwrap()
    }
}

pub(super) fn scan(text: &str) -> Record<'_> {
    Record::Scan(ScanRecord {
        tenant: TenantId::from_bytes([1; 10]),
        code: CodeId::from_bytes([2; 10]),
        code_version: 1,
        at: Timestamp::from_millis(1000),
        classification: Classification::Human,
        classification_reason: text.into(),
        device_type: None,
        device_family: None,
        os_family: None,
        browser_family: None,
        country: None,
        region: None,
        city: None,
        referer: None,
        user_agent: None,
        host: None,
        query: None,
        accept_language: None,
        network: None,
    })
}

#[tokio::test(start_paused = true)]
async fn an_idle_append_is_sealed_at_once() {
    let bench = Bench::start().await;
    let begun = Instant::now();
    for number in 1..=3 {
        let address = bench.append("one").unwrap().durable().await.unwrap();
        assert_eq!((address.seq, address.index), (Seq::new(number), 0));
        assert_eq!(bench.stored(address).await.as_deref(), Some("one"));
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn records_gather_while_a_batch_is_in_flight() {
    let bench = Bench::start().await;
    bench.store.break_all(Op::Append, Fault::Stall);
    let first = bench.append("first").unwrap();
    bench.store.called(Op::Append, 1).await;
    let gathered: Vec<_> = (0..100)
        .map(|at| bench.append(&at.to_string()).unwrap())
        .collect();
    bench.store.heal(Op::Append);
    first.durable().await.unwrap();
    for (at, pending) in gathered.into_iter().enumerate() {
        let address = pending.durable().await.unwrap();
        assert_eq!((address.seq, usize::from(address.index)), (Seq::new(2), at));
        assert_eq!(bench.stored(address).await, Some(at.to_string()));
    }
    assert_eq!(bench.store.calls(Op::Append), 2);
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_the_crowd_of_the_one_before_and_no_longer_than_it_may() {
    let bench = Bench::start().await;
    let crowd = u64::from(limits::GATHER_CROWD_MIN);
    let scans = |count: u64| (0..count).map(|at| bench.append(&at.to_string()).unwrap());
    join_all(scans(crowd).map(Pending::durable)).await;
    // All of them again, one after the other: one batch.
    let begun = Instant::now();
    let mut again = Vec::new();
    for at in 0..crowd {
        again.extend(scans(1));
        yield_now().await;
        let sealed = bench.store.calls(Op::Append);
        assert_eq!(sealed, 1, "it went with {at} of {crowd}");
    }
    for pending in again {
        assert_eq!(pending.durable().await.unwrap().seq, Seq::new(2));
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "it waited for nobody");
    // Few of them: they wait once, and from then on for nobody.
    for (seq, waited) in [(3, limits::GATHER_MAX), (4, Duration::ZERO)] {
        let begun = Instant::now();
        for answer in join_all(scans(3).map(Pending::durable)).await {
            assert_eq!(answer.unwrap().seq, Seq::new(seq));
        }
        assert_eq!(begun.elapsed(), waited);
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_do_not_wait_for_each_other() {
    let bench = Bench::start().await;
    bench.store.break_next(Op::Append, 1, Fault::Stall);
    let stalled = bench.append_to(P, "stalled").unwrap();
    bench.store.called(Op::Append, 1).await;
    bench.append_to(Q, "other").unwrap().durable().await.unwrap();
    bench.store.heal(Op::Append);
    stalled.durable().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn full_batches_wait_in_order_and_beyond_the_bound_records_are_refused() {
    let bench = Bench::start().await;
    let text = "x".repeat(BODY_BYTES);
    bench.store.break_all(Op::Append, Fault::Stall);
    let mut taken = vec![bench.append(&text).unwrap()];
    bench.store.called(Op::Append, 1).await;
    let refused = loop {
        match bench.append(&text) {
            Ok(pending) => taken.push(pending),
            Err(error) => break error,
        }
        assert!(
            taken.len() * BODY_BYTES < 2 * limits::APPEND_BACKLOG_BYTES_MAX,
            "nothing is refused"
        );
    };
    assert_eq!(refused, AppendError::Refused);
    assert!(taken.len() * BODY_BYTES >= limits::APPEND_BACKLOG_BYTES_MAX);
    bench.store.heal(Op::Append);
    let mut last = Seq::ZERO;
    for pending in taken {
        let address = pending.durable().await.unwrap();
        assert!(address.seq >= last);
        last = address.seq;
    }
    let tail = bench
        .store
        .tail(P, bench.appender.writer(), Seq::ZERO)
        .await
        .unwrap();
    assert_eq!(tail, last);
    bench.append("again").unwrap().durable().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failing_store_fails_those_who_wait_refuses_others_at_once_and_loses_nothing() {
    let bench = Bench::start().await;
    bench.append("before").unwrap().durable().await.unwrap();
    bench.store.break_all(Op::Append, Fault::Unavailable);
    let (one, begun) = (bench.append("one").unwrap(), Instant::now());
    let (address, two) = (one.address(), bench.append("two").unwrap());
    assert_eq!(one.durable().await, Err(AppendError::NotDurable));
    assert_eq!(two.durable().await, Err(AppendError::NotDurable));
    assert!(
        begun.elapsed() < limits::APPEND_BUDGET,
        "they are told before the budget is used up"
    );
    assert_eq!(bench.append("refused").unwrap_err(), AppendError::Refused);
    assert!(bench.appender.is_failing());
    bench.store.heal_all();
    let calls = bench.store.calls(Op::Append);
    bench.store.called(Op::Append, calls + 1).await;
    // What was told to be not durable may become so, under the address that it had.
    while bench.appender.is_failing() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(bench.stored(address).await.as_deref(), Some("one"));
    let after = bench.append("after").unwrap().durable().await.unwrap();
    assert!(after.seq > address.seq);
    assert_eq!(bench.stored(after).await.as_deref(), Some("after"));
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_answer_was_lost_is_stored_once() {
    let bench = Bench::start().await;
    bench.store.break_next(Op::Append, 3, Fault::LoseAnswer);
    let pending = bench.append("one").unwrap();
    let address = pending.address();
    assert_eq!(pending.durable().await, Err(AppendError::NotDurable));
    while bench.appender.is_failing() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let next = bench.append("two").unwrap().durable().await.unwrap();
    assert_eq!((address.seq, next.seq), (Seq::new(1), Seq::new(2)));
    let stored = bench.store.batches_before(P, None, 10).await.unwrap();
    assert_eq!(stored.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_within_the_budget_is_not_called_durable() {
    let bench = Bench::start().await;
    bench.store.break_all(Op::Append, Fault::StallAnswer);
    let begun = Instant::now();
    let outcome = bench.append("slow").unwrap().durable().await;
    assert_eq!(outcome, Err(AppendError::NotDurable));
    assert_eq!(begun.elapsed(), limits::APPEND_BUDGET);
}

#[tokio::test]
async fn concurrent_records_have_addresses_of_their_own_and_are_all_stored() {
    let bench = Bench::start().await;
    let appends = (0..500).map(|at| {
        let bench = &bench;
        async move {
            let partition = if at % 2 == 0 { P } else { Q };
            // Some yield first, so that batches of all sizes are made.
            for _ in 0..at % 7 {
                tokio::task::yield_now().await;
            }
            let pending = bench.append_to(partition, &at.to_string()).unwrap();
            (pending.durable().await.unwrap(), at.to_string())
        }
    });
    let recorded = join_all(appends).await;
    let addresses: BTreeSet<_> = recorded.iter().map(|(address, _)| *address).collect();
    assert_eq!(addresses.len(), 500);
    for (address, text) in recorded {
        assert_eq!(bench.stored(address).await, Some(text));
    }
}

#[tokio::test(start_paused = true)]
async fn heads_and_a_moving_beat_are_published() {
    let bench = Bench::start().await;
    bench.append("one").unwrap().durable().await.unwrap();
    let head = bench.store.hints().partition(P).heads();
    assert_eq!(head, BTreeMap::from([(bench.appender.writer(), Seq::new(1))]));
    bench.store.called(Op::PublishHeads, 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let row = bench.row().await;
    assert_eq!(row.heads, Heads::from([(P, Seq::new(1))]));
    tokio::time::sleep(limits::BEAT_PERIOD * 2).await;
    let later = bench.row().await;
    assert!(later.beat > row.beat, "an idle writer lives");
    assert_eq!(later.heads, row.heads);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_was_taken_and_says_where_the_writer_ends() {
    let bench = Bench::start().await;
    bench.store.break_all(Op::Append, Fault::Stall);
    let (one, two) = (
        bench.append_to(P, "one").unwrap(),
        bench.append_to(Q, "two").unwrap(),
    );
    bench.store.called(Op::Append, 2).await;
    let three = bench.append_to(P, "three").unwrap();
    let healing = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.store.heal(Op::Append);
    };
    let (closed, ()) = tokio::join!(bench.close(), healing);
    closed.unwrap();
    for pending in [one, two, three] {
        pending.durable().await.unwrap();
    }
    assert_eq!(bench.append("late").unwrap_err(), AppendError::Closing);
    assert_eq!(
        bench.append_to(PartitionId::new(7), "late").unwrap_err(),
        AppendError::Closing
    );
    assert_eq!(
        bench.row().await.closed,
        Some(Heads::from([(P, Seq::new(2)), (Q, Seq::new(1))]))
    );
}

#[tokio::test(start_paused = true)]
async fn closing_gives_up_at_its_deadline_and_leaves_the_end_to_the_successor() {
    let bench = Bench::start().await;
    bench.append("one").unwrap().durable().await.unwrap();
    bench.store.break_all(Op::Append, Fault::StallAnswer);
    let two = bench.append("two").unwrap();
    bench.store.called(Op::Append, 2).await;
    let begun = Instant::now();
    assert_eq!(bench.close().await, Err(AppendError::NotDurable));
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    assert_eq!(bench.row().await.closed, None);
    drop(two);
    // The second batch was stored, though nobody was told: its successor finds it.
    let store = Arc::clone(&bench.store) as SharedStore;
    close_dead_writers(&store, &[]).await.unwrap();
    assert_eq!(bench.row().await.closed, Some(Heads::from([(P, Seq::new(2))])));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_fits_into_no_batch_costs_only_itself() {
    let bench = Bench::start().await;
    let huge = "x".repeat(limits::BATCH_BYTES_MAX + 1);
    let small = bench.append("small").unwrap();
    assert!(matches!(bench.append(&huge), Err(AppendError::TooLarge(_))));
    let next = bench.append("next").unwrap();
    assert_eq!((small.address().index, next.address().index), (0, 1));
    for (pending, text) in [(small, "small"), (next, "next")] {
        let address = pending.durable().await.unwrap();
        assert_eq!(bench.stored(address).await.as_deref(), Some(text));
    }
}
