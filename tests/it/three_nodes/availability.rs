//! What is printed of a run: how often redirects were to be had, and how long partitions were nobody's.

use std::{sync::Arc, time::Duration};

use qrelay_tests::{http, scan::Scan, server::metric_in};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::processes::{DISPATCHER, Process, Processes};

/// How often the dispatchers are asked what they hold.
const ASK_PERIOD: Duration = Duration::from_millis(250);
/// Who does not answer by then holds nothing that counts: it is stopped, or not there.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Watches which partitions are somebody's.
pub(super) struct Watch {
    tasks: JoinSet<()>,
    seen: Arc<std::sync::Mutex<Vec<(Instant, f64)>>>,
}

impl Watch {
    pub(super) fn start(processes: &Processes) -> Self {
        let seen = Arc::default();
        let dispatchers: Vec<_> = processes.of(DISPATCHER).cloned().collect();
        let mut tasks = JoinSet::new();
        tasks.spawn(watch(dispatchers, Arc::clone(&seen)));
        Self { tasks, seen }
    }

    /// How long it took after each of these moments until all partitions were somebody's again, where some were not.
    pub(super) async fn finish(mut self, moments: &[Instant], partitions: u16) -> Vec<Duration> {
        self.tasks.shutdown().await;
        let seen = self.seen.lock().unwrap().clone();
        let whole = f64::from(partitions);
        let after = |moment: Instant| {
            let mut later = seen.iter().skip_while(move |(at, _)| *at <= moment);
            // What was under way then has passed, and whoever was hit answers no more.
            let lost = later.by_ref().take(4).find(|(_, held)| *held < whole)?;
            let whole_again = later.find(|(at, held)| at > &lost.0 && *held >= whole)?;
            Some(whole_again.0 - moment)
        };
        moments.iter().copied().filter_map(after).collect()
    }
}

async fn watch(dispatchers: Vec<Arc<Process>>, seen: Arc<std::sync::Mutex<Vec<(Instant, f64)>>>) {
    let mut ticks = interval(ASK_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let held = dispatchers.iter().map(|process| held(process));
        let held = futures::future::join_all(held).await;
        seen.lock().unwrap().push((Instant::now(), held.iter().sum()));
    }
}

async fn held(process: &Process) -> f64 {
    let answer = timeout(ANSWER_WITHIN, http::get(process.setup.ops(), "/metrics")).await;
    let text = answer.ok().and_then(Result::ok);
    text.map_or(0.0, |text| {
        metric_in(&String::from_utf8_lossy(text.body()), "qrelay_leases_held")
    })
}

/// Prints how many of an edge's scans were answered, and how many of those that met a process that ran.
pub(super) fn print_redirects(edge: &Process, scans: &[Scan]) {
    let (away, _) = edge.absences();
    let met = |scan: &&Scan| {
        away.iter()
            .all(|(from, to)| scan.ended < *from || scan.begun > *to)
    };
    let running: Vec<_> = scans.iter().filter(met).collect();
    let answered = running.iter().filter(|scan| scan.answered).count();
    let mut took: Vec<_> = running
        .iter()
        .filter(|scan| scan.answered)
        .map(|scan| scan.ended - scan.begun)
        .collect();
    took.sort();
    println!(
        "{}: {} of {} scans answered; while it was there {answered} of {}, median {:?}, longest {:?}",
        edge.name,
        scans.iter().filter(|scan| scan.answered).count(),
        scans.len(),
        running.len(),
        took.get(took.len() / 2),
        took.last(),
    );
}

/// Prints the median and the longest of some times.
pub(super) fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, longest) = (times.get(times.len() / 2), times.last());
    println!(
        "{what}: {} times, median {median:?}, longest {longest:?}",
        times.len()
    );
}
