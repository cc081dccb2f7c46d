//! One seed from its beginning to its end: processes that come, go, freeze and die while everything fails, then a healing,
//! after which all that was promised must come.

use std::{
    cell::Cell,
    sync::{Arc, Once},
};

use qrelay_store::{
    Timestamp,
    id::{CodeId, EndpointId, EventAddress, OwnerId, PartitionId, Seq, TenantId, WriterId},
    limits::GAP_AFTER,
    model::{Ordering, RateLimit, ResourceId},
    seeded::{Dice, Ids},
    store::ConfigChange,
};

use super::{
    book::Counts,
    edges::Edge,
    process::{Kind, Process},
    roles::{self, Account},
    rows::{a_code, a_tenant, an_endpoint},
    sim::{Cut, Millis, Sim, Step, Weather, Who},
    tables::Key,
};

/// What a simulation is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scenario {
    /// Writers, and readers of the log.
    Log,
    /// Writers, and deliverers.
    Delivery,
}

impl Scenario {
    /// Deliverers lease one partition: their owners of several wait for the same word, and tokio lets them run in an order
    /// of its own. Their tenants have another one each beside it, which the owner follows ([`OTHERS`]).
    const fn partitions(self) -> u16 {
        match self {
            Self::Log => 2,
            Self::Delivery => 1,
        }
    }
}

/// How a seed went.
pub(super) struct Run {
    pub(super) trace: u64,
    pub(super) steps: Vec<Step>,
    pub(super) violations: Vec<String>,
    pub(super) counts: Counts,
}

/// The other partitions of deliverers' tenants; nobody leases them.
pub(super) const OTHERS: [PartitionId; 2] = [PartitionId::new(1), PartitionId::new(2)];
/// The first partition behind them.
pub(super) const OTHERS_END: u16 = 3;
/// After the healing the next of what was promised comes within so long: a lease is taken over, a writer is found silent,
/// and what was tried and failed is tried again.
const HEALED_WITHIN: Millis = 90_000;
/// Wall clocks are wrong by at most so much.
const WRONG_BY_MAX: i64 = 3_600_000;
/// By so much the last deliverers' clocks are ahead of all others, so that nothing that was saved is due later.
const AHEAD: i64 = 3 * WRONG_BY_MAX;

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Counts panics on their threads: tasks and their keepers hide them.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with(|panics| panics.set(panics.get() + 1));
            before(info);
        }));
    });
    PANICS.set(0);
}

/// Runs a seed.
pub(super) fn run(scenario: Scenario, seed: u64) -> Run {
    count_panics();
    let _ids = Ids::of(seed);
    let mut world = World::new(scenario, seed);
    world.storm();
    world.heal();
    world.end()
}

struct World {
    scenario: Scenario,
    sim: Arc<Sim>,
    /// What happens to whom; calls have the shared dice.
    dice: Dice,
    now: Millis,
    processes: Vec<Process>,
    started: Who,
    dead: Vec<Who>,
    accounts: Vec<Account>,
    endpoints: usize,
    edges: Vec<Edge>,
    /// Batches that are not found until then.
    hidden: Vec<(Millis, Key)>,
    /// How rough it is: of each thing, so many a minute.
    rates: Rates,
}

#[derive(Clone, Copy, Debug)]
struct Rates {
    crashes: u64,
    freezes: u64,
    stops: u64,
    stalls: u64,
    jumps: u64,
    starts: u64,
    gossip: u64,
    cuts: u64,
    holes: u64,
    lies: u64,
    /// Of a thousand holes so many stay.
    losses: u64,
}

impl World {
    fn new(scenario: Scenario, seed: u64) -> Self {
        let mut dice = Dice::new(!seed);
        let rates = Rates {
            crashes: dice.below(9),
            freezes: dice.below(9),
            stops: dice.below(5),
            stalls: dice.below(4),
            jumps: dice.below(4),
            starts: dice.between(6, 60),
            gossip: dice.below(1000),
            cuts: dice.below(7),
            holes: dice.below(9),
            lies: dice.below(9),
            losses: if dice.chance(150) { 300 } else { 0 },
        };
        let edges = (0..dice.below(3)).map(|_| Edge::new(&mut dice)).collect();
        let mut world = Self {
            scenario,
            sim: Sim::new(seed, scenario.partitions()),
            dice,
            now: 0,
            processes: Vec::new(),
            started: 0,
            dead: Vec::new(),
            accounts: Vec::new(),
            endpoints: 0,
            edges,
            hidden: Vec::new(),
            rates,
        };
        world.sim.lock().weather = world.weather();
        for at in 0..2 {
            world.account(PartitionId::new(at % scenario.partitions()));
        }
        if scenario == Scenario::Delivery {
            (0..2).for_each(|_| world.endpoint());
        }
        world
    }

