//! A store on disk, a tenant with a code, receivers on loopback, and a deliverer that can be killed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use qrelay_store::{
    Timestamp,
    appender::Appender,
    checkpoint::EndpointHealth,
    clock::{SharedClock, SystemClock},
    event::EventType,
    fault::FaultStore,
    id::{CodeId, EndpointId, EventAddress, PartitionId, SecretId, Seq, TenantId, WriterId},
    model::{
        Code, CodeStatus, Durability, Endpoint, EndpointIntent, EventPattern, FailureRules, Filter, Host,
        IpPrivacy, Ordering, RateLimit, Resource, SecretRow, ShortLink, Signature, Tenant, TenantStatus,
        UnrecordableScans,
    },
    record::{Classification, Record, ScanRecord},
    sqlite::{Options, SqliteStore},
    store::{Attempts, Change, DeliveryStatus, Expected, Registry, SecretChange, SharedStore},
    target::{SystemResolver, TargetPolicy, Targets},
};
use secrecy::SecretSlice;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    Config, Deps,
    checkpoint::RunRow,
    exchange::{self, Exchanger},
    secrets::{SecretOpener, Unopened},
};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const SECRET: [u8; 24] = [7; 24];

/// Opens every secret to the same bytes.
struct OneSecret;

/// What stands for a sealed secret whose opening panics.
pub(super) const PANICS: u8 = 66;

impl SecretOpener for OneSecret {
    fn open(&self, _: TenantId, _: EndpointId, row: &SecretRow) -> Result<SecretSlice<u8>, Unopened> {
        assert!(row.sealed != [PANICS], "a bug of ours, on purpose");
        Ok(SECRET.to_vec().into())
    }

    fn open_key(
        &self,
        _: TenantId,
        _: EndpointId,
        _: &qrelay_store::model::TlsClient,
    ) -> Result<SecretSlice<u8>, Unopened> {
        Err(Unopened("there is none".to_owned()))
    }
}

/// All that a test has.
pub(super) struct World {
    pub(super) store: Arc<FaultStore>,
    sqlite: Arc<SqliteStore>,
    pub(super) appender: Appender,
    pub(super) tenant: TenantId,
    code: CodeId,
    partition: PartitionId,
    clock: SharedClock,
    running: Option<Running>,
    dir: tempfile::TempDir,
}

impl World {
    /// With one partition, a tenant and a code; nothing delivers yet.
    pub(super) async fn new() -> Self {
        Self::with_partitions(1, &[0]).await
    }

