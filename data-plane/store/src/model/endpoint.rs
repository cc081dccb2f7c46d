//! Webhook endpoints and their sealed secrets.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    event::EventType,
    id::{EndpointId, PartitionId, SecretId, TenantId},
    limits::SKIP_AHEAD_MAX,
    model::{Filter, Signature},
};

/// A webhook subscription. What its owner finds out (health, backlog) is in the checkpoint, not here.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The partition whose owner alone sends for it. Stored at creation, never changed.
    pub home: PartitionId,
    /// Where events are POSTed.
    pub url: String,
    /// What people call it.
    pub description: String,
    /// What it subscribes to; at least one.
    pub events: Vec<EventPattern>,
    /// What its tenant wants.
    pub intent: EndpointIntent,
    /// Pauses before each attempt, in milliseconds; the first is before the first attempt.
    pub retry_schedule_ms: Vec<u64>,
    /// Attempts under way at once.
    pub max_concurrency: u32,
    /// Raised when a caller sets the endpoint active, so that its owner enables it again.
    pub enabled_epoch: u64,
    /// Whether it was deleted.
    pub deleted: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Counts the changes, from 1.
    pub version: u64,
    /// How deliveries are signed.
    #[serde(default)]
    pub signature: Signature,
    /// `whpk_…` of the newest secret, for a scheme with a public key.
    #[serde(default)]
    pub public_key: Option<String>,
    /// How many requests may be begun.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// What failures mean for it.
    #[serde(default)]
    pub failure: FailureRules,
    /// Which of the events that it subscribes to it wants.
    #[serde(default)]
    pub filter: Filter,
    /// What waits for what.
    #[serde(default)]
    pub ordering: Ordering,
    /// What its webhooks look like.
    #[serde(default)]
    pub payload: super::Payload,
    /// What its TLS server is shown, if anything.
    #[serde(default)]
    pub tls_client: Option<super::TlsClient>,
    /// The preset that it was made with, or empty. Its settings stand in the other fields.
    #[serde(default)]
    pub preset: String,
    /// Events recorded before are passed over ([`Endpoint::skips`]): when its tenant last set it active so that what waited
    /// is not sent.
    #[serde(default)]
    pub skip_before: Option<Timestamp>,
}

/// In which order an endpoint's deliveries go out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// Nothing waits for anything.
    #[default]
    None,
    /// Of each code one after the other.
    PerCode,
}

/// What failures mean for an endpoint. A rule that a row does not hold is the default's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureRules {
    /// The longest pause that a `Retry-After` of a 429 or 503 asks of the whole endpoint; 0: none.
    pub retry_after_max_ms: u64,
    /// Whether a 410 disables it.
    pub gone_disables: bool,
    /// Whether a 429, 502, 503 or 504 pauses the whole endpoint, longer each time.
    pub overload_slows: bool,
    /// Failed attempts in a row that degrade it; 0: never.
    pub degrade_after: u32,
    /// How long nothing but failures is endured before it is disabled; 0: for ever.
    pub disable_after_ms: u64,
    /// Whether a 4xx but 408 and 429, which says that the request will never do, is followed by the schedule's attempts.
    pub client_errors_retried: bool,
}

impl Default for FailureRules {
    fn default() -> Self {
        let day_ms = 24 * 3600 * 1000;
        Self {
            retry_after_max_ms: day_ms,
            gone_disables: true,
            overload_slows: true,
            degrade_after: 5,
            disable_after_ms: day_ms,
            client_errors_retried: true,
        }
    }
}

/// How many requests may be begun: in any second at most `per_second` + `burst`.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct RateLimit {
    /// Requests a second, more than 0.
    pub per_second: f64,
    /// Requests at once after a pause, at least 1.
    pub burst: u32,
}

impl Endpoint {
    /// Whether events of this type are for it.
    pub fn subscribes(&self, event: EventType) -> bool {
        self.events.iter().any(|pattern| pattern.matches(event))
    }

    /// The type of what a test sends: a scan, or the first type that an endpoint without scans subscribes to.
    pub fn tested(&self) -> EventType {
        let mut types = std::iter::once(EventType::ScanCreated).chain(EventType::ALL.iter().copied());
        types
            .find(|kind| self.subscribes(*kind))
            .unwrap_or(EventType::ScanCreated)
    }

