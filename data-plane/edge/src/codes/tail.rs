//! Follows the configuration log and applies its changes to the cache.
//!
//! Woken by a hint, and at least every [`POLL_PERIOD`], so that a change shows within a second even where no
//! hint comes. Invariant: the cursor passes a row only when all of its changes are applied; a row that cannot be
//! applied now (the store is away) is applied again later, which is harmless.

use std::collections::BTreeSet;
use std::time::Duration;

use qrelay_store::id::ConfigSeq;
use qrelay_store::model::ResourceId;
use qrelay_store::store::{ConfigRow, Result as StoreResult, StoreError};
use tokio::sync::watch;
use tokio::time::sleep;

use super::Shared;

/// Half of the second within which a change must show.
const POLL_PERIOD: Duration = Duration::from_millis(500);

/// Rows read at a time, of up to 256 changes each.
const ROWS_MAX: usize = 16;

pub(super) async fn follow(shared: &Shared, mut cursor: ConfigSeq, mut hints: watch::Receiver<ConfigSeq>) {
    let mut was_failing = false;
    loop {
        match catch_up(shared, &mut cursor).await {
            Ok(()) if was_failing => {
                tracing::info!(?cursor, "following the configuration log again");
                was_failing = false;
            }
            Ok(()) => {}
            Err(error) => {
                if !was_failing {
                    tracing::warn!(%error, ?cursor, "cannot follow the configuration log; codes may be stale");
                }
                was_failing = true;
            }
        }
        if was_failing || hints.has_changed().is_err() {
            sleep(POLL_PERIOD).await;
            continue;
        }
        tokio::select! {
            _changed_or_closed = hints.changed() => {}
            () = sleep(POLL_PERIOD) => {}
        }
    }
}

async fn catch_up(shared: &Shared, cursor: &mut ConfigSeq) -> StoreResult<()> {
    loop {
        let rows = shared.source.config_after(*cursor, ROWS_MAX).await?;
        let Some(last) = rows.last().map(|row| row.seq) else {
            return Ok(());
        };
        apply(shared, &rows).await?;
        *cursor = last;
    }
}

pub(super) async fn apply(shared: &Shared, rows: &[ConfigRow]) -> StoreResult<()> {
    // Many changes of one row of the registry are one look at it.
    let changed: BTreeSet<ResourceId> = rows
        .iter()
        .flat_map(|row| &row.changes)
        .map(|change| change.resource)
        .collect();
    shared.raise_generation();
    for resource in changed {
        match resource {
            ResourceId::Code(id) => {
                let Some(code) = shared.source.code(id).await? else {
                    tracing::error!(code = %id, "a changed code is not there");
                    continue;
                };
                match shared.apply_code(&code) {
                    Ok(()) => {}
                    // Reading it again would not help, and must not hold up all other changes.
                    Err(error @ StoreError::Corrupt(_)) => {
                        tracing::error!(%error, "a changed code cannot be served")
                    }
                    Err(error) => return Err(error),
                }
                shared.measures.config_changes.increment(1);
            }
            ResourceId::Tenant(id) => {
                if let Some(tenant) = shared.source.tenant(id).await? {
                    shared.apply_tenant(tenant);
                }
                shared.measures.config_changes.increment(1);
            }
            ResourceId::ApiKey(_) | ResourceId::Endpoint(_) => {}
        }
    }
    Ok(())
}
