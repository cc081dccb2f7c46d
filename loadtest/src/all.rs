//! All benchmarks one after the other, and their table.

use std::{path::PathBuf, time::Duration};

use crate::{
    backlog, cassandra, cluster, codes, deliveries,
    isolation::{self, Neighbours},
    latency::{self, Pace},
    machine::Machine,
    memory, redirect,
    table::{self, Bound, Missing, Table},
};

/// The binaries and where to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The release binary of the product.
    pub qrelay: PathBuf,
    /// nginx, by path or name.
    pub nginx: PathBuf,
    /// The example `seed_codes` of the store, a release binary.
    pub seeder: PathBuf,
    /// Where the benchmark of a cluster gets its node.
    pub cassandra: cassandra::Source,
    /// Where data and logs go; must exist.
    pub folder: PathBuf,
    /// Few and short turns: under three minutes, for a first look.
    pub quick: bool,
    /// The core of the servers.
    pub server_core: usize,
    /// The core of the load generator.
    pub load_core: usize,
}

/// A figure as its benchmark calls it, as the table does, and its bound.
type Named = (&'static str, &'static str, Bound);

const LATENCY: &[Named] = &[
    ("scan to redirect, p50", "scan to redirect, p50", Bound::Stated),
    ("scan to redirect, p99", "scan to redirect, p99", Bound::Stated),
    ("scan to webhook, p50", "scan to webhook, p50", Bound::AtMost(1.5)),
    ("scan to webhook, p99", "scan to webhook, p99", Bound::AtMost(6.0)),
];
const CLUSTER: &[Named] = &[
    (
        "scan to webhook, p50",
        "scan to webhook across processes on Cassandra, p50",
        Bound::AtMost(25.0),
    ),
    (
        "scan to webhook, p99",
        "scan to webhook across processes on Cassandra, p99",
        Bound::AtMost(100.0),
    ),
];
const BACKLOG: &[Named] = &[
    (
        "backlog drained",
        "backlog drained, on all cores with its receiver",
        Bound::AtLeast(15_000.0),
    ),
    (
        "memory at most",
        "memory while it is drained",
        Bound::AtMost(300.0),
    ),
];
const CODES: &[Named] = &[
    (
        "server CPU per scan",
        "server CPU per scan with many codes",
        Bound::AtMost(1.3),
    ),
    (
        "start to first redirect with many codes",
        "start to first redirect with many codes",
        Bound::AtMost(1000.0),
    ),
];
const MEMORY: &[Named] = &[
    ("idle", "memory, idle", Bound::AtMost(80.0)),
    ("per cached code", "memory per cached code", Bound::AtMost(700.0)),
    (
        "per idle endpoint",
        "memory per idle endpoint",
        Bound::AtMost(8192.0),
    ),
];

/// Runs them; `say` is told what is going on.
///
/// # Errors
/// As the benchmarks do: a figure over failed requests would be none.
pub async fn run(plan: &Plan, mut say: impl FnMut(&str)) -> anyhow::Result<Table> {
    let mut lines = Vec::new();
    say("== redirects");
    let found = redirect::run(&plan.redirect(), &mut say).await?;
    // Each is told as it is found: a failure of a later one costs none of it.
    say(&found.to_string());
    lines.extend(table::of_redirect(&found));
    say("== latency");
    let found = latency::run(&plan.latency(), &mut say).await?;
    say(&found.to_string());
    lines.extend(table::of_figures(&found, LATENCY));
    say("== deliveries");
    let found = deliveries::run(&plan.deliveries(), &mut say).await?;
    say(&found.to_string());
    lines.extend(table::of_deliveries(&found));
    say("== backlog");
    let found = backlog::run(&plan.backlog(), &mut say).await?;
    say(&found.to_string());
    lines.extend(table::of_figures(&found, BACKLOG));
    say("== isolation");
    for neighbours in plan.neighbours() {
        let found = isolation::run(&plan.isolation(neighbours), &mut say).await?;
        say(&found.to_string());
        lines.extend(table::of_isolation(&found));
    }
    say("== many codes");
    let found = codes::run(&plan.codes(), &mut say).await?;
    say(&found.to_string());
    lines.extend(table::of_figures(&found, CODES));
    say("== memory");
    let found = memory::run(&plan.memory(), &mut say).await?;
    say(&found.to_string());
    lines.extend(table::of_figures(&found, MEMORY));
    say("== cluster");
    let mut missing = Vec::new();
    match cluster::run(&plan.cluster(), &mut say).await {
        Ok(found) => {
            say(&found.to_string());
            lines.extend(table::of_figures(&found, CLUSTER));
        }
        // A machine without a JDK has all other figures.
        Err(error) => {
            say(&format!("{error:#}"));
            missing = not_measured(CLUSTER, "ms", &error);
        }
    }
    Ok(Table {
        lines,
        missing,
        machine: Machine::read(&plan.folder)?,
    })
}

