//! The reader over the embedded store behind faults, with a paused clock.

use tokio::time::sleep;

use super::*;
use crate::{
    clock::ManualClock,
    conformance::{
        Fixture,
        samples::{P, Q, at, batch, registered},
    },
    fault::{Fault, FaultStore, Op},
    sqlite::{Options, SqliteStore, conformance::Embedded, conformance::in_memory_dir},
    store::Log,
};

const ALL: usize = usize::MAX;

struct Bench {
    faults: Arc<FaultStore>,
    store: SharedStore,
    _fixture: Embedded,
}

impl Bench {
    /// A store with hints.
    async fn start() -> Self {
        Self::with(FaultStore::new).await
    }

    /// A store whose readers hear nothing.
    async fn silent() -> Self {
        Self::with(FaultStore::without_hints).await
    }

    async fn with(faulty: fn(SharedStore) -> Arc<FaultStore>) -> Self {
        let fixture = Embedded::open().await;
        let faults = faulty(fixture.store());
        Self {
            store: Arc::clone(&faults) as SharedStore,
            faults,
            _fixture: fixture,
        }
    }

    fn reader(&self) -> PartitionReader {
        PartitionReader::new(Arc::clone(&self.store), P, BTreeMap::new())
    }

    async fn append(&self, writer: WriterId, seqs: &[u64]) {
        for seq in seqs {
            self.store.append(batch(P, writer, *seq)).await.unwrap();
        }
    }

    fn hint(&self, writer: WriterId, head: u64) {
        self.store
            .hints()
            .partition(P)
            .publish_head(writer, Seq::new(head));
    }

    /// What the writer's row says.
    async fn head(&self, writer: WriterId, head: u64) {
        let heads = Heads::from([(P, Seq::new(head))]);
        self.store.publish_heads(writer, head, &heads).await.unwrap();
    }

    async fn close(&self, writer: WriterId, last: u64) {
        let last = Heads::from([(P, Seq::new(last))]);
        self.store.close_writer(writer, &last).await.unwrap();
    }
}

/// Batches by writer and number, and gaps by writer, first and last.
type Brought = (Vec<(WriterId, u64)>, Vec<(WriterId, u64, u64)>);

/// What one turn brings, short: `(writer, seq)`, and gaps as `(writer, from, through)`.
async fn turn(reader: &mut PartitionReader) -> Brought {
    reader.refresh().await.unwrap();
    rest(reader).await
}

async fn rest(reader: &mut PartitionReader) -> Brought {
    let (mut batches, mut gaps) = (Vec::new(), Vec::new());
    loop {
        let items = reader.read(ALL).await.unwrap();
        if items.is_empty() {
            return (batches, gaps);
        }
        for item in items {
            match item {
                Item::Batch(read) => {
                    assert_eq!(read, batch(P, read.writer, read.seq.as_u64()));
                    batches.push((read.writer, read.seq.as_u64()));
                }
                Item::Gap {
                    writer,
                    from,
                    through,
                } => gaps.push((writer, from.as_u64(), through.as_u64())),
            }
        }
    }
}

fn of(writer: WriterId, seqs: &[u64]) -> Brought {
    (seqs.iter().map(|seq| (writer, *seq)).collect(), Vec::new())
}

#[tokio::test(start_paused = true)]
async fn it_reads_up_to_the_head_learned_and_no_further() {
    let bench = Bench::start().await;
    let writer = registered(&bench.store).await;
    bench.append(writer, &[1, 2, 3, 4]).await;
    let mut reader = bench.reader();
    assert_eq!(turn(&mut reader).await, of(writer, &[]));
    bench.hint(writer, 2);
    assert_eq!(
        rest(&mut reader).await,
        of(writer, &[]),
        "a head counts once it is learned"
    );
    assert_eq!(turn(&mut reader).await, of(writer, &[1, 2]));
    bench.hint(writer, 3);
    bench.hint(writer, 1);
    assert_eq!(turn(&mut reader).await, of(writer, &[3]));
    assert!(reader.caught_up());
    assert_eq!(reader.positions(), BTreeMap::from([(writer, Seq::new(3))]));
    let mut again = PartitionReader::new(Arc::clone(&bench.store), P, [(writer, Seq::new(1))].into());
    assert_eq!(turn(&mut again).await, of(writer, &[2, 3]));
}

