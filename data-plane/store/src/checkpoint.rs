//! What a partition's owner saves of its progress, in types that the control plane reads too.
//!
//! The store keeps a checkpoint as rows `(kind, id) → JSON` in the lease's own partition, changed only together
//! with the lease's beat ([`crate::store::Leases::save`]). Runs and chunk names are the dispatcher's own
//! business; health and usage are read by the control plane and so defined here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    event::EventType,
    id::{ConfigSeq, EndpointId, PartitionId, ReplayId, Seq, WriterId},
    record::Classification,
};

/// Names a row of a checkpoint.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RowKey {
    /// `run`, `health`, `usage`, …
    pub kind: RowKind,
    /// Unique within the kind.
    pub id: String,
}

impl RowKey {
    /// The health of an endpoint.
    pub fn health(endpoint: EndpointId) -> Self {
        Self {
            kind: RowKind::Health,
            id: endpoint.to_string(),
        }
    }

    /// A replay.
    pub fn replay(replay: ReplayId) -> Self {
        Self {
            kind: RowKind::Replay,
            id: replay.to_string(),
        }
    }
}

/// How far a run's saved row has passed the configuration log. In the row of the shared run: what stands there up to this, the
/// partition's owners obey, and all who come after. None for what is no run's row.
pub fn config_passed(run: &str) -> Option<ConfigSeq> {
    #[derive(Deserialize)]
    struct Run {
        cursor: Cursor,
    }
    #[derive(Deserialize)]
    struct Cursor {
        #[serde(default)]
        config: u64,
    }
    let run: Run = serde_json::from_str(run).ok()?;
    Some(ConfigSeq::new(run.cursor.config))
}

/// The kinds of rows of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// A run: cursors, end, endpoints.
    Run,
    /// A chunk's name and done-map.
    Chunk,
    /// [`EndpointHealth`] by endpoint id.
    Health,
    /// [`UsageCounts`] by `tenant/YYYY-MM`.
    Usage,
    /// [`ReplayRow`] by replay id.
    Replay,
}

impl RowKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Run, Self::Chunk, Self::Health, Self::Usage, Self::Replay];

    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Chunk => "chunk",
            Self::Health => "health",
            Self::Usage => "usage",
            Self::Replay => "replay",
        }
    }
}

/// The id of the row ([`RowKind::Run`]) of the run that feeds every endpoint without a run of its own.
pub const SHARED_RUN: &str = "shared";

/// What others than its owner read of a partition's shared run: which partitions beside its own the owner follows,
/// because a tenant has its scans in this one and those.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Follows {
    /// Each with whether the owner has come to its end once: from then on it sends an endpoint that is created, and homed
    /// in its partition, nothing of the other one's past.
    #[serde(default)]
    pub follows: BTreeMap<PartitionId, bool>,
}

impl Follows {
    /// Where it stands.
    pub fn key() -> RowKey {
        RowKey {
            kind: RowKind::Run,
            id: SHARED_RUN.to_owned(),
        }
    }

    /// Reads it from its row; none: the partition was never owned.
    ///
    /// # Errors
    /// When the row is not JSON of a run.
    pub fn from_row(row: Option<&str>) -> Result<Self, serde_json::Error> {
        row.map_or_else(|| Ok(Self::default()), serde_json::from_str)
    }

    /// Whether an endpoint of a tenant with these partitions that is created now, and homed in `home`, is sent nothing of
    /// their past.
    pub fn may_be_home(&self, home: PartitionId, partitions: &[PartitionId]) -> bool {
        let others = partitions.iter().filter(|partition| **partition != home);
        others.into_iter().all(|it| self.follows.get(it) == Some(&true))
    }
}

/// How an endpoint fares, as its owner sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointHealth {
    /// What the owner found.
    pub state: HealthState,
    /// Failed attempts since the last success.
    pub consecutive_failures: u64,
    /// When the present row of failures began.
    pub failing_since: Option<Timestamp>,
    /// Whether a 2xx was ever received.
    pub ever_succeeded: bool,
    /// Counts the changes of `state`, from 0.
    pub version: u64,
    /// The [`crate::model::Endpoint::enabled_epoch`] that this health belongs to.
    pub enabled_epoch: u64,
    /// What waits.
    pub backlog: Option<Backlog>,
    /// Attempts that may be under way while it is on its way back to all it may have; none when it is there.
    pub ramp: Option<u32>,
    /// The last attempt that failed, or whose answer said that the receiver wants no more.
    pub last_failure: Option<LastFailure>,
    /// The last change of `state`, until it is announced. Saved before, so that no crash loses it.
    pub unannounced: Option<HealthChange>,
    /// Announcements are paced: how far they are ahead of their pace.
    pub paced_to: Option<Timestamp>,
}

/// How an attempt failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastFailure {
    /// As in [`crate::store::AttemptRow::error_class`].
    pub error_class: String,
    /// The HTTP status, if one came.
    pub response_status: Option<u16>,
}

/// A change of [`EndpointHealth::state`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HealthChange {
    /// Which one, from 1: [`EndpointHealth::version`] after it.
    pub version: u64,
    /// To what.
    pub state: HealthState,
    /// Why.
    pub reason: HealthReason,
    /// When.
    pub at: Timestamp,
    /// Failed attempts in a row: those that led to it, or that it ended.
    pub consecutive_failures: u64,
    /// When their row began.
    pub failing_since: Option<Timestamp>,
    /// The last of them.
    pub last_failure: Option<LastFailure>,
}

