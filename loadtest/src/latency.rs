//! The benchmark of latency: from a scan to its redirect and to its webhook, at a rate that the product cannot slow down.
//!
//! One `qrelay up` on one core, with a durable tenant, one code and one endpoint; the generator and the receiver are this
//! process, on another core and one clock. A delay counts from the instant at which the scan was *due*, also when the product
//! stalled and it could not be sent; the webhook's end is when its whole body is there.

use std::{cell::RefCell, collections::HashMap, fmt, path::PathBuf, rc::Rc, time::Duration};

use anyhow::{bail, ensure};
use hdrhistogram::Histogram;
use http::StatusCode;
use serde_json::json;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    arrivals::Gaps,
    cpu,
    figure::{Figure, Figures},
    product::{Campaign, Product},
    receiver::{self, Manner},
    scan::{self, Load},
    tally::{self, Quantiles, micros},
};

/// Where the code leads.
const LOCATION: &str = "https://example.com/landing";
/// How long the last webhooks of a turn may take.
const ARRIVAL_MAX: Duration = Duration::from_secs(60);
/// A new endpoint is sent to slowly until it has answered: so long is scanned before the first turn.
const WARM_UP: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(10);

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The binary of qrelay.
    pub qrelay: PathBuf,
    /// Where its data goes; must exist.
    pub folder: PathBuf,
    /// How many turns, how long, how many scans.
    pub pace: Pace,
    /// The core of the server.
    pub server_core: usize,
    /// The core of the generator and the receiver.
    pub load_core: usize,
}

/// How it is scanned.
#[derive(Debug, Clone)]
pub struct Pace {
    /// How many turns.
    pub cycles: usize,
    /// How long one turn takes.
    pub turn: Duration,
    /// Scans a second.
    pub rate_per_s: f64,
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} scans/s as people arrive (Poisson), durable, one endpoint, {} cycles of {} s; from the instant at which a scan \
             was due",
            self.rate_per_s,
            self.cycles,
            self.turn.as_secs_f64()
        )
    }
}

/// When which webhook came, and when which scan was due.
#[derive(Default)]
struct Seen {
    came: HashMap<String, Instant>,
    due: Vec<(String, Instant)>,
}

/// One turn, in microseconds from the instant at which the scan was due.
struct Turn {
    webhook_us: Quantiles,
    redirect_us: Quantiles,
}

/// Runs it; `say` is told what is going on.
///
/// # Errors
/// When the plan is out of bounds, the product does not start or refuses, a scan is not answered with 302, or a webhook does
/// not come.
pub async fn run(plan: &Plan, mut say: impl FnMut(&str)) -> anyhow::Result<Figures> {
    ensure!(plan.server_core != plan.load_core, "two different cores");
    let work = tempfile::Builder::new()
        .prefix("latency-")
        .tempdir_in(&plan.folder)?;
    let _here = cpu::stay_on(plan.load_core)?;
    let product = Product::start(&plan.qrelay, work.path(), Some(plan.server_core)).await?;
    let rows = measured(product, &plan.pace, &mut say).await?;
    let method = format!(
        "{}; qrelay on one core, generator and receiver on another",
        plan.pace
    );
    Figures::new(rows, &plan.folder, method)
}

/// Measures a product that runs, from this thread, and stops it.
///
/// # Errors
/// As [`run`].
pub(crate) async fn measured(
    product: Product,
    pace: &Pace,
    say: &mut impl FnMut(&str),
) -> anyhow::Result<[Option<Figure>; 4]> {
    ensure!((1..=1000).contains(&pace.cycles), "1 to 1000 cycles");
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/hook", listener.local_addr()?);
    let seen = Rc::new(RefCell::new(Seen::default()));
    let (heard, stop) = (Rc::clone(&seen), CancellationToken::new());
    let manner = Manner {
        status: StatusCode::OK,
        delay: Duration::ZERO,
    };
    let serving = receiver::serve_telling(listener, manner, stop, move |id| {
        let now = Instant::now();
        heard.borrow_mut().came.entry(id.to_owned()).or_insert(now);
    });
    tokio::select! {
        ended = serving => bail!("the receiver ended: {ended:?}"),
        figures = turns(product, pace, &url, &seen, say) => figures,
    }
}

async fn turns(
    product: Product,
    pace: &Pace,
    url: &str,
    seen: &Rc<RefCell<Seen>>,
    say: &mut impl FnMut(&str),
) -> anyhow::Result<[Option<Figure>; 4]> {
    let campaign = product.campaign("durable", LOCATION).await?;
    let fields = json!({ "max_concurrency": 64 });
    product.endpoint(&campaign, url, &fields).await?;
    say("warming up");
    turn(pace.rate_per_s, WARM_UP, &campaign, seen).await?;
    let mut turns = Vec::new();
    for cycle in 0..pace.cycles {
        say(&format!("cycle {} of {}", cycle + 1, pace.cycles));
        turns.push(turn(pace.rate_per_s, pace.turn, &campaign, seen).await?);
    }
    product.stop().await?;
    let row = |what, quantile: fn(&Turn) -> u64| {
        let values: Vec<_> = turns.iter().map(|turn| millis(quantile(turn))).collect();
        Figure::of(what, "ms", &values)
    };
    Ok([
        row("scan to redirect, p50", |turn| turn.redirect_us.p50),
        row("scan to redirect, p99", |turn| turn.redirect_us.p99),
        row("scan to webhook, p50", |turn| turn.webhook_us.p50),
        row("scan to webhook, p99", |turn| turn.webhook_us.p99),
    ])
}

/// Scans for so long, and waits for all of their webhooks.
async fn turn(
    rate_per_s: f64,
    duration: Duration,
    campaign: &Campaign,
    seen: &Rc<RefCell<Seen>>,
) -> anyhow::Result<Turn> {
    *seen.borrow_mut() = Seen::default();
    let load = scan::Plan {
        target: campaign.target.clone(),
        load: Load::Rate(rate_per_s),
        gaps: Gaps::Poisson,
        connections: 64,
        fresh: false,
        duration,
        requests_max: scan::REQUESTS_MAX,
        timeout: Duration::from_secs(10),
        seed: 1,
        scans_file: None,
        mix: None,
    };
    let answered = Rc::clone(seen);
    let report = scan::run_telling(load, move |id, due| {
        answered.borrow_mut().due.push((id.to_owned(), due));
    })
    .await?;
    ensure!(
        report.due > 0 && report.not_answered_with(302) == 0,
        "of {} scans some were not answered with 302: {:?}, failures {:?}",
        report.due,
        report.statuses,
        report.failures
    );
    let mut webhooks = Histogram::<u64>::new_with_max(60_000_000, 3)
        .expect("invariant: these bounds are within the library's");
    let deadline = Instant::now() + ARRIVAL_MAX;
    let due = std::mem::take(&mut seen.borrow_mut().due);
    for (id, due) in due {
        let came = loop {
            let came = seen.borrow().came.get(&id).copied();
            if let Some(came) = came {
                break came;
            }
            ensure!(Instant::now() < deadline, "the webhook {id} did not come");
            sleep(POLL).await;
        };
        webhooks.saturating_record(micros(came.duration_since(due)));
    }
    Ok(Turn {
        webhook_us: tally::quantiles(&webhooks),
        redirect_us: report.latency_us,
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a delay is far below 2^52 microseconds"
)]
fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}