    /// Whether an event that was recorded then is not sent but passed over. `now`: a clock that was set back since its
    /// tenant's wish must not swallow what is recorded from there on.
    pub fn skips(&self, recorded_at: Timestamp, now: Timestamp) -> bool {
        self.skip_before
            .is_some_and(|before| recorded_at < before && before.since(now) <= SKIP_AHEAD_MAX)
    }

    /// The pause before attempt `number` (from 1), or none when the schedule is used up.
    pub fn pause_before(&self, number: u32) -> Option<Duration> {
        let at = usize::try_from(number.checked_sub(1)?).ok()?;
        self.retry_schedule_ms
            .get(at)
            .map(|ms| Duration::from_millis(*ms))
    }
}

/// What a tenant wants of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointIntent {
    /// Send.
    Active,
    /// Keep events waiting in the log.
    Paused,
}

/// Which event types an endpoint asks for: an exact name, a family (`scan.*`), or `*`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum EventPattern {
    /// Everything.
    Any,
    /// Everything whose name begins with this, the dot included.
    Family(String),
    /// Exactly this.
    Exact(EventType),
}

impl EventPattern {
    /// Whether it covers `event`.
    pub fn matches(&self, event: EventType) -> bool {
        match self {
            Self::Any => true,
            Self::Family(prefix) => event.as_str().starts_with(prefix.as_str()),
            Self::Exact(exact) => *exact == event,
        }
    }
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Family(prefix) => write!(f, "{prefix}*"),
            Self::Exact(event) => f.write_str(event.as_str()),
        }
    }
}

/// A pattern that covers no event type.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("names no event type: use an exact name such as scan.created, a family such as scan.*, or *")]
pub struct UnknownEvent;

impl FromStr for EventPattern {
    type Err = UnknownEvent;

    fn from_str(text: &str) -> Result<Self, UnknownEvent> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let Some(prefix) = text.strip_suffix('*') else {
            return text.parse().map(Self::Exact).map_err(|_| UnknownEvent);
        };
        let known = prefix.ends_with('.')
            && EventType::ALL
                .iter()
                .any(|event| event.as_str().starts_with(prefix));
        if known {
            Ok(Self::Family(prefix.to_owned()))
        } else {
            Err(UnknownEvent)
        }
    }
}

impl Serialize for EventPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A signing secret, sealed. Kept in a table of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretRow {
    /// Its id; part of what the seal is bound to.
    pub id: SecretId,
    /// Whose it is.
    pub endpoint: EndpointId,
    /// Version, key id, nonce and ciphertext.
    pub sealed: Vec<u8>,
    /// When it was created. The newest signs first.
    pub created_at: Timestamp,
    /// When it stops signing.
    pub expires_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SignatureScheme;

    #[test]
    fn a_row_from_before_the_settings_reads_with_their_defaults() {
        let row = serde_json::json!({
            "id": EndpointId::random(), "tenant": TenantId::random(), "home": 0, "url": "https://a.example/",
            "description": "", "events": ["*"], "intent": "active", "retry_schedule_ms": [0],
            "max_concurrency": 16, "enabled_epoch": 0, "deleted": false, "created_at": 0, "updated_at": 0,
            "version": 1,
        });
        let row: Endpoint = serde_json::from_value(row).unwrap();
        assert_eq!(row.signature.scheme, SignatureScheme::Standard);
        assert_eq!(row.public_key, None);
        assert_eq!(row.rate_limit, None);
        assert_eq!(row.tls_client, None);
        assert_eq!(row.failure, FailureRules::default());
        assert_eq!(row.filter, Filter::default());
        assert_eq!(row.ordering, Ordering::None);
        assert_eq!(row.payload, crate::model::Payload::default());
        assert_eq!(row.preset, "");
        assert_eq!(row.skip_before, None);
    }

    #[test]
    fn patterns_cover_exact_names_families_and_everything() {
        let covers =
            |pattern: &str, event: EventType| pattern.parse::<EventPattern>().unwrap().matches(event);
        assert!(covers("scan.created", EventType::ScanCreated));
        assert!(!covers("scan.created", EventType::CodeCreated));
        assert!(covers("scan.*", EventType::ScanCreated));
        assert!(!covers("code.*", EventType::ScanCreated));
        assert!(covers("*", EventType::CodeDeleted));
        for bad in [
            "",
            "scan",
            "scan.",
            "scan.*.*",
            "scan*",
            "s*",
            ".*",
            "nope.*",
            "scan.created ",
            "**",
        ] {
            assert!(bad.parse::<EventPattern>().is_err(), "{bad}");
        }
    }
}
