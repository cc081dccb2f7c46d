//! One process after the other on one journal, killed or stopped at any moment, over a store that fails as a seed says:
//! every record that was called durable is read from the log, once, in order.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;

use super::*;
use crate::reader::{Item, PartitionReader, close_dead_writers};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) % sides
    }
}

/// What was called durable.
type Ledger = BTreeMap<EventAddress, String>;

struct World {
    store: Arc<FaultStore>,
    dir: TempDir,
    _fixture: Embedded,
}

impl World {
    fn new() -> Self {
        let fixture = runtime().block_on(Embedded::open());
        Self {
            store: FaultStore::new(fixture.store()),
            dir: in_memory_dir(),
            _fixture: fixture,
        }
    }

    fn journal(&self) -> Journal {
        Journal::open(JournalConfig::new(self.dir.path().to_owned())).unwrap()
    }

    /// One process: what it called durable. Its runtime goes at the end, with all that was under way: a kill.
    fn life(&self, number: u64, dice: &mut Dice) -> Ledger {
        let runtime = runtime();
        let ledger = runtime.block_on(async {
            let appender = start(&self.store, self.journal()).await;
            let ledger = self.scans(&appender, number, dice).await;
            if dice.roll(3) == 0 {
                // A stop, in time or not.
                drop(appender.close(Instant::now() + Duration::from_millis(300)).await);
            }
            ledger
        });
        drop(runtime);
        self.store.heal_all();
        ledger
    }

    async fn scans(&self, appender: &Appender, number: u64, dice: &mut Dice) -> Ledger {
        let mut ledger = Ledger::new();
        for step in 0..dice.roll(12) {
            self.set_fault(dice);
            let burst = (0..=dice.roll(6)).map(|at| {
                let partition = if dice.roll(2) == 0 { P } else { Q };
                let text = format!("{number}/{step}/{at}");
                (append(appender, partition, &text), text)
            });
            let burst: Vec<_> = burst.collect();
            let pause = Duration::from_millis(dice.roll(60));
            let answered = burst.into_iter().map(|(pending, text)| async move {
                let address = pending.ok()?.durable().await.ok()?;
                Some((address, text))
            });
            // Some clients go away before they are answered.
            if let Ok(all) = timeout(pause * 3, join_all(answered)).await {
                ledger.extend(all.into_iter().flatten());
            }
            sleep(pause).await;
        }
        ledger
    }

    fn set_fault(&self, dice: &mut Dice) {
        let late = Duration::from_millis(dice.roll(80));
        let fault = match dice.roll(9) {
            0 | 1 => return self.store.heal_all(),
            2 => Fault::Unavailable,
            3 => Fault::LoseAnswer,
            4 => Fault::Stall,
            5 => Fault::StallAnswer,
            6 => Fault::Late(late),
            7 => {
                let ops = [
                    Op::Append,
                    Op::PublishHeads,
                    Op::CloseWriter,
                    Op::Tail,
                    Op::Writers,
                ];
                return self.store.break_by_chance(dice.roll(u64::MAX), 400, &ops);
            }
            _ => return,
        };
        self.store.break_all(Op::Append, fault);
    }

    /// The last process: nothing fails any more.
    fn end(&self) {
        runtime().block_on(async {
            let appender = start(&self.store, self.journal()).await;
            while self.open_writers().await > 1 {
                sleep(Duration::from_millis(50)).await;
            }
            let deadline = Instant::now() + Duration::from_secs(60);
            appender.close(deadline).await.unwrap();
            assert_eq!(self.open_writers().await, 0);
        });
        assert!(segments(&self.dir).is_empty());
    }

    async fn open_writers(&self) -> usize {
        let rows = self.store.writers().await.unwrap();
        rows.iter().filter(|row| row.closed.is_none()).count()
    }

    /// All records, as a consumer reads them.
    fn read(&self) -> Ledger {
        runtime().block_on(async {
            let mut read = Ledger::new();
            for partition in [P, Q] {
                let shared = Arc::clone(&self.store) as SharedStore;
                let mut reader = PartitionReader::new(shared, partition, BTreeMap::new());
                reader.refresh().await.unwrap();
                while !reader.caught_up() {
                    for item in reader.read(limits::READ_BYTES_MAX).await.unwrap() {
                        let Item::Batch(batch) = item else {
                            panic!("a gap: {item:?}")
                        };
                        note(&mut read, &batch);
                    }
                }
            }
            read
        })
    }
}

