//! The generator: scans on a schedule that a slow server cannot delay (open loop), or as fast as the connections
//! allow (saturated, for CPU per request).
//!
//! One thread. Near a due instant it polls instead of sleeping, since timers are a millisecond coarse: it is meant to have
//! a core for itself. A request whose connections are all busy waits in line, and its latency counts from when it was due.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, LocalSet, yield_now},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    arrivals::{Arrivals, Gaps},
    connection::{Answer, Connection, Failure},
    mix::{Mix, Spread},
    tally::{Report, Tally},
    target::Target,
};

/// Nothing here runs longer than an hour.
pub const DURATION_MAX: Duration = Duration::from_secs(3600);
/// Nor sends more requests than this.
pub const REQUESTS_MAX: u64 = 100_000_000;
/// Nor opens more connections at once.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Ids of answered scans that are kept to be written to a file; about 60 bytes each.
pub const SCANS_KEPT_MAX: usize = 5_000_000;
/// Below this distance to the next due instant the generator polls; above, it sleeps until then.
const POLL_WITHIN: Duration = Duration::from_millis(2);

/// How requests are begun.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Open loop: so many per second, whatever the server does.
    Rate(f64),
    /// Closed loop: each connection sends its next request when it has its answer.
    Saturate,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is asked.
    pub target: Target,
    /// How often.
    pub load: Load,
    /// The gaps of an open loop.
    pub gaps: Gaps,
    /// Connections at most at a time.
    pub connections: usize,
    /// A new connection for each request.
    pub fresh: bool,
    /// How long requests are begun.
    pub duration: Duration,
    /// How many requests are begun at most.
    pub requests_max: u64,
    /// How long one request may take.
    pub timeout: Duration,
    /// Seeds the gaps.
    pub seed: u64,
    /// Where the ids of the answered scans are written, one a line.
    pub scans_file: Option<PathBuf>,
    /// Of how many codes, and how spread: then a code's number is put behind the target's path. None: of the target alone.
    pub mix: Option<(u64, Spread)>,
}

/// Told of each scan that is answered: its event's id, and the instant at which it was due.
type Tell = Box<dyn Fn(&str, Instant)>;

struct Run {
    plan: Plan,
    request: Vec<u8>,
    mix: Option<RefCell<Mix>>,
    /// Instants at which requests were due that nobody has taken up, oldest first.
    line: RefCell<VecDeque<Instant>>,
    /// One permit for each request in line, and at the end one for each worker: nothing more comes.
    ready: Semaphore,
    begun: Cell<u64>,
    end: Instant,
    tally: RefCell<Tally>,
    scans: RefCell<Vec<String>>,
    tell: Tell,
}

/// Runs a plan on the calling thread, which should drive nothing else.
///
/// # Errors
/// When the plan is out of bounds, no connection can be opened, or the file of ids cannot be written. Failed requests are
/// no error: the report counts them.
pub async fn run(plan: Plan) -> anyhow::Result<Report> {
    run_telling(plan, |_, _| ()).await
}

/// The same, telling the event's id of each scan that is answered, and the instant at which the scan was due.
///
/// # Errors
/// As [`run`].
pub async fn run_telling(plan: Plan, tell: impl Fn(&str, Instant) + 'static) -> anyhow::Result<Report> {
    ensure!(
        plan.duration <= DURATION_MAX,
        "a run takes at most {} s",
        DURATION_MAX.as_secs()
    );
    ensure!(
        plan.requests_max <= REQUESTS_MAX,
        "a run sends at most {REQUESTS_MAX} requests"
    );
    let connections = plan.connections;
    ensure!(
        (1..=CONNECTIONS_MAX).contains(&connections),
        "1 to {CONNECTIONS_MAX} connections"
    );
    if let Load::Rate(rate) = plan.load {
        ensure!(
            rate > 0.0 && rate <= 1_000_000.0,
            "a rate is above 0 and at most 1,000,000 per second"
        );
    }
    ensure!(
        plan.mix.is_none_or(|(codes, _)| codes > 0),
        "a mix is of one code at least"
    );
    let mut opened = Vec::new();
    for _ in 0..if plan.fresh { 0 } else { connections } {
        let connection = Connection::open(plan.target.address).await;
        opened.push(connection.with_context(|| format!("cannot connect to {}", plan.target.address))?);
    }
    let began = Instant::now();
    let run = Rc::new(Run {
        request: plan.target.request(plan.fresh),
        mix: plan
            .mix
            .map(|(codes, spread)| RefCell::new(Mix::new(codes, spread, plan.seed))),
        line: RefCell::default(),
        ready: Semaphore::new(0),
        begun: Cell::new(0),
        end: began + plan.duration,
        tally: RefCell::default(),
        scans: RefCell::default(),
        tell: Box::new(tell),
        plan,
    });
    let local = LocalSet::new();
    local.run_until(drive(Rc::clone(&run), opened, began)).await;
    write_scans(&run)?;
    Ok(run.tally.borrow().report(run.begun.get(), began.elapsed()))
}

