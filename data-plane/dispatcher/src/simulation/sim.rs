//! What all processes of a simulation share: the store's tables, the way to them, and what is known of what happened.
//!
//! Each call to the store meets a fate that the seed decides: it is done, sooner or later; it is refused; it is done and
//! its answer is lost or late; or it is on its way for long, is done whenever it arrives, also when its caller has given it up,
//! is frozen or is dead. A process may be cut off from the store while all others are not.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use qrelay_store::{
    StoreError,
    id::EventAddress,
    seeded::Dice,
    store::{Batch, Result},
};
use tokio::time::{Instant, sleep};

use super::{book::Book, roles::Reply, tables::Tables};
use crate::cursor::Stream;

/// A process: its number, new at every start.
pub(super) type Who = u32;
/// Milliseconds since the beginning.
pub(super) type Millis = u64;

/// One thing that happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Step {
    pub(super) at: Millis,
    pub(super) who: Who,
    pub(super) what: &'static str,
    pub(super) went_well: bool,
}

/// How calls fare.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    /// A call usually takes at most so long each way.
    pub(super) slow_max: Millis,
    /// Of a thousand calls, so many are refused, lose their answer, or are on their way for long.
    pub(super) refused: u64,
    pub(super) lost: u64,
    pub(super) far: u64,
    /// So many are done soon, and their answer is on its way for long.
    pub(super) late: u64,
    /// For how long at most.
    pub(super) far_max: Millis,
    /// Until then everything that is sent stands still on its way.
    pub(super) stalled_until: Millis,
    /// Of a thousand requests to receivers, so many fail; and how long one usually takes at most, each way.
    pub(super) receivers_fail: u64,
    pub(super) receivers_slow_max: Millis,
    /// So many of a thousand connections take long.
    pub(super) connects_slow: u64,
    /// Of a thousand writes to a journal's disk, so many fail.
    pub(super) disks_fail: u64,
}

/// How a process is cut off from the store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// It is told so at once.
    Refused,
    /// Nothing arrives, and nothing is answered.
    Silent,
    /// What it sends arrives, and nothing is answered.
    Answers,
}

/// A process whose calls all took less each way is not troubled by them.
const CALM_MAX: Millis = 20;

enum Fate {
    Near {
        before: Millis,
        after: Millis,
        is_lost: bool,
    },
    Refused {
        after: Millis,
    },
    Far {
        arrives: Millis,
        patience: Millis,
    },
    Silent {
        patience: Millis,
    },
}

type Work = Box<dyn FnOnce(&mut Tables, &mut Book) -> bool + Send>;

struct OnItsWay {
    who: Who,
    what: &'static str,
    work: Work,
}

/// See the module's documentation.
pub(super) struct Inner {
    pub(super) dice: Dice,
    pub(super) tables: Tables,
    pub(super) book: Book,
    pub(super) weather: Weather,
    /// Who is cut off, how, and until when.
    pub(super) cuts: BTreeMap<Who, (Cut, Millis)>,
    steps: Vec<Step>,
    on_its_way: BTreeMap<(Millis, u64), OnItsWay>,
    calls: u64,
}

/// Shared by all processes.
pub(super) struct Sim {
    pub(super) partitions: u16,
    inner: Mutex<Inner>,
}

