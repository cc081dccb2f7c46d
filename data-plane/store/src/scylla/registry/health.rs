//! Announcements of endpoints' health: a change of what the row knows was told, not of its version.

use super::{
    Configuration, listing,
    row::{NewRow, Open, Row, id_text, nonce},
    sweep::Name,
};
use crate::{
    checkpoint::HealthState,
    id::ConfigSeq,
    limits,
    model::{Resource, ResourceId},
    store::{ConfigChange, Result, StoreError},
};

impl Configuration {
    /// See [`crate::store::ConfigLog::announce_health`].
    pub(in super::super) async fn announce_health(&self, change: &ConfigChange) -> Result<Option<ConfigSeq>> {
        let (ResourceId::Endpoint(_), Some(report)) = (change.resource, &change.health) else {
            return Err(StoreError::Corrupt("an announcement without a health".to_owned()));
        };
        let id = change.resource;
        let state = report.change.state.as_str();
        let _turn = self.rows_turn.take(&id_text(id)).await;
        for round in 0..limits::CQL_CHANGE_ROUNDS {
            super::pause(round).await;
            let Some(row) = self.settled(id).await? else {
                return Ok(None);
            };
            if !row.live || row.beside.told_version >= change.version {
                return Ok(None);
            }
            let told = row
                .beside
                .told_state
                .as_deref()
                .unwrap_or(HealthState::Healthy.as_str());
            let is_news = told != state;
            if is_news {
                self.announcer.raise(self.rows.noted(&self.steps).await?);
            }
            let new = self.told(&row, change, state, is_news)?;
            if !is_news {
                if self.write_row(id, Some(&row), &new).await?.is_some() {
                    return Ok(None);
                }
                continue;
            }
            let name = Name {
                attempt: new.attempt.clone(),
                resource: id,
                tenant: change.tenant,
                version: change.version,
                health: true,
                counted: false,
                secret: None,
            };
            self.put_name(&name).await?;
            let seq = self.write_row(id, Some(&row), &new).await?;
            self.drop_name(&name).await?;
            if seq.is_some() {
                return Ok(seq);
            }
        }
        let reason = format!("others change {} all the time", id_text(id));
        Err(StoreError::Unavailable(reason))
    }

    /// The same row, with what is told now.
    fn told(&self, row: &Row, change: &ConfigChange, state: &str, is_news: bool) -> Result<NewRow> {
        let Resource::Endpoint(endpoint) = listing::parse_resource(change.resource.kind(), &row.document)?
        else {
            return Err(StoreError::Corrupt(
                "an endpoint's row holds something else".to_owned(),
            ));
        };
        let mut beside = row.beside.clone();
        beside.told_version = change.version;
        beside.told_state = Some(state.to_owned());
        let open = Open {
            change: change.clone(),
            after: self.announcer.head(),
            put: Vec::new(),
            drop: Vec::new(),
            counted: false,
            request: None,
            forget: Vec::new(),
        };
        Ok(NewRow {
            tenant: endpoint.tenant.to_string(),
            created_at: endpoint.created_at,
            live: row.live,
            version: row.version,
            document: row.document.clone(),
            beside,
            attempt: nonce(),
            open: is_news.then_some(open),
        })
    }
}
