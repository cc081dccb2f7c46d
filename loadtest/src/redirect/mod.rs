//! The benchmark of the redirect: server CPU per request, qrelay beside nginx and beside a server that does nothing else.
//!
//! All servers run at once, pinned to one core, and take turns; the load comes from the other core. Machines drift by tens
//! of percent within minutes, so a figure is the median over cycles of the ratio within a cycle, and the order rotates.
//! The load generator is the first to saturate on two cores, hence CPU per request and not requests per second.

mod outcome;
mod scenario;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::time::{Instant, sleep};

pub use self::{
    outcome::{Conditions, Measurement, Outcome},
    scenario::{Scenario, Server, scenarios},
};
use crate::{
    child::{Child, Start},
    companions, cpu, listeners, nginx,
    product::{Campaign, Product},
    tally::Report,
    target::Target,
};

/// Where every redirect leads: as long as real ones with their campaign parameters.
const LOCATION: &str =
    "https://shop.example.com/spring/collection?utm_source=poster&utm_medium=qr&utm_campaign=spring";
/// Scans before the first cycle, so that caches are warm and files exist.
const WARM_UP: Duration = Duration::from_secs(1);
/// After a load, a server's remaining work (reading its log, flushing) is waited for and charged, at most so long.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The release binary of the product.
    pub qrelay: PathBuf,
    /// nginx, by path or name.
    pub nginx: PathBuf,
    /// Where data, logs and configuration go; must exist.
    pub folder: PathBuf,
    /// How often every server takes its turn in each scenario.
    pub cycles: usize,
    /// How long one turn takes.
    pub turn: Duration,
    /// Connections of a saturated turn, and at most in an open loop.
    pub connections: usize,
    /// Scans per second of an open loop.
    pub rate_per_s: u32,
    /// The servers' core.
    pub server_core: usize,
    /// The load generator's core.
    pub load_core: usize,
}

/// The servers, all running.
struct Servers {
    product: Product,
    durable: Campaign,
    relaxed: Campaign,
    nginx: (Child, Target),
    raw: (Child, Target),
}

/// Runs it; `say` is told what is going on.
///
/// # Errors
/// When a server does not start, somebody else listens on its port, or a scan is not answered as it should be: a figure
/// over failed requests would be none.
pub async fn run(plan: &Plan, mut say: impl FnMut(&str)) -> anyhow::Result<Outcome> {
    ensure!(
        plan.cycles >= 1 && plan.server_core != plan.load_core,
        "at least a cycle, and two different cores"
    );
    let conditions = Conditions::read(plan)?;
    // The data lies where the plan says, not in a temporary folder that may be memory.
    let work = tempfile::Builder::new()
        .prefix("redirect-")
        .tempdir_in(&plan.folder)?;
    let mut servers = Servers::start(plan, work.path()).await?;
    let mut answered = [0_u64; 2];
    let mut measurements = Vec::new();
    say("warming up");
    for server in Server::ALL {
        let (report, _) = turn(
            plan,
            &mut servers,
            work.path(),
            server,
            &Scenario::warm_up(),
            WARM_UP,
        )
        .await?;
        count(&mut answered, server, &report);
    }
    for scenario in scenarios(plan.rate_per_s) {
        for cycle in 0..plan.cycles {
            say(&format!(
                "{}: cycle {} of {}",
                scenario.what,
                cycle + 1,
                plan.cycles
            ));
            for server in scenario.order(cycle) {
                let (report, cpu) =
                    turn(plan, &mut servers, work.path(), server, &scenario, plan.turn).await?;
                count(&mut answered, server, &report);
                measurements.push(Measurement {
                    scenario: scenario.clone(),
                    cycle,
                    server,
                    cpu,
                    report,
                });
            }
        }
    }
    say("checking that every answered scan was recorded");
    for (campaign, answered) in [&servers.durable, &servers.relaxed].into_iter().zip(answered) {
        let counted = servers.product.counted(campaign, answered).await?;
        ensure!(
            counted == answered,
            "{answered} scans were answered, but {counted} counted for {}",
            campaign.tenant
        );
    }
    servers.product.stop().await?;
    Ok(Outcome::new(conditions, measurements))
}