impl Sim {
    pub(super) fn new(seed: u64, partitions: u16) -> Arc<Self> {
        let inner = Mutex::new(Inner {
            dice: Dice::new(seed),
            tables: Tables::default(),
            book: Book::default(),
            weather: Weather::default(),
            cuts: BTreeMap::new(),
            steps: Vec::new(),
            on_its_way: BTreeMap::new(),
            calls: 0,
        });
        Arc::new(Self { partitions, inner })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what arrives by then.
    pub(super) fn deliver(&self, now: Millis) {
        let inner = &mut *self.lock();
        while let Some(entry) = inner.on_its_way.first_entry()
            && entry.key().0 <= now
        {
            let ((at, _), OnItsWay { who, what, work }) = entry.remove_entry();
            inner.book.now = at;
            let went_well = work(&mut inner.tables, &mut inner.book);
            inner.step(at, who, what, went_well);
        }
    }

    /// All steps so far, and a number that stands for them.
    pub(super) fn trace(&self) -> (u64, Vec<Step>) {
        let inner = &mut *self.lock();
        let mut hash = DefaultHasher::new();
        inner.steps.hash(&mut hash);
        // All that was ever drawn, too.
        inner.dice.draw().hash(&mut hash);
        (hash.finish(), inner.steps.clone())
    }
}

impl Inner {
    pub(super) fn step(&mut self, at: Millis, who: Who, what: &'static str, went_well: bool) {
        self.steps.push(Step {
            at,
            who,
            what,
            went_well,
        });
    }

    /// Appends, for each closed writer, a batch past its end. Returns the events.
    pub(super) fn stray(&mut self) -> Vec<EventAddress> {
        let mut events = Vec::new();
        let closed: Vec<_> = self
            .book
            .closed_writers()
            .map(|(writer, last)| (writer, last.clone()))
            .collect();
        for (writer, last) in closed {
            for (partition, seq) in last {
                let Some(batch) = self.tables.log.get(&(partition, writer, seq)).cloned() else {
                    continue;
                };
                let seq = seq.next();
                let stray = Batch { seq, ..batch };
                // One that was on its way when its writer died may stand there.
                self.tables.log.entry((partition, writer, seq)).or_insert(stray);
                let stream = Stream { partition, writer };
                events.push(stream.address(seq, 0));
            }
        }
        events
    }

    /// Whether something was sent that has not arrived.
    pub(super) fn is_anything_on_its_way(&self) -> bool {
        !self.on_its_way.is_empty()
    }

    /// A number for a call that begins now.
    pub(super) fn stamp(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// How long a journal's disk works on what it was asked.
    pub(super) fn disk_takes(&mut self) -> Millis {
        let longest = if self.dice.chance(50) { 2000 } else { 5 };
        self.dice.below(longest)
    }

    /// Whether it fails to write.
    pub(super) fn disk_fails(&mut self) -> bool {
        self.book.counts.journaled += 1;
        let fails = self.weather.disks_fail;
        self.dice.chance(fails)
    }

    /// What becomes of a request to a receiver.
    pub(super) fn reply(&mut self) -> Reply {
        let (weather, dice) = (self.weather, &mut self.dice);
        let fails = dice.chance(weather.receivers_fail);
        let way = fails && dice.chance(300);
        let most = if way { 2300 } else { weather.receivers_slow_max };
        let status = match (fails, dice.below(3)) {
            (false, _) => Some(200),
            (true, 0) => None,
            (true, _) => Some(500),
        };
        // An answer that never comes may be that of one who took it.
        let is_taken = status == Some(200) || (status.is_none() && dice.chance(500));
        let longest = if dice.chance(weather.connects_slow) {
            1900
        } else {
            20
        };
        Reply {
            connect: dice.below(longest),
            there: dice.below(most + 1),
            back: dice.below(most + 1),
            status,
            is_taken,
        }
    }

    fn fate(&mut self, who: Who, now: Millis) -> Fate {
        let (fate, trouble) = self.draw_fate(who, now);
        if let Some(until) = trouble {
            self.book.holders.troubled(who, until);
        }
        fate
    }

    /// What becomes of a call, and until when it fares ill, if it does.
    fn draw_fate(&mut self, who: Who, now: Millis) -> (Fate, Option<Millis>) {
        let (weather, dice) = (self.weather, &mut self.dice);
        let patience = dice.between(1500, 5000);
        if let Some((cut, _)) = self.cuts.get(&who).filter(|(_, until)| now < *until) {
            let fate = match cut {
                Cut::Refused => Fate::Refused {
                    after: dice.below(20),
                },
                Cut::Silent => Fate::Silent { patience },
                Cut::Answers => Fate::Near {
                    before: dice.below(weather.slow_max + 1),
                    after: patience,
                    is_lost: true,
                },
            };
            return (fate, Some(now + patience));
        }
        if now < weather.stalled_until {
            let arrives = weather.stalled_until + dice.below(50);
            return (Fate::Far { arrives, patience }, Some(arrives));
        }
        let drawn = dice.below(1000);
        let mut after = dice.below(weather.slow_max + 1);
        if drawn < weather.refused {
            return (Fate::Refused { after }, Some(now));
        }
        if drawn < weather.refused + weather.far {
            let arrives = now + dice.below(weather.far_max + 1);
            return (Fate::Far { arrives, patience }, Some(arrives.max(now + patience)));
        }
        let is_late = dice.chance(weather.late);
        if is_late {
            after = dice.below(weather.far_max + 1);
        }
        let is_lost = drawn < weather.refused + weather.far + weather.lost;
        let is_ill = is_late || is_lost || weather.slow_max > CALM_MAX;
        let fate = Fate::Near {
            before: dice.below(weather.slow_max + 1),
            after,
            is_lost,
        };
        (fate, is_ill.then_some(now + after))
    }
}

/// A process's clock, and its way to the others.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) sim: Arc<Sim>,
    pub(super) who: Who,
    /// When it began, on its own monotonic clock and on everybody's.
    pub(super) began: (Instant, Millis),
}

impl Link {
    pub(super) fn now(&self) -> Millis {
        let since = self.began.0.elapsed().as_millis();
        self.began.1 + u64::try_from(since).expect("invariant: simulations are short")
    }