fn not_measured(figures: &[Named], unit: &'static str, error: &anyhow::Error) -> Vec<Missing> {
    let why = format!("{error:#}");
    let why = why.lines().next().unwrap_or_default();
    let missing = figures.iter().map(|(_, name, bound)| Missing {
        what: (*name).to_owned(),
        bound: *bound,
        unit,
        why: why.to_owned(),
    });
    missing.collect()
}

impl Plan {
    /// One of two, as it is a quick look or not.
    fn either<T>(&self, whole: T, quick: T) -> T {
        if self.quick { quick } else { whole }
    }

    fn redirect(&self) -> redirect::Plan {
        redirect::Plan {
            qrelay: self.qrelay.clone(),
            nginx: self.nginx.clone(),
            folder: self.folder.clone(),
            cycles: self.either(7, 3),
            turn: Duration::from_secs_f64(self.either(4.0, 0.7)),
            connections: 64,
            rate_per_s: 5000,
            server_core: self.server_core,
            load_core: self.load_core,
        }
    }

    fn latency(&self) -> latency::Plan {
        latency::Plan {
            qrelay: self.qrelay.clone(),
            folder: self.folder.clone(),
            pace: Pace {
                cycles: self.either(5, 3),
                turn: Duration::from_secs(self.either(10, 2)),
                rate_per_s: 1000.0,
            },
            server_core: self.server_core,
            load_core: self.load_core,
        }
    }

    fn cluster(&self) -> cluster::Plan {
        cluster::Plan {
            qrelay: self.qrelay.clone(),
            cassandra: self.cassandra.clone(),
            folder: self.folder.clone(),
            pace: Pace {
                cycles: self.either(5, 2),
                turn: Duration::from_secs(self.either(10, 2)),
                rate_per_s: 200.0,
            },
            server_core: self.server_core,
            load_core: self.load_core,
        }
    }

    fn deliveries(&self) -> deliveries::Plan {
        deliveries::Plan {
            qrelay: self.qrelay.clone(),
            folder: self.folder.clone(),
            cycles: self.either(5, 1),
            deliveries: self.either(20_000, 10_000),
            server_core: self.server_core,
            load_core: self.load_core,
        }
    }

    fn backlog(&self) -> backlog::Plan {
        backlog::Plan {
            qrelay: self.qrelay.clone(),
            folder: self.folder.clone(),
            cycles: 1,
            events: self.either(1_000_000, 50_000),
        }
    }

    /// A quick look takes the first only.
    fn neighbours(&self) -> Vec<Neighbours> {
        let (third, hostile) = (Neighbours::A_THIRD_BAD, Neighbours::hostile(50));
        self.either(vec![third, hostile], vec![third])
    }

    fn isolation(&self, neighbours: Neighbours) -> isolation::Plan {
        isolation::Plan {
            qrelay: self.qrelay.clone(),
            folder: self.folder.clone(),
            neighbours,
            cycles: self.either(5, 1),
            turn: Duration::from_secs(self.either(10, 3)),
            rate_per_s: 50,
            server_core: self.server_core,
        }
    }

    fn codes(&self) -> codes::Plan {
        codes::Plan {
            qrelay: self.qrelay.clone(),
            seeder: self.seeder.clone(),
            folder: self.folder.clone(),
            cycles: self.either(5, 3),
            turn: Duration::from_secs_f64(self.either(4.0, 0.7)),
            many: self.either(10_000_000, 100_000),
            few: 1000,
            connections: 64,
            server_core: self.server_core,
            load_core: self.load_core,
        }
    }

    fn memory(&self) -> memory::Plan {
        memory::Plan {
            qrelay: self.qrelay.clone(),
            seeder: self.seeder.clone(),
            folder: self.folder.clone(),
            cycles: self.either(3, 1),
            codes: self.either(50_000, 10_000),
            endpoints: self.either(2000, 500),
        }
    }
}
