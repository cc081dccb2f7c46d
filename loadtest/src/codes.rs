//! The benchmark of many codes: server CPU per scan and the time of a start, beside the same with few.
//!
//! Two of the product run on one core, each on its data directory, and take turns; the load comes from another core and asks
//! for codes as people do, some often and most seldom. A figure is the median over cycles of the ratio within a cycle.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::ensure;
use tokio::time::{Instant, sleep};

use crate::{
    companions, cpu,
    figure::{Figure, Figures},
    product::{Campaign, Product},
    rest::Call,
    seeded::{PREFIX, Seeded, seeded},
};

/// What is done after a load is charged, at most so long.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// A start takes at most so long.
const START_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The release binary of qrelay.
    pub qrelay: PathBuf,
    /// The example `seed_codes` of the store, a release binary.
    pub seeder: PathBuf,
    /// Where data and logs go; must exist. The directories with codes stay there.
    pub folder: PathBuf,
    /// How often both take their turn, and are started.
    pub cycles: usize,
    /// How long one turn takes.
    pub turn: Duration,
    /// How many codes the one has.
    pub many: u64,
    /// And the other.
    pub few: u64,
    /// Connections.
    pub connections: usize,
    /// The core of the servers.
    pub server_core: usize,
    /// The core of the load generator.
    pub load_core: usize,
}

/// Values of each cycle: of many codes, and of few.
#[derive(Debug, Default)]
struct Values {
    many: Vec<f64>,
    few: Vec<f64>,
}

struct Side {
    product: Product,
    campaign: Campaign,
    codes: u64,
    counted: u64,
}

/// Runs it; `say` is told what is going on.
///
/// # Errors
/// When the plan is out of bounds, the product does not start, a scan is not answered with 302, or one was not recorded.
pub async fn run(plan: &Plan, mut say: impl FnMut(&str)) -> anyhow::Result<Figures> {
    ensure!(
        (1..=100).contains(&plan.cycles) && 1 <= plan.few && plan.few < plan.many && plan.many <= 100_000_000,
        "1 to 100 cycles, and fewer codes beside more, 100,000,000 at most"
    );
    say("making the codes, unless they are there");
    let few = seeded(&plan.qrelay, &plan.seeder, &plan.folder, plan.few).await?;
    let many = seeded(&plan.qrelay, &plan.seeder, &plan.folder, plan.many).await?;
    let work = tempfile::Builder::new()
        .prefix("codes-run-")
        .tempdir_in(&plan.folder)?;
    let (mut starts, mut costs) = (Values::default(), Values::default());
    for cycle in 0..plan.cycles {
        say(&format!("starts: cycle {} of {}", cycle + 1, plan.cycles));
        starts.many.push(start(plan, work.path(), &many).await?);
        starts.few.push(start(plan, work.path(), &few).await?);
    }
    let mut with_many = Side::start(plan, work.path(), &many).await?;
    let mut with_few = Side::start(plan, work.path(), &few).await?;
    // The first turn warms caches.
    for cycle in 0..=plan.cycles {
        say(&format!("scans: cycle {cycle} of {}", plan.cycles));
        // In alternating order.
        let (many, few) = if cycle % 2 == 0 {
            let many = with_many.turn(plan, work.path()).await?;
            (many, with_few.turn(plan, work.path()).await?)
        } else {
            let few = with_few.turn(plan, work.path()).await?;
            (with_many.turn(plan, work.path()).await?, few)
        };
        if cycle > 0 {
            costs.many.push(many);
            costs.few.push(few);
        }
    }
    with_many.end().await?;
    with_few.end().await?;
    let rows = [
        Figure::beside("server CPU per scan", "µs", &costs.many, &costs.few),
        Figure::of("start to first redirect with many codes", "ms", &starts.many),
        Figure::of("start to first redirect with few codes", "ms", &starts.few),
    ];
    let method = format!(
        "{} codes beside {}; scans spread as 1/rank (Zipf), {} connections, saturated, durable; {} cycles of {} s; CPU until \
         it is at rest again",
        plan.many,
        plan.few,
        plan.connections,
        plan.cycles,
        plan.turn.as_secs_f64()
    );
    Figures::new(rows, &plan.folder, method)
}

/// Starts it, and returns after how many milliseconds the first scan was redirected.
async fn start(plan: &Plan, folder: &Path, seeded: &Seeded) -> anyhow::Result<f64> {
    let folder = tempfile::Builder::new().prefix("start-").tempdir_in(folder)?;
    let began = Instant::now();
    let mut product = Product::spawn(&plan.qrelay, folder.path(), &seeded.data, Some(plan.server_core))?;
    let address = product.edge();
    let last = seeded.codes - 1;
    loop {
        product.child().ensure_running()?;
        let call = Call::fetch(address, &format!("/{PREFIX}{last}"));
        if call.send().await.is_ok_and(|(status, _)| status == 302) {
            break;
        }
        ensure!(
            began.elapsed() < START_MAX,
            "no redirect:\n{}",
            product.child().last_lines()
        );
        sleep(POLL).await;
    }
    let took = began.elapsed();
    product.stop().await?;
    Ok(took.as_secs_f64() * 1e3)
}

impl Side {
    async fn start(plan: &Plan, folder: &Path, seeded: &Seeded) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("side-")
            .tempdir_in(folder)?
            .keep();
        let mut product = Product::spawn(&plan.qrelay, &folder, &seeded.data, Some(plan.server_core))?;
        product.ready().await?;
        let campaign = product.codes(&seeded.tenant, PREFIX)?;
        let counted = product.counted_at_rest(&campaign).await?;
        Ok(Self {
            product,
            campaign,
            codes: seeded.codes,
            counted,
        })
    }

    /// Microseconds of CPU per scan.
    async fn turn(&mut self, plan: &Plan, folder: &Path) -> anyhow::Result<f64> {
        let group = self.product.child().group();
        let before = cpu::group_time(group)?;
        let arguments = [
            format!("--seconds={}", plan.turn.as_secs_f64()),
            format!("--connections={}", plan.connections),
            format!("--codes={}", self.codes),
        ];
        let longest = plan.turn + Duration::from_secs(30);
        let core = Some(plan.load_core);
        let report = companions::scan_with(core, folder, &self.campaign.target, arguments, longest).await?;
        cpu::settle(group, SETTLE_MAX).await?;
        let used = cpu::group_time(group)?.saturating_sub(before);
        self.counted += report.answered;
        #[expect(clippy::cast_precision_loss, reason = "counts of scans are far below 2^52")]
        let answered = report.answered as f64;
        Ok(used.as_secs_f64() * 1e6 / answered)
    }

    async fn end(self) -> anyhow::Result<()> {
        let counted = self.product.counted(&self.campaign, self.counted).await?;
        ensure!(
            counted == self.counted,
            "{} scans were answered, {counted} counted",
            self.counted
        );
        self.product.stop().await
    }
}
