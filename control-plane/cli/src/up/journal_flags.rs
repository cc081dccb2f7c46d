//! The flags of an edge's journal, and what is wrong with them. For every role that has an edge.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use qrelay_store::{journal::JournalConfig, limits};

/// The shortest budget: less than any store takes.
const BUDGET_MIN: Duration = Duration::from_millis(1);
/// The longest: a scan still has time to be journaled before it is given up.
const BUDGET_MAX: Duration = Duration::from_secs(1);

/// Flags of the journal, as they are written.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct JournalFlags {
    /// Where scans are kept that the store does not take in time, until it does: a directory on another disk than the
    /// store's, which only this process uses. What is in it belongs to the next process with the same one
    #[arg(long, env = "QRELAY_JOURNAL_DIR", value_name = "DIR")]
    pub(crate) journal_dir: Option<String>,
    /// How long the store may take to acknowledge a scan before it is kept in the journal; needs --journal-dir [default: 30ms]
    #[arg(long, env = "QRELAY_APPEND_BUDGET", value_name = "DURATION")]
    pub(crate) append_budget: Option<String>,
    /// How large the journal may grow; needs --journal-dir [default: 1GiB]
    #[arg(long, env = "QRELAY_JOURNAL_BYTES_MAX", value_name = "SIZE")]
    pub(crate) journal_bytes_max: Option<String>,
}

/// A flag's name, and what is wrong with it.
pub(crate) type Violation = (&'static str, String);

impl JournalFlags {
    /// The journal that they ask for, if any.
    pub(crate) fn read(&self) -> Result<Option<JournalConfig>, Vec<Violation>> {
        let mut violations = Vec::new();
        let mut check = |flag, read: Result<_, String>| match read {
            Ok(value) => Some(value),
            Err(why) => {
                violations.push((flag, why));
                None
            }
        };
        let budget = given(self.append_budget.as_deref())
            .map(|text| check("append-budget", budget(text).map(Read::Budget)));
        let size = given(self.journal_bytes_max.as_deref())
            .map(|text| check("journal-bytes-max", size(text).map(Read::Size)));
        let Some(dir) = given(self.journal_dir.as_deref()).map(PathBuf::from) else {
            for (flag, is_given) in [
                ("append-budget", budget.is_some()),
                ("journal-bytes-max", size.is_some()),
            ] {
                if is_given {
                    violations.push((flag, "means nothing without --journal-dir".to_owned()));
                }
            }
            return if violations.is_empty() {
                Ok(None)
            } else {
                Err(violations)
            };
        };
        if !violations.is_empty() {
            return Err(violations);
        }
        let mut config = JournalConfig::new(dir);
        for read in [budget, size].into_iter().flatten().flatten() {
            match read {
                Read::Budget(budget) => config.append_budget = budget,
                Read::Size(size) => config.bytes_max = size,
            }
        }
        Ok(Some(config))
    }
}

enum Read {
    Budget(Duration),
    Size(u64),
}

/// What stands in an environment file for it.
pub(crate) fn print(config: Option<&JournalConfig>) -> [(&'static str, Option<String>); 3] {
    [
        (
            "JOURNAL_DIR",
            config.map(|config| config.dir.display().to_string()),
        ),
        (
            "APPEND_BUDGET",
            config.map(|config| humantime::format_duration(config.append_budget).to_string()),
        ),
        (
            "JOURNAL_BYTES_MAX",
            config.map(|config| config.bytes_max.to_string()),
        ),
    ]
}

fn given(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

fn budget(text: &str) -> Result<Duration, String> {
    let budget =
        humantime::parse_duration(text).map_err(|_| format!("{text:?} is no duration, such as 30ms"))?;
    match (BUDGET_MIN..=BUDGET_MAX).contains(&budget) {
        true => Ok(budget),
        false => Err(format!("{text:?} is not between 1ms and 1s")),
    }
}

/// Bytes, or a number of KiB, MiB, GiB or TiB.
fn size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|char: char| !char.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = ["", "KiB", "MiB", "GiB", "TiB"]
        .iter()
        .position(|known| *known == unit.trim());
    let bytes = power
        .and_then(|power| u32::try_from(power).ok())
        .and_then(|power| number.parse::<u64>().ok()?.checked_mul(1024_u64.pow(power)));
    match bytes {
        Some(bytes) if bytes >= limits::JOURNAL_BYTES_MIN => Ok(bytes),
        Some(_) => Err(format!("{text:?} is less than 64MiB")),
        None => Err(format!("{text:?} is no size, such as 512MiB or 4GiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(dir: &str, budget: &str, size: &str) -> JournalFlags {
        JournalFlags {
            journal_dir: Some(dir.to_owned()),
            append_budget: Some(budget.to_owned()),
            journal_bytes_max: Some(size.to_owned()),
        }
    }

    #[test]
    fn what_is_given_is_taken_and_the_rest_is_the_default() {
        let config = flags("j", "50ms", "2 GiB").read().unwrap().unwrap();
        assert_eq!(config.dir, PathBuf::from("j"));
        assert_eq!(config.append_budget, Duration::from_millis(50));
        assert_eq!(config.bytes_max, 2 * 1024 * 1024 * 1024);
        let config = flags("j", "", "").read().unwrap().unwrap();
        assert_eq!(config, JournalConfig::new(PathBuf::from("j")));
        assert_eq!(flags("", "", "").read(), Ok(None));
        assert_eq!(size("100000000"), Ok(100_000_000));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |flags: JournalFlags| -> Vec<&str> {
            let violations = flags.read().unwrap_err();
            violations.into_iter().map(|(flag, _)| flag).collect()
        };
        assert_eq!(
            refused(flags("j", "2s", "1GB")),
            ["append-budget", "journal-bytes-max"]
        );
        assert_eq!(
            refused(flags("j", "soon", "63MiB")),
            ["append-budget", "journal-bytes-max"]
        );
        assert_eq!(refused(flags("j", "", "99999999999TiB")), ["journal-bytes-max"]);
        // A setting that would not be obeyed is refused.
        assert_eq!(
            refused(flags("", "30ms", "1GiB")),
            ["append-budget", "journal-bytes-max"]
        );
    }
}