fn count(answered: &mut [u64; 2], server: Server, report: &Report) {
    match server {
        Server::Durable => answered[0] += report.answered,
        Server::Relaxed => answered[1] += report.answered,
        Server::Nginx | Server::Raw => {}
    }
}

impl Servers {
    async fn start(plan: &Plan, folder: &Path) -> anyhow::Result<Self> {
        let mut product = Product::start(&plan.qrelay, folder, Some(plan.server_core)).await?;
        let port = product.port();
        wait_for(product.child(), port).await?;
        let durable = product.campaign("durable", LOCATION).await?;
        let relaxed = product.campaign("relaxed", LOCATION).await?;

        let listen = listeners::free_address()?;
        listeners::ensure_unused(listen.port())?;
        let mut nginx = nginx::start(&plan.nginx, folder, plan.server_core, listen, LOCATION)?;
        wait_for(&mut nginx, listen.port()).await?;
        let nginx = (nginx, format!("http://{listen}/abcdefgh").parse()?);

        let listen = listeners::free_address()?;
        listeners::ensure_unused(listen.port())?;
        let this = std::env::current_exe()?;
        let arguments = ["raw", "--listen", &listen.to_string(), "--location", LOCATION]
            .map(Into::into)
            .to_vec();
        let start = Start {
            name: "raw",
            core: Some(plan.server_core),
            program: this.as_os_str(),
            arguments,
            environment: Vec::new(),
            folder,
        };
        let mut raw = start.start()?;
        wait_for(&mut raw, listen.port()).await?;
        let raw = (raw, format!("http://{listen}/abcdefgh").parse()?);
        Ok(Self {
            product,
            durable,
            relaxed,
            nginx,
            raw,
        })
    }

    fn side(&mut self, server: Server) -> (&mut Child, &Target) {
        match server {
            Server::Durable => (self.product.child(), &self.durable.target),
            Server::Relaxed => (self.product.child(), &self.relaxed.target),
            Server::Nginx => (&mut self.nginx.0, &self.nginx.1),
            Server::Raw => (&mut self.raw.0, &self.raw.1),
        }
    }
}

/// Waits until the child, and nobody else, listens on the port.
async fn wait_for(child: &mut Child, port: u16) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !listeners::is_served_by(port, child.group())? {
        child.ensure_running()?;
        ensure!(
            Instant::now() < deadline,
            "nothing listens on port {port}:\n{}",
            child.last_lines()
        );
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// One server's turn: the load, and the CPU time that the server used for it, what it did afterwards included.
async fn turn(
    plan: &Plan,
    servers: &mut Servers,
    folder: &Path,
    server: Server,
    scenario: &Scenario,
    duration: Duration,
) -> anyhow::Result<(Report, Duration)> {
    let (child, target) = servers.side(server);
    child.ensure_running()?;
    let group = child.group();
    ensure!(
        listeners::is_served_by(target.address.port(), group)?,
        "{server:?} does not listen any more"
    );
    let before = cpu::group_time(group)?;
    let mut arguments = vec![
        format!("--seconds={}", duration.as_secs_f64()),
        format!("--connections={}", plan.connections),
    ];
    arguments.extend(scenario.rate_per_s.map(|rate| format!("--rate={rate}")));
    arguments.extend(scenario.fresh.then(|| "--fresh".to_owned()));
    let longest = duration + Duration::from_secs(30);
    let report = companions::scan_with(Some(plan.load_core), folder, target, arguments, longest)
        .await
        .with_context(|| format!("{server:?}, {}", scenario.what))?;
    cpu::settle(group, SETTLE_MAX).await?;
    let used = cpu::group_time(group)?.saturating_sub(before);
    Ok((report, used))
}
