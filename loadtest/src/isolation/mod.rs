//! The benchmark of isolation: how long a scan's webhook takes to a healthy endpoint, alone and beside bad ones.
//!
//! One `qrelay up`, one tenant: every scan is for the healthy endpoint and for all others. *Alone*, the bad ones are paused,
//! and the scans are of a code that the other healthy ones do not want; *beside*, they want every scan, and the bad ones are
//! active, and catch up with what was kept for them meanwhile. The two take turns, so that a machine that drifts does so for
//! both. A delay counts from the moment at which the scan was sent to the one at which the healthy receiver had the webhook's
//! whole body, both on this process's clock. A webhook that does not come is an error, also at another healthy endpoint.

pub mod bad;
mod outcome;

use std::{
    cell::RefCell,
    collections::HashMap,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use http::StatusCode;
use serde_json::json;
use tokio::{
    net::TcpListener,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    companions::Receiver,
    connection::Connection,
    product::{Campaign, Product},
    receiver::{self, Manner},
    tally::{self, Quantiles, micros},
};
use bad::{Crowd, Kind};

pub use outcome::Outcome;

/// Where the code leads.
const LOCATION: &str = "https://example.com/landing";
/// After a change of the bad endpoints: what was under way takes five seconds at most.
const SETTLE: Duration = Duration::from_secs(6);
/// How long the last webhooks of a turn may take.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The binary of qrelay.
    pub qrelay: PathBuf,
    /// Where its data goes.
    pub folder: PathBuf,
    /// Who else wants the scans.
    pub neighbours: Neighbours,
    /// How often both take their turn.
    pub cycles: usize,
    /// How long one turn takes.
    pub turn: Duration,
    /// Scans a second.
    pub rate_per_s: u32,
    /// The core of the server.
    pub server_core: usize,
}

/// The other endpoints: at most 99, as a tenant has 100.
#[derive(Debug, Clone, Copy)]
pub struct Neighbours {
    /// Bad ones, one at least.
    pub bad: usize,
    /// How they are bad, in turn.
    pub kinds: &'static [Kind],
    /// Healthy ones.
    pub healthy: usize,
}

impl Neighbours {
    /// Of a hundred endpoints a third is out of order.
    pub const A_THIRD_BAD: Self = Self {
        bad: 33,
        kinds: &Kind::OUT_OF_ORDER,
        healthy: 66,
    };

    /// So many that do what no receiver should.
    #[must_use]
    pub const fn hostile(bad: usize) -> Self {
        Self {
            bad,
            kinds: &Kind::HOSTILE,
            healthy: 0,
        }
    }
}

/// Who the others are to the healthy one, in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// They get nothing.
    Alone,
    /// They are sent to.
    Beside,
}

/// One turn.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// In which cycle.
    pub cycle: usize,
    /// In which company.
    pub company: Company,
    /// How long things took.
    pub delays: Delays,
}

/// How long things took in a turn, in microseconds from the moment at which the scan was sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delays {
    /// Until the webhook was there.
    pub webhook_us: Quantiles,
    /// Until the redirect was: a part of it, in which the scan goes to disk.
    pub redirect_us: Quantiles,
}

/// When which webhook came.
type Arrived = Rc<RefCell<HashMap<String, Instant>>>;

/// Runs it; `say` is told what is going on.
///
/// # Errors
/// When the plan is out of bounds, the product does not start or refuses, a webhook does not come, or a bad receiver was
/// never connected to, which would measure nothing.
pub async fn run(plan: &Plan, mut say: impl FnMut(&str)) -> anyhow::Result<Outcome> {
    ensure!(
        plan.neighbours.bad >= 1
            && (1..=99).contains(&plan.neighbours.bad.saturating_add(plan.neighbours.healthy))
            && plan.cycles >= 1
            && (1..=10_000).contains(&plan.rate_per_s),
        "1 to 99 other endpoints, a bad one among them, a cycle or more, 1 to 10,000 scans a second"
    );
    let work = tempfile::Builder::new()
        .prefix("isolation-")
        .tempdir_in(&plan.folder)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let healthy = format!("http://{}/hook", listener.local_addr()?);
    let arrived = Arrived::default();
    let (heard, stop) = (Rc::clone(&arrived), CancellationToken::new());
    let manner = Manner {
        status: StatusCode::OK,
        delay: Duration::ZERO,
    };
    let serving = receiver::serve_telling(listener, manner, stop, move |id| {
        heard
            .borrow_mut()
            .entry(id.to_owned())
            .or_insert_with(Instant::now);
    });
    tokio::select! {
        ended = serving => bail!("the healthy receiver ended: {ended:?}"),
        outcome = measure(plan, work.path(), &healthy, &arrived, &mut say) => outcome,
    }
}