    fn weather(&mut self) -> Weather {
        let dice = &mut self.dice;
        let rough = dice.below(4);
        Weather {
            slow_max: [2, 5, 20, 100][usize::try_from(dice.below(4)).expect("few")],
            refused: dice.below(30 * rough + 1),
            lost: dice.below(30 * rough + 1),
            far: dice.below(30 * rough + 1),
            late: dice.below(30 * rough + 1),
            far_max: dice.between(100, 8000),
            stalled_until: 0,
            receivers_fail: dice.below(150 * rough + 1),
            receivers_slow_max: [20, 200, 2300][usize::try_from(dice.below(3)).expect("few")],
            connects_slow: [0, 100, 400][usize::try_from(dice.below(3)).expect("few")],
            disks_fail: dice.below(30 * rough + 1),
        }
    }

    /// Whether something that happens so many times a minute happens within so long.
    fn happens(&mut self, a_minute: u64, length: Millis) -> bool {
        self.dice.below(60_000) < a_minute * length
    }

    fn pick(&mut self, among: &[usize]) -> Option<usize> {
        let at = self.dice.below(among.len() as u64);
        among.get(usize::try_from(at).expect("few")).copied()
    }

    // ---- Time ----

    /// Everything goes wrong.
    fn storm(&mut self) {
        let end = self.dice.between(15_000, 45_000);
        while self.now < end && self.is_well() {
            // Mostly long steps, and now and then a second of short ones, which lets calls of all processes mix.
            let short = self.dice.below(30) == 0;
            let (steps, longest) = if short { (100, 10) } else { (1, 150) };
            for _ in 0..steps {
                let length = self.dice.between(1, longest);
                self.act(length);
                self.pass(length);
            }
        }
    }

    fn is_well(&self) -> bool {
        self.sim.lock().book.violations.is_empty() && PANICS.get() == 0
    }

    /// Lets time pass for all processes, in an order that the seed says.
    fn pass(&mut self, length: Millis) {
        let (from, until) = (self.now, self.now + length);
        for last in (1..self.processes.len()).rev() {
            let other = usize::try_from(self.dice.below(last as u64 + 1)).expect("few");
            self.processes.swap(last, other);
        }
        for process in &mut self.processes {
            self.sim.deliver(from);
            process.run(from, until);
        }
        self.now = until;
        self.sim.deliver(until);
        self.gossip();
        self.reveal();
        let (over, going_on) = std::mem::take(&mut self.processes)
            .into_iter()
            .partition(Process::is_over);
        self.processes = going_on;
        for process in over {
            self.left(process.who);
        }
    }

    /// A process is no more.
    fn left(&mut self, who: Who) {
        self.dead.push(who);
        self.sim.lock().cuts.remove(&who);
        for edge in self.edges.iter_mut().filter(|edge| edge.process == Some(who)) {
            edge.process = None;
        }
    }

    /// Processes tell each other what they know, and sometimes do not.
    fn gossip(&mut self) {
        for at in 0..self.processes.len() {
            let process = &mut self.processes[at];
            let (told, tidings) = process.hints.said_since(process.told, 100);
            process.told = told;
            if tidings.is_empty() {
                continue;
            }
            for other in 0..self.processes.len() {
                let is_there = self.processes[other].frozen_until.is_none();
                if other != at && is_there && self.dice.chance(self.rates.gossip) {
                    drop(self.processes[other].hints.learn(&tidings));
                }
            }
        }
    }

    // ---- What happens ----