    /// The same with so many partitions; its tenant has these.
    pub(super) async fn with_partitions(count: u16, of_tenant: &[u16]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            partitions: count,
            ..Options::default()
        };
        let sqlite = SqliteStore::open(dir.path(), &options).unwrap();
        let store = FaultStore::new(Arc::clone(&sqlite) as SharedStore);
        let clock: SharedClock = Arc::new(SystemClock);
        let shared: SharedStore = Arc::clone(&store) as SharedStore;
        let appender = Appender::start(shared, &clock, "test", Duration::from_millis(50))
            .await
            .unwrap();
        let world = Self {
            appender,
            tenant: TenantId::random(),
            code: CodeId::random(),
            partition: PartitionId::new(0),
            store,
            sqlite,
            clock,
            running: None,
            dir,
        };
        let tenant = world.a_tenant(1, of_tenant);
        world.create(Resource::Tenant(tenant), None).await;
        world
            .create(
                Resource::Code(Box::new(world.a_code())),
                Some(EventType::CodeCreated),
            )
            .await;
        world
    }

    fn a_tenant(&self, version: u64, partitions: &[u16]) -> Tenant {
        let now = self.clock.now();
        Tenant {
            id: self.tenant,
            name: "t".into(),
            status: TenantStatus::Active,
            durability: Durability::Durable,
            ip_privacy: IpPrivacy::Drop,
            partitions: partitions.iter().copied().map(PartitionId::new).collect(),
            created_at: now,
            updated_at: now,
            version,
            rate_limit: None,
            unrecordable_scans: UnrecordableScans::Refuse,
            retired: 0,
            settling: 0,
        }
    }

    fn a_code(&self) -> Code {
        let now = self.clock.now();
        Code {
            id: self.code,
            tenant: self.tenant,
            link: ShortLink {
                host: Host::default(),
                short_id: "abc".into(),
            },
            name: "Poster".into(),
            destination_url: "https://example.com/".into(),
            status: CodeStatus::Active,
            tags: vec!["a".into()],
            campaign_id: String::new(),
            owner_id: String::new(),
            external_id: String::new(),
            metadata: serde_json::Map::new(),
            recipient: serde_json::Map::new(),
            conversion_param: String::new(),
            created_at: now,
            updated_at: now,
            version: 1,
        }
    }

    async fn create(&self, resource: Resource, event: Option<EventType>) {
        self.change(resource, Expected::Absent, event, SecretChange::Keep)
            .await;
    }

    async fn change(
        &self,
        resource: Resource,
        expected: Expected,
        event: Option<EventType>,
        secrets: SecretChange,
    ) {
        let change = Change {
            resource,
            expected,
            at: self.clock.now(),
            actor: "admin".into(),
            event,
            secrets,
            request: None,
            count_max: None,
        };
        self.store.change(change).await.unwrap();
    }

    /// A new endpoint that posts to `receiver`.
    pub(super) async fn endpoint(&self, receiver: &Receiver, edit: impl FnOnce(&mut Endpoint)) -> Endpoint {
        self.endpoint_with(receiver, 1, edit).await
    }

    /// The same for one that only counts.
    pub(super) async fn endpoint_of(&self, counter: &Counter, edit: impl FnOnce(&mut Endpoint)) -> Endpoint {
        self.endpoint_at(counter.url.clone(), 1, edit).await
    }

    /// The same, with this in place of its sealed secret.
    pub(super) async fn endpoint_with(
        &self,
        receiver: &Receiver,
        sealed: u8,
        edit: impl FnOnce(&mut Endpoint),
    ) -> Endpoint {
        self.endpoint_at(receiver.url.clone(), sealed, edit).await
    }

    async fn endpoint_at(&self, url: String, sealed: u8, edit: impl FnOnce(&mut Endpoint)) -> Endpoint {
        let now = self.clock.now();
        let mut endpoint = Endpoint {
            id: EndpointId::random(),
            tenant: self.tenant,
            home: self.partition,
            url,
            description: String::new(),
            events: vec![EventPattern::Exact(EventType::ScanCreated)],
            intent: EndpointIntent::Active,
            retry_schedule_ms: vec![0; 10],
            max_concurrency: 16,
            enabled_epoch: 0,
            deleted: false,
            created_at: now,
            updated_at: now,
            version: 1,
            signature: Signature::default(),
            public_key: None,
            rate_limit: None,
            failure: FailureRules::default(),
            filter: Filter::default(),
            ordering: Ordering::None,
            payload: qrelay_store::model::Payload::default(),
            tls_client: None,
            preset: String::new(),
            skip_before: None,
        };
        edit(&mut endpoint);
        let secret = SecretRow {
            id: SecretId::random(),
            endpoint: endpoint.id,
            sealed: vec![sealed],
            created_at: now,
            expires_at: None,
        };
        let resource = Resource::Endpoint(Box::new(endpoint.clone()));
        self.change(resource, Expected::Absent, None, SecretChange::Replace(secret))
            .await;
        endpoint
    }

    /// Limits the tenant.
    pub(super) async fn limit_tenant(&self, rate_limit: Option<RateLimit>) {
        let tenant = Tenant {
            rate_limit,
            ..self.a_tenant(2, &[0])
        };
        self.change_tenant(tenant).await;
    }

    /// The tenant has these partitions from now on, and this status.
    pub(super) async fn spread_tenant(&self, version: u64, partitions: &[u16], status: TenantStatus) {
        let tenant = Tenant {
            status,
            ..self.a_tenant(version, partitions)
        };
        self.change_tenant(tenant).await;
    }

    async fn change_tenant(&self, tenant: Tenant) {
        let expected = Expected::Version(tenant.version - 1);
        self.change(Resource::Tenant(tenant), expected, None, SecretChange::Keep)
            .await;
    }

    /// Changes an endpoint.
    pub(super) async fn edit(&self, endpoint: &mut Endpoint, edit: impl FnOnce(&mut Endpoint)) {
        edit(endpoint);
        endpoint.version += 1;
        let resource = Resource::Endpoint(Box::new(endpoint.clone()));
        let expected = Expected::Version(endpoint.version - 1);
        self.change(resource, expected, None, SecretChange::Keep).await;
    }

    /// The process that records scans ends, and its successor begins.
    pub(super) async fn restart_recording(&mut self) {
        self.appender.close(Instant::now() + PATIENCE).await.unwrap();
        let shared: SharedStore = Arc::clone(&self.store) as SharedStore;
        let cadence = Duration::from_millis(50);
        self.appender = Appender::start(shared, &self.clock, "test", cadence)
            .await
            .unwrap();
    }

    /// Retention takes all that is there.
    pub(super) async fn expire_all(&self) {
        // What was recorded in this very millisecond is not older than it.
        let recorded = self.clock.now();
        until("the clock has moved on", async || self.clock.now() > recorded).await;
        self.sqlite.expire(Duration::ZERO).await.unwrap();
    }

    /// Renames the code, which makes an event.
    pub(super) async fn rename_code(&self, version: u64) {
        self.change_code(version, |code| code.name = format!("Poster {version}"))
            .await;
    }

    /// Changes the code, which makes an event.
    pub(super) async fn change_code(&self, version: u64, edit: impl FnOnce(&mut Code)) {
        let mut code = self.a_code();
        code.version = version + 1;
        edit(&mut code);
        let resource = Resource::Code(Box::new(code));
        let expected = Expected::Version(version);
        self.change(
            resource,
            expected,
            Some(EventType::CodeUpdated),
            SecretChange::Keep,
        )
        .await;
    }

    /// Records scans, durably; their ids.
    pub(super) async fn scan(&self, count: usize) -> Vec<String> {
        self.scan_at_version(count, 1).await
    }

    /// The same of a version of the code.
    pub(super) async fn scan_at_version(&self, count: usize, version: u64) -> Vec<String> {
        self.scan_in(self.partition, count, version).await
    }

    /// The same in a partition.
    pub(super) async fn scan_in(&self, partition: PartitionId, count: usize, version: u64) -> Vec<String> {
        use qrelay_store::store::{Log, Store};
        let mut pending = Vec::new();
        for _ in 0..count {
            let at = self.clock.now();
            let scan = Record::Scan(a_scan(self.tenant, self.code, version, at));
            let begun = Instant::now();
            // A disk that is slow for a moment refuses, and is late.
            pending.push(loop {
                match self.appender.append(partition, at, &scan) {
                    Ok(pending) => break pending,
                    Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            });
        }
        let mut ids = Vec::new();
        for pending in pending {
            let address: EventAddress = pending.address();
            if pending.durable().await.is_err() {
                let EventAddress { writer, seq, .. } = address;
                until("it is durable", async || {
                    let batch = self.store.batch(partition, writer, seq).await.unwrap();
                    batch.is_some()
                })
                .await;
            }
            ids.push(self.store.install().ids.event_id(address).to_string());
        }
        ids
    }

    /// Starts delivering.
    pub(super) fn start(&mut self) {
        self.start_with(Config::default());
    }

    pub(super) fn start_with(&mut self, config: Config) {
        self.running = Some(Running::start(self, Arc::clone(&self.store), config));
    }

    /// Stops as a process that ends on its own does.
    pub(super) async fn stop(&mut self) {
        self.running.take().expect("not started").stop().await;
    }

    /// Stops as a process that is killed does: nothing is saved any more.
    pub(super) async fn kill(&mut self) {
        self.running.take().expect("not started").kill().await;
    }

    /// The endpoint's health, as it is saved.
    pub(super) async fn health(&self, endpoint: EndpointId) -> EndpointHealth {
        use qrelay_store::{checkpoint::RowKey, store::Leases};
        let row = self
            .store
            .checkpoint_row(self.partition, &RowKey::health(endpoint))
            .await
            .unwrap();
        row.map(|row| serde_json::from_str(&row).unwrap())
            .unwrap_or_default()
    }

    /// The kinds of rows that the checkpoint has, with how many of each.
    pub(super) async fn rows(&self) -> BTreeMap<&'static str, usize> {
        use qrelay_store::store::Leases;
        let (_, rows) = self.store.checkpoint(self.partition).await.unwrap();
        let mut count = BTreeMap::new();
        for key in rows.keys() {
            *count.entry(key.kind.as_str()).or_default() += 1;
        }
        count
    }

    /// The shared run of a partition, as it is saved.
    pub(super) async fn shared_run(&self, partition: PartitionId) -> RunRow {
        use qrelay_store::{checkpoint::Follows, store::Leases};
        let row = self
            .store
            .checkpoint_row(partition, &Follows::key())
            .await
            .unwrap();
        row.map(|row| serde_json::from_str(&row).unwrap())
            .unwrap_or_default()
    }

    /// How many batches of it were recorded.
    pub(super) async fn last_batch(&self, partition: PartitionId) -> (WriterId, Seq) {
        use qrelay_store::store::Log;
        let writer = self.appender.writer();
        (
            writer,
            self.store.tail(partition, writer, Seq::ZERO).await.unwrap(),
        )
    }

    /// Deliveries that the checkpoint counts as succeeded.
    pub(super) async fn saved_deliveries(&self) -> u64 {
        use qrelay_store::{
            checkpoint::{RowKind, UsageCounts},
            store::Leases,
        };
        let (_, rows) = self.store.checkpoint(self.partition).await.unwrap();
        let usage = rows.iter().filter(|(key, _)| key.kind == RowKind::Usage);
        usage
            .map(|(_, row)| serde_json::from_str::<UsageCounts>(row).unwrap().deliveries)
            .sum()
    }

    /// Fails when a saved chunk still names a delivery.
    pub(super) async fn nothing_is_outstanding(&self) {
        let rows = self.rows().await;
        assert!(!rows.contains_key("chunk"), "something is outstanding: {rows:?}");
    }

    /// What the checkpoint's rows take, in bytes.
    pub(super) async fn checkpoint_bytes(&self) -> usize {
        use qrelay_store::store::Leases;
        let (_, rows) = self.store.checkpoint(self.partition).await.unwrap();
        rows.iter().map(|(key, row)| key.id.len() + row.len()).sum()
    }

    /// How many rows each table of the database has, but for the log's own.
    pub(super) fn table_rows(&self) -> BTreeMap<String, i64> {
        use rusqlite::{Connection, OpenFlags};
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let main = Connection::open_with_flags(self.dir.path().join("main.db"), flags).unwrap();
        let mut tables = main
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            .unwrap();
        let names = tables.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let count = |name: String| {
            let rows = main.query_row(&format!("SELECT count(*) FROM \"{name}\""), [], |row| row.get(0));
            (name, rows.unwrap())
        };
        names.map(|name| count(name.unwrap())).collect()
    }

    /// How many attempts of an endpoint stand in the attempt log.
    pub(super) fn attempt_rows(&self, endpoint: EndpointId) -> i64 {
        use rusqlite::{Connection, OpenFlags};
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let main = Connection::open_with_flags(self.dir.path().join("main.db"), flags).unwrap();
        let count = "SELECT count(*) FROM attempt WHERE endpoint = ?";
        main.query_row(count, [endpoint.to_string()], |row| row.get(0))
            .unwrap()
    }

    pub(super) fn partition(&self) -> PartitionId {
        self.partition
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A scan of the code.
    pub(super) fn a_scan_at(&self, at: Timestamp) -> ScanRecord<'static> {
        a_scan(self.tenant, self.code, 1, at)
    }
}

