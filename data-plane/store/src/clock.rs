//! Wall time, and the one way it enters the program.
//!
//! Promises never rest on wall time (no clock is trusted); it stamps records and reads retention.
//! Monotonic time is `tokio::time::Instant` everywhere.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC. Prints as RFC 3339 with `Z` and exactly three decimals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01.
    pub const EPOCH: Timestamp = Timestamp(0);

    /// From the epoch to the last full second that jiff can print: 9999-12-30T21:59:59.999Z.
    const RANGE_MS: std::ops::RangeInclusive<i64> = 0..=253_402_207_199_999;

    /// From milliseconds; clamped to the years 1970 to 9999, so that printing cannot fail.
    pub fn from_millis(ms: i64) -> Self {
        Self(ms.clamp(*Self::RANGE_MS.start(), *Self::RANGE_MS.end()))
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This much later (saturating at the end of year 9999).
    pub fn after(self, by: Duration) -> Self {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_add(ms))
    }

    /// This much earlier (saturating at the epoch).
    pub fn before(self, by: Duration) -> Self {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_sub(ms))
    }

    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The calendar month, UTC, as `YYYY-MM`.
    pub fn month(self) -> String {
        let (year, month) = self.year_and_month();
        format!("{year:04}-{month:02}")
    }

    /// The calendar year and month (from 1), UTC.
    pub fn year_and_month(self) -> (u16, u8) {
        let within = "invariant: a timestamp lies in the years 1970 to 9999";
        let at = jiff::Timestamp::from_millisecond(self.0).expect(within);
        let date = TimeZone::UTC.to_datetime(at).date();
        let year = u16::try_from(date.year()).expect(within);
        (year, u8::try_from(date.month()).expect(within))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        write!(f, "{at:.3}")
    }
}

/// A text that is not an RFC 3339 time between 1970 and 9999.
#[derive(Debug, thiserror::Error)]
#[error("not an RFC 3339 time between 1970 and 9999")]
pub struct InvalidTimestamp;

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let at: jiff::Timestamp = text.parse().map_err(|_| InvalidTimestamp)?;
        let ms = at.as_millisecond();
        if Self::RANGE_MS.contains(&ms) {
            Ok(Self(ms))
        } else {
            Err(InvalidTimestamp)
        }
    }
}

/// Where wall time comes from.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place where wall time enters"
    )]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let since = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(since.saturating_add(ahead_ms()))
    }
}

/// How far this process's clock is ahead of the machine's.
#[cfg(not(feature = "testing"))]
pub(crate) const fn ahead_ms() -> i64 {
    0
}

/// How far this process's clock is ahead of the machine's.
#[cfg(feature = "testing")]
pub(crate) fn ahead_ms() -> i64 {
    AHEAD_MS.load(std::sync::atomic::Ordering::Relaxed)
}

#[cfg(feature = "testing")]
static AHEAD_MS: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);

/// Sets this process's clock off by so many milliseconds, as if its machine's were wrong: wall time, and the times that
/// writes carry. To be called before anything asks what time it is.
#[cfg(feature = "testing")]
pub fn set_off(by_ms: i64) {
    AHEAD_MS.store(by_ms, std::sync::atomic::Ordering::Relaxed);
}

/// A clock that tests set.
#[cfg(feature = "testing")]
#[derive(Debug)]
pub struct ManualClock(std::sync::atomic::AtomicI64);

#[cfg(feature = "testing")]
impl ManualClock {
    /// A clock that stands at `at`.
    pub fn new(at: Timestamp) -> Arc<Self> {
        Arc::new(Self(std::sync::atomic::AtomicI64::new(at.as_millis())))
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.0.fetch_add(ms, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(feature = "testing")]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_exactly_milliseconds_and_reads_them_back() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_772_548_338_492, "2026-03-03T14:32:18.492Z"),
            (1_772_548_338_000, "2026-03-03T14:32:18.000Z"),
            (253_402_207_199_999, "9999-12-30T21:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_millis(ms).to_string(), text);
            assert_eq!(text.parse::<Timestamp>().unwrap().as_millis(), ms);
        }
        assert_eq!(
            "2026-03-03T15:32:18.492+01:00"
                .parse::<Timestamp>()
                .unwrap()
                .as_millis(),
            1_772_548_338_492
        );
        assert_eq!(
            Timestamp::from_millis(i64::MAX).to_string(),
            "9999-12-30T21:59:59.999Z"
        );
        assert_eq!(Timestamp::from_millis(1_772_548_338_492).month(), "2026-03");
    }

    #[test]
    fn refuses_what_is_not_a_time() {
        for text in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-03-03T14:32:18",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