    fn act(&mut self, length: Millis) {
        let rates = self.rates;
        let all: Vec<_> = (0..self.processes.len()).collect();
        if self.happens(rates.crashes, length)
            && let Some(at) = self.pick(&all)
        {
            self.crash(at);
            return;
        }
        if self.happens(rates.freezes, length)
            && let Some(at) = self.pick(&all)
        {
            let longest = if self.dice.chance(500) { 30_000 } else { 3000 };
            let until = self.now + self.dice.between(10, longest);
            let process = &mut self.processes[at];
            self.sim.lock().book.froze(process.who, until);
            process.frozen_until = Some(until);
        }
        if self.happens(rates.cuts, length)
            && let Some(at) = self.pick(&all)
        {
            self.cut(at);
        }
        if self.happens(rates.stops, length)
            && let Some(at) = self.pick(&all)
        {
            self.processes[at].stop();
        }
        if self.happens(rates.stalls, length) {
            let inner = &mut *self.sim.lock();
            let until = self.now + self.dice.between(100, 15_000);
            inner.weather.stalled_until = until.max(inner.weather.stalled_until);
            inner.book.holders.stalled(self.now, until);
        }
        if self.happens(rates.jumps, length)
            && let Some(at) = self.pick(&all)
        {
            let wrong_by = self.wrong_by();
            self.processes[at].set_wrong_by(wrong_by);
        }
        self.start_some(length);
        if self.scenario == Scenario::Log && self.happens(rates.holes, length) {
            self.hide();
        }
        if self.scenario == Scenario::Log && self.happens(rates.lies, length) {
            self.lie();
        }
        if self.scenario == Scenario::Delivery && self.endpoints < 5 && self.happens(6, length) {
            self.endpoint();
        }
    }

    /// Cuts a process off from the store, and nobody else.
    fn cut(&mut self, at: usize) {
        let cut =
            [Cut::Refused, Cut::Silent, Cut::Answers][usize::try_from(self.dice.below(3)).expect("few")];
        let until = self.now + self.dice.between(500, 25_000);
        let inner = &mut *self.sim.lock();
        inner.book.counts.cuts += 1;
        inner.cuts.insert(self.processes[at].who, (cut, until));
    }

    /// A batch that a published head covers, and that no reader brought, is not found for a while, or for ever.
    fn hide(&mut self) {
        let inner = &mut *self.sim.lock();
        let (tables, book) = (&mut inner.tables, &mut inner.book);
        let read = |(partition, writer, _): &Key| {
            let at = book.positions.get(partition);
            at.and_then(|at| at.get(writer).copied()).unwrap_or(Seq::ZERO)
        };
        let unread: Vec<Key> = tables
            .log
            .keys()
            .filter(|key| key.2 <= tables.head(key.1, key.0) && key.2 > read(key))
            .copied()
            .collect();
        let at = usize::try_from(self.dice.below(unread.len() as u64)).expect("few");
        let Some(key) = unread.get(at).copied() else {
            return;
        };
        tables.hidden.insert(key);
        if self.dice.chance(self.rates.losses) {
            book.lost.insert(key, self.now);
        } else {
            self.hidden.push((self.now + self.dice.between(300, 10_000), key));
        }
    }

    fn reveal(&mut self) {
        let now = self.now;
        let (over, hidden) = std::mem::take(&mut self.hidden)
            .into_iter()
            .partition::<Vec<_>, _>(|(until, _)| *until <= now);
        self.hidden = hidden;
        if !over.is_empty() {
            let inner = &mut *self.sim.lock();
            let lost = &inner.book.lost;
            let found: Vec<Key> = over.into_iter().map(|(_, key)| key).collect();
            for key in found.iter().filter(|key| !lost.contains_key(key)) {
                inner.tables.hidden.remove(key);
            }
        }
    }

    /// Somebody tells a reader of batches that are not there.
    fn lie(&mut self) {
        let is_reader = |process: &&Process| process.kind == Kind::Reader;
        let Some(reader) = self.processes.iter().find(is_reader) else {
            return;
        };
        let inner = self.sim.lock();
        let known: Vec<Key> = inner.tables.log.keys().copied().collect();
        let at = usize::try_from(self.dice.below(known.len() as u64)).expect("few");
        if let Some((partition, writer, _)) = known.get(at).copied() {
            let end = inner.tables.end(partition, writer, Seq::ZERO);
            let told = Seq::new(end.as_u64() + self.dice.between(1, 3));
            reader.hints.partition(partition).publish_head(writer, told);
        }
    }

    fn wrong_by(&mut self) -> i64 {
        let drawn = i64::try_from(self.dice.below(2 * WRONG_BY_MAX.unsigned_abs())).expect("small");
        drawn - WRONG_BY_MAX
    }

    fn start_some(&mut self, length: Millis) {
        let consumer = match self.scenario {
            Scenario::Log => Kind::Reader,
            Scenario::Delivery => Kind::Deliverer,
        };
        for (kind, most) in [(Kind::Writer, 3), (consumer, 3), (Kind::Successor, 1)] {
            // There is one reader at a time, as there is one owner of a lease.
            let most = if kind == Kind::Reader { 1 } else { most };
            let there = self
                .processes
                .iter()
                .filter(|process| process.kind == kind)
                .count();
            let rate = if there == 0 { 60 } else { self.rates.starts };
            if there < most && self.happens(rate, length) {
                self.start(kind, 0);
            }
        }
    }

