//! The real binary, running `up` on a data directory or on a CQL cluster, or one role: started, killed, stopped, started
//! again.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::timeout;

use crate::{PATIENCE, api::Api, http, wait_within};

/// The admin key of every test server.
pub const ADMIN_KEY: &str = "qra_admin_for_tests_0123456789abcdef0123456789abcdef";

/// The master key of every test server on a cluster.
pub const MASTER_KEY: &str = "bWFzdGVyIGtleSBvZiB0ZXN0cywgMzIgYnl0ZXMgISE=";

/// Who has not said whether it is ready by then says nothing.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// How to start a server. Addresses stay the same over restarts, on a loopback address of its own.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The binary: `env!("CARGO_BIN_EXE_qrelay-under-test")`.
    pub binary: PathBuf,
    /// What stands before it on the command line (`strace …`).
    pub wrapper: Vec<String>,
    /// The data directory. On a cluster only the log is named after it.
    pub data_dir: PathBuf,
    /// The command: `up`, or a role.
    pub command: &'static str,
    /// On a cluster: its address and keyspace.
    pub cluster: Option<(String, String)>,
    /// Further flags.
    pub flags: Vec<String>,
    /// Further variables of its environment.
    pub variables: Vec<(String, String)>,
    edge: SocketAddr,
    api: SocketAddr,
    ops: SocketAddr,
}

