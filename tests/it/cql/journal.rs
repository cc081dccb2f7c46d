//! An edge of a cluster with a journal, whose way to the cluster is cut: redirects go on, and every answered scan is
//! delivered or counted once it is back, whatever became of the edge in between.
//!
//! The edge reaches the node through a proxy, which nobody else does. A driver takes the address of a node from what that
//! announces, and the port from where it was told to begin: so the proxy is another port of the node's address.

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use qrelay_loadtest::connection::Connection;
use qrelay_store::conformance::Fixture as _;
use qrelay_tests::{
    PATIENCE,
    api::Api,
    cql, http,
    proxy::{Fault, Proxies, Way},
    server::{Server, Setup},
    wait_within,
};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    Cluster,
    roles::World,
    up::{Stage, delivered, scan},
};

/// How long something may take that others have to wait out first.
const LONG: Duration = PATIENCE.saturating_mul(5);
/// Scans that are answered without the cluster at a time.
const SCANS: usize = 30;
/// People who fill a journal at once.
const PEOPLE: usize = 16;
/// How often it is tried to cut the way while the edge knows the codes.
const TRIES: usize = 50;
/// How many events are looked up, at most.
const LOOKED_UP: usize = 100;
/// What the edge's journal may take: the least that there is.
const JOURNAL: &str = "64MiB";
/// The edge, as the proxy calls it; connections that it made before that was said are a stranger's.
const EDGE: [&str; 2] = ["edge", "unknown"];
const NODE: &str = "node";

/// The way of an edge to the cluster.
struct Line {
    proxies: Proxies,
    at: SocketAddr,
}

impl Line {
    /// None where the cluster is on another machine, whose ports are not ours.
    fn new() -> Option<Self> {
        let node: SocketAddr = cql::address().parse().ok()?;
        if !node.ip().is_loopback() {
            println!("the way to {node} cannot be cut from here: this shows nothing");
            return None;
        }
        let proxies = Proxies::default();
        let free = std::net::TcpListener::bind((node.ip(), 0)).unwrap();
        let at = free.local_addr().unwrap();
        drop(free);
        proxies.listen(NODE, at, node);
        Some(Self { proxies, at })
    }

    fn set(&self, fault: Fault) {
        for edge in EDGE {
            self.proxies.set(edge, NODE, fault);
        }
    }

    /// The edge at its end.
    fn edge(&self, keyspace: &str, dir: &Path) -> Setup {
        let key = dir.join("peer.key").display().to_string();
        let journal = dir.join("journal").display().to_string();
        Setup::new(crate::BINARY, &dir.join("edge"))
            .on_cluster(&self.at.to_string(), keyspace)
            .role("data-plane")
            .with(&["--peer-key-file", &key])
            .with(&["--journal-dir", &journal, "--journal-bytes-max", JOURNAL])
    }

    /// Does this to the way to the cluster, and has the edge know the codes at these paths meanwhile: the events of those who
    /// scanned them for that. (What it had cached may just have been removed, because of a change that came at last.)
    async fn set_for(&self, edge: &Server, fault: Fault, paths: &[&str]) -> Vec<String> {
        let mut answered = Vec::new();
        'again: for _ in 0..TRIES {
            self.set(fault);
            for path in paths {
                let answer = http::get(edge.edge(), path).await.unwrap();
                let event = answer.headers().get("x-qrelay-scan");
                answered.extend(event.map(|event| event.to_str().unwrap().to_owned()));
                if answer.status() != 302 {
                    self.set(Fault::None);
                    for path in paths {
                        answered.extend(scan(edge, path, 1).await);
                    }
                    continue 'again;
                }
            }
            return answered;
        }
        panic!("codes that are scanned all the time are never known");
    }

    async fn start(&self, setup: &Setup) -> Server {
        let server = setup.start().await;
        let pid = server.pid().as_raw_nonzero().get().unsigned_abs();
        self.proxies.is_called(pid, EDGE[0]);
        server
    }
}