async fn drive(run: Rc<Run>, opened: Vec<Connection>, began: Instant) {
    let mut workers = JoinSet::new();
    let mut opened = opened.into_iter();
    for _ in 0..run.plan.connections {
        workers.spawn_local(work(Rc::clone(&run), opened.next()));
    }
    if let Load::Rate(rate) = run.plan.load {
        announce(&run, rate, began).await;
        run.ready.add_permits(run.plan.connections);
    }
    while let Some(finished) = workers.join_next().await {
        finished.expect("invariant: a worker neither panics nor is aborted");
    }
}

/// Puts each request in line when it is due.
async fn announce(run: &Run, rate_per_s: f64, began: Instant) {
    for due in Arrivals::new(rate_per_s, run.plan.gaps, run.plan.seed) {
        if due >= run.plan.duration || run.begun.get() >= run.plan.requests_max {
            return;
        }
        let due = began + due;
        while let Some(left) = due
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            if left > POLL_WITHIN {
                sleep_until(due - POLL_WITHIN / 2).await;
            } else {
                yield_now().await;
            }
        }
        run.begun.set(run.begun.get() + 1);
        run.line.borrow_mut().push_back(due);
        run.ready.add_permits(1);
    }
}

/// One connection's worth of requests.
async fn work(run: Rc<Run>, mut connection: Option<Connection>) {
    while let Some(due) = next(&run).await {
        let begun = Instant::now();
        match timeout(run.plan.timeout, ask(&run, &mut connection))
            .await
            .unwrap_or(Err(Failure::Timeout))
        {
            Ok(answer) => {
                run.tally
                    .borrow_mut()
                    .answered(&answer, due.elapsed(), begun.elapsed());
                if run.plan.fresh || !answer.stays_open {
                    connection = None;
                }
                keep_scan(&run, answer, due);
            }
            Err(failure) => {
                run.tally.borrow_mut().failed(failure);
                connection = None;
            }
        }
    }
}

/// The instant at which the next request was due, once there is one; none when the run is over.
async fn next(run: &Run) -> Option<Instant> {
    match run.plan.load {
        Load::Rate(_) => {
            run.ready
                .acquire()
                .await
                .expect("invariant: never closed")
                .forget();
            run.line.borrow_mut().pop_front()
        }
        Load::Saturate => {
            let now = Instant::now();
            let begun = run.begun.get();
            if now >= run.end || begun >= run.plan.requests_max {
                return None;
            }
            run.begun.set(begun + 1);
            Some(now)
        }
    }
}

async fn ask(run: &Run, connection: &mut Option<Connection>) -> Result<Answer, Failure> {
    let open = match connection.take() {
        Some(open) => open,
        None => {
            run.tally.borrow_mut().connects += 1;
            Connection::open(run.plan.target.address).await?
        }
    };
    let open = connection.insert(open);
    let number = run.mix.as_ref().and_then(|mix| mix.borrow_mut().next());
    match number {
        None => open.exchange(&run.request).await,
        Some(number) => {
            let request = run.plan.target.numbered(number).request(run.plan.fresh);
            open.exchange(&request).await
        }
    }
}

