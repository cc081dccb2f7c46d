//! What leaves with age, and what does not.

use std::time::Duration;

use super::*;
use crate::{
    checkpoint::{RowKey, RowKind},
    clock::ManualClock,
    conformance::samples::{at, attempt, code, command, conversion, create, endpoint, event, lease, tenant},
    event::EventType,
    id::{ConfigSeq, OwnerId, TenantId},
    model::Resource,
    sqlite::{conformance::in_memory_dir, retention::*, writer::Atomicity},
    store::{
        Attempts, Change, Changed, CheckpointDelta, Commands, ConfigLog, Conversions, Heads, Leases,
        Registry, RequestKey,
    },
};

const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Bench {
    clock: Arc<ManualClock>,
    store: Arc<SqliteStore>,
    dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let (dir, clock) = (in_memory_dir(), ManualClock::new(at(0)));
    let options = Options {
        clock: Arc::clone(&clock) as SharedClock,
        ..Options::default()
    };
    let store = SqliteStore::open(dir.path(), &options).unwrap();
    Bench { clock, store, dir }
}

impl Bench {
    async fn pass(&self) -> u64 {
        self.store.expire(KEEP).await.unwrap()
    }

    fn now(&self) -> crate::clock::Timestamp {
        crate::clock::Clock::now(&*self.clock)
    }

    /// As it is appended now.
    async fn append(&self, writer: WriterId, seq: u64, bytes: usize) {
        let batch = Batch {
            first_at: self.now(),
            last_at: self.now(),
            ..sized(writer, seq, bytes)
        };
        self.store.append(batch).await.unwrap();
    }
}

#[tokio::test]
async fn batches_leave_with_age_and_a_writer_after_its_last() {
    let bench = bench();
    let (closed, open) = (registered(&bench.store).await, registered(&bench.store).await);
    for writer in [closed, open] {
        bench.append(writer, 1, 100).await;
    }
    bench.clock.advance(DAY);
    bench.append(closed, 2, 100).await;
    bench
        .store
        .close_writer(closed, &Heads::from([(P, Seq::new(2))]))
        .await
        .unwrap();
    assert_eq!(bench.pass().await, 0);
    bench.clock.advance(KEEP);
    assert_eq!(bench.pass().await, 2, "what is exactly as old as it may be stays");
    assert_eq!(
        bench
            .store
            .next_seq(P, closed, Seq::ZERO, Seq::new(9))
            .await
            .unwrap(),
        Some(Seq::new(2))
    );
    assert_eq!(bench.store.writers().await.unwrap().len(), 2);
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(bench.pass().await, 2, "the last batch, and its writer");
    let left = bench.store.writers().await.unwrap();
    assert_eq!(
        left.iter().map(|row| row.writer).collect::<Vec<_>>(),
        [open],
        "an open writer stays"
    );
    assert_eq!(bench.pass().await, 0);
}

#[tokio::test]
async fn a_step_is_bounded_in_rows_and_bytes() {
    let bench = bench();
    let writer = registered(&bench.store).await;
    let appends = (1..=700).map(|seq| bench.store.append(sized(writer, seq, 10)));
    futures::future::join_all(appends)
        .await
        .into_iter()
        .for_each(|outcome| outcome.unwrap());
    let appends = (701..=760).map(|seq| bench.store.append(sized(writer, seq, 64 * 1024)));
    futures::future::join_all(appends)
        .await
        .into_iter()
        .for_each(|outcome| outcome.unwrap());
    let mut steps = Vec::new();
    loop {
        let step = |connection: &Connection| batches(connection, at(1_000_000));
        match bench
            .store
            .log_writer
            .submit(Atomicity::Savepoint, step)
            .await
            .unwrap()
        {
            0 => break,
            rows => steps.push(rows),
        }
    }
    assert_eq!(steps.iter().sum::<u64>(), 760);
    assert!(
        steps
            .iter()
            .all(|rows| *rows <= u64::from(limits::RETENTION_ROWS_PER_STEP)),
        "{steps:?}"
    );
    assert!(steps.len() >= 3, "large rows take more steps: {steps:?}");
}

#[tokio::test]
async fn files_become_smaller_when_much_has_left() {
    let bench = bench();
    let writer = registered(&bench.store).await;
    for seq in 1..=160 {
        bench.append(writer, seq, 64 * 1024).await;
    }
    let pages = || async {
        let count = |connection: &Connection| {
            Ok(connection.pragma_query_value(None, "page_count", |row| row.get(0))?)
        };
        bench
            .store
            .log_writer
            .submit(Atomicity::OneStatement, count)
            .await
            .unwrap()
    };
    let before: u32 = pages().await;
    bench.clock.advance(KEEP + DAY);
    assert_eq!(bench.pass().await, 160);
    let after: u32 = pages().await;
    assert!(after < before / 2, "{before} pages before, {after} after");
    drop(bench.store);
    let bytes = std::fs::metadata(LOG.path(bench.dir.path())).unwrap().len();
    assert_eq!(bytes, u64::from(after) * 4096);
}

