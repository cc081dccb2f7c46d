//! What is done to the processes, to the nodes and between them: drawn from a seed, one thing after the other in each of
//! three lanes.
//!
//! The order, the kind and the length of what is done follow from the seed alone. What it meets does not.

use std::{fmt, sync::Arc, time::Duration};

use qrelay_tests::{
    nodes::{NODES, Nodes},
    proxy::{Fault, Way},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::processes::{DISPATCHER, Process, Processes};

/// How long all nodes stand still, once.
const ALL_STOPPED: Duration = Duration::from_secs(20);

/// What was done, for the report.
#[derive(Default)]
pub(super) struct Done {
    pub(super) kills: u32,
    pub(super) stops: u32,
    pub(super) node_kills: u32,
    pub(super) node_stops: u32,
    pub(super) delays: u32,
    pub(super) holds: u32,
    pub(super) cuts: u32,
    /// When dispatchers were killed or stopped.
    pub(super) dispatchers_hit: Vec<Instant>,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "processes: {} kills, {} stops; nodes: {} kills, {} stops; connections: {} delays, {} holds, {} cuts",
            self.kills, self.stops, self.node_kills, self.node_stops, self.delays, self.holds, self.cuts
        )
    }
}

/// Harms everything for so long. Afterwards nothing is healed yet.
pub(super) async fn harm(nodes: &Nodes, processes: &Processes, seed: u64, during: Duration) -> Done {
    let until = Instant::now() + during;
    let lane = |number: u64| Lane {
        // Far apart, so that no two seeds share a lane.
        random: StdRng::seed_from_u64(seed ^ (number << 56)),
        until,
        done: Done::default(),
    };
    let (first, second, third) = tokio::join!(
        lane(1).harm_processes(&processes.all),
        lane(2).harm_nodes(nodes, Instant::now() + during / 2),
        lane(3).harm_connections(nodes, &processes.all),
    );
    Done {
        kills: first.kills,
        stops: first.stops,
        dispatchers_hit: first.dispatchers_hit,
        node_kills: second.node_kills,
        node_stops: second.node_stops,
        ..third
    }
}

struct Lane {
    random: StdRng,
    until: Instant,
    done: Done,
}

impl Lane {
    fn seconds(&mut self, range: std::ops::Range<f64>) -> Duration {
        Duration::from_secs_f64(self.random.random_range(range))
    }

    /// Lets a random while pass: that is the experiment, not a wait for something. False when the time is over.
    async fn pause(&mut self, range: std::ops::Range<f64>) -> bool {
        let pause = self.seconds(range);
        sleep(pause).await;
        Instant::now() < self.until
    }

    async fn harm_processes(mut self, all: &[Arc<Process>]) -> Done {
        while self.pause(0.5..6.0).await {
            let process = &all[self.random.random_range(0..all.len())];
            if process.role == DISPATCHER {
                self.done.dispatchers_hit.push(Instant::now());
            }
            if self.random.random_bool(0.6) {
                let down_for = match self.random.random_bool(0.5) {
                    true => Duration::ZERO,
                    false => self.seconds(0.0..8.0),
                };
                println!("kill -9 {}, down for {down_for:?}", process.name);
                process.kill(down_for);
                self.done.kills += 1;
            } else {
                // Up to well past a lease, so that others take over from one that goes on.
                let during = self.seconds(0.2..25.0);
                println!("SIGSTOP {} for {during:?}", process.name);
                process.stop();
                sleep(during).await;
                process.resume();
                self.done.stops += 1;
            }
        }
        self.done
    }

    /// One node at a time, and once, at `all_at` or as soon as the one is back, all of them.
    async fn harm_nodes(mut self, nodes: &Nodes, all_at: Instant) -> Done {
        let mut all_stopped = false;
        while self.pause(1.0..8.0).await {
            if !all_stopped && Instant::now() >= all_at {
                all_stopped = true;
                println!("SIGSTOP all nodes for {ALL_STOPPED:?}");
                stop(nodes, &[1, 2, 3], ALL_STOPPED).await;
                self.done.node_stops += 1;
                continue;
            }
            let number = self.random.random_range(1..=NODES);
            if self.random.random_bool(0.4) {
                let down_for = self.seconds(0.0..5.0);
                println!("kill -9 node {number}, down for {down_for:?}");
                nodes.kill(number).await;
                sleep(down_for).await;
                nodes.restart().await;
                self.done.node_kills += 1;
            } else {
                let during = self.seconds(0.2..12.0);
                println!("SIGSTOP node {number} for {during:?}");
                stop(nodes, &[number], during).await;
                self.done.node_stops += 1;
            }
        }
        self.done
    }

    async fn harm_connections(mut self, nodes: &Nodes, all: &[Arc<Process>]) -> Done {
        let between: Vec<_> = (1..=NODES).map(Nodes::name).collect();
        while self.pause(0.5..5.0).await {
            let fault = match self.random.random_range(0..6) {
                0 | 1 => Fault::Delay(self.seconds(0.01..0.6)),
                2 => Fault::Hold(Way::There),
                3 => Fault::Hold(Way::Back),
                4 => Fault::Hold(Way::Both),
                _ => Fault::Cut,
            };
            *match fault {
                Fault::Delay(_) => &mut self.done.delays,
                Fault::Hold(_) => &mut self.done.holds,
                _ => &mut self.done.cuts,
            } += 1;
            let at = self.random.random_range(0..between.len());
            let process = &all[self.random.random_range(0..all.len())].name;
            let other = &all[self.random.random_range(0..all.len())].name;
            let pairs: Vec<(&str, &str)> = match self.random.random_range(0..5) {
                // One of the nodes and another one.
                0 => vec![(&between[at], &between[(at + 1) % between.len()])],
                // A process and all nodes.
                1 => between
                    .iter()
                    .map(|node| (process.as_str(), node.as_str()))
                    .collect(),
                // Two processes.
                2 => vec![(process, other)],
                // A process and one of the nodes.
                _ => vec![(process, &between[at])],
            };
            let during = self.seconds(0.2..12.0);
            println!("{fault:?} between {pairs:?} for {during:?}");
            for (one, other) in &pairs {
                nodes.proxies.set(one, other, fault);
            }
            sleep(during).await;
            for (one, other) in &pairs {
                nodes.proxies.set(one, other, Fault::None);
            }
        }
        self.done
    }
}

async fn stop(nodes: &Nodes, numbers: &[u8], during: Duration) {
    for number in numbers {
        nodes.signal(*number, Signal::STOP);
    }
    sleep(during).await;
    for number in numbers {
        nodes.signal(*number, Signal::CONT);
    }
}