fn keep_scan(run: &Run, answer: Answer, due: Instant) {
    if let Some(scan) = &answer.scan {
        (run.tell)(scan, due);
    }
    let mut scans = run.scans.borrow_mut();
    if let Some(scan) = answer.scan
        && run.plan.scans_file.is_some()
        && scans.len() < SCANS_KEPT_MAX
    {
        scans.push(scan);
    }
}

fn write_scans(run: &Run) -> anyhow::Result<()> {
    let Some(path) = &run.plan.scans_file else {
        return Ok(());
    };
    let mut text = run.scans.borrow().join("\n");
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::raw;

    /// Runs a plan against the raw redirect.
    async fn against_raw(change: impl FnOnce(&mut Plan)) -> Report {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let mut plan = Plan {
            target: url.parse().unwrap(),
            load: Load::Saturate,
            gaps: Gaps::Constant,
            connections: 4,
            fresh: false,
            duration: Duration::from_secs(20),
            requests_max: 200,
            timeout: Duration::from_secs(10),
            seed: 1,
            scans_file: None,
            mix: None,
        };
        change(&mut plan);
        let server = raw::serve(
            listener,
            HeaderValue::from_static("https://example.com/"),
            stop.clone(),
        );
        let client = async {
            let report = run(plan).await;
            stop.cancel();
            report.unwrap()
        };
        tokio::join!(server, client).1
    }

    #[tokio::test]
    async fn a_saturating_run_sends_as_many_as_it_may() {
        let report = against_raw(|_| {}).await;
        assert_eq!(
            (report.due, report.not_answered_with(302), report.connects),
            (200, 0, 0)
        );
    }

    #[tokio::test]
    async fn a_fresh_connection_is_opened_for_each_request() {
        let report = against_raw(|plan| plan.fresh = true).await;
        assert_eq!(
            (report.due, report.not_answered_with(302), report.connects),
            (200, 0, 200)
        );
    }

    #[tokio::test]
    async fn a_mix_asks_for_each_code() {
        let report = against_raw(|plan| plan.mix = Some((10, Spread::Turns))).await;
        assert_eq!((report.due, report.not_answered_with(302)), (200, 0));
    }

    #[tokio::test]
    async fn an_open_loop_sends_what_its_schedule_says() {
        let report = against_raw(|plan| {
            plan.load = Load::Rate(1000.0);
            plan.duration = Duration::from_millis(100);
        })
        .await;
        assert_eq!((report.due, report.not_answered_with(302)), (100, 0));
    }

    #[tokio::test]
    async fn a_server_that_never_answers_makes_time_outs_and_no_hang() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plan = Plan {
            target: format!("http://{}/", listener.local_addr().unwrap())
                .parse()
                .unwrap(),
            load: Load::Rate(100.0),
            gaps: Gaps::Constant,
            connections: 2,
            fresh: false,
            duration: Duration::from_millis(40),
            requests_max: 100,
            timeout: Duration::from_millis(20),
            seed: 1,
            scans_file: None,
            mix: None,
        };
        let report = run(plan).await.unwrap();
        assert_eq!(
            (report.due, report.answered, report.failures["timeout"]),
            (4, 0, 4)
        );
    }

    #[tokio::test]
    async fn a_plan_out_of_bounds_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plan = Plan {
            target: format!("http://{}/", listener.local_addr().unwrap())
                .parse()
                .unwrap(),
            load: Load::Rate(0.0),
            gaps: Gaps::Constant,
            connections: 1,
            fresh: false,
            duration: Duration::from_secs(1),
            requests_max: 1,
            timeout: Duration::from_secs(1),
            seed: 1,
            scans_file: None,
            mix: None,
        };
        assert!(run(plan.clone()).await.is_err());
        assert!(
            run(Plan {
                load: Load::Saturate,
                connections: 0,
                ..plan.clone()
            })
            .await
            .is_err()
        );
        assert!(
            run(Plan {
                load: Load::Saturate,
                duration: DURATION_MAX * 2,
                ..plan
            })
            .await
            .is_err()
        );
    }
}