#[tokio::test(start_paused = true)]
async fn a_hint_ends_the_wait_and_a_missed_one_costs_a_second() {
    let bench = Bench::start().await;
    let writer = registered(&bench.store).await;
    let mut reader = bench.reader();
    turn(&mut reader).await;
    bench.append(writer, &[1, 2]).await;
    bench.hint(writer, 1);
    let begun = Instant::now();
    reader.changed().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(turn(&mut reader).await, of(writer, &[1]));
    bench
        .store
        .publish_heads(writer, 1, &Heads::from([(P, Seq::new(2))]))
        .await
        .unwrap();
    reader.changed().await;
    assert!(begun.elapsed() <= Duration::from_secs(1));
    assert_eq!(turn(&mut reader).await, of(writer, &[2]));
}

#[tokio::test(start_paused = true)]
async fn writers_take_turns() {
    let bench = Bench::start().await;
    let mut writers = [registered(&bench.store).await, registered(&bench.store).await];
    writers.sort();
    for writer in writers {
        bench.append(writer, &[1, 2, 3]).await;
        bench.hint(writer, 3);
    }
    let mut reader = bench.reader();
    reader.refresh().await.unwrap();
    let mut order = Vec::new();
    while let Some(Item::Batch(batch)) = reader.read(1).await.unwrap().pop() {
        order.push((batch.seq.as_u64(), batch.writer));
    }
    let wanted: Vec<_> = (1..=3)
        .flat_map(|seq| writers.map(|writer| (seq, writer)))
        .collect();
    assert_eq!(order, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_missing_batch_stops_its_writer_alone_until_it_comes() {
    let bench = Bench::start().await;
    let (holed, whole) = (registered(&bench.store).await, registered(&bench.store).await);
    bench.append(holed, &[1, 3]).await;
    bench.append(whole, &[1]).await;
    bench.head(holed, 3).await;
    bench.head(whole, 1).await;
    let mut reader = bench.reader();
    let (mut batches, gaps) = turn(&mut reader).await;
    batches.sort();
    let mut wanted = vec![(holed, 1), (whole, 1)];
    wanted.sort();
    assert_eq!((batches, gaps.len()), (wanted, 0));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(turn(&mut reader).await, of(holed, &[]));
    bench.append(holed, &[2]).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(turn(&mut reader).await, of(holed, &[2, 3]));
}

#[tokio::test(start_paused = true)]
async fn after_ten_minutes_all_missing_batches_are_one_gap() {
    let bench = Bench::start().await;
    let writer = registered(&bench.store).await;
    bench.append(writer, &[1, 5, 6, 9]).await;
    bench.head(writer, 7).await;
    let mut reader = bench.reader();
    assert_eq!(turn(&mut reader).await, of(writer, &[1]));
    sleep(limits::GAP_AFTER - Duration::from_secs(1)).await;
    assert_eq!(turn(&mut reader).await, of(writer, &[]));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(
        turn(&mut reader).await,
        (vec![(writer, 5), (writer, 6)], vec![(writer, 2, 4)])
    );
    // The next one is waited for anew, and a gap ends at the head.
    sleep(limits::GAP_AFTER * 2).await;
    assert_eq!(turn(&mut reader).await, (vec![], vec![(writer, 7, 7)]));
    assert!(reader.caught_up());
}

#[tokio::test(start_paused = true)]
async fn a_very_long_gap_is_passed_in_parts_that_are_waited_for_once() {
    let bench = Bench::start().await;
    let writer = registered(&bench.store).await;
    let (part, last) = (limits::GAP_LOOK_MAX, 2 * limits::GAP_LOOK_MAX + 5);
    bench.append(writer, &[last]).await;
    bench.head(writer, last).await;
    bench.faults.set_exclusive(false);
    let mut reader = bench.reader();
    assert_eq!(turn(&mut reader).await, of(writer, &[]));
    sleep(limits::GAP_AFTER + Duration::from_secs(1)).await;
    let parts = [(1, part), (part + 1, 2 * part), (2 * part + 1, last - 1)];
    let parts = parts.map(|(from, through)| (writer, from, through));
    assert_eq!(turn(&mut reader).await, (vec![(writer, last)], parts.to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_hint_makes_no_gap_and_loses_nothing() {
    let bench = Bench::start().await;
    let (writer, nobody) = (registered(&bench.store).await, WriterId::from_u64(7));
    bench.append(writer, &[1]).await;
    let mut reader = bench.reader();
    bench.hint(nobody, 3);
    bench.hint(writer, u64::MAX);
    assert_eq!(turn(&mut reader).await, of(writer, &[1]));
    assert_eq!(bench.store.hints().partition(P).heads(), BTreeMap::new());
    sleep(limits::GAP_AFTER * 2).await;
    assert_eq!(turn(&mut reader).await, of(writer, &[]));
    let at_end = PartitionReader::at_end(Arc::clone(&bench.store), P)
        .await
        .unwrap();
    bench.append(writer, &[2]).await;
    bench.hint(writer, 2);
    for mut reader in [reader, at_end] {
        assert!(turn(&mut reader).await.0.contains(&(writer, 2)));
        assert_eq!(reader.positions(), BTreeMap::from([(writer, Seq::new(2))]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_beginning_was_expired_only_where_one_process_owns_the_store() {
    for exclusive in [true, false] {
        let bench = Bench::start().await;
        bench.faults.set_exclusive(exclusive);
        let writer = registered(&bench.store).await;
        bench.append(writer, &[4, 5]).await;
        bench.head(writer, 5).await;
        let mut reader = bench.reader();
        let passed = (vec![(writer, 4), (writer, 5)], vec![(writer, 1, 3)]);
        let wanted = if exclusive { passed } else { of(writer, &[]) };
        assert_eq!(turn(&mut reader).await, wanted, "exclusive: {exclusive}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_writer_is_read_past_its_head_ever_more_rarely() {
    let bench = Bench::silent().await;
    let writer = registered(&bench.store).await;
    bench.append(writer, &[1, 2, 3, 5]).await;
    bench
        .store
        .publish_heads(writer, 1, &Heads::from([(P, Seq::new(1))]))
        .await
        .unwrap();
    let mut reader = bench.reader();
    assert_eq!(turn(&mut reader).await, of(writer, &[1]));
    sleep(limits::WRITER_SILENT_AFTER - Duration::from_secs(1)).await;
    assert_eq!(turn(&mut reader).await, of(writer, &[]));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(turn(&mut reader).await, of(writer, &[2, 3]));
    bench.append(writer, &[4]).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(turn(&mut reader).await, of(writer, &[4, 5]));
    let (before, begun) = (bench.faults.calls(Op::Tail), Instant::now());
    while begun.elapsed() < Duration::from_secs(3600) {
        turn(&mut reader).await;
        reader.changed().await;
    }
    let looks = bench.faults.calls(Op::Tail) - before;
    assert!((10..40).contains(&looks), "{looks} looks in an hour");
    // It lives again: its heads count, and its tail does not.
    bench.append(writer, &[6, 7]).await;
    bench
        .store
        .publish_heads(writer, 2, &Heads::from([(P, Seq::new(6))]))
        .await
        .unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(turn(&mut reader).await, of(writer, &[6]));
}

/// Looks for so long, as its owner does.
async fn look_for(reader: &mut PartitionReader, time: Duration) -> Brought {
    let (mut all, begun) = (Brought::default(), Instant::now());
    while begun.elapsed() < time {
        let (batches, gaps) = turn(reader).await;
        all.0.extend(batches);
        all.1.extend(gaps);
        reader.changed().await;
    }
    all
}

#[tokio::test(start_paused = true)]
async fn what_a_writer_appended_before_it_stopped_is_read_whether_it_goes_on_or_is_killed() {
    let bench = Bench::silent().await;
    bench.faults.set_exclusive(false);
    let writer = registered(&bench.store).await;
    bench.append(writer, &[1]).await;
    bench.head(writer, 1).await;
    let mut reader = bench.reader();
    assert_eq!(turn(&mut reader).await, of(writer, &[1]));
    // Stopped after an append and before its head.
    bench.append(writer, &[2]).await;
    let minute = Duration::from_secs(60);
    assert_eq!(look_for(&mut reader, minute).await, of(writer, &[2]));
    // It goes on: late heads, below what was read, and new ones.
    bench.head(writer, 2).await;
    bench.append(writer, &[3]).await;
    bench.head(writer, 3).await;
    let soon = Duration::from_secs(3);
    assert_eq!(look_for(&mut reader, soon).await, of(writer, &[3]));
    // Killed after an append and before its head; what was on its way comes late.
    bench.append(writer, &[4]).await;
    assert_eq!(look_for(&mut reader, minute).await, of(writer, &[4]));
    bench.append(writer, &[5]).await;
    let longest = limits::SILENT_PROBE_PAUSE_MAX + minute;
    assert_eq!(look_for(&mut reader, longest).await, of(writer, &[5]));
}

#[tokio::test(start_paused = true)]
async fn a_closed_writer_ends_where_it_was_closed() {
    let bench = Bench::start().await;
    let writer = registered(&bench.store).await;
    bench.append(writer, &[1, 2, 3]).await;
    bench.close(writer, 2).await;
    let mut reader = bench.reader();
    assert_eq!(turn(&mut reader).await, of(writer, &[1, 2]));
    // A zombie's record past the end is never read, whatever it says and however long we wait.
    bench.hint(writer, 3);
    assert_eq!(turn(&mut reader).await, of(writer, &[]));
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(turn(&mut reader).await, of(writer, &[]));
    assert!(reader.caught_up());
    assert_eq!(
        bench.store.hints().partition(P).heads(),
        BTreeMap::new(),
        "its hints are forgotten"
    );
    assert_eq!(
        reader.positions()[&writer],
        Seq::new(2),
        "its place is kept while its row is there"
    );
}

#[tokio::test(start_paused = true)]
async fn the_place_of_an_expired_writer_is_forgotten() {
    let clock = ManualClock::new(at(0));
    let dir = in_memory_dir();
    let options = Options {
        clock: Arc::clone(&clock) as crate::clock::SharedClock,
        ..Options::default()
    };
    let store = SqliteStore::open(dir.path(), &options).unwrap();
    let shared = FaultStore::new(Arc::clone(&store) as SharedStore) as SharedStore;
    let writer = registered(&shared).await;
    shared.append(batch(P, writer, 1)).await.unwrap();
    shared
        .close_writer(writer, &Heads::from([(P, Seq::new(1))]))
        .await
        .unwrap();
    let mut reader = PartitionReader::new(Arc::clone(&shared), P, BTreeMap::new());
    assert_eq!(turn(&mut reader).await, of(writer, &[1]));
    clock.advance(Duration::from_secs(3600));
    store.expire(Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.writers().await.unwrap(), []);
    sleep(Duration::from_secs(2)).await;
    turn(&mut reader).await;
    assert_eq!(reader.positions(), BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_read_skips_nothing() {
    let bench = Bench::start().await;
    let writer = registered(&bench.store).await;
    bench.append(writer, &[1, 2]).await;
    bench.hint(writer, 2);
    let mut reader = bench.reader();
    for op in [Op::Writers, Op::Read] {
        bench.faults.break_all(op, Fault::StallAnswer);
        let both = async {
            reader.refresh().await.unwrap();
            reader.read(ALL).await.unwrap()
        };
        assert!(tokio::time::timeout(Duration::from_secs(1), both).await.is_err());
        bench.faults.heal(op);
    }
    assert_eq!(turn(&mut reader).await, of(writer, &[1, 2]));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_costs_time_and_nothing_else() {
    let bench = Bench::start().await;
    let writer = registered(&bench.store).await;
    bench.append(writer, &[1]).await;
    let mut reader = bench.reader();
    bench.faults.break_all(Op::Writers, Fault::Unavailable);
    bench.faults.break_all(Op::Read, Fault::Unavailable);
    bench.hint(writer, 1);
    assert!(reader.refresh().await.is_err());
    assert!(reader.read(ALL).await.is_err());
    let begun = Instant::now();
    reader.changed().await;
    assert!(begun.elapsed() > Duration::ZERO, "waiting does not spin");
    bench.faults.heal_all();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(turn(&mut reader).await, of(writer, &[1]));
}

#[tokio::test(start_paused = true)]
async fn a_reader_at_the_end_brings_what_comes_after() {
    let bench = Bench::start().await;
    let (open, closed) = (registered(&bench.store).await, registered(&bench.store).await);
    bench.append(open, &[1, 2]).await;
    bench.append(closed, &[1]).await;
    bench.head(open, 2).await;
    bench.close(closed, 1).await;
    let mut reader = PartitionReader::at_end(Arc::clone(&bench.store), P)
        .await
        .unwrap();
    assert_eq!(turn(&mut reader).await, of(open, &[]));
    bench.append(open, &[3]).await;
    bench.hint(open, 3);
    assert_eq!(turn(&mut reader).await, of(open, &[3]));
}

#[tokio::test(start_paused = true)]
async fn dead_writers_are_closed_at_the_end_of_their_tails() {
    let bench = Bench::start().await;
    let (dead, mine, idle) = (
        registered(&bench.store).await,
        registered(&bench.store).await,
        registered(&bench.store).await,
    );
    for writer in [dead, mine] {
        bench.append(writer, &[1, 2, 4]).await;
        bench.store.append(batch(Q, writer, 1)).await.unwrap();
        bench
            .store
            .publish_heads(writer, 1, &Heads::from([(P, Seq::new(1))]))
            .await
            .unwrap();
    }
    for _ in 0..2 {
        close_dead_writers(&bench.store, &[mine]).await.unwrap();
    }
    let rows = bench.store.writers().await.unwrap();
    let closed = |writer| {
        rows.iter()
            .find(|row| row.writer == writer)
            .unwrap()
            .closed
            .clone()
    };
    assert_eq!(
        closed(dead),
        Some(Heads::from([(P, Seq::new(2)), (Q, Seq::new(1))]))
    );
    assert_eq!(closed(idle), Some(Heads::new()));
    assert_eq!(closed(mine), None);
    let (batches, gaps) = turn(&mut bench.reader()).await;
    let mut wanted = vec![(dead, 1), (dead, 2), (mine, 1)];
    wanted.sort();
    let mut batches = batches;
    batches.sort();
    assert_eq!((batches, gaps), (wanted, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_dead_writers_first_batch_in_a_partition_of_a_tenants_own_is_within_its_end() {
    let bench = Bench::start().await;
    let dead = registered(&bench.store).await;
    let own = PartitionId::new(bench.store.claim_partitions(2).await.unwrap().unwrap().end - 1);
    // No head tells of it: it died before.
    bench.store.append(batch(own, dead, 1)).await.unwrap();
    close_dead_writers(&bench.store, &[]).await.unwrap();
    let rows = bench.store.writers().await.unwrap();
    assert_eq!(rows[0].closed, Some(Heads::from([(own, Seq::new(1))])));
}

#[tokio::test(start_paused = true)]
async fn of_a_fenced_writer_only_its_end_counts() {
    let bench = Bench::silent().await;
    bench.faults.set_exclusive(false);
    let writer = registered(&bench.store).await;
    bench.append(writer, &[1]).await;
    bench.head(writer, 1).await;
    let mut reader = bench.reader();
    assert_eq!(turn(&mut reader).await, of(writer, &[1]));
    sleep(limits::WRITER_SILENT_AFTER + WRITERS_PERIOD).await;
    bench.append(writer, &[2]).await;
    assert_eq!(turn(&mut reader).await, of(writer, &[2]), "it is silent");
    bench.append(writer, &[3]).await;
    bench.store.fence_writer(writer).await.unwrap();
    for _ in 0..10 {
        sleep(WRITERS_PERIOD).await;
        assert_eq!(turn(&mut reader).await, of(writer, &[]));
    }
    let last = fence_and_close(&bench.store, writer).await.unwrap();
    assert_eq!(last, Some(Heads::from([(P, Seq::new(3))])));
    // It lives, and does not know yet.
    bench.append(writer, &[4]).await;
    assert_eq!(
        fence_and_close(&bench.store, writer).await.unwrap(),
        last,
        "the first end stays"
    );
    sleep(WRITERS_PERIOD).await;
    assert_eq!(turn(&mut reader).await, of(writer, &[3]));
    sleep(limits::SILENT_PROBE_PAUSE_MAX).await;
    assert_eq!(turn(&mut reader).await, of(writer, &[]));
}
