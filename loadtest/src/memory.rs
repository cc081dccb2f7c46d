//! The benchmark of memory: what an idle process holds, and how much more it holds for each code in its cache and for each
//! endpoint that waits for events.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::ensure;
use serde_json::json;

use crate::{
    companions, cpu,
    figure::{Figure, Figures},
    product::Product,
    seeded::{PREFIX, Seeded, seeded},
};

/// After a load it comes to rest, within so long.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// Connections of the scans.
const CONNECTIONS: usize = 16;
/// How long the scans of one load may take.
const SCANS_MAX: Duration = Duration::from_secs(300);
/// A tenant has at most as many endpoints.
const ENDPOINTS_PER_TENANT: u64 = 100;
/// Where endpoints are said to be: nothing is sent there.
const RECEIVER: &str = "http://127.0.0.1:9999/hook";

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The release binary of qrelay.
    pub qrelay: PathBuf,
    /// The example `seed_codes` of the store, a release binary.
    pub seeder: PathBuf,
    /// Where data and logs go; must exist. The directory with codes stays there.
    pub folder: PathBuf,
    /// How often it is done, each time with a process of its own.
    pub cycles: usize,
    /// How many codes are cached.
    pub codes: u64,
    /// How many endpoints wait.
    pub endpoints: u64,
}

struct Turn {
    idle: u64,
    code: f64,
    endpoint: f64,
}

/// Runs it; `say` is told what is going on.
///
/// # Errors
/// When the plan is out of bounds, the product does not start or refuses, or a scan is not answered with 302.
pub async fn run(plan: &Plan, mut say: impl FnMut(&str)) -> anyhow::Result<Figures> {
    ensure!(
        (1..=100).contains(&plan.cycles)
            && (1000..=100_000).contains(&plan.codes)
            && (100..=100_000).contains(&plan.endpoints),
        "1 to 100 cycles, 1,000 to 100,000 codes (more do not fit into the cache), 100 to 100,000 endpoints"
    );
    say("making the codes, unless they are there");
    let seeded = seeded(&plan.qrelay, &plan.seeder, &plan.folder, plan.codes).await?;
    let mut turns = Vec::new();
    for cycle in 0..plan.cycles {
        say(&format!("cycle {} of {}", cycle + 1, plan.cycles));
        let work = tempfile::Builder::new()
            .prefix("memory-")
            .tempdir_in(&plan.folder)?;
        turns.push(turn(plan, work.path(), &seeded).await?);
    }
    let row = |what, unit, value: &dyn Fn(&Turn) -> f64| {
        let values: Vec<_> = turns.iter().map(value).collect();
        Figure::of(what, unit, &values)
    };
    let rows = [
        row("idle", "MiB", &|turn| float(turn.idle) / f64::from(1 << 20)),
        row("per cached code", "B", &|turn| turn.code),
        row("per idle endpoint", "B", &|turn| turn.endpoint),
    ];
    let method = format!(
        "idle: all that is resident, at rest after a start and a scan; {} codes, each scanned once, after as many scans of one; \
         {} endpoints of tenants with {ENDPOINTS_PER_TENANT} each: what is resident and of no file, after less before",
        plan.codes, plan.endpoints
    );
    Figures::new(rows, &plan.folder, method)
}

async fn turn(plan: &Plan, folder: &Path, seeded: &Seeded) -> anyhow::Result<Turn> {
    // Endpoints stay out of the directory that is kept.
    let idle = {
        let mut product = Product::start(&plan.qrelay, folder, None).await?;
        let campaign = product.campaign("durable", "https://example.com/landing").await?;
        companions::scan(None, folder, &campaign, 1, 1).await?;
        let group = product.child().group();
        cpu::settle(group, SETTLE_MAX).await?;
        let idle = cpu::memory(group)?;
        let before = cpu::own_memory(group)?;
        for number in 0..plan.endpoints.div_ceil(ENDPOINTS_PER_TENANT) {
            let tenant = product.tenant("durable").await?;
            let campaign = product.codes(&tenant, PREFIX)?;
            let left = plan.endpoints - number * ENDPOINTS_PER_TENANT;
            for _ in 0..left.min(ENDPOINTS_PER_TENANT) {
                product.endpoint(&campaign, RECEIVER, &json!({})).await?;
            }
        }
        cpu::settle(group, SETTLE_MAX).await?;
        let after = cpu::own_memory(group)?;
        product.stop().await?;
        (idle, each(before, after, plan.endpoints))
    };
    let work = tempfile::Builder::new().prefix("cache-").tempdir_in(folder)?;
    let mut product = Product::spawn(&plan.qrelay, work.path(), &seeded.data, None)?;
    product.ready().await?;
    let campaign = product.codes(&seeded.tenant, PREFIX)?;
    let group = product.child().group();
    let mut held = Vec::new();
    for codes in [1, plan.codes] {
        let arguments = [
            format!("--seconds={}", SCANS_MAX.as_secs()),
            format!("--connections={CONNECTIONS}"),
            format!("--requests={}", plan.codes),
            format!("--codes={codes}"),
            "--spread=turns".to_owned(),
        ];
        companions::scan_with(None, work.path(), &campaign.target, arguments, SCANS_MAX * 2).await?;
        cpu::settle(group, SETTLE_MAX).await?;
        held.push(cpu::own_memory(group)?);
    }
    product.stop().await?;
    Ok(Turn {
        idle: idle.0,
        endpoint: idle.1,
        code: each(held[0], held[1], plan.codes),
    })
}

/// How much more was held, for each of so many.
fn each(before: u64, after: u64, count: u64) -> f64 {
    (float(after) - float(before)) / float(count)
}

#[expect(clippy::cast_precision_loss, reason = "bytes and counts are far below 2^52")]
const fn float(count: u64) -> f64 {
    count as f64
}
