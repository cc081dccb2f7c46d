//! The roles as processes that share a store and nothing else: each has a view of its own of one database, with hints of its
//! own, and knows that it is not alone.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use qrelay_control::AdminKey;
use qrelay_peers::{PeerKey, PeerServer, Teller, tell};
use qrelay_proto::v1;
use qrelay_store::{
    appender::Appender,
    clock::SystemClock,
    fault::FaultStore,
    id::PartitionId,
    seal::{MasterKeys, Sealer},
    sqlite::{Options, SqliteStore},
    store::SharedStore,
    target::Targets,
};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Code;
use url::Url;

use super::{Ground, api, dispatcher, edge, listen, targets};
use crate::{
    demo::{
        ledger::Ledger,
        receiver::Receiver,
        scans::Scans,
        setup::{Made, made},
    },
    session::{Session, call},
    up::{Addresses, Config},
};

/// Longer than anything here takes on a machine that is busy.
const LONG: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_secs(1);

/// Whether processes tell each other what happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hints {
    Told,
    Untold,
}

/// What all processes share: a database and keys.
struct World {
    database: SharedStore,
    config: Config,
    hints: Hints,
    admin: SecretString,
    sealer: Sealer,
    public_url: Url,
    _directory: tempfile::TempDir,
}

impl World {
    fn new(hints: Hints) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::on_loopback(directory.path().to_owned());
        config.targets.dangerous_allow = vec!["127.0.0.0/8".parse().unwrap()];
        let key = data_encoding::BASE64.encode(&[7; 32]);
        Self {
            database: SqliteStore::open(directory.path(), &Options::default()).unwrap(),
            config,
            hints,
            admin: AdminKey::generate(),
            sealer: Sealer::new(Arc::new(MasterKeys::from_env_text(&key).unwrap())),
            public_url: "https://qr.example".parse().unwrap(),
            _directory: directory,
        }
    }

    fn targets(&self) -> Targets {
        targets(&self.config.targets, None, &self.public_url, &[])
    }

    /// A process with no role yet.
    fn process(&self) -> Process {
        let store = FaultStore::without_hints(Arc::clone(&self.database));
        store.set_exclusive(false);
        let process = Process {
            ground: Ground {
                store,
                clock: Arc::new(SystemClock),
            },
            at: SocketAddr::from(([127, 0, 0, 1], 0)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            appender: None,
        };
        if self.hints == Hints::Told {
            let teller = Teller {
                store: Arc::clone(&process.ground.store),
                key: peer_key(),
                me: String::new(),
            };
            process.tasks.spawn(tell(teller, process.stop.clone()));
        }
        process
    }

    async fn edge(&self) -> Process {
        let mut process = self.process();
        let appender = process.writer("edge").await;
        let edge = edge::build(&self.config.edge, &process.ground, &appender, SHORT)
            .await
            .unwrap();
        let (listener, at) = listen("edge", process.at).unwrap();
        process.at = at;
        process
            .tasks
            .spawn(edge.serve(vec![listener], process.stop.clone()));
        process
    }

    async fn control_plane(&self) -> Process {
        let mut process = self.process();
        let needs = api::Needs {
            appender: process.writer("control-plane").await,
            admin_key: AdminKey::new(&self.admin).unwrap(),
            sealer: self.sealer.clone(),
            targets: self.targets(),
            public_url: self.public_url.clone(),
        };
        let api = api::build(&self.config.api, &process.ground, needs).unwrap();
        let (listener, at) = listen("api", process.at).unwrap();
        process.at = at;
        process
            .tasks
            .spawn(api.serve(listener, process.stop.clone(), SHORT));
        process
    }

    fn dispatcher(&self) -> Process {
        let mut process = self.process();
        let (listener, at) = listen("peer", process.at).unwrap();
        process.at = at;
        let server = PeerServer::new(Arc::clone(&process.ground.store), &peer_key());
        process.tasks.spawn(server.serve(listener, process.stop.clone()));
        let needs = dispatcher::Needs {
            sealer: self.sealer.clone(),
            targets: self.targets(),
            addr: at.to_string(),
            drain: SHORT,
        };
        let dispatcher = dispatcher::build(&self.config.dispatcher, &process.ground, needs).unwrap();
        process.tasks.spawn(dispatcher.run(process.stop.clone()));
        process
    }

    /// A tenant, a code and an endpoint, made at one control plane.
    async fn made(&self, control_plane: &Process, edge: &Process, receiver: &Receiver) -> Made {
        let addresses = Addresses {
            edge: edge.at,
            api: control_plane.at,
            ops: edge.at,
        };
        made(&addresses, &self.admin, receiver).await.unwrap()
    }
}

fn peer_key() -> PeerKey {
    PeerKey::new(&SecretString::from("peer".repeat(8))).unwrap()
}

/// One process.
struct Process {
    ground: Ground,
    at: SocketAddr,
    tasks: TaskTracker,
    stop: CancellationToken,
    appender: Option<Appender>,
}

impl Process {
    async fn writer(&mut self, node: &str) -> Appender {
        let period = Duration::from_millis(50);
        let store = Arc::clone(&self.ground.store);
        let appender = Appender::start(store, &self.ground.clock, node, period)
            .await
            .unwrap();
        self.appender = Some(appender.clone());
        appender
    }

