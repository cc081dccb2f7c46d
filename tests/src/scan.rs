//! People who scan: an open-loop client that notes every 302 with its event's id.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::http;

/// A scan, as who scanned saw it.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    /// When it was begun.
    pub begun: Instant,
    /// When it was answered, refused, or given up.
    pub ended: Instant,
    /// Whether it was answered with a redirect.
    pub answered: bool,
}

/// What the crowd saw.
#[derive(Debug, Default)]
pub struct Ledger {
    answered: Mutex<HashSet<String>>,
    scans: Mutex<Vec<Scan>>,
    /// Scans begun.
    pub begun: AtomicU64,
    /// Scans that got no 302: refused, cut off, or another status.
    pub unanswered: AtomicU64,
}

impl Ledger {
    /// The events of all scans that were answered with a redirect.
    ///
    /// # Panics
    /// Never.
    pub fn answered(&self) -> HashSet<String> {
        self.answered.lock().unwrap().clone()
    }

    /// All scans, in the order of their ends.
    ///
    /// # Panics
    /// Never.
    pub fn scans(&self) -> Vec<Scan> {
        self.scans.lock().unwrap().clone()
    }

    /// How many.
    ///
    /// # Panics
    /// Never.
    pub fn count(&self) -> usize {
        self.answered.lock().unwrap().len()
    }
}

/// A crowd that scans `path` at `per_second`, whether answered or not, until it is told to stop.
#[derive(Debug)]
pub struct Crowd {
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// A scan that takes longer counts as not answered.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Scans under way at once: bounds the client when the server hangs.
const UNDER_WAY_MAX: usize = 512;

impl Crowd {
    /// Starts scanning.
    pub fn start(edge: SocketAddr, path: &str, per_second: u32) -> Self {
        let (ledger, stop) = (Arc::new(Ledger::default()), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(scan_all(
            edge,
            path.to_owned(),
            per_second,
            Arc::clone(&ledger),
            stop.clone(),
        ));
        Self { ledger, stop, tasks }
    }

    /// What it saw so far.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Stops, and waits for the scans under way.
    ///
    /// # Panics
    /// When a scan did.
    pub async fn finish(mut self) -> Arc<Ledger> {
        self.stop.cancel();
        while let Some(done) = self.tasks.join_next().await {
            done.unwrap();
        }
        self.ledger
    }
}

async fn scan_all(
    edge: SocketAddr,
    path: String,
    per_second: u32,
    ledger: Arc<Ledger>,
    stop: CancellationToken,
) {
    let mut due = Instant::now();
    let mut under_way = JoinSet::new();
    while !stop.is_cancelled() {
        due += Duration::from_secs(1) / per_second;
        sleep_until(due).await;
        while let Some(done) = under_way.try_join_next() {
            done.unwrap();
        }
        if under_way.len() < UNDER_WAY_MAX {
            ledger.begun.fetch_add(1, Ordering::Relaxed);
            under_way.spawn(scan(edge, path.clone(), Arc::clone(&ledger)));
        }
    }
    while let Some(done) = under_way.join_next().await {
        done.unwrap();
    }
}

async fn scan(edge: SocketAddr, path: String, ledger: Arc<Ledger>) {
    let begun = Instant::now();
    let answer = timeout(GIVE_UP, http::get(edge, &path)).await;
    let id = answer
        .ok()
        .and_then(Result::ok)
        .filter(|answer| answer.status() == 302)
        .map(|answer| {
            let id = answer
                .headers()
                .get("x-qrelay-scan")
                .expect("a redirect names its event");
            id.to_str().expect("an event's id is ASCII").to_owned()
        });
    ledger.scans.lock().unwrap().push(Scan {
        begun,
        ended: Instant::now(),
        answered: id.is_some(),
    });
    match id {
        Some(id) => {
            assert!(
                ledger.answered.lock().unwrap().insert(id),
                "two scans have one id"
            );
        }
        None => {
            ledger.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }
}
