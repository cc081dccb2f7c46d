//! The benchmark of deliveries: how many webhooks a second and a CPU-second, beside a loop that only sends signed POSTs.
//!
//! What sends is pinned to one core; scans and the receiver are on another. Each scenario takes its turn with a process
//! and a data directory of its own, and after each turn the loop sends the same bytes as often to the same receiver. A
//! figure is the median over cycles; ratios are of the two turns of a cycle, since machines drift.

mod outcome;

use std::{net::SocketAddr, path::Path, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::time::Instant;

pub use self::outcome::{Conditions, Measurement, Outcome, Row};
use crate::{
    companions::{self, Receiver},
    cpu, posts,
    product::{Campaign, Product},
};

/// Scans before a turn: endpoints start slowly until they have answered.
const WARM_UP_SCANS: u64 = 200;
/// How long the deliveries of one turn may take.
const TURN_MAX: Duration = Duration::from_secs(300);
/// What is done after the last delivery (rows, checkpoints) is charged, at most so long: beside endpoints that fail it
/// never ends.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// Connections of the scans.
const SCAN_CONNECTIONS: usize = 16;
/// Connections of the loop, and of a single endpoint.
const CONNECTIONS: usize = 64;
/// Where codes lead.
const LOCATION: &str = "https://shop.example.com/spring";

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The release binary of the product.
    pub qrelay: PathBuf,
    /// Where data and logs go; must exist.
    pub folder: PathBuf,
    /// How often each scenario takes its turn.
    pub cycles: usize,
    /// How many deliveries healthy endpoints get in one turn, about.
    pub deliveries: u64,
    /// The core of what sends.
    pub server_core: usize,
    /// The core of scans and receiver.
    pub load_core: usize,
}

/// Who gets webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// In words.
    pub what: &'static str,
    endpoints: usize,
    bad: Bad,
}

/// What a third is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bad {
    Nothing,
    /// Of the answers: 500, and retried a second later.
    Answers,
    /// Of the endpoints: every other one answers 500, the rest never answer.
    Endpoints,
}

/// The scenarios, in the order in which they take turns.
pub const SCENARIOS: [Scenario; 4] = [
    Scenario {
        what: "1 endpoint",
        endpoints: 1,
        bad: Bad::Nothing,
    },
    Scenario {
        what: "1 endpoint, a third of its answers 500",
        endpoints: 1,
        bad: Bad::Answers,
    },
    Scenario {
        what: "100 endpoints",
        endpoints: 100,
        bad: Bad::Nothing,
    },
    Scenario {
        what: "100 endpoints, a third answering 500 or never",
        endpoints: 100,
        bad: Bad::Endpoints,
    },
];

impl Scenario {
    fn is_bad(self, endpoint: usize) -> bool {
        self.bad == Bad::Endpoints && endpoint % 3 == 2
    }

    fn healthy(self) -> u64 {
        let healthy = (0..self.endpoints).filter(|endpoint| !self.is_bad(*endpoint));
        u64::try_from(healthy.count()).expect("invariant: a hundred at most")
    }

    fn path(self, endpoint: usize) -> String {
        match self.bad {
            Bad::Answers => format!("/third/{endpoint}"),
            Bad::Endpoints if self.is_bad(endpoint) && endpoint.is_multiple_of(2) => {
                format!("/status/500/{endpoint}")
            }
            Bad::Endpoints if self.is_bad(endpoint) => format!("/hole/{endpoint}"),
            Bad::Nothing | Bad::Endpoints => format!("/ok/{endpoint}"),
        }
    }
}

/// Runs it; `say` is told what is going on.
///
/// # Errors
/// When a process does not start, a scan is not answered with 302, or a delivery does not come.
pub async fn run(plan: &Plan, mut say: impl FnMut(&str)) -> anyhow::Result<Outcome> {
    ensure!(
        (1..=1000).contains(&plan.cycles) && plan.server_core != plan.load_core,
        "1 to 1000 cycles, and two different cores"
    );
    ensure!(
        (1000..=1_000_000).contains(&plan.deliveries),
        "1,000 to 1,000,000 deliveries"
    );
    let conditions = Conditions::read(plan)?;
    // The data lies where the plan says, not in a temporary folder that may be memory.
    let work = tempfile::Builder::new()
        .prefix("deliveries-")
        .tempdir_in(&plan.folder)?;
    let receiver = Receiver::start(Some(plan.load_core), work.path()).await?;
    let mut measurements = Vec::new();
    for cycle in 0..plan.cycles {
        for scenario in SCENARIOS {
            say(&format!(
                "cycle {} of {}: {}",
                cycle + 1,
                plan.cycles,
                scenario.what
            ));
            let folder = tempfile::Builder::new().prefix("turn-").tempdir_in(work.path())?;
            measurements.push(turn(plan, folder.path(), &receiver, scenario).await?);
        }
    }
    Ok(Outcome::new(conditions, &measurements))
}

