//! A CQL cluster of three nodes, on 127.0.0.1 to 3, that can be killed, stopped and cut off.
//!
//! The nodes announce addresses of a proxy's ([`Proxies`]) to drivers and to each other, so that every connection to a
//! node, a driver's or another node's, can be harmed. A driver finds the nodes by what they announce: a process needs no
//! setting for it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy},
    statement::{Consistency, unprepared::Statement},
};

use tokio::time::timeout;

use crate::{cql, proxy::Proxies, wait_within};

/// How many. A quorum of them outlives one.
pub const NODES: u8 = 3;
/// Each node's heap. They do little, and share a machine with the processes under test.
const HEAP_MIB: &str = "512";
/// How long three nodes may take to start and to find each other, on a machine that is slow and busy.
const PATIENCE: Duration = Duration::from_secs(600);
/// An unharmed node answers in far less.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// How often nodes are found starved until that excuses nothing any more: some ten minutes.
const STARVED_MAX: u32 = 1000;

/// How often they are started at most, and how long they may take to find each other.
const STARTS_MAX: u32 = 3;
const START_PATIENCE: Duration = Duration::from_secs(240);

/// The nodes. They end when this is dropped, with all that they keep.
#[derive(Debug)]
pub struct Nodes {
    /// What every connection to a node goes through. Nodes are called as [`Nodes::name`] says.
    pub proxies: Arc<Proxies>,
    dir: PathBuf,
    port: u16,
    net: [u8; 3],
    starved: AtomicU32,
    // Ends when its input does, and stops the nodes then.
    _script: Child,
}

/// Where node `number`, counted from 1, is.
fn own(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, number)
}

impl Nodes {
    /// Starts them, and waits until each has worked with all others. Nodes that do not find each other, as happens on a machine
    /// where all three start slowly, are given up for new ones.
    ///
    /// # Panics
    /// When they cannot be started.
    pub async fn start() -> Self {
        for _ in 1..STARTS_MAX {
            let nodes = Self::start_once().await;
            if timeout(START_PATIENCE, nodes.work_together()).await.is_ok() {
                return nodes;
            }
            println!("the nodes did not work together within {START_PATIENCE:?}; starting others");
            for number in 1..=NODES {
                let log = std::fs::read_to_string(nodes.dir.join(number.to_string()).join("node.log"));
                let log = log.unwrap_or_else(|error| error.to_string());
                let last: Vec<&str> = log.lines().rev().take(20).collect();
                println!(
                    "the last lines of {}, the latest first: {last:#?}",
                    Self::name(number)
                );
            }
        }
        let nodes = Self::start_once().await;
        nodes.work_together().await;
        nodes
    }

    async fn start_once() -> Self {
        let [a, b] = rand::random::<[u8; 2]>();
        let net = [127, 78 + a % 100, b];
        let announced = |number| Ipv4Addr::new(net[0], net[1], net[2], number);
        let all: Vec<_> = (1..=NODES).flat_map(|n| [own(n), announced(n)]).collect();
        let port = cql::free_port(&all);
        let dir = std::env::temp_dir().join(format!("qrelay-nodes-{}-{port}", std::process::id()));
        let proxies = Arc::new(Proxies::default());
        for number in 1..=NODES {
            let name = Self::name(number);
            for port in [port, port - cql::BETWEEN_NODES] {
                let to = SocketAddr::from((own(number), port));
                proxies.listen(&name, SocketAddr::from((announced(number), port)), to);
            }
            proxies.is_called_in(dir.join(number.to_string()).join("pid"), &name);
        }
        let (at, options) = (dir.clone(), options(port, net));
        let script = tokio::task::spawn_blocking(move || {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            cql::serve(&at, &options).1
        });
        Self {
            proxies,
            dir,
            port,
            net,
            starved: AtomicU32::new(0),
            _script: script.await.unwrap(),
        }
    }

    /// What the proxies call node `number`, counted from 1.
    pub fn name(number: u8) -> String {
        format!("node{number}")
    }

    /// Where node `number` is, `host:port`, as it announces it.
    pub fn address(&self, number: u8) -> String {
        let [a, b, c] = self.net;
        format!("{}:{}", Ipv4Addr::new(a, b, c, number), self.port)
    }

    /// Another address of the network that the nodes announce, for a proxy of somebody else's. `number`: from 101 on.
    pub fn beside(&self, number: u8) -> Ipv4Addr {
        let [a, b, c] = self.net;
        Ipv4Addr::new(a, b, c, number)
    }