    /// Notes a step that is not a call.
    pub(super) fn step(&self, what: &'static str, went_well: bool) {
        let now = self.now();
        self.sim.lock().step(now, self.who, what, went_well);
    }

    /// Asks something of the store.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Tables, &mut Book) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let fate = self.sim.lock().fate(self.who, self.now());
        match fate {
            Fate::Refused { after } => {
                pause(after).await;
                Err(unavailable("refused"))
            }
            Fate::Near {
                before,
                after,
                is_lost,
            } => {
                pause(before).await;
                let answer = self.apply(what, work);
                pause(after).await;
                if is_lost { Err(unavailable("lost")) } else { answer }
            }
            Fate::Far { arrives, patience } => self.send(what, work, arrives, patience).await,
            Fate::Silent { patience } => {
                pause(patience).await;
                Err(unavailable("cut off"))
            }
        }
    }

    fn apply<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Tables, &mut Book) -> Result<T>,
    ) -> Result<T> {
        let now = self.now();
        let inner = &mut *self.sim.lock();
        inner.book.now = now;
        let answer = work(&mut inner.tables, &mut inner.book);
        inner.step(now, self.who, what, answer.is_ok());
        answer
    }

    /// What was sent arrives, whatever becomes of who sent it.
    async fn send<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Tables, &mut Book) -> Result<T> + Send + 'static,
        arrives: Millis,
        patience: Millis,
    ) -> Result<T> {
        const LOOK: Duration = Duration::from_millis(20);
        let answer = Arc::new(Mutex::new(None));
        let arrived = Arc::clone(&answer);
        let work: Work = Box::new(move |tables, book| {
            let result = work(tables, book);
            let went_well = result.is_ok();
            *arrived.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            went_well
        });
        {
            let mut inner = self.sim.lock();
            let key = (arrives, inner.stamp());
            let (who, what) = (self.who, what);
            inner.on_its_way.insert(key, OnItsWay { who, what, work });
        }
        let given_up = Instant::now() + Duration::from_millis(patience);
        pause(arrives.saturating_sub(self.now()).min(patience)).await;
        loop {
            if let Some(answer) = answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return answer;
            }
            if Instant::now() >= given_up {
                return Err(unavailable("no answer"));
            }
            sleep(LOOK).await;
        }
    }
}

pub(super) async fn pause(millis: Millis) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

pub(super) fn unavailable(why: &str) -> StoreError {
    StoreError::Unavailable(format!("{why}, as the seed says"))
}