async fn measure(
    plan: &Plan,
    folder: &Path,
    healthy: &str,
    arrived: &Arrived,
    say: &mut impl FnMut(&str),
) -> anyhow::Result<Outcome> {
    let product = Product::start(&plan.qrelay, folder, Some(plan.server_core)).await?;
    let stage = Stage::set(plan, folder, &product, healthy).await?;
    say("warming up");
    turn(plan, &stage, Company::Beside, arrived).await?;
    let mut turns = Vec::new();
    for cycle in 0..plan.cycles {
        let mut order = [Company::Alone, Company::Beside];
        order.rotate_left(cycle % 2);
        for company in order {
            say(&format!("cycle {} of {}: {company:?}", cycle + 1, plan.cycles));
            let status = match company {
                Company::Alone => "paused",
                Company::Beside => "active",
            };
            for endpoint in &stage.bad {
                product
                    .change_endpoint(&stage.everybodys, endpoint, &json!({ "status": status }))
                    .await?;
            }
            sleep(SETTLE).await;
            let delays = turn(plan, &stage, company, arrived).await?;
            turns.push(Turn {
                cycle,
                company,
                delays,
            });
        }
    }
    for kind in plan.neighbours.kinds.iter().take(plan.neighbours.bad) {
        let of_kind = stage.crowd.members.iter().filter(|member| member.kind == *kind);
        let connections: u64 = of_kind.map(bad::Bad::connections).sum();
        ensure!(connections > 0, "no {kind:?} was ever connected to");
        say(&format!("{kind:?}: {connections} connections"));
    }
    product.stop().await?;
    Ok(Outcome::new(plan, &turns))
}

/// What is scanned, and who wants it.
struct Stage {
    /// The code of turns alone.
    own: Campaign,
    /// The code that all want.
    everybodys: Campaign,
    crowd: Crowd,
    /// The ids of the bad endpoints.
    bad: Vec<String>,
    /// What the other healthy endpoints send to, a process of its own.
    others: Option<Receiver>,
}

impl Stage {
    /// The bad ones are paused.
    async fn set(plan: &Plan, folder: &Path, product: &Product, healthy: &str) -> anyhow::Result<Self> {
        let own = product.campaign("durable", LOCATION).await?;
        let (everybodys, code) = product.code(own.tenant.clone(), LOCATION).await?;
        let crowd = Crowd::start(plan.neighbours.bad, plan.neighbours.kinds).await?;
        product.endpoint(&own, healthy, &json!({})).await?;
        let mut bad = Vec::new();
        for member in &crowd.members {
            let paused = json!({ "status": "paused" });
            bad.push(product.endpoint(&own, &member.url(), &paused).await?);
        }
        let mut others = None;
        if plan.neighbours.healthy > 0 {
            let receiver = Receiver::start(None, folder).await?;
            for number in 0..plan.neighbours.healthy {
                let url = format!("http://{}/ok/{number}", receiver.address);
                let filter = json!({ "filter": { "codes": [code] } });
                product.endpoint(&own, &url, &filter).await?;
            }
            others = Some(receiver);
        }
        Ok(Self {
            own,
            everybodys,
            crowd,
            bad,
            others,
        })
    }

    /// Waits until the other healthy endpoints have got so many scans each.
    async fn others_have(&self, plan: &Plan, scans: usize) -> anyhow::Result<()> {
        let Some(others) = &self.others else {
            return Ok(());
        };
        let due = u64::try_from(scans * plan.neighbours.healthy)?;
        let deadline = Instant::now() + ARRIVAL_MAX;
        while others.counts().await?.accepted < due {
            ensure!(
                Instant::now() < deadline,
                "{:?} of {due} webhooks to other healthy endpoints came",
                others.counts().await?
            );
            sleep(POLL).await;
        }
        others.reset().await
    }
}

/// Scans for a turn's time, and waits for all of their webhooks.
async fn turn(plan: &Plan, stage: &Stage, company: Company, arrived: &Arrived) -> anyhow::Result<Delays> {
    let campaign = match company {
        Company::Alone => &stage.own,
        Company::Beside => &stage.everybodys,
    };
    let request = campaign.target.request(false);
    let mut connection = Connection::open(campaign.target.address).await?;
    let mut ticks = interval(Duration::from_secs(1) / plan.rate_per_s);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let histogram = || {
        Histogram::<u64>::new_with_max(60_000_000, 3)
            .expect("invariant: these bounds are within the library's")
    };
    let (mut webhooks, mut redirects) = (histogram(), histogram());
    let (end, mut sent) = (Instant::now() + plan.turn, Vec::new());
    while Instant::now() < end {
        ticks.tick().await;
        let at = Instant::now();
        let answer = connection.exchange(&request).await?;
        ensure!(answer.status == 302, "a scan was answered {}", answer.status);
        redirects.saturating_record(micros(at.elapsed()));
        sent.push((answer.scan.context("a redirect without the id of its scan")?, at));
    }
    let scans = sent.len();
    let deadline = Instant::now() + ARRIVAL_MAX;
    for (id, at) in sent {
        let came = loop {
            let came = arrived.borrow_mut().remove(&id);
            if let Some(came) = came {
                break came;
            }
            ensure!(Instant::now() < deadline, "the webhook {id} did not come");
            sleep(POLL).await;
        };
        webhooks.saturating_record(micros(came.duration_since(at)));
    }
    if company == Company::Beside {
        stage.others_have(plan, scans).await?;
    }
    Ok(Delays {
        webhook_us: tally::quantiles(&webhooks),
        redirect_us: tally::quantiles(&redirects),
    })
}