/// One scenario's turn, and the loop's after it.
async fn turn(
    plan: &Plan,
    folder: &Path,
    receiver: &Receiver,
    scenario: Scenario,
) -> anyhow::Result<Measurement> {
    let mut product = Product::start(&plan.qrelay, folder, Some(plan.server_core)).await?;
    let scans = plan.deliveries / scenario.healthy();
    // What the scans alone cost, of a tenant without endpoints: taken off below.
    let alone = product.campaign("relaxed", LOCATION).await?;
    scan(plan, folder, &alone, WARM_UP_SCANS).await?;
    let scans_alone = charged(&mut product, scan(plan, folder, &alone, scans)).await?.1;

    let campaign = campaign(&product, receiver.address, scenario).await?;
    receiver.reset().await?;
    scan(plan, folder, &campaign, WARM_UP_SCANS).await?;
    receiver
        .accepted(WARM_UP_SCANS * scenario.healthy(), TURN_MAX)
        .await?;
    receiver.reset().await?;
    let deliveries = scans * scenario.healthy();
    let began = Instant::now();
    let load = async {
        scan(plan, folder, &campaign, scans).await?;
        receiver.accepted(deliveries, TURN_MAX).await?;
        Ok(began.elapsed())
    };
    let (elapsed, cpu) = charged(&mut product, load).await?;
    let came = receiver.counts().await?;
    let memory = cpu::peak_memory(product.child().group())?;
    drop(product);

    let body = receiver.last().await?;
    let file = folder.join("body");
    std::fs::write(&file, &body)?;
    let raw = posts(plan, folder, receiver.address, &file, deliveries).await?;
    Ok(Measurement {
        scenario,
        deliveries,
        requests: came.requests,
        body_bytes: body.len(),
        elapsed,
        cpu: cpu.saturating_sub(scans_alone),
        memory,
        raw,
    })
}

/// Does something, and what CPU time the product used for it, what it did soon afterwards included.
async fn charged<T>(
    product: &mut Product,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, Duration)> {
    let group = product.child().group();
    let before = cpu::group_time(group)?;
    let done = work.await?;
    cpu::settle(group, SETTLE_MAX).await?;
    Ok((done, cpu::group_time(group)?.saturating_sub(before)))
}

/// A code, and the scenario's endpoints.
async fn campaign(product: &Product, receiver: SocketAddr, scenario: Scenario) -> anyhow::Result<Campaign> {
    let campaign = product.campaign("relaxed", LOCATION).await?;
    let concurrency = if scenario.endpoints == 1 { CONNECTIONS } else { 16 };
    let mut fields = json!({ "max_concurrency": concurrency });
    if scenario.bad == Bad::Answers {
        // The shortest pauses there are, as many as there may be, so that nothing is given up.
        let pauses = std::iter::once("0s").chain(std::iter::repeat_n("1s", 19));
        fields["retry_schedule"] = json!(pauses.collect::<Vec<_>>());
        fields["failure"] = json!({ "degrade_after": 0 });
    }
    for endpoint in 0..scenario.endpoints {
        let url = format!("http://{receiver}{}", scenario.path(endpoint));
        product.endpoint(&campaign, &url, &fields).await?;
    }
    Ok(campaign)
}

/// So many scans, as fast as they are answered.
async fn scan(plan: &Plan, folder: &Path, campaign: &Campaign, scans: u64) -> anyhow::Result<()> {
    companions::scan(Some(plan.load_core), folder, campaign, SCAN_CONNECTIONS, scans).await
}

async fn posts(
    plan: &Plan,
    folder: &Path,
    receiver: SocketAddr,
    body: &Path,
    requests: u64,
) -> anyhow::Result<posts::Report> {
    let arguments = vec![
        "posts".to_owned(),
        format!("http://{receiver}/ok/raw"),
        format!("--body={}", body.display()),
        format!("--requests={requests}"),
        format!("--connections={CONNECTIONS}"),
    ];
    let mut child = companions::start(Some(plan.server_core), "posts", arguments, folder)?;
    let status = child.ended(TURN_MAX).await?;
    ensure!(
        status.success(),
        "the loop of POSTs failed:\n{}",
        child.last_lines()
    );
    serde_json::from_str(&child.output()?).context("the report of the loop of POSTs")
}
