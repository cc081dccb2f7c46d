//! What tenants used, counted so that a crash counts nothing twice and nothing never.
//!
//! A count becomes final in the save that makes its cause final: with the cursor that passes the event, or with the
//! done-bit of the delivery. Until then it waits beside that cause as a [`UsageDelta`]. [`UsageTotals`] is what the
//! saved checkpoint says.

use std::collections::BTreeMap;

use qrelay_store::{
    checkpoint::{RowKey, RowKind, UsageCounts},
    clock::Timestamp,
    id::TenantId,
    record::Classification,
    store::usage_row,
};

/// A calendar month, UTC: `YYYY-MM` as a number, `YYYY * 12 + MM - 1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Month(u32);

impl Month {
    /// The month that a moment lies in.
    pub fn of(at: Timestamp) -> Self {
        let (year, month) = at.year_and_month();
        Self(u32::from(year) * 12 + u32::from(month) - 1)
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}", self.0 / 12, self.0 % 12 + 1)
    }
}

/// A text that is not `YYYY-MM`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a month: expected YYYY-MM")]
pub struct InvalidMonth;

impl std::str::FromStr for Month {
    type Err = InvalidMonth;

    fn from_str(text: &str) -> Result<Self, InvalidMonth> {
        let (year, month) = text.split_once('-').ok_or(InvalidMonth)?;
        let year: u32 = year.parse().map_err(|_| InvalidMonth)?;
        let month: u32 = month.parse().map_err(|_| InvalidMonth)?;
        if year > 9999 || !(1..=12).contains(&month) {
            return Err(InvalidMonth);
        }
        Ok(Self(year * 12 + month - 1))
    }
}

type Key = (TenantId, Month);

/// Counts that are not final yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UsageDelta(BTreeMap<Key, UsageCounts>);

impl UsageDelta {
    /// One scan.
    pub fn count_scan(&mut self, tenant: TenantId, at: Timestamp, class: Classification) {
        self.entry(tenant, at).count_scan(class);
    }

    /// One event that is no scan.
    pub fn count_event(&mut self, tenant: TenantId, at: Timestamp) {
        self.entry(tenant, at).events += 1;
    }

    /// One delivery that succeeded, of an event recorded at `at`.
    pub fn count_delivery(&mut self, tenant: TenantId, at: Timestamp) {
        self.entry(tenant, at).deliveries += 1;
    }

    /// A single succeeded delivery, or nothing.
    pub fn delivery(tenant: TenantId, at: Timestamp, succeeded: Succeeded) -> Self {
        let mut delta = Self::default();
        if succeeded == Succeeded::Yes {
            delta.count_delivery(tenant, at);
        }
        delta
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &UsageDelta) {
        for (key, counts) in &other.0 {
            self.0.entry(*key).or_default().add(counts);
        }
    }

    /// Takes away what was made final.
    pub fn subtract(&mut self, other: &UsageDelta) {
        for (key, counts) in &other.0 {
            if let Some(mine) = self.0.get_mut(key) {
                for (mine, theirs) in mine.scans.iter_mut().zip(counts.scans) {
                    *mine = mine.saturating_sub(theirs);
                }
                mine.events = mine.events.saturating_sub(counts.events);
                mine.deliveries = mine.deliveries.saturating_sub(counts.deliveries);
            }
        }
        self.0.retain(|_, counts| *counts != UsageCounts::default());
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which rows it changes.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.0.keys().copied()
    }

    fn entry(&mut self, tenant: TenantId, at: Timestamp) -> &mut UsageCounts {
        self.0.entry((tenant, Month::of(at))).or_default()
    }
}

/// Whether a delivery ended with a 2xx.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Succeeded {
    /// It did.
    Yes,
    /// It was given up or dropped.
    No,
}

/// The saved counts.
#[derive(Clone, Debug, Default)]
pub struct UsageTotals(BTreeMap<Key, UsageCounts>);

impl UsageTotals {
    /// Reads a saved row. Says whether it was one.
    pub fn load(&mut self, key: &RowKey, row: &str) -> bool {
        let Some((tenant, month)) = key.id.split_once('/') else {
            return false;
        };
        let (Ok(tenant), Ok(month), Ok(counts)) = (tenant.parse(), month.parse(), serde_json::from_str(row))
        else {
            return false;
        };
        debug_assert_eq!(key.kind, RowKind::Usage);
        self.0.insert((tenant, month), counts);
        true
    }

    /// The rows that are to be saved once `delta` is final.
    pub fn rows(&self, delta: &UsageDelta) -> BTreeMap<RowKey, String> {
        let rows = delta.0.iter().map(|(key, counts)| {
            let mut total = self.0.get(key).cloned().unwrap_or_default();
            total.add(counts);
            let text = serde_json::to_string(&total).expect("invariant: counts make JSON");
            (usage_row(key.0, &key.1.to_string()), text)
        });
        rows.collect()
    }

    /// Notes that `delta` was saved.
    pub fn saved(&mut self, delta: &UsageDelta) {
        for (key, counts) in &delta.0 {
            self.0.entry(*key).or_default().add(counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_the_saved_total_and_the_delta_by_the_events_month() {
        let (tenant, mut totals, mut delta) = (
            TenantId::from_bytes([1; 10]),
            UsageTotals::default(),
            UsageDelta::default(),
        );
        let at: Timestamp = "2026-05-31T23:59:59.999Z".parse().unwrap();
        delta.count_scan(tenant, at, Classification::Tool);
        delta.count_delivery(tenant, at);
        totals.saved(&delta);
        let rows = totals.rows(&delta);
        let (key, row) = rows.iter().next().unwrap();
        assert_eq!(*key, usage_row(tenant, "2026-05"));
        let counts: UsageCounts = serde_json::from_str(row).unwrap();
        assert_eq!((counts.events, counts.deliveries, counts.scans[5]), (2, 2, 2));
        let mut loaded = UsageTotals::default();
        assert!(loaded.load(key, row));
        assert_eq!(loaded.rows(&UsageDelta::default()).len(), 0);
    }

    #[test]
    fn subtracting_what_was_saved_leaves_what_came_later() {
        let (tenant, at) = (TenantId::from_bytes([1; 10]), Timestamp::from_millis(0));
        let mut delta = UsageDelta::delivery(tenant, at, Succeeded::Yes);
        let saved = delta.clone();
        delta.count_delivery(tenant, at);
        delta.subtract(&saved);
        assert_eq!(delta, saved);
        delta.subtract(&saved);
        assert!(delta.is_empty());
        assert_eq!("2026-13".parse::<Month>(), Err(InvalidMonth));
        assert_eq!("2026-05".parse::<Month>().unwrap().to_string(), "2026-05");
    }
}