    fn start(&mut self, kind: Kind, ahead: i64) {
        self.started += 1;
        let wrong_by = if self.dice.chance(300) { self.wrong_by() } else { 0 };
        let (who, when) = ((self.started, kind), (self.now, wrong_by + ahead));
        let process = match kind {
            Kind::Writer => self.start_writer(who, when, self.accounts.clone()),
            Kind::Reader => Process::start(&self.sim, who, when, roles::read),
            Kind::Deliverer => {
                let owner = OwnerId::random();
                Process::start(&self.sim, who, when, |env| roles::deliver(env, owner))
            }
            Kind::Successor => {
                let dead = self.dead_writers();
                if dead.is_empty() {
                    return;
                }
                Process::start(&self.sim, who, when, |env| roles::succeed(env, dead))
            }
        };
        self.processes.push(process);
    }

    /// A writer, in the first directory that is nobody's, or without one.
    fn start_writer(&mut self, who: (Who, Kind), when: (Millis, i64), accounts: Vec<Account>) -> Process {
        let edge = self.edges.iter_mut().find(|edge| edge.process.is_none());
        let Some(edge) = edge.filter(|_| accounts.is_empty() || self.dice.chance(700)) else {
            return Process::start(&self.sim, who, when, |env| roles::write(env, accounts));
        };
        edge.process = Some(who.0);
        let journal = edge.journal();
        Process::start(&self.sim, who, when, |env| {
            roles::write_journaled(env, accounts, journal)
        })
    }

    /// Where a journal is nobody's, a process that records nothing ships what was left there.
    fn ship_journals(&mut self) {
        while self.edges.iter().any(|edge| edge.process.is_none()) {
            self.started += 1;
            let (who, when) = ((self.started, Kind::Writer), (self.now, 0));
            let process = self.start_writer(who, when, Vec::new());
            self.processes.push(process);
        }
    }

    fn dead_writers(&self) -> Vec<WriterId> {
        let is_dead = |who| self.dead.contains(&who);
        self.sim.lock().book.dead_writers(is_dead)
    }

    fn crash(&mut self, at: usize) {
        let who = self.processes.swap_remove(at).who;
        self.sim.lock().book.counts.crashes += 1;
        let dice = &mut self.dice;
        let edges = self.edges.iter_mut().filter(|edge| edge.process == Some(who));
        edges.for_each(|edge| edge.crashed(dice));
        self.left(who);
    }

    // ---- The registry ----

    fn account(&mut self, partition: PartitionId) {
        let (tenant, code) = (TenantId::random(), CodeId::random());
        let inner = &mut *self.sim.lock();
        let mut row = a_tenant(tenant, partition);
        if self.scenario == Scenario::Delivery {
            row.partitions.push(OTHERS[self.accounts.len()]);
            inner.tables.announce(ConfigChange {
                resource: ResourceId::Tenant(tenant),
                tenant,
                version: 1,
                at: Timestamp::EPOCH,
                actor: "admin".into(),
                event: None,
                health: None,
            });
        }
        let other = row.partitions.get(1).copied();
        inner.tables.tenants.insert(tenant, Arc::new(row));
        inner
            .tables
            .codes
            .insert((code, 1), Arc::new(a_code(code, tenant)));
        self.accounts.push(Account {
            tenant,
            code,
            partition,
            other,
        });
    }

    /// Creates an endpoint: done and answered at once.
    fn endpoint(&mut self) {
        // The last account has none at first: its other partition is passed, until one comes.
        let among = if self.endpoints < 2 {
            1
        } else {
            self.accounts.len() as u64
        };
        let at = self.dice.below(among);
        let account = self.accounts[usize::try_from(at).expect("few")];
        let mut endpoint = an_endpoint(account);
        endpoint.max_concurrency = u32::try_from(self.dice.between(1, 8)).expect("few");
        if self.dice.chance(250) {
            endpoint.ordering = Ordering::PerCode;
        }
        if self.dice.chance(250) {
            endpoint.rate_limit = Some(RateLimit {
                per_second: 2.0,
                burst: 2,
            });
        }
        self.endpoints += 1;
        let inner = &mut *self.sim.lock();
        inner.tables.announce(ConfigChange {
            resource: ResourceId::Endpoint(endpoint.id),
            tenant: account.tenant,
            version: 1,
            at: Timestamp::EPOCH,
            actor: "admin".into(),
            event: None,
            health: None,
        });
        inner.book.created(&endpoint);
        inner.tables.endpoints.insert(endpoint.id, Arc::new(endpoint));
    }