    /// All addresses.
    pub fn addresses(&self) -> Vec<String> {
        (1..=NODES).map(|number| self.address(number)).collect()
    }

    /// Sends a signal to a node, if it runs.
    pub fn signal(&self, number: u8, signal: Signal) {
        if let Some(pid) = self.pid(number) {
            // One that was killed is not there any more.
            kill_process(pid, signal).ok();
        }
    }

    /// Ends all that was done to the nodes and between them, and waits until they work together again.
    ///
    /// # Panics
    /// When they do not.
    pub async fn heal(&self) {
        self.proxies.heal();
        for number in 1..=NODES {
            self.signal(number, Signal::CONT);
        }
        self.restart().await;
        self.work_together().await;
    }

    fn pid(&self, number: u8) -> Option<Pid> {
        let file = self.dir.join(number.to_string()).join("pid");
        Pid::from_raw(fs::read_to_string(file).ok()?.trim().parse().ok()?)
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Panics
    /// When it did not run.
    pub async fn kill(&self, number: u8) {
        let pid = self.pid(number).unwrap();
        self.signal(number, Signal::KILL);
        let words = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
        wait_within(PATIENCE, "a killed node is gone", async || {
            // One whose end nobody has taken note of has no words left.
            fs::read(&words)
                .map_or(true, |words| words.is_empty())
                .then_some(())
        })
        .await;
    }

    /// Starts those that do not run, and waits until they answer.
    ///
    /// # Panics
    /// When they cannot be started.
    pub async fn restart(&self) {
        let (dir, options) = (self.dir.clone(), options(self.port, self.net));
        let status = tokio::task::spawn_blocking(move || {
            let mut script = cql::script();
            script.arg("start").arg(dir).args(options).status().unwrap()
        });
        assert!(status.await.unwrap().success(), "a node was not started again");
    }

    /// A session with the cluster.
    ///
    /// # Panics
    /// When no node answers for very long.
    pub async fn session(&self) -> Session {
        wait_within(PATIENCE, "a node answers", async || {
            let builder = SessionBuilder::new().known_nodes(self.addresses());
            builder.fetch_schema_metadata(false).build().await.ok()
        })
        .await
    }

    /// Asks something small, and counts how often so far there was no answer in time: on a machine that starves the nodes,
    /// nothing can be concluded from what does not happen. Counts no further than a bound.
    pub async fn starved(&self, session: &Session) -> u32 {
        let ask = session.query_unpaged("SELECT one FROM together.work", ());
        if !matches!(timeout(ANSWER_WITHIN, ask).await, Ok(Ok(_))) {
            let count = |starved| (starved < STARVED_MAX).then_some(starved + 1);
            // Not counted beyond the bound.
            self.starved.fetch_update(Relaxed, Relaxed, count).ok();
        }
        self.starved.load(Relaxed)
    }

    /// Waits until each node knows all others as they know it: by a write to all three, through each of them.
    ///
    /// # Panics
    /// When they do not find each other.
    pub async fn work_together(&self) {
        let session = self.session().await;
        let replication = format!("{{'class': 'NetworkTopologyStrategy', 'datacenter1': {NODES}}}");
        let create = [
            format!("CREATE KEYSPACE IF NOT EXISTS together WITH replication = {replication}"),
            "CREATE TABLE IF NOT EXISTS together.work (one int PRIMARY KEY)".to_owned(),
        ];
        let mut work = create.map(Statement::new).to_vec();
        for number in 1..=NODES {
            let node = NodeIdentifier::NodeAddress(self.address(number).parse().unwrap());
            let mut write = Statement::new("INSERT INTO together.work (one) VALUES (1)");
            write.set_consistency(Consistency::All);
            write.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(node, None)));
            work.push(write);
        }
        for statement in work {
            wait_within(PATIENCE, "the nodes work together", async || {
                let worked = session.query_unpaged(statement.clone(), ()).await;
                if worked.is_err() {
                    // It may not know all nodes yet.
                    session.refresh_metadata().await.ok();
                }
                worked.ok()
            })
            .await;
        }
    }
}

fn options(port: u16, [a, b, c]: [u8; 3]) -> Vec<String> {
    let (nodes, port, net) = (NODES.to_string(), port.to_string(), format!("{a}.{b}.{c}"));
    let options = [
        "--nodes",
        &nodes,
        "--port",
        &port,
        "--heap",
        HEAP_MIB,
        "--announce",
        &net,
    ];
    options.map(ToOwned::to_owned).to_vec()
}
