//! A writer that others close, over the embedded store behind faults, with a paused clock.

use std::sync::Arc;

use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use super::*;
use crate::{
    appender::{AppendError, Pending},
    clock::{SystemClock, Timestamp},
    conformance::{
        Fixture,
        samples::{P, Q},
    },
    fault::{Fault, FaultStore, Op},
    id::{PartitionId, Seq, WriterId},
    limits,
    reader::fence_and_close,
    sqlite::conformance::Embedded,
    store::{Heads, SharedStore},
};

struct Bench {
    faults: Arc<FaultStore>,
    store: SharedStore,
    appender: Appender,
    _fixture: Embedded,
}

impl Bench {
    async fn start() -> Self {
        let fixture = Embedded::open().await;
        let faults = FaultStore::new(fixture.store());
        faults.set_exclusive(false);
        let store = Arc::clone(&faults) as SharedStore;
        let clock: SharedClock = Arc::new(SystemClock);
        let period = Duration::from_millis(50);
        let here = Handle::current();
        let appender = Appender::start_fenced(&here, Arc::clone(&store), &clock, "node", period).await;
        Self {
            appender: appender.unwrap(),
            faults,
            store,
            _fixture: fixture,
        }
    }

    async fn closed(&self, writer: WriterId) -> Option<Heads> {
        let rows = self.store.writers().await.unwrap();
        rows.into_iter().find(|row| row.writer == writer).unwrap().closed
    }
}

fn append(appender: &Appender, to: PartitionId) -> Result<Pending, AppendError> {
    let scan = crate::appender::tests::scan("text");
    appender.append(to, Timestamp::from_millis(1000), &scan)
}

#[tokio::test(start_paused = true)]
async fn a_fenced_writer_acknowledges_nothing_and_another_takes_its_place() {
    let bench = Bench::start().await;
    let first = bench.appender.current().await.unwrap();
    assert_eq!(first.writer(), bench.appender.writer());
    append(&first, P).unwrap().durable().await.unwrap();
    let end = fence_and_close(&bench.store, first.writer()).await.unwrap();
    assert_eq!(end, Some(Heads::from([(P, Seq::new(1))])));

    for partition in [P, Q] {
        let outcome = append(&first, partition).map(Pending::durable);
        match outcome {
            Ok(durable) => assert_eq!(durable.await, Err(AppendError::NotDurable)),
            Err(error) => assert_eq!(error, AppendError::Refused),
        }
    }
    let told = bench.store.hints().partition(P).heads();
    assert!(
        told.iter().all(|(_, seq)| *seq == Seq::new(1)),
        "nobody is told of what lies past the end: {told:?}"
    );

    let second = bench.appender.current().await.unwrap();
    assert_ne!(second.writer(), first.writer());
    assert_eq!(bench.appender.current().await.unwrap().writer(), second.writer());
    append(&second, Q).unwrap().durable().await.unwrap();
    assert!(!bench.appender.is_failing());
    sleep(limits::BEAT_PERIOD).await;
    bench
        .appender
        .close(Instant::now() + Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(bench.closed(first.writer()).await, end);
    let end = Heads::from([(Q, Seq::new(1))]);
    assert_eq!(bench.closed(second.writer()).await, Some(end));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_before_the_store_said_that_there_is_no_fence() {
    let bench = Bench::start().await;
    bench.faults.break_all(Op::IsFenced, Fault::Unavailable);
    let pending = append(&bench.appender, P).unwrap();
    assert_eq!(pending.durable().await, Err(AppendError::NotDurable));
    assert!(bench.store.hints().partition(P).heads().is_empty());
    assert!(bench.appender.is_failing());
    bench.faults.heal_all();
    while bench.appender.is_failing() {
        sleep(limits::APPEND_RETRY_PAUSE).await;
    }
    append(&bench.appender, P).unwrap().durable().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_that_was_fenced_and_does_not_know_is_closed_where_it_was() {
    let bench = Bench::start().await;
    append(&bench.appender, P).unwrap().durable().await.unwrap();
    let end = fence_and_close(&bench.store, bench.appender.writer())
        .await
        .unwrap();
    bench
        .appender
        .close(Instant::now() + Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(bench.closed(bench.appender.writer()).await, end);
}
