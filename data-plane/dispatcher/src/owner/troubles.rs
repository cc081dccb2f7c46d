//! Trouble with the store that every partition of a process meets at once: told now and then, with how often it was, not once
//! for each partition and try.

use std::time::Duration;

use qrelay_store::{StoreError, id::PartitionId, seldom::Seldom};

/// A kind of trouble is told so often at most.
const TOLD: Duration = Duration::from_secs(5);

/// What was told when, of all partitions of a process.
#[derive(Debug)]
pub(crate) struct Troubles {
    saves: Seldom,
    renewals: Seldom,
    claims: Seldom,
    commands: Seldom,
}

impl Troubles {
    pub(crate) fn new() -> Self {
        let [saves, renewals, claims, commands] = [(); 4].map(|()| Seldom::new(TOLD));
        Self {
            saves,
            renewals,
            claims,
            commands,
        }
    }

    pub(super) fn save(&self, partition: PartitionId, error: &StoreError) {
        if let Some(times) = self.saves.happened() {
            tracing::warn!(%partition, %error, times, "a save's outcome is unknown; finding out");
        }
    }

    pub(super) fn renewal(&self, partition: PartitionId, error: &StoreError) {
        if let Some(times) = self.renewals.happened() {
            tracing::warn!(%partition, %error, times, "cannot renew a lease; trying again");
        }
    }

    pub(super) fn claim(&self, partition: PartitionId, error: &StoreError) {
        if let Some(times) = self.claims.happened() {
            tracing::warn!(%partition, %error, times, "cannot take a partition up; trying again");
        }
    }

    pub(super) fn commands(&self, partition: PartitionId, error: &StoreError) {
        if let Some(times) = self.commands.happened() {
            tracing::warn!(%partition, %error, times, "cannot read commands; trying again");
        }
    }
}