    /// Partitions of which hints of other processes came.
    fn told(&self) -> usize {
        let store = &self.ground.store;
        let partitions = (0..store.install().partitions).map(PartitionId::new);
        partitions
            .filter(|partition| !store.hints().partition(*partition).heads().is_empty())
            .count()
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(LONG, self.tasks.wait())
            .await
            .expect("a process ends when asked to");
        if let Some(appender) = self.appender {
            appender.close(Instant::now() + LONG).await.unwrap();
        }
    }
}

/// Scans, and waits until the webhook of each scan so far has come.
async fn scan(edge: &Process, path: &str, ledger: &Arc<Ledger>, all: u64) {
    let mut progress = ledger.progress();
    let scans = Scans {
        edge: edge.at,
        path: path.to_owned(),
        count: 10,
        concurrency: 2,
    };
    scans.make(ledger).await;
    let delivered = timeout(LONG, progress.wait_for(|progress| progress.matched == all)).await;
    let delivered =
        delivered.unwrap_or_else(|_| panic!("not all webhooks came: {:?}", *ledger.progress().borrow()));
    assert_eq!(delivered.unwrap().answered, all, "every scan is answered");
}

async fn delivers(hints: Hints) {
    let world = World::new(hints);
    let (edge, control_plane) = (world.edge().await, world.control_plane().await);
    let dispatcher = world.dispatcher();
    let ledger = Arc::new(Ledger::default());
    let receiver = Receiver::start(Arc::clone(&ledger)).await.unwrap();
    let made = world.made(&control_plane, &edge, &receiver).await;
    scan(&edge, &made.path, &ledger, 10).await;
    // A command goes to the owner in the other process, and what came of it comes back.
    let list = v1::ListEndpointsRequest::default();
    let endpoints = made
        .session
        .endpoints()
        .list_endpoints(call(list))
        .await
        .unwrap()
        .into_inner();
    let test = v1::TestEndpointRequest {
        id: endpoints.endpoints[0].id.clone(),
        ..v1::TestEndpointRequest::default()
    };
    let tested = made
        .session
        .endpoints()
        .test_endpoint(call(test))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(tested.status(), v1::DeliveryStatus::Succeeded);
    // Neither edge nor dispatcher needs a control plane.
    drop(made.session);
    control_plane.end().await;
    scan(&edge, &made.path, &ledger, 20).await;
    assert_eq!(receiver.rejected(), 0);
    assert_eq!(dispatcher.told() > 0, hints == Hints::Told);
    edge.end().await;
    dispatcher.end().await;
    receiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_in_processes_of_their_own_deliver_every_scan_also_without_a_control_plane() {
    delivers(Hints::Told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_hint_told_is_found_by_looking() {
    delivers(Hints::Untold).await;
}

/// Where a scan leads.
async fn location(edge: &Process, path: &str) -> String {
    let mut stream = TcpStream::connect(edge.at).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: qr.example\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let location = answer.lines().find_map(|line| line.strip_prefix("location: "));
    location
        .unwrap_or_else(|| panic!("no redirect: {answer}"))
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_one_control_plane_reaches_an_edge_that_nobody_tells() {
    let world = World::new(Hints::Untold);
    let edge = world.edge().await;
    let planes = [world.control_plane().await, world.control_plane().await];
    let receiver = Receiver::start(Arc::default()).await.unwrap();
    let made = world.made(&planes[0], &edge, &receiver).await;
    assert_eq!(location(&edge, &made.path).await, made.code.destination_url);
    let other = Session::open_local(&format!("http://{}", planes[1].at), &made.key)
        .await
        .unwrap();
    let change = v1::UpdateCodeRequest {
        id: made.code.id.clone(),
        code: Some(v1::Code {
            destination_url: "https://example.com/moved".to_owned(),
            ..v1::Code::default()
        }),
        ..v1::UpdateCodeRequest::default()
    };
    other.codes().update_code(call(change)).await.unwrap();
    let reached = async {
        while location(&edge, &made.path).await != "https://example.com/moved" {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, reached).await.expect("the edge looks for changes");
    drop((made, other));
    for plane in planes {
        plane.end().await;
    }
    edge.end().await;
    receiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_link_is_given_once_by_two_control_planes() {
    let world = World::new(Hints::Untold);
    let edge = world.edge().await;
    let planes = [world.control_plane().await, world.control_plane().await];
    let ledger = Arc::new(Ledger::default());
    let receiver = Receiver::start(Arc::clone(&ledger)).await.unwrap();
    let made = world.made(&planes[0], &edge, &receiver).await;
    let other = Session::open_local(&format!("http://{}", planes[1].at), &made.key)
        .await
        .unwrap();
    for number in 0..10 {
        let request = v1::CreateCodeRequest {
            code: Some(v1::Code {
                short_id: format!("table-{number}"),
                destination_url: "https://example.com/".to_owned(),
                ..v1::Code::default()
            }),
            ..v1::CreateCodeRequest::default()
        };
        let (mut one, mut two) = (made.session.codes(), other.codes());
        let answers = tokio::join!(
            one.create_code(call(request.clone())),
            two.create_code(call(request))
        );
        let refused = match answers {
            (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
            both => panic!("one of two gets it: {both:?}"),
        };
        assert_eq!(refused.code(), Code::AlreadyExists);
    }
    drop((made, other));
    for plane in planes {
        plane.end().await;
    }
    edge.end().await;
    receiver.stop().await;
}
