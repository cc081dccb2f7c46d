//! `qrelay demo`: the whole product in one process and a temporary directory, tried through its front doors.
//!
//! All roles on free ports of loopback, a receiver that verifies every signature, and a tenant, a code and an
//! endpoint made over the real API. Without `--scans` it stays up for a person to play with; with it, it makes
//! that many real scans, waits for their webhooks, and says what became of each.
//!
//! Invariants: standard output holds nothing but the summary when `--json` is given; nothing is left behind, also
//! after Ctrl-C; every figure of the summary was counted, none is computed from another.

pub(crate) mod ledger;
pub(crate) mod receiver;
pub(crate) mod scans;
pub(crate) mod setup;
mod show;
mod verify;

use std::{
    io::{self, IsTerminal},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qrelay_proto::v1;
use tokio::time::{Instant, sleep, timeout};

use self::{
    ledger::{Ledger, Progress, Summary},
    receiver::Receiver,
    scans::Scans,
    setup::Stage,
    show::Show,
};
use crate::{
    failure::Failure,
    session::call,
    up::{Metrics, Signals, Stop, log_to_stderr, raise_open_files_limit},
};

/// Without any webhook for so long, those still missing are lost: the sender's exchanges take 5 s at most, and its
/// first retry comes after 60 s, which only a receiver that refuses needs.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Counts follow the log within seconds.
const COUNT_WAIT: Duration = Duration::from_secs(15);
const COUNT_PAUSE: Duration = Duration::from_millis(100);
/// How often the progress bar moves at most.
const PROGRESS_PERIOD: Duration = Duration::from_millis(50);

/// Flags of `qrelay demo`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Make so many scans and end; without it, the demo stays up until Ctrl-C
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
    scans: Option<u64>,
    /// So many scans at once, each on a connection of its own
    #[arg(long, default_value_t = 16, value_name = "C", value_parser = clap::value_parser!(u16).range(1..=512))]
    concurrency: u16,
    /// Print the summary as JSON, and nothing else on standard output
    #[arg(long, requires = "scans")]
    json: bool,
    /// What is logged on standard error; what `qrelay up` warns of does not matter here
    #[arg(
        long,
        env = "QRELAY_LOG",
        default_value = "warn,qrelay::up=error",
        value_name = "FILTER"
    )]
    log: String,
}