    // ---- The end ----

    /// Nothing fails any more; who lives ends on its own or does not, and what was promised must come.
    fn heal(&mut self) {
        if !self.is_well() {
            return;
        }
        self.clear_up();
        for at in (0..self.processes.len()).rev() {
            let process = &mut self.processes[at];
            process.frozen_until = process.frozen_until.map(|thaws| thaws.min(self.now));
            // There is one reader at a time.
            if self.processes[at].kind == Kind::Reader || self.dice.chance(500) {
                self.crash(at);
            } else {
                self.processes[at].stop();
            }
        }
        match self.scenario {
            Scenario::Log => self.start(Kind::Reader, 0),
            Scenario::Delivery => self.start(Kind::Deliverer, AHEAD),
        }
        let within = self.healed_within();
        let (mut missing, mut until) = (self.missing(), self.now + within);
        while missing > 0 && self.now < until && self.is_well() {
            self.ship_journals();
            (0..10).for_each(|_| self.pass(100));
            let fewer = self.missing();
            if fewer < missing {
                (missing, until) = (fewer, self.now + within);
            }
        }
        self.judge_missing();
        if self.is_well() {
            self.stray();
        }
    }

    fn clear_up(&mut self) {
        {
            let inner = &mut *self.sim.lock();
            inner.weather = Weather {
                slow_max: 5,
                receivers_slow_max: 20,
                ..Weather::default()
            };
            inner.cuts.clear();
            inner.book.holders.healed(self.now);
        }
        let now = self.now;
        self.hidden.iter_mut().for_each(|(until, _)| *until = now);
        self.reveal();
    }

    /// What the store has lost is waited for, one after the other.
    fn healed_within(&self) -> Millis {
        let lost = self.sim.lock().book.lost.len() as u64;
        HEALED_WITHIN + lost * Millis::try_from(GAP_AFTER.as_millis()).expect("minutes")
    }

    fn missing(&self) -> usize {
        let book = &self.sim.lock().book;
        match self.scenario {
            Scenario::Log => book.unread().len(),
            Scenario::Delivery => book.undelivered().len(),
        }
    }

    fn judge_missing(&self) {
        let book = &mut self.sim.lock().book;
        let missing: Vec<String> = match self.scenario {
            Scenario::Log => book
                .unread()
                .iter()
                .map(|event| format!("{event:?} never came"))
                .collect(),
            Scenario::Delivery => {
                let missing = book.undelivered();
                let tell = |(endpoint, event): &(EndpointId, EventAddress)| {
                    format!("{event:?} never came to {endpoint}")
                };
                missing.iter().map(tell).collect()
            }
        };
        book.violations.extend(missing);
    }

    /// What stands in the log past the end of a closed writer is ignored.
    fn stray(&mut self) {
        let writers = self.processes.iter().filter(|it| it.kind == Kind::Writer);
        writers.for_each(Process::stop);
        while self.processes.iter().any(|process| process.kind == Kind::Writer) {
            self.pass(100);
        }
        // What was on its way when its writer died has arrived.
        while self.sim.lock().is_anything_on_its_way() {
            self.pass(100);
        }
        self.start(Kind::Successor, 0);
        while self
            .processes
            .iter()
            .any(|process| process.kind == Kind::Successor)
        {
            self.pass(100);
        }
        // Who reads has seen by then that they are closed.
        (0..30).for_each(|_| self.pass(100));
        let mut strays = self.sim.lock().stray();
        strays.retain(|event| !self.sim.lock().book.came(*event));
        (0..50).for_each(|_| self.pass(100));
        let book = &mut self.sim.lock().book;
        for event in strays {
            if book.came(event) {
                let violation = format!("{event:?} came, which stands past the end of its writer");
                book.violations.push(violation);
            }
        }
    }

    fn end(self) -> Run {
        let (trace, steps) = self.sim.trace();
        let book = &mut self.sim.lock().book;
        let mut violations = std::mem::take(&mut book.violations);
        if PANICS.get() > 0 {
            violations.push(format!("{} panics", PANICS.get()));
        }
        Run {
            trace,
            steps,
            violations,
            counts: book.counts,
        }
    }
}