#[tokio::test]
async fn attempts_leave_with_their_delivery() {
    let bench = bench();
    let endpoint = endpoint(TenantId::random()).id;
    let (old, young) = (at(0), at(1));
    // Later attempts of an old delivery go with it.
    let rows = vec![
        attempt(endpoint, old, event(1), 1),
        attempt(endpoint, old, event(1), 2),
        attempt(endpoint, young, event(2), 1),
    ];
    bench.store.record_attempts(rows).await.unwrap();
    bench.clock.advance(KEEP + Duration::from_millis(1));
    assert_eq!(bench.pass().await, 2);
    let left = bench.store.deliveries(endpoint, None, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].last.first_at, young);
}

#[tokio::test]
async fn the_configuration_logs_numbers_go_on_after_everything_has_left() {
    let bench = bench();
    let mut numbers = Vec::new();
    let mut owner = TenantId::random();
    for round in 0..2 {
        for _ in 0..3 {
            let tenant = tenant();
            owner = tenant.id;
            let change = Change {
                event: Some(EventType::CodeCreated),
                at: bench.now(),
                ..create(Resource::Tenant(tenant))
            };
            let Changed::Done(seq) = bench.store.change(change).await.unwrap() else {
                panic!("nothing to replay")
            };
            numbers.push(seq.as_u64());
        }
        if round == 0 {
            bench.clock.advance(KEEP + DAY);
            assert_eq!(bench.pass().await, 3);
            assert_eq!(bench.store.config_head().await.unwrap(), ConfigSeq::new(3));
            assert_eq!(bench.store.config_after(ConfigSeq::ZERO, 10).await.unwrap(), []);
            assert_eq!(
                bench.store.config_events_before(owner, None, 10).await.unwrap(),
                []
            );
        }
    }
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    let left = bench.store.config_after(ConfigSeq::ZERO, 10).await.unwrap();
    assert_eq!(
        left.iter().map(|row| row.seq.as_u64()).collect::<Vec<_>>(),
        [4, 5, 6]
    );
    assert!(
        bench.store.tenant(owner).await.unwrap().is_some(),
        "the registry stays"
    );
}

#[tokio::test]
async fn only_chunks_that_no_checkpoint_names_leave() {
    let bench = bench();
    let mine = lease(1, 1, Some(OwnerId::random()));
    bench.store.claim(P, None, &mine).await.unwrap();
    for name in ["named", "left"] {
        bench
            .store
            .put_chunk(P, name, Bytes::from_static(b"body"))
            .await
            .unwrap();
    }
    let row = RowKey {
        kind: RowKind::Chunk,
        id: "named".to_owned(),
    };
    let delta = CheckpointDelta {
        rows: [(row, Some("{}".to_owned()))].into(),
    };
    bench.store.save(P, mine.fence, 2, &delta).await.unwrap();
    bench.clock.advance(limits::CHUNK_UNNAMED_KEPT);
    bench
        .store
        .put_chunk(P, "new", Bytes::from_static(b"body"))
        .await
        .unwrap();
    assert_eq!(bench.pass().await, 0);
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(bench.pass().await, 1);
    for (name, there) in [("named", true), ("left", false), ("new", true)] {
        assert_eq!(
            bench.store.chunk(P, name).await.unwrap().is_some(),
            there,
            "{name}"
        );
    }
}

#[tokio::test]
async fn request_ids_and_commands_leave_after_their_day() {
    let bench = bench();
    let request = RequestKey {
        scope: "admin".to_owned(),
        rpc: "CreateCode",
        request_id: "r".to_owned(),
        body_hash: [0; 32],
        expires_at: bench.now().after(DAY),
    };
    let made = Resource::Code(Box::new(code(TenantId::random(), "a")));
    bench
        .store
        .change(Change {
            request: Some(request),
            ..create(made)
        })
        .await
        .unwrap();
    let waiting = command(bench.now());
    bench.store.put_command(&waiting).await.unwrap();
    bench.clock.advance(DAY - Duration::from_millis(1));
    assert_eq!(bench.pass().await, 0);
    bench.clock.advance(Duration::from_millis(2));
    assert_eq!(bench.pass().await, 2);
    assert_eq!(bench.store.command(P, waiting.id).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn retention_stops_when_told() {
    let bench = bench();
    let stop = tokio_util::sync::CancellationToken::new();
    let running = run(Arc::clone(&bench.store), KEEP, stop.clone());
    let stopping = async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        stop.cancel();
    };
    tokio::join!(running, stopping);
}

#[tokio::test]
async fn a_conversions_external_id_is_forgotten_when_its_event_is() {
    let bench = bench();
    let mut row = conversion("order 1");
    row.record.at = bench.now();
    bench.store.claim_conversion(&row).await.unwrap();
    bench.clock.advance(KEEP);
    assert_eq!(bench.pass().await, 0);
    assert!(bench.store.claim_conversion(&row).await.unwrap().is_some());
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(bench.pass().await, 1);
    assert_eq!(bench.store.claim_conversion(&row).await.unwrap(), None);
}