impl Setup {
    /// On `data_dir`, with receivers on loopback allowed. Each setup has its own address in 127.0.0.0/8, so that
    /// a port freed by a kill is not taken by another test.
    ///
    /// # Panics
    /// When no free port is found.
    pub fn new(binary: impl Into<PathBuf>, data_dir: &Path) -> Self {
        let [a, b] = rand::random::<[u8; 2]>();
        let ip = IpAddr::V4(Ipv4Addr::new(127, 77, a, b.clamp(1, 254)));
        // All three at once: a port that is given back may be given out again.
        let listeners = [(); 3].map(|()| std::net::TcpListener::bind((ip, 0)).unwrap());
        let [edge, api, ops] = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap());
        Self {
            binary: binary.into(),
            wrapper: Vec::new(),
            data_dir: data_dir.to_owned(),
            command: "up",
            cluster: None,
            flags: vec!["--dangerous-allow-target".into(), "127.0.0.0/8".into()],
            variables: Vec::new(),
            edge,
            api,
            ops,
        }
    }

    /// The same on a keyspace of a CQL cluster of one node, which is there already.
    #[must_use]
    pub fn on_cluster(mut self, address: &str, keyspace: &str) -> Self {
        self.cluster = Some((address.to_owned(), keyspace.to_owned()));
        self
    }

    /// One role in a process of its own, on a cluster. `command`: `data-plane`, `control-plane` or `dispatcher`.
    #[must_use]
    pub fn role(mut self, command: &'static str) -> Self {
        self.command = command;
        match command {
            "data-plane" => self.flags.clear(),
            _ => self
                .flags
                .extend(["--public-url".into(), "http://qr.example".into()]),
        }
        self
    }

    /// With further flags.
    #[must_use]
    pub fn with(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where scans go.
    pub fn edge(&self) -> SocketAddr {
        self.edge
    }

    /// Where metrics and health are.
    pub fn ops(&self) -> SocketAddr {
        self.ops
    }

    /// The API under the admin key.
    pub fn admin(&self) -> Api {
        Api {
            address: self.api,
            key: ADMIN_KEY.to_owned(),
        }
    }

    /// Whether it says that it is ready. A process that is stopped says nothing.
    pub async fn is_ready(&self) -> bool {
        let ready = timeout(SILENT_AFTER, http::get(self.ops, "/readyz")).await;
        ready.is_ok_and(|ready| ready.is_ok_and(|ready| ready.status().is_success()))
    }

    /// The command line, logs going to `server.log` beside the data directory.
    ///
    /// # Panics
    /// When the log cannot be opened.
    pub fn command(&self) -> Command {
        let mut words = self.wrapper.clone();
        words.push(self.binary.display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(self.command);
        command.env("QRELAY_ADMIN_KEY", ADMIN_KEY);
        match &self.cluster {
            None => {
                command.arg("--data-dir").arg(&self.data_dir);
            }
            Some((address, keyspace)) => {
                command.args(["--scylla-nodes", address, "--scylla-keyspace", keyspace]);
                command.args(["--scylla-replication", "1"]);
                command.env("QRELAY_MASTER_KEY", MASTER_KEY);
            }
        }
        if matches!(self.command, "up" | "data-plane") {
            command.args(["--edge-listen", &self.edge.to_string()]);
        }
        if matches!(self.command, "up" | "control-plane") {
            command.args(["--api-listen", &self.api.to_string()]);
        }
        if self.command == "data-plane" {
            // It is to need no key.
            command
                .env_remove("QRELAY_ADMIN_KEY")
                .env_remove("QRELAY_MASTER_KEY");
        }
        command
            .args(["--ops-listen", &self.ops.to_string()])
            .args(&self.flags)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// Where the log goes.
    pub fn log_path(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(&self) -> Server {
        let mut server = self.spawn();
        // Where several tests use one cluster, its answers take their time.
        let patience = PATIENCE * if self.cluster.is_some() { 3 } else { 1 };
        wait_within(patience, "the server is ready", async || {
            if let Some(status) = server.child.try_wait().unwrap() {
                let log = std::fs::read_to_string(server.setup.log_path()).unwrap_or_default();
                panic!(
                    "the server ended ({status}):\n{}",
                    log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
                );
            }
            self.is_ready().await.then_some(())
        })
        .await;
        server
    }

    /// Starts it.
    ///
    /// # Panics
    /// When there is no such binary.
    pub fn spawn(&self) -> Server {
        Server {
            child: self.command().spawn().unwrap(),
            setup: self.clone(),
        }
    }
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    setup: Setup,
}

impl Server {
    /// Where scans go.
    pub fn edge(&self) -> SocketAddr {
        self.setup.edge
    }

    /// Where metrics and health are.
    pub fn ops(&self) -> SocketAddr {
        self.setup.ops
    }

    /// The API under the admin key.
    pub fn admin(&self) -> Api {
        self.setup.admin()
    }

    /// Whether the process has ended.
    ///
    /// # Panics
    /// Never.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The process.
    ///
    /// # Panics
    /// Never: a child's pid is positive.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Panics
    /// When it was gone already.
    pub fn kill(mut self) {
        kill_process(self.pid(), Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not come within a minute.
    pub async fn ended(&mut self) -> ExitStatus {
        wait_within(Duration::from_secs(60), "the server ends", async || {
            self.child.try_wait().unwrap()
        })
        .await
    }

    /// SIGTERM, and waits for the end, which must be clean.
    ///
    /// # Panics
    /// When it is not.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert!(
            status.success(),
            "a stopped server exits 0, not {status}: see {}",
            self.setup.log_path().display()
        );
    }

    /// What it has logged so far.
    ///
    /// # Panics
    /// When the log cannot be read.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.setup.log_path()).unwrap()
    }

    /// The value of a metric, summed over its labels; zero when it is not there.
    ///
    /// # Panics
    /// When the metrics cannot be read.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = http::get(self.ops(), "/metrics").await.unwrap();
        metric_in(std::str::from_utf8(text.body()).unwrap(), name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// The value of a metric in what a process says of itself, summed over its labels; zero when it is not there.
pub fn metric_in(text: &str, name: &str) -> f64 {
    let of = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let value = if rest.starts_with('{') {
            rest.rsplit(' ').next()?
        } else {
            rest.strip_prefix(' ')?
        };
        value.parse::<f64>().ok()
    };
    text.lines().filter_map(of).sum()
}

/// A code and an endpoint for it: the least that makes a webhook.
///
/// # Panics
/// When they cannot be made.
pub async fn code_and_endpoint(api: &Api, short_id: &str, url: &str) -> (Value, Value) {
    let code = serde_json::json!({"short_id": short_id, "destination_url": "https://example.com/landing"});
    let code = api.post("/v1/codes", code).await;
    let endpoint = serde_json::json!({"url": url, "events": ["scan.created"]});
    let endpoint = api.post("/v1/endpoints", endpoint).await;
    (code, endpoint)
}
