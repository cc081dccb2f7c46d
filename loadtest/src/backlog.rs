//! The benchmark of a backlog: an endpoint is paused while many scans are recorded, and then catches up.
//!
//! Everything shares all cores of the machine: the product, the receiver, and the scans that go on meanwhile.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::ensure;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    companions::{self, Receiver},
    cpu,
    figure::{Figure, Figures},
    product::Product,
};

/// Where the code leads.
const LOCATION: &str = "https://example.com/landing";
/// Scans before the pause: an endpoint starts slowly until it has answered.
const WARM_UP_SCANS: u64 = 200;
/// How long the backlog may take.
const DRAIN_MAX: Duration = Duration::from_secs(1800);
/// Connections of the scans, and of the endpoint.
const CONNECTIONS: usize = 64;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The release binary of qrelay.
    pub qrelay: PathBuf,
    /// Where data and logs go; must exist.
    pub folder: PathBuf,
    /// How often it is done, each time with a process and a data directory of its own.
    pub cycles: usize,
    /// Events that wait when the endpoint goes on.
    pub events: u64,
}

struct Turn {
    drain: Duration,
    cpu: Duration,
    memory: u64,
}

/// Runs it; `say` is told what is going on.
///
/// # Errors
/// When the plan is out of bounds, the product does not start or refuses, a scan is not answered with 302, or a delivery does
/// not come or comes twice.
pub async fn run(plan: &Plan, mut say: impl FnMut(&str)) -> anyhow::Result<Figures> {
    ensure!(
        (1..=100).contains(&plan.cycles) && (1000..=10_000_000).contains(&plan.events),
        "1 to 100 cycles, 1,000 to 10,000,000 events"
    );
    let work = tempfile::Builder::new()
        .prefix("backlog-")
        .tempdir_in(&plan.folder)?;
    let mut turns = Vec::new();
    for cycle in 0..plan.cycles {
        say(&format!("cycle {} of {}", cycle + 1, plan.cycles));
        let folder = tempfile::Builder::new().prefix("turn-").tempdir_in(work.path())?;
        turns.push(turn(plan, folder.path(), &mut say).await?);
    }
    let events = float(plan.events);
    let row = |what, unit, value: &dyn Fn(&Turn) -> f64| {
        let values: Vec<_> = turns.iter().map(value).collect();
        Figure::of(what, unit, &values)
    };
    let rows = [
        row("backlog drained", "deliveries/s", &|turn| {
            events / turn.drain.as_secs_f64()
        }),
        row("of a CPU-second", "deliveries", &|turn| {
            events / turn.cpu.as_secs_f64()
        }),
        row("memory at most", "MiB", &|turn| {
            float(turn.memory) / f64::from(1 << 20)
        }),
    ];
    let method = format!(
        "{} events waited for one endpoint, which then went on; qrelay and the receiver share all cores",
        plan.events
    );
    Figures::new(rows, &plan.folder, method)
}

async fn turn(plan: &Plan, folder: &Path, say: &mut impl FnMut(&str)) -> anyhow::Result<Turn> {
    let receiver = Receiver::start(None, folder).await?;
    let mut product = Product::start(&plan.qrelay, folder, None).await?;
    let campaign = product.campaign("relaxed", LOCATION).await?;
    let fields = json!({ "max_concurrency": CONNECTIONS });
    let url = format!("http://{}/hook", receiver.address);
    let endpoint = product.endpoint(&campaign, &url, &fields).await?;
    companions::scan(None, folder, &campaign, CONNECTIONS, WARM_UP_SCANS).await?;
    receiver.accepted(WARM_UP_SCANS, companions::PATIENCE).await?;
    let paused = json!({ "status": "paused" });
    product.change_endpoint(&campaign, &endpoint, &paused).await?;
    receiver.reset().await?;
    companions::scan(None, folder, &campaign, CONNECTIONS, plan.events).await?;
    let recorded = product.counted(&campaign, WARM_UP_SCANS + plan.events).await?;
    ensure!(
        recorded == WARM_UP_SCANS + plan.events,
        "{recorded} scans were counted, {} answered",
        WARM_UP_SCANS + plan.events
    );
    ensure!(
        receiver.counts().await?.requests == 0,
        "a paused endpoint was sent to"
    );
    say("the endpoint goes on");
    let group = product.child().group();
    cpu::forget_peak_memory(group)?;
    let before = cpu::group_time(group)?;
    let active = json!({ "status": "active" });
    let began = Instant::now();
    product.change_endpoint(&campaign, &endpoint, &active).await?;
    receiver.accepted(plan.events, DRAIN_MAX).await?;
    let turn = Turn {
        drain: began.elapsed(),
        cpu: cpu::group_time(group)? - before,
        memory: cpu::peak_memory(group)?,
    };
    product.stop().await?;
    Ok(turn)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
const fn float(count: u64) -> f64 {
    count as f64
}
