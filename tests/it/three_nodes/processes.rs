//! The processes of an installation, each a role of its own, and who starts them again when they end.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use qrelay_tests::{
    api::Api,
    nodes::Nodes,
    proxy::Proxies,
    server::{Server, Setup},
    wait_within,
};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use rustix::process::Signal;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::super::BINARY;

/// The roles' commands.
pub(super) const EDGE: &str = "data-plane";
pub(super) const CONTROL_PLANE: &str = "control-plane";
pub(super) const DISPATCHER: &str = "dispatcher";
/// How many of each.
const ROLES: [(&str, usize); 3] = [(EDGE, 2), (CONTROL_PLANE, 2), (DISPATCHER, 3)];
/// How far clocks are off at most, each way: half an hour, so that two of a role may differ by an hour.
const OFF_SECONDS: i64 = 1800;
/// How long the processes may take to be ready, on a machine that is slow and busy.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked whether a process has ended, and how each fares.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// One of them.
pub(super) struct Process {
    pub(super) name: String,
    pub(super) role: &'static str,
    pub(super) setup: Setup,
    state: Mutex<State>,
}

struct State {
    server: Server,
    /// It is not started again before.
    down_until: Instant,
    /// Whether it was told to end since it was started.
    told: bool,
    /// Harmed since then, and not seen ready again.
    away_since: Option<Instant>,
    /// When it was away because of what was done to it.
    away: Vec<(Instant, Instant)>,
    /// How often it ended although nobody told it to.
    ended_by_itself: u32,
}

/// All of them.
pub(super) struct Processes {
    pub(super) all: Vec<Arc<Process>>,
    _tasks: JoinSet<()>,
}

impl Processes {
    /// Starts them on a keyspace, and waits until they are ready.
    pub(super) async fn start(nodes: &Nodes, keyspace: &str, dir: &Path, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        std::fs::write(peer_key(dir), "peer".repeat(8)).unwrap();
        let mut all = Vec::new();
        for (role, count) in ROLES {
            let mut off = vec![-OFF_SECONDS, OFF_SECONDS, 0];
            off.truncate(count);
            off.shuffle(&mut random);
            for (number, off) in (1_u8..).zip(off) {
                let name = format!("{role}-{number}");
                let setup = setup(nodes, keyspace, dir, (role, &name))
                    .with_variable("QRELAY_TEST_CLOCK_AHEAD", &off.to_string());
                let setup = match role {
                    DISPATCHER => told_by_peers(setup, nodes, &name, number),
                    EDGE => setup.with(&["--journal-dir", &journal(dir, &name)]),
                    _ => setup,
                };
                println!("{name}: its clock is {off} s ahead");
                all.push(Arc::new(Process::spawn(name, role, setup, &nodes.proxies)));
            }
        }
        let mut tasks = JoinSet::new();
        for process in &all {
            tasks.spawn(keep(Arc::clone(process), Arc::clone(&nodes.proxies)));
        }
        let processes = Self { all, _tasks: tasks };
        processes.ready().await;
        processes
    }

    /// Waits until all are ready.
    pub(super) async fn ready(&self) {
        for process in &self.all {
            let what = format!(
                "{} is ready: see {}",
                process.name,
                process.setup.log_path().display()
            );
            wait_within(PATIENCE, &what, async || process.is_ready().await.then_some(())).await;
        }
    }

    /// Ends what was done to them, and waits until they are ready.
    pub(super) async fn heal(&self) {
        for process in &self.all {
            process.resume();
        }
        self.ready().await;
    }

    /// Those of a role.
    pub(super) fn of(&self, role: &str) -> impl Iterator<Item = &Arc<Process>> {
        self.all.iter().filter(move |process| process.role == role)
    }
}

fn peer_key(dir: &Path) -> PathBuf {
    dir.join("peer.key")
}

fn journal(dir: &Path, name: &str) -> String {
    dir.join(format!("{name}.journal")).display().to_string()
}