/// Why an endpoint's health changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthReason {
    /// So many attempts in a row failed.
    Failures,
    /// Nothing but failures came for too long.
    FailingTooLong,
    /// The receiver answered 410.
    Gone,
    /// The receiver asked to be sent no more.
    ReceiverAsked,
    /// An attempt succeeded.
    Succeeded,
    /// Its tenant set it active.
    SetActive,
}

/// What an owner found about an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// It answers.
    #[default]
    Healthy,
    /// It failed five times in a row.
    Degraded,
    /// It failed for 24 hours, or answered 410.
    Disabled,
}

impl HealthState {
    /// As in the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "active",
            Self::Degraded => "degraded",
            Self::Disabled => "disabled",
        }
    }

    /// The event that announces it.
    pub const fn event(self) -> EventType {
        match self {
            Self::Healthy => EventType::EndpointRecovered,
            Self::Degraded => EventType::EndpointDegraded,
            Self::Disabled => EventType::EndpointDisabled,
        }
    }
}

/// What waits for an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backlog {
    /// Deliveries known to wait; a lower bound while it lags.
    pub events: u64,
    /// When the oldest was recorded.
    pub oldest_at: Option<Timestamp>,
    /// Why.
    pub reason: BacklogReason,
    /// When the next attempt is due.
    pub next_send_at: Option<Timestamp>,
    /// Whether it is a rate limit that throttles, and not what the receiver asked for: that alone outlives a restart.
    #[serde(default)]
    pub by_limit: bool,
}

/// Why deliveries wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BacklogReason {
    /// For a retry.
    Retrying,
    /// For a rate limit.
    Throttled,
    /// The tenant paused it.
    Paused,
    /// It fails.
    Degraded,
    /// It failed for too long.
    Disabled,
    /// It is behind and on its way.
    CatchingUp,
}

impl BacklogReason {
    /// As in the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retrying => "retrying",
            Self::Throttled => "throttled",
            Self::Paused => "paused",
            Self::Degraded => "degraded",
            Self::Disabled => "disabled",
            Self::CatchingUp => "catching_up",
        }
    }
}

/// What one tenant used in one month, as far as one partition counted it. Saved in the same checkpoint as the
/// cursor that passed the events, so it is exact across crashes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageCounts {
    /// Scans, by [`Classification::ALL`]'s order.
    pub scans: [u64; Classification::ALL.len()],
    /// Events, scans included.
    pub events: u64,
    /// Deliveries that succeeded.
    pub deliveries: u64,
}

impl UsageCounts {
    /// Counts one scan as an event.
    pub fn count_scan(&mut self, class: Classification) {
        if let Some(at) = Classification::ALL.iter().position(|known| *known == class) {
            self.scans[at] += 1;
        }
        self.events += 1;
    }

    /// Adds what another partition counted.
    pub fn add(&mut self, other: &UsageCounts) {
        for (mine, theirs) in self.scans.iter_mut().zip(other.scans) {
            *mine += theirs;
        }
        self.events += other.events;
        self.deliveries += other.deliveries;
    }
}

/// What a replay was asked to send.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReplayRange {
    /// Events recorded at this time or later.
    pub start: Timestamp,
    /// Events recorded before this time.
    pub end: Timestamp,
    /// The end that its caller gave; none for the time of the call.
    #[serde(default)]
    pub end_given: Option<Timestamp>,
    /// Only those whose delivery to the endpoint was given up.
    #[serde(default)]
    pub only_failed: bool,
    /// Requests a second at most, beside the endpoint's limits.
    #[serde(default)]
    pub per_second: Option<f64>,
}

impl ReplayRange {
    /// Whether a caller who asks for `other` repeats what asked for this, perhaps at another time.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        let asked = |range: &Self| (range.start, range.end_given, range.only_failed, range.per_second);
        asked(self) == asked(other)
    }
}

/// Where a batch stands in the order of time.
pub type BatchKey = (Timestamp, WriterId, Seq);

/// How far a replay has read: all of the configuration log first, then the batches of one of the tenant's partitions after
/// the other, each in order of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplayPosition {
    /// The last row of the configuration log that was read.
    pub config: ConfigSeq,
    /// Whether there is none left.
    pub config_read: bool,
    /// The last batch that was read of the partition that it is in.
    pub log: Option<BatchKey>,
    /// The batch that followed it: if it is gone, retention came first.
    pub next: Option<BatchKey>,
    /// Whether there is none left in the range, in no partition.
    pub log_read: bool,
    /// Events that were found for the endpoint.
    pub found: u64,
    /// Those that were on their way to it anyway.
    pub skipped: u64,
    /// Events recorded before this time left retention before they were read.
    pub expired_before: Option<Timestamp>,
    /// The partition that it is in; none for the endpoint's home, with which it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<PartitionId>,
}

/// A replay, as its owner saves it: in the same checkpoint as the deliveries that it made outstanding.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReplayRow {
    /// What was asked for.
    #[serde(flatten)]
    pub range: ReplayRange,
    /// When.
    pub created_at: Timestamp,
    /// How it stands.
    pub state: ReplayState,
    /// When it came to its end.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// How far it has read.
    pub position: ReplayPosition,
    /// Events of which an attempt was made.
    #[serde(default)]
    pub sent: u64,
    /// Deliveries that succeeded.
    #[serde(default)]
    pub succeeded: u64,
    /// Deliveries that were given up.
    #[serde(default)]
    pub failed: u64,
}

/// How a replay stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayState {
    /// It reads and sends.
    Running,
    /// All that it found was sent, and succeeded or was given up.
    Done,
    /// Its tenant ended it.
    Cancelled,
}