async fn all_is_shipped(edge: &Server) {
    wait_within(LONG, "nothing is left in the journal", async || {
        let left = edge.metric("qrelay_journal_unshipped_batches").await;
        (left <= 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn an_edge_goes_on_without_the_cluster_and_what_it_answered_is_delivered_once_that_is_back() {
    let Some(line) = Line::new() else {
        return;
    };
    let cluster = Cluster::open().await;
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(&cluster.keyspace.name, dir.path());
    let plane = world.setup("control-plane", 0).start().await;
    let dispatcher = world.setup("dispatcher", 0).start().await;
    let setup = line.edge(&cluster.keyspace.name, dir.path());
    let mut edge = line.start(&setup).await;
    let stage = Stage::set(&plane.admin()).await;
    let mut answered: HashSet<String> = scan(&edge, &stage.path, 3).await;
    delivered(&stage.receiver, &answered).await;

    for is_killed in [false, true] {
        // First nothing comes back, as from a network that loses everything; then connections break.
        for fault in [Fault::Hold(Way::Both), Fault::Cut] {
            answered.extend(line.set_for(&edge, fault, &[&stage.path]).await);
            answered.extend(scan(&edge, &stage.path, SCANS).await);
            wait_within(LONG, "some of it waits in the journal", async || {
                (edge.metric("qrelay_journal_unshipped_batches").await > 0.0).then_some(())
            })
            .await;
        }
        if is_killed {
            edge.kill();
            line.set(Fault::None);
            edge = line.start(&setup).await;
        }
        line.set(Fault::None);
        delivered(&stage.receiver, &answered).await;
        all_is_shipped(&edge).await;
    }
    for server in [edge, plane, dispatcher] {
        server.stop().await;
    }
}

/// A tenant without endpoints.
struct Tenant {
    id: String,
    path: String,
    /// The events of all scans that were answered with one.
    answered: Vec<String>,
}

impl Tenant {
    async fn new(admin: &Api, unrecordable_scans: &str) -> Self {
        let tenant = json!({"name": unrecordable_scans, "unrecordable_scans": unrecordable_scans});
        let tenant = admin.persist("/v1/tenants", &tenant).await;
        let id = tenant["id"].as_str().unwrap();
        let code = json!({"destination_url": "https://example.com/"});
        let code = admin.persist(&format!("/v1/codes?tenant_id={id}"), &code).await;
        Self {
            id: id.to_owned(),
            path: format!("/{}", code["short_id"].as_str().unwrap()),
            answered: Vec::new(),
        }
    }

    /// A scan whose record is as long as one can be.
    fn long_request(&self, edge: SocketAddr) -> Vec<u8> {
        let (path, long) = (&self.path, "x".repeat(1000));
        format!(
            "GET {path}?{long} HTTP/1.1\r\nhost: {edge}\r\nreferer: https://example.com/{long}\r\n\
             user-agent: Mozilla/5.0 {}\r\n\r\n",
            &long[..400]
        )
        .into_bytes()
    }

    /// Waits until all were read: as many scans were counted at least, and some hundred of the events are looked up. (One that
    /// was refused because nothing was known of it yet may have been recorded after all.)
    async fn has_all(&self, admin: &Api) {
        let ask = async |path: String| {
            wait_within(LONG, "the API answers", async || {
                let (status, answer) = admin.call(::http::Method::GET, &path, None).await.ok()?;
                (!status.is_server_error()).then_some((status, answer))
            })
            .await
        };
        let id = &self.id;
        wait_within(LONG, "every answered scan is counted", async || {
            let (_, usage) = ask(format!("/v1/tenants/{id}/usage")).await;
            let counted = usize::try_from(usage["scans"].as_u64()?).unwrap();
            (counted >= self.answered.len()).then_some(())
        })
        .await;
        for event in self.answered.iter().step_by(self.answered.len() / LOOKED_UP + 1) {
            let (status, answer) = ask(format!("/v1/events/{event}?tenant_id={id}")).await;
            assert_eq!(status, 200, "{event}: {answer}");
        }
    }
}

/// One person after the other until it is enough: the events of those who were redirected by one.
async fn scan_until(edge: SocketAddr, request: Arc<[u8]>, enough: Arc<AtomicBool>) -> Vec<String> {
    let mut answered = Vec::new();
    while !enough.load(Ordering::SeqCst) {
        let Ok(mut connection) = Connection::open(edge).await else {
            continue;
        };
        while let Ok(answer) = connection.exchange(&request).await {
            answered.extend(answer.scan);
            if enough.load(Ordering::SeqCst) || !answer.stays_open {
                break;
            }
        }
    }
    answered
}

/// Scans as many people do, until the journal is full.
async fn fill_journal(edge: &Server, tenant: &mut Tenant) {
    let request: Arc<[u8]> = tenant.long_request(edge.edge()).into();
    let enough = Arc::new(AtomicBool::new(false));
    let mut people = JoinSet::new();
    for _ in 0..PEOPLE {
        people.spawn(scan_until(edge.edge(), Arc::clone(&request), Arc::clone(&enough)));
    }
    wait_within(LONG, "the journal is full", async || {
        (edge.metric("qrelay_journal_full_total").await > 0.0).then_some(())
    })
    .await;
    enough.store(true, Ordering::SeqCst);
    while let Some(answered) = people.join_next().await {
        tenant.answered.extend(answered.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn with_a_full_journal_each_tenants_choice_is_kept_and_nothing_that_was_answered_with_an_event_is_lost()
{
    let Some(line) = Line::new() else {
        return;
    };
    let cluster = Cluster::open().await;
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(&cluster.keyspace.name, dir.path());
    let plane = world.setup("control-plane", 0).start().await;
    let dispatcher = world.setup("dispatcher", 0).start().await;
    let edge = line.start(&line.edge(&cluster.keyspace.name, dir.path())).await;
    let admin = plane.admin();
    let (mut refuses, mut answers) = (
        Tenant::new(&admin, "refuse").await,
        Tenant::new(&admin, "answer").await,
    );
    let paths = [&*answers.path, &*refuses.path];
    line.set_for(&edge, Fault::Cut, &paths).await;
    fill_journal(&edge, &mut refuses).await;

    // What is short may have found room until now.
    let mut unrecorded = 0;
    wait_within(LONG, "a scan is answered without an event", async || {
        let answer = http::get(edge.edge(), &answers.path).await.ok()?;
        match answer.headers().get("x-qrelay-scan") {
            Some(event) => answers.answered.push(event.to_str().unwrap().to_owned()),
            None => unrecorded += u32::from(answer.status() == 302),
        }
        (unrecorded > 0).then_some(())
    })
    .await;
    let counted = edge.metric("qrelay_edge_scans_unrecorded_total").await;
    assert!(counted >= f64::from(unrecorded), "{counted}");
    wait_within(LONG, "a scan is refused", async || {
        let answer = http::get(edge.edge(), &refuses.path).await.ok()?;
        if let Some(event) = answer.headers().get("x-qrelay-scan") {
            refuses.answered.push(event.to_str().unwrap().to_owned());
        }
        (answer.status() == 503).then_some(())
    })
    .await;

    line.set(Fault::None);
    all_is_shipped(&edge).await;
    println!("{} scans were answered meanwhile", refuses.answered.len());
    for tenant in [&refuses, &answers] {
        tenant.has_all(&admin).await;
    }
    for server in [edge, plane, dispatcher] {
        server.stop().await;
    }
}