/// A deliverer.
pub(super) struct Running {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    pub(super) fn start(world: &World, store: Arc<FaultStore>, config: Config) -> Self {
        let policy = TargetPolicy::new(vec!["127.0.0.0/8".parse().unwrap()], Vec::new());
        let targets = Targets::new(policy, Arc::new(SystemResolver::from_system()));
        let deps = Deps {
            store: store as SharedStore,
            clock: Arc::clone(&world.clock),
            exchanger: Exchanger::new(exchange::Config::default(), targets).unwrap(),
            secrets: Arc::new(OneSecret),
        };
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(config.build(deps).run(stop.clone()));
        Self { stop, tasks }
    }

    pub(super) async fn stop(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }

    pub(super) async fn kill(&mut self) {
        self.tasks.shutdown().await;
    }
}

fn a_scan(tenant: TenantId, code: CodeId, code_version: u64, at: Timestamp) -> ScanRecord<'static> {
    ScanRecord {
        tenant,
        code,
        code_version,
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

impl World {
    /// Waits until the endpoint's backlog is told as so many events.
    pub(super) async fn told_a_backlog_of(&self, endpoint: EndpointId, events: u64) {
        until("its backlog is told", async || {
            let backlog = self.health(endpoint).await.backlog;
            backlog.is_some_and(|backlog| backlog.events == events)
        })
        .await;
    }

    /// Waits until the endpoint's delivery log says what retention took from it.
    pub(super) async fn told_of_retention(&self, endpoint: EndpointId) {
        until("what is gone is told", async || {
            let rows = self.store.deliveries(endpoint, None, 10).await.unwrap();
            rows.iter().any(|row| {
                row.last.status == DeliveryStatus::GivenUp
                    && row.last.number == 0
                    && row.last.error.starts_with("retention")
            })
        })
        .await;
    }
}

/// Waits until it is so.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, is_so: impl FnMut() -> F) {
    until_within(PATIENCE, what, is_so).await;
}

