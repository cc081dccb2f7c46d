//! What a benchmark needs beside the product, each a process of this same program: a receiver that counts,
//! and a generator of scans.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::{
    child::{Child, Start},
    listeners,
    product::Campaign,
    receiver::Counts,
    rest::Call,
    tally::Report,
    target::Target,
};

/// How long what is waited for may take at most.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// How often the receiver is asked how many came.
const POLL: Duration = Duration::from_millis(20);

/// This program once more, with other arguments.
///
/// # Errors
/// When it cannot be started.
pub fn start(
    core: Option<usize>,
    name: &str,
    arguments: Vec<String>,
    folder: &Path,
) -> anyhow::Result<Child> {
    let this = std::env::current_exe()?;
    let start = Start {
        name,
        core,
        program: this.as_os_str(),
        arguments: arguments.into_iter().map(Into::into).collect(),
        environment: Vec::new(),
        folder,
    };
    start.start()
}

/// A running receiver.
#[derive(Debug)]
pub struct Receiver {
    _child: Child,
    /// Where webhooks are sent to.
    pub address: SocketAddr,
}

impl Receiver {
    /// Starts one.
    ///
    /// # Errors
    /// When it does not listen.
    pub async fn start(core: Option<usize>, folder: &Path) -> anyhow::Result<Self> {
        let address = listeners::free_address()?;
        let arguments = vec![
            "receiver".into(),
            "--listen".into(),
            address.to_string(),
            "--seconds".into(),
            "36000".into(),
        ];
        let mut child = start(core, "receiver", arguments, folder)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !listeners::is_served_by(address.port(), child.group())? {
            child.ensure_running()?;
            ensure!(
                Instant::now() < deadline,
                "the receiver does not listen:\n{}",
                child.last_lines()
            );
            sleep(POLL).await;
        }
        Ok(Self {
            _child: child,
            address,
        })
    }

    /// What came.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn counts(&self) -> anyhow::Result<Counts> {
        let counts = Call::fetch(self.address, "/-/counts").json().await?;
        Ok(serde_json::from_value(counts)?)
    }

    /// The body of the last webhook that it accepted.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn last(&self) -> anyhow::Result<Bytes> {
        Ok(Call::fetch(self.address, "/-/last").send().await?.1)
    }

    /// Makes it forget everything.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn reset(&self) -> anyhow::Result<()> {
        Call::post(self.address, "/-/reset").json().await.map(drop)
    }

    /// Waits until it has accepted so many. More would be repeats, which nothing here makes.
    ///
    /// # Errors
    /// When more came, or not so many while one waits.
    pub async fn accepted(&self, deliveries: u64, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let came = self.counts().await?;
            ensure!(
                came.accepted <= deliveries,
                "{came:?} where {deliveries} deliveries were due"
            );
            if came.accepted == deliveries {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{came:?} of {deliveries} deliveries came in {patience:?}"
            );
            sleep(POLL).await;
        }
    }
}

/// So many scans over `connections`, as fast as they are answered.
///
/// # Errors
/// When one is not answered with 302.
pub async fn scan(
    core: Option<usize>,
    folder: &Path,
    campaign: &Campaign,
    connections: usize,
    scans: u64,
) -> anyhow::Result<()> {
    let seconds = PATIENCE.as_secs();
    let arguments = [
        format!("--seconds={seconds}"),
        format!("--connections={connections}"),
        format!("--requests={scans}"),
    ];
    let report = scan_with(core, folder, &campaign.target, arguments, PATIENCE * 2).await?;
    ensure!(report.due == scans, "of {scans} scans {} were begun", report.due);
    Ok(())
}

/// Scans as the generator's arguments say, within `longest`.
///
/// # Errors
/// When one is not answered with 302, or it takes longer.
pub async fn scan_with(
    core: Option<usize>,
    folder: &Path,
    target: &Target,
    arguments: impl IntoIterator<Item = String>,
    longest: Duration,
) -> anyhow::Result<Report> {
    let mut words = vec![
        "scan".to_owned(),
        format!("http://{}{}", target.address, target.path),
    ];
    words.extend(arguments);
    let mut child = start(core, "load", words, folder)?;
    let status = child.ended(longest).await?;
    ensure!(
        status.success(),
        "the load generator failed:\n{}",
        child.last_lines()
    );
    let report: Report = serde_json::from_str(&child.output()?).context("the load generator's report")?;
    ensure!(
        report.answered > 0 && report.not_answered_with(302) == 0,
        "of {} scans not all were answered with 302: {:?}, failures {:?}",
        report.due,
        report.statuses,
        report.failures
    );
    Ok(report)
}