/// Those that are told what happens are told so through a proxy.
fn told_by_peers(setup: Setup, nodes: &Nodes, name: &str, number: u8) -> Setup {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let announced = SocketAddr::from((nodes.beside(100 + number), at.port()));
    nodes.proxies.listen(name, announced, at);
    setup.with(&[
        "--peer-listen",
        &at.to_string(),
        "--peer-advertise",
        &announced.to_string(),
    ])
}

fn setup(nodes: &Nodes, keyspace: &str, dir: &Path, (role, name): (&'static str, &str)) -> Setup {
    Setup::new(BINARY, &dir.join(name))
        .on_cluster(&nodes.addresses().join(","), keyspace)
        .role(role)
        .with(&["--node-name", name])
        .with(&["--peer-key-file", &peer_key(dir).display().to_string()])
}

impl Process {
    fn spawn(name: String, role: &'static str, setup: Setup, proxies: &Proxies) -> Self {
        let server = setup.spawn();
        proxies.is_called(server.pid().as_raw_nonzero().get().unsigned_abs(), &name);
        let state = State {
            server,
            down_until: Instant::now(),
            told: false,
            away_since: None,
            away: Vec::new(),
            ended_by_itself: 0,
        };
        Self {
            name,
            role,
            setup,
            state: Mutex::new(state),
        }
    }

    /// The API under the admin key.
    pub(super) fn admin(&self) -> Api {
        self.setup.admin()
    }

    async fn is_ready(&self) -> bool {
        self.setup.is_ready().await
    }

    /// `kill -9`; it is started again after a while.
    pub(super) fn kill(&self, down_for: Duration) {
        let mut state = self.state.lock().unwrap();
        let now = Instant::now();
        if !state.server.has_ended() {
            state.server.signal(Signal::KILL);
            state.told = true;
        }
        state.down_until = now + down_for;
        state.away_since.get_or_insert(now);
    }

    /// SIGSTOP.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock().unwrap();
        if !state.server.has_ended() {
            state.server.signal(Signal::STOP);
            state.away_since.get_or_insert(Instant::now());
        }
    }

    /// SIGCONT.
    pub(super) fn resume(&self) {
        let mut state = self.state.lock().unwrap();
        if !state.server.has_ended() {
            state.server.signal(Signal::CONT);
        }
    }

    /// When it was away because of what was done to it, and how often it ended by itself.
    pub(super) fn absences(&self) -> (Vec<(Instant, Instant)>, u32) {
        let state = self.state.lock().unwrap();
        let still = state.away_since.map(|since| (since, Instant::now()));
        (
            state.away.iter().copied().chain(still).collect(),
            state.ended_by_itself,
        )
    }

    /// Starts it again if it has ended and its time has come.
    fn revive(&self, proxies: &Proxies) {
        let mut state = self.state.lock().unwrap();
        if !state.server.has_ended() || Instant::now() < state.down_until {
            return;
        }
        if !std::mem::take(&mut state.told) {
            state.ended_by_itself += 1;
            // As whoever starts processes does: not at once, not for ever.
            state.down_until = Instant::now() + Duration::from_secs(1);
            state.told = true;
            return;
        }
        state.told = false;
        state.server = self.setup.spawn();
        let pid = state.server.pid().as_raw_nonzero().get().unsigned_abs();
        proxies.is_called(pid, &self.name);
    }
}

/// Starts a process again when it ends, and notes when it is back.
async fn keep(process: Arc<Process>, proxies: Arc<Proxies>) {
    loop {
        sleep(LOOK_PERIOD).await;
        process.revive(&proxies);
        let away_since = process.state.lock().unwrap().away_since;
        // An answer counts only for what was done before it was asked for.
        if away_since.is_some() && process.is_ready().await {
            let mut state = process.state.lock().unwrap();
            if state.away_since == away_since
                && let Some(since) = state.away_since.take()
            {
                state.away.push((since, Instant::now()));
            }
        }
    }
}