/// Runs the demo.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    log_to_stderr(&args.log)?;
    raise_open_files_limit();
    let metrics = Metrics::install().map_err(|error| Failure::because("cannot start", &error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start", &error))?;
    runtime.block_on(play(args, metrics))
}

/// The demo from beginning to end. The temporary directory goes last, whichever way it ends.
async fn play(args: &Args, metrics: Metrics) -> Result<ExitCode, Failure> {
    let mut signals =
        Signals::listen().map_err(|error| Failure::because("cannot listen for signals", &error))?;
    let directory = tempfile::Builder::new()
        .prefix("qrelay-demo-")
        .tempdir()
        .map_err(|error| Failure::because("cannot make a temporary directory", &error))?;
    let played = perform(args, directory.path(), metrics, &mut signals).await;
    if let Err(error) = directory.close() {
        tracing::warn!(%error, "cannot remove the temporary directory");
    }
    match played? {
        Outcome::Complete => Ok(ExitCode::SUCCESS),
        Outcome::Incomplete => Ok(ExitCode::FAILURE),
        // Ctrl-C is how a demo without scans is meant to end; with scans it breaks off.
        Outcome::Stopped(Stop::Interrupt) if args.scans.is_none() => Ok(ExitCode::SUCCESS),
        Outcome::Stopped(stop) => Ok(ExitCode::from(stop.exit_code())),
    }
}

enum Outcome {
    /// Every answered scan was delivered.
    Complete,
    /// Some were not.
    Incomplete,
    /// A signal came.
    Stopped(Stop),
}

/// Sets the stage, plays, and strikes the stage again. A second signal does not wait for that.
async fn perform(
    args: &Args,
    directory: &Path,
    metrics: Metrics,
    signals: &mut Signals,
) -> Result<Outcome, Failure> {
    let ledger = Arc::new(Ledger::default());
    let receiver = Receiver::start(Arc::clone(&ledger))
        .await
        .map_err(|error| Failure::because("cannot start the receiver", &error))?;
    // A signal that comes meanwhile is not lost: it is looked at below.
    let stage = Stage::set(directory, metrics, &receiver).await?;
    let played = tokio::select! {
        played = acts(args, &stage, &ledger, receiver) => played,
        stop = signals.next() => Ok(Outcome::Stopped(stop)),
    };
    tokio::select! {
        () = stage.strike() => played,
        stop = signals.next() => Ok(Outcome::Stopped(stop)),
    }
}

async fn acts(
    args: &Args,
    stage: &Stage,
    ledger: &Arc<Ledger>,
    receiver: Receiver,
) -> Result<Outcome, Failure> {
    let show = if args.json { Show::silent() } else { Show::stdout() };
    show.opening(stage, args.scans)?;
    let Some(count) = args.scans else {
        show.webhooks(receiver, u64::MAX).await?;
        return Ok(Outcome::Complete);
    };
    let summary = measured(args, count, stage, ledger, receiver, &show).await?;
    if args.json {
        show::json(&summary.to_json())?;
    } else {
        show.summary(&summary)?;
    }
    Ok(if summary.lost == 0 {
        Outcome::Complete
    } else {
        Outcome::Incomplete
    })
}

/// Makes the scans, waits for their webhooks and their counts.
async fn measured(
    args: &Args,
    count: u64,
    stage: &Stage,
    ledger: &Arc<Ledger>,
    mut receiver: Receiver,
    show: &Show,
) -> Result<Summary, Failure> {
    let scans = Scans {
        edge: stage.addresses.edge,
        path: stage.path.clone(),
        count,
        concurrency: usize::from(args.concurrency),
    };
    let began = Instant::now();
    let making = async {
        scans.make(ledger).await;
        arrivals(ledger).await;
    };
    // One after the other: lines and a bar on one terminal would run into each other.
    let watching = async {
        show.first_webhooks(&mut receiver).await?;
        watch(ledger, count).await;
        Ok::<_, Failure>(())
    };
    tokio::select! {
        () = making => {}
        Err(failure) = watching => return Err(failure),
    }
    let answered = ledger.progress().borrow().answered;
    let recorded = recorded(stage, answered).await?;
    let rejected = receiver.rejected();
    receiver.stop().await;
    if rejected > 0 {
        tracing::error!(rejected, "webhooks did not verify");
    }
    Ok(ledger.summary(recorded, began))
}

/// Waits until every answered scan's webhook arrived, or none has come for [`STALL_MAX`].
async fn arrivals(ledger: &Ledger) {
    let mut progress = ledger.progress();
    loop {
        let now = *progress.borrow_and_update();
        if now.matched >= now.answered {
            return;
        }
        match timeout(STALL_MAX, progress.changed()).await {
            Ok(changed) => changed.expect("invariant: the ledger outlives its followers"),
            Err(_) => {
                let missing = now.answered - now.matched;
                tracing::error!(
                    missing,
                    "no webhook has come for a while; those missing count as lost"
                );
                return;
            }
        }
    }
}

/// The API's count of recorded scans, once it has caught up with what was answered, or after [`COUNT_WAIT`].
async fn recorded(stage: &Stage, answered: u64) -> Result<u64, Failure> {
    let deadline = Instant::now() + COUNT_WAIT;
    loop {
        let request = v1::GetUsageRequest {
            tenant_id: stage.tenant.clone(),
            month: String::new(),
        };
        let usage = stage
            .session
            .tenants()
            .get_usage(call(request))
            .await?
            .into_inner();
        let scans = u64::try_from(usage.scans).unwrap_or(0);
        if scans >= answered || Instant::now() >= deadline {
            return Ok(scans);
        }
        sleep(COUNT_PAUSE).await;
    }
}

/// Moves a progress bar on a terminal. Never ends by itself.
async fn watch(ledger: &Ledger, count: u64) {
    if !io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} delivered, {msg} [{elapsed}]")
        .expect("invariant: the template is valid");
    bar.set_style(style);
    let progress = ledger.progress();
    loop {
        let Progress {
            answered, matched, ..
        } = *progress.borrow();
        bar.set_message(format!("{answered} answered"));
        bar.set_position(matched);
        if matched >= count {
            bar.finish_and_clear();
            return std::future::pending().await;
        }
        sleep(PROGRESS_PERIOD).await;
    }
}
