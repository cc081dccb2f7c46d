//! What processes do: the product's own code, and as little around it as it needs.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use qrelay_store::{
    Clock, Timestamp,
    appender::Appender,
    clock::SharedClock,
    id::{CodeId, EndpointId, EventId, OwnerId, PartitionId, Seq, TenantId, WriterId},
    journal::{Journal, JournalConfig, SimulatedDisk},
    limits::GATE_WAIT_MAX,
    model::{SecretRow, TlsClient},
    reader::{PartitionReader, end_of},
    record::{Classification, Record, ScanRecord},
    store::{Result, SharedStore},
};
use secrecy::SecretSlice;
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    process::Env,
    requests::UnderWay,
    sim::{Link, pause},
    store::ids,
    world::OTHERS,
};
use crate::{
    Config, Deps,
    exchange::{Aborted, ErrorClass, Exchanger, Failure, Fault, Outcome, Permit, Phases, Request, Stage},
    secrets::{SecretOpener, Unopened},
};

/// Pause after the store failed.
const AFTER_FAILURE: Duration = Duration::from_millis(250);
/// How long a writer that is asked to end tries to.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// How often changed heads are published.
const HEADS_PERIOD: Duration = Duration::from_millis(50);

/// A tenant, its code, the partition of both, and another one that its scans may be in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub(super) tenant: TenantId,
    pub(super) code: CodeId,
    pub(super) partition: PartitionId,
    pub(super) other: Option<PartitionId>,
}

/// Records scans until it is asked to end; then closes its writer.
pub(super) async fn write(env: Env, accounts: Vec<Account>) {
    let store: SharedStore = Arc::clone(&env.store) as SharedStore;
    let clock: SharedClock = Arc::clone(&env.clock) as SharedClock;
    let appender = loop {
        match Appender::start(Arc::clone(&store), &clock, "simulated", HEADS_PERIOD).await {
            Ok(appender) => break appender,
            Err(_) => sleep(AFTER_FAILURE).await,
        }
    };
    env.link.sim.lock().book.began(env.link.who, appender.writer());
    record_until_stopped(&env, &appender, &accounts).await;
}

/// The same with a journal: what an earlier process left in it is shipped meanwhile. As a process whose start fails, it ends
/// then.
pub(super) async fn write_journaled(env: Env, accounts: Vec<Account>, journal: JournalConfig) {
    let store: SharedStore = Arc::clone(&env.store) as SharedStore;
    let clock: SharedClock = Arc::clone(&env.clock) as SharedClock;
    let (takes, fails) = (env.link.clone(), env.link.clone());
    let disk = SimulatedDisk {
        takes: Box::new(move || Duration::from_millis(takes.sim.lock().disk_takes())),
        fails: Box::new(move || fails.sim.lock().disk_fails()),
    };
    let journal = Journal::open_simulated(journal, disk).expect("its directory is nobody else's");
    let runtime = &Handle::current();
    let started = Appender::start_journaled(runtime, store, &clock, "simulated", HEADS_PERIOD, journal);
    match started.await {
        Ok(appender) => record_until_stopped(&env, &appender, &accounts).await,
        Err(_failed) => env.link.step("not started", false),
    }
}

async fn record_until_stopped(env: &Env, appender: &Appender, accounts: &[Account]) {
    let mut waiting = JoinSet::new();
    if accounts.is_empty() {
        env.stop.cancelled().await;
    }
    while !env.stop.is_cancelled() {
        let (idle, account, count) = {
            let dice = &mut env.link.sim.lock().dice;
            let account = accounts[usize::try_from(dice.below(accounts.len() as u64)).expect("few")];
            (dice.between(1, 1500), account, dice.between(1, 3))
        };
        tokio::select! {
            biased;
            () = env.stop.cancelled() => break,
            () = pause(idle) => {}
        }
        for _ in 0..count {
            record(env, appender, account, &mut waiting);
        }
        while waiting.try_join_next().is_some() {}
    }
    if appender.close(Instant::now() + CLOSE_WAIT).await.is_ok() {
        env.link.step("closed", true);
    }
}

fn record(env: &Env, appender: &Appender, account: Account, waiting: &mut JoinSet<()>) {
    let at = env.clock.now();
    let mut partition = account.partition;
    if let Some(other) = account.other
        && env.link.sim.lock().dice.chance(500)
    {
        partition = other;
    }
    let Ok(pending) = appender.append(partition, at, &Record::Scan(scan(account, at))) else {
        return;
    };
    let (link, event) = (env.link.clone(), pending.address());
    link.sim.lock().book.took(event, account.tenant);
    waiting.spawn(async move {
        if pending.durable().await.is_ok() {
            link.step("answered", true);
            link.sim.lock().book.acknowledged(event);
        }
    });
}

fn scan(account: Account, at: Timestamp) -> ScanRecord<'static> {
    ScanRecord {
        tenant: account.tenant,
        code: account.code,
        code_version: 1,
        at,
        classification: Classification::Human,
        classification_reason: "test".into(),
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
    }
}