fn note(read: &mut Ledger, batch: &Batch) {
    for (index, record) in decode_batch(&batch.body).unwrap().into_iter().enumerate() {
        let address = EventAddress {
            partition: batch.partition,
            writer: batch.writer,
            seq: batch.seq,
            index: u16::try_from(index).unwrap(),
        };
        let Ok(Record::Conversion(record)) = record else {
            panic!("{record:?}")
        };
        let before = read.insert(address, record.external_id.into_owned());
        assert_eq!(before, None, "read twice: {address:?}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}

fn play(seed: u64) -> usize {
    let (world, mut dice) = (World::new(), Dice(seed));
    let mut durable = Ledger::new();
    for number in 0..=dice.roll(4) {
        durable.extend(world.life(number, &mut dice));
    }
    world.end();
    let read = world.read();
    for (address, text) in &durable {
        assert_eq!(read.get(address), Some(text), "{address:?}");
    }
    durable.len()
}

#[test]
fn whatever_fails_every_record_that_was_called_durable_is_read_once() {
    let played = (0..60).map(|seed| {
        let played = std::panic::catch_unwind(|| play(seed));
        played.unwrap_or_else(|_| panic!("failed with seed {seed}"))
    });
    let durable: usize = played.sum();
    assert!(durable > 1000, "only {durable} records: the test proves little");
}

#[test]
fn two_restarts_in_a_row_with_the_store_away_ship_both_journals_and_close_both_writers() {
    let world = World::new();
    let mut durable = Ledger::new();
    for number in 0..3 {
        let runtime = runtime();
        runtime.block_on(async {
            // The log takes nothing; what needs no append still works.
            world.store.break_all(Op::Append, Fault::Unavailable);
            let appender = start(&world.store, world.journal()).await;
            for at in 0..20 {
                let text = format!("{number}/{at}");
                let pending = append(&appender, P, &text).unwrap();
                durable.insert(pending.durable().await.unwrap(), text);
            }
        });
        drop(runtime);
    }
    assert_eq!(world.read().len(), 0);
    let writers: BTreeSet<WriterId> = durable.keys().map(|address| address.writer).collect();
    assert_eq!(writers.len(), 3);
    world.store.heal_all();
    world.end();
    assert_eq!(world.read(), durable);
}

#[test]
fn what_a_dead_writer_left_holds_nobody_up() {
    let world = World::new();
    let killed = runtime();
    let left = killed.block_on(async {
        world.store.break_all(Op::Append, Fault::Unavailable);
        let appender = start(&world.store, world.journal()).await;
        append(&appender, P, "left").unwrap().durable().await.unwrap()
    });
    drop(killed);
    runtime().block_on(async {
        let calls = world.store.calls(Op::Append);
        world.store.break_next(Op::Append, 1, Fault::Stall);
        let appender = start(&world.store, world.journal()).await;
        world.store.called(Op::Append, calls + 1).await;
        let new = append(&appender, P, "new").unwrap().durable().await.unwrap();
        assert_eq!(stored(&world.store, new).await.as_deref(), Some("new"));
        assert_eq!(stored(&world.store, left).await, None);
        assert_eq!(world.open_writers().await, 2);
        world.store.heal_all();
    });
    world.end();
    assert_eq!(world.read().len(), 2);
}

#[test]
fn what_somebody_closed_before_it_was_shipped_is_kept_aside_and_told() {
    let world = World::new();
    let killed = runtime();
    let (kept, lost) = killed.block_on(async {
        let appender = start(&world.store, world.journal()).await;
        let kept = append(&appender, P, "kept").unwrap().durable().await.unwrap();
        world.store.break_all(Op::Append, Fault::Unavailable);
        let lost = append(&appender, P, "lost").unwrap().durable().await.unwrap();
        (kept, lost)
    });
    drop(killed);
    world.store.heal_all();
    runtime().block_on(async {
        let shared = Arc::clone(&world.store) as SharedStore;
        close_dead_writers(&shared, &[]).await.unwrap();
        let appender = start(&world.store, world.journal()).await;
        while fs::read_dir(world.dir.path()).unwrap().count() > 3 {
            sleep(Duration::from_millis(10)).await;
        }
        drop(appender);
    });
    world.end();
    let read = world.read();
    assert!(read.contains_key(&kept) && !read.contains_key(&lost));
    let aside = fs::read_dir(world.dir.path()).unwrap();
    let aside = aside.filter(|entry| entry.as_ref().unwrap().path().extension() == Some("damaged".as_ref()));
    assert_eq!(aside.count(), 1);
}
