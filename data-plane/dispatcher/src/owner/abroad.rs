//! Attempts that were under way when the partition was taken over: the one before finishes and records them, and their
//! rows are looked for before anything of them is sent again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use qrelay_store::{
    checkpoint::LastFailure,
    store::{AttemptRow, DeliveryStatus, Result, SharedStore},
};
use tokio::time::Instant;

use super::actor::{Actor, Done};
use crate::{health::Sign, ledger::abroad::Abroad};

/// Pause between looks at the attempt log.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

impl Actor {
    pub(super) fn look_abroad(&mut self, now: Instant) {
        if self.abroad.is_empty() || now < self.abroad_at {
            return;
        }
        // The answer moves it on.
        self.abroad_at = now + LOOK_PERIOD;
        let (store, abroad) = (Arc::clone(&self.shard.store), std::mem::take(&mut self.abroad));
        self.work
            .spawn(async move { Done::Abroad(look(&store, abroad).await) });
    }

    pub(super) fn end_look_abroad(&mut self, looked: Vec<(Abroad, Option<AttemptRow>)>) {
        let at = self.shard.moment();
        self.abroad_at = at.now + LOOK_PERIOD;
        for (abroad, row) in looked {
            if row.is_none() && at.now < self.abroad_until {
                self.abroad.push(abroad);
                continue;
            }
            if let Some(row) = &row {
                self.observe_abroad(row);
            }
            self.ledger.returned(&abroad, row.as_ref(), at);
        }
        self.save_soon();
    }

    fn observe_abroad(&mut self, row: &AttemptRow) {
        let sign = match row.status {
            DeliveryStatus::Succeeded => Sign::Success,
            // Our own trouble says nothing about the endpoint.
            _ if row.fault == "ours" => return,
            _ => Sign::Failure,
        };
        let answer = LastFailure {
            error_class: row.error_class.clone(),
            response_status: row.response_status,
        };
        let wall = self.wall();
        self.ledger.observe(row.endpoint, sign, answer, wall);
    }
}

/// Looks each of them up; events of one batch together.
async fn look(store: &SharedStore, abroad: Vec<Abroad>) -> Vec<(Abroad, Option<AttemptRow>)> {
    let mut batches: BTreeMap<_, Vec<Abroad>> = BTreeMap::new();
    for one in abroad {
        let event = one.event;
        let batch = (one.endpoint, event.partition, event.writer, event.seq);
        batches.entry(batch).or_default().push(one);
    }
    let mut looked = Vec::new();
    for batch in batches.into_values() {
        match look_batch(store, &batch).await {
            Ok(rows) => looked.extend(batch.into_iter().zip(rows)),
            Err(error) => {
                tracing::warn!(%error, "cannot look for attempts of the owner before; trying again");
                looked.extend(batch.into_iter().map(|one| (one, None)));
            }
        }
    }
    looked
}

async fn look_batch(store: &SharedStore, batch: &[Abroad]) -> Result<Vec<Option<AttemptRow>>> {
    let mut rows = Vec::with_capacity(batch.len());
    let Some(Abroad { endpoint, event, .. }) = batch.first() else {
        return Ok(rows);
    };
    let known = store
        .deliveries_of_batch(*endpoint, event.partition, event.writer, event.seq)
        .await?;
    for one in batch {
        let told = known
            .iter()
            .find(|known| known.index == one.event.index && one.is_told_by(known.attempts, known.status));
        rows.push(match told {
            Some(told) => store.attempts(*endpoint, told.first_at, one.event).await?.pop(),
            None => None,
        });
    }
    Ok(rows)
}