/// The same with more patience.
pub(super) async fn until_within<F: Future<Output = bool>>(
    patience: Duration,
    what: &str,
    mut is_so: impl FnMut() -> F,
) {
    let deadline = Instant::now() + patience;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub(super) struct Hook {
    pub(super) at: Instant,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

impl Hook {
    pub(super) fn id(&self) -> String {
        self.headers["webhook-id"].clone()
    }
}

/// A receiver on loopback.
pub(super) struct Receiver {
    pub(super) url: String,
    hooks: Arc<Mutex<Vec<Hook>>>,
    /// Whether it answers; while it does not, requests wait for their answers.
    answers: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

/// What a receiver does with its `n`-th request (from 0): a status line and headers, or silence.
pub(super) type Script = dyn Fn(usize) -> Option<&'static str> + Send + Sync;

pub(super) const OK: &str = "200 OK";

impl Receiver {
    pub(super) async fn new(script: impl Fn(usize) -> Option<&'static str> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let hooks: Arc<Mutex<Vec<Hook>>> = Arc::default();
        let (heard, script): (_, Arc<Script>) = (Arc::clone(&hooks), Arc::new(script));
        let answers = watch::Sender::new(true);
        let may_answer = answers.subscribe();
        let mut set = JoinSet::new();
        let task = tokio_util::task::TaskTracker::new().spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let script = (Arc::clone(&script), may_answer.clone());
                set.spawn(serve(tcp, Arc::clone(&heard), script));
            }
        });
        Self {
            url,
            hooks,
            answers,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Lets requests wait for their answers, or no longer.
    pub(super) fn hold(&self, held: bool) {
        self.answers.send_replace(!held);
    }

    /// One that always answers 200.
    pub(super) async fn ok() -> Self {
        Self::new(|_| Some(OK)).await
    }

    /// All requests so far.
    pub(super) fn hooks(&self) -> Vec<Hook> {
        self.hooks.lock().unwrap().clone()
    }

    /// The ids of all requests so far.
    pub(super) fn ids(&self) -> Vec<String> {
        self.hooks().iter().map(Hook::id).collect()
    }

    /// Waits until each of these ids came.
    pub(super) async fn heard(&self, ids: &[String]) {
        until("every webhook came", async || {
            let heard: std::collections::HashSet<_> = self.ids().into_iter().collect();
            ids.iter().all(|id| heard.contains(id))
        })
        .await;
    }

    /// Waits until so many requests came.
    pub(super) async fn heard_count(&self, count: usize) {
        until("enough webhooks came", async || self.hooks().len() >= count).await;
    }
}

/// A receiver that answers 200 and keeps nothing of a webhook but its id's number of times: for many.
pub(super) struct Counter {
    pub(super) url: String,
    counts: Arc<Mutex<HashMap<String, u32>>>,
    _task: AbortOnDropHandle<()>,
}

impl Counter {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let counts: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
        let heard = Arc::clone(&counts);
        let mut set = JoinSet::new();
        let task = tokio_util::task::TaskTracker::new().spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let heard = Arc::clone(&heard);
                set.spawn(async move {
                    let mut tcp = BufReader::new(tcp);
                    while let Some(hook) = read(&mut tcp).await {
                        *heard.lock().unwrap().entry(hook.id()).or_default() += 1;
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        if tcp.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            url,
            counts,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// How many different events came.
    pub(super) fn distinct(&self) -> usize {
        self.counts.lock().unwrap().len()
    }

    /// How many came more than once.
    pub(super) fn repeated(&self) -> usize {
        let counts = self.counts.lock().unwrap();
        counts.values().filter(|count| **count > 1).count()
    }
}

async fn serve(
    tcp: TcpStream,
    hooks: Arc<Mutex<Vec<Hook>>>,
    (script, mut may_answer): (Arc<Script>, watch::Receiver<bool>),
) {
    let mut tcp = BufReader::new(tcp);
    while let Some(hook) = read(&mut tcp).await {
        let number = {
            let mut hooks = hooks.lock().unwrap();
            hooks.push(hook);
            hooks.len() - 1
        };
        if may_answer.wait_for(|may| *may).await.is_err() {
            return;
        }
        let Some(head) = script(number) else {
            // A black hole: keeps the connection and says nothing.
            let mut rest = [0; 64];
            while matches!(tcp.read(&mut rest).await, Ok(read) if read > 0) {}
            return;
        };
        let response = format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n");
        if tcp.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(tcp: &mut BufReader<TcpStream>) -> Option<Hook> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let headers: HashMap<String, String> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    tcp.read_exact(&mut body).await.ok()?;
    Some(Hook {
        at: Instant::now(),
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}