/// Reads a partition from where its last reader was.
pub(super) async fn read(env: Env) {
    let mut readers = JoinSet::new();
    for partition in (0..env.link.sim.partitions).map(PartitionId::new) {
        let env = env.clone();
        readers.spawn(async move { read_partition(&env, partition).await });
    }
    tokio::select! {
        biased;
        () = env.stop.cancelled() => {}
        () = async { while readers.join_next().await.is_some() {} } => {}
    }
}

async fn read_partition(env: &Env, partition: PartitionId) {
    let store: SharedStore = Arc::clone(&env.store) as SharedStore;
    let positions = env.link.sim.lock().book.positions.get(&partition).cloned();
    let mut reader = PartitionReader::new(store, partition, positions.unwrap_or_default());
    loop {
        if let Err(_failed) = read_on(env, partition, &mut reader).await {
            sleep(AFTER_FAILURE).await;
        }
        reader.changed().await;
    }
}

async fn read_on(env: &Env, partition: PartitionId, reader: &mut PartitionReader) -> Result<()> {
    reader.refresh().await?;
    loop {
        let items = reader.read(usize::MAX).await?;
        if items.is_empty() {
            return Ok(());
        }
        env.link.step("brought", true);
        env.link.sim.lock().book.brought(partition, &items);
    }
}

/// Closes writers that are known to be dead, as whoever holds their journal's lock does.
pub(super) async fn succeed(env: Env, dead: Vec<WriterId>) {
    let store: SharedStore = Arc::clone(&env.store) as SharedStore;
    for writer in dead {
        while close(&store, writer).await.is_err() {
            sleep(AFTER_FAILURE).await;
        }
    }
}

async fn close(store: &SharedStore, writer: WriterId) -> Result<()> {
    let rows = store.writers().await?;
    let Some(row) = rows
        .iter()
        .find(|row| row.writer == writer && row.closed.is_none())
    else {
        return Ok(());
    };
    let last = end_of(store, row, &OTHERS.map(|other| (other, Seq::ZERO)).into()).await?;
    store.close_writer(writer, &last).await
}

/// Delivers until it is asked to end.
pub(super) async fn deliver(env: Env, owner: OwnerId) {
    let config = Config {
        owner: Some(owner),
        exchanges_max: 16,
        ..Config::default()
    };
    let deps = Deps {
        store: Arc::clone(&env.store) as SharedStore,
        clock: Arc::clone(&env.clock) as SharedClock,
        exchanger: Exchanger::on(Arc::new(Receivers(env.link.clone()))),
        secrets: Arc::new(OneSecret),
    };
    config.build(deps).run(env.stop).await;
}

struct OneSecret;

impl SecretOpener for OneSecret {
    fn open(&self, _: TenantId, _: EndpointId, row: &SecretRow) -> Result<SecretSlice<u8>, Unopened> {
        Ok(row.sealed.clone().into())
    }

    fn open_key(&self, _: TenantId, _: EndpointId, _: &TlsClient) -> Result<SecretSlice<u8>, Unopened> {
        Err(Unopened("there is none".to_owned()))
    }
}

/// All receivers, and the network to them.
struct Receivers(Link);

/// What becomes of a request.
pub(super) struct Reply {
    pub(super) connect: u64,
    pub(super) there: u64,
    pub(super) back: u64,
    /// None for one that never comes.
    pub(super) status: Option<u16>,
    /// Whether the receiver took it, whatever it answers.
    pub(super) is_taken: bool,
}

#[async_trait]
impl Stage for Receivers {
    async fn attempt(&self, request: Request, gate: BoxFuture<'static, Permit>) -> Result<Outcome, Aborted> {
        let reply = self.0.sim.lock().reply();
        pause(reply.connect).await;
        let Ok(Permit::Go) = timeout(GATE_WAIT_MAX, gate).await else {
            return Err(Aborted);
        };
        let begun_at = Instant::now();
        self.0.step("begin", true);
        let id: EventId = request.headers["webhook-id"].to_str().unwrap().parse().unwrap();
        let event = ids().event_address(id);
        let _under_way = UnderWay::begin(&self.0, request.endpoint, event);
        pause(reply.there).await;
        if reply.is_taken {
            self.0.step("take", true);
            let book = &mut self.0.sim.lock().book;
            book.received(request.endpoint, event, &request.body);
        }
        pause(reply.back).await;
        Ok(outcome(reply.status, begun_at))
    }
}

fn outcome(status: Option<u16>, begun_at: Instant) -> Outcome {
    let class = match status {
        Some(200) => None,
        Some(_) => Some(ErrorClass::Http),
        None => Some(ErrorClass::Timeout),
    };
    Outcome {
        status,
        failure: class.map(|class| Failure {
            class,
            fault: Fault::Receiver,
            text: "as the seed says".to_owned(),
        }),
        phases: Phases::default(),
        begun_at: Some(begun_at),
        reused: false,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        response_body: Bytes::new(),
        retry_after: None,
        wish: None,
    }
}
