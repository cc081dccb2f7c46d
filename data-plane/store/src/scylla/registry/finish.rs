//! What is done for a change after its row was written, by whoever comes first: the process that made it, the next one
//! that looks at the row, or the sweeper. Each step may be done twice, late, and by several at once.

use super::{
    Configuration,
    counts::{Count, Outcome},
    row::{Open, Row, id_text},
};
use crate::{
    id::ConfigSeq,
    model::{ResourceId, ResourceKind},
    store::{Result, StoreError},
};

impl Open {
    /// The count that its change is held in.
    pub(super) fn count(&self) -> Option<Count> {
        let kind = self.change.resource.kind();
        self.counted
            .then(|| Count::of(kind, &self.change.tenant.to_string()))
    }
}

impl Count {
    pub(super) fn of(kind: ResourceKind, tenant: &str) -> Self {
        let scope = match kind {
            ResourceKind::Tenant => String::new(),
            ResourceKind::ApiKey | ResourceKind::Code | ResourceKind::Endpoint => tenant.to_owned(),
        };
        Self { kind, scope }
    }
}

impl Configuration {
    /// A row with nothing left to be done for it, and nothing on its way that was done before: what stood there
    /// unannounced is finished first.
    pub(super) async fn settled(&self, id: ResourceId) -> Result<Option<Row>> {
        for round in 0..crate::limits::CQL_CHANGE_ROUNDS {
            super::pause(round).await;
            let Some(row) = self.tables.read(&self.steps, id).await? else {
                return Ok(None);
            };
            let Some(open) = &row.open else {
                return Ok(Some(row));
            };
            self.finish(id, &row, open).await?;
        }
        Err(StoreError::Unavailable(format!(
            "{} is changed all the time",
            id_text(id)
        )))
    }

    /// Does what is left to be done for a row. Where its change stands in the configuration log.
    pub(super) async fn finish(&self, id: ResourceId, row: &Row, open: &Open) -> Result<ConfigSeq> {
        if id.kind() == ResourceKind::Code {
            let values = (id_text(id), row.version.cast_signed(), &row.document);
            self.steps.write(&self.codes.put_version, values).await?;
        }
        self.list(&open.put, &open.drop, row.version).await?;
        let place = self
            .announcer
            .announce(&self.steps, &self.rows, open, &row.attempt)
            .await?;
        self.rows.note(&self.steps, place, &open.change).await?;
        if let Some(count) = open.count() {
            self.settle(&count, &row.attempt, Outcome::Won, false).await?;
        }
        if let Some(request) = &open.request {
            self.finish_request(request, (id, row.version), &row.attempt)
                .await?;
        }
        if let ResourceId::Endpoint(endpoint) = id {
            for name in &open.forget {
                self.forget_secret(endpoint, name.id, &name.attempt).await?;
            }
        }
        // False: somebody else has done all this meanwhile.
        self.tables.mark(&self.steps, id, row).await?;
        Ok(place.0)
    }
}
