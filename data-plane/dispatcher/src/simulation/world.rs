//! One seed from its beginning to its end: processes that come, go, freeze and die while everything fails, then a healing,
//! after which all that was promised must come.

use std::{
    cell::Cell,
    sync::{Arc, Once},
};

use qrelay_store::{
    Timestamp,
    id::{CodeId, EndpointId, EventAddress, OwnerId, PartitionId, TenantId, WriterId},
    model::{
        Code, CodeStatus, Durability, Endpoint, Host, IpPrivacy, Ordering, RateLimit, ResourceId, ShortLink,
        Tenant, TenantStatus, UnrecordableScans,
    },
    seeded::{Dice, Ids},
    store::ConfigChange,
};

use super::{
    book::Counts,
    process::{Kind, Process},
    roles::{self, Account},
    sim::{Millis, Sim, Step, Weather, Who},
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
pub(super) const OTHERS: [PartitionId; 2] = [PartitionId::new(40), PartitionId::new(41)];
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
        };
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
            far_max: dice.between(100, 8000),
            stalled_until: 0,
            receivers_fail: dice.below(150 * rough + 1),
            receivers_slow_max: [20, 200, 1500][usize::try_from(dice.below(3)).expect("few")],
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
        let dead = &mut self.dead;
        self.processes.retain(|process| {
            let is_over = process.is_over();
            if is_over {
                dead.push(process.who);
            }
            !is_over
        });
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
            self.sim.lock().book.counts.freezes += 1;
            self.processes[at].frozen_until = Some(until);
        }
        if self.happens(rates.stops, length)
            && let Some(at) = self.pick(&all)
        {
            self.processes[at].stop();
        }
        if self.happens(rates.stalls, length) {
            let until = self.now + self.dice.between(100, 15_000);
            self.sim.lock().weather.stalled_until = until;
        }
        if self.happens(rates.jumps, length)
            && let Some(at) = self.pick(&all)
        {
            let wrong_by = self.wrong_by();
            self.processes[at].set_wrong_by(wrong_by);
        }
        self.start_some(length);
        if self.scenario == Scenario::Delivery && self.endpoints < 5 && self.happens(6, length) {
            self.endpoint();
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
            Kind::Writer => {
                let accounts = self.accounts.clone();
                Process::start(&self.sim, who, when, |env| roles::write(env, accounts))
            }
            Kind::Reader => Process::start(&self.sim, who, when, roles::read),
            Kind::Deliverer => {
                let owner = OwnerId::random();
                self.sim.lock().book.owners.insert(self.started, owner);
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

    fn dead_writers(&self) -> Vec<WriterId> {
        let is_dead = |who| self.dead.contains(&who);
        self.sim.lock().book.dead_writers(is_dead)
    }

    fn crash(&mut self, at: usize) {
        let process = self.processes.swap_remove(at);
        self.dead.push(process.who);
        self.sim.lock().book.counts.crashes += 1;
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
        inner.book.created(endpoint.id, account.tenant, account.partition);
        inner.tables.endpoints.insert(endpoint.id, Arc::new(endpoint));
    }

    // ---- The end ----

    /// Nothing fails any more; who lives ends on its own or does not, and what was promised must come.
    fn heal(&mut self) {
        if !self.is_well() {
            return;
        }
        self.sim.lock().weather = Weather {
            slow_max: 5,
            receivers_slow_max: 20,
            ..Weather::default()
        };
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
        let (mut missing, mut until) = (self.missing(), self.now + HEALED_WITHIN);
        while missing > 0 && self.now < until && self.is_well() {
            (0..10).for_each(|_| self.pass(100));
            let fewer = self.missing();
            if fewer < missing {
                (missing, until) = (fewer, self.now + HEALED_WITHIN);
            }
        }
        self.judge_missing();
        if self.is_well() {
            self.stray();
        }
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

fn a_tenant(id: TenantId, partition: PartitionId) -> Tenant {
    Tenant {
        id,
        name: "t".into(),
        status: TenantStatus::Active,
        durability: Durability::Durable,
        ip_privacy: IpPrivacy::Drop,
        partitions: vec![partition],
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
        version: 1,
        rate_limit: None,
        unrecordable_scans: UnrecordableScans::Refuse,
        retired: 0,
        settling: 0,
    }
}

fn a_code(id: CodeId, tenant: TenantId) -> Code {
    Code {
        id,
        tenant,
        link: ShortLink {
            host: Host::default(),
            short_id: "abc".into(),
        },
        name: "Poster".into(),
        destination_url: "https://example.com/".into(),
        status: CodeStatus::Active,
        tags: Vec::new(),
        campaign_id: String::new(),
        owner_id: String::new(),
        external_id: String::new(),
        metadata: serde_json::Map::new(),
        recipient: serde_json::Map::new(),
        conversion_param: String::new(),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
        version: 1,
    }
}

fn an_endpoint(account: Account) -> Endpoint {
    Endpoint {
        id: EndpointId::random(),
        tenant: account.tenant,
        home: account.partition,
        // Never given up, however long it fails.
        retry_schedule_ms: vec![300; 10_000],
        ..crate::fixture::endpoint(1)
    }
}
