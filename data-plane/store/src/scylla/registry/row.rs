//! A row of the registry as it stands in its table, and the conditions under which it changes.
//!
//! Every write of a row compares `rev` and raises it. So whoever raised it, with or without a change, has made sure that
//! nothing which was decided from an earlier look can still be written.

use scylla::statement::prepared::PreparedStatement;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{super::OpenError, super::session::Cql, claims::RequestName, listing::Entry, steps::Steps};
use crate::{
    clock::Timestamp,
    id::{SecretId, random},
    model::{ResourceId, ResourceKind},
    store::{ConfigChange, Result, StoreError},
};

/// Says who did something: random, and never used twice.
pub(in super::super) fn nonce() -> String {
    crate::id::base32(&random::<10>())
}

/// A value as it is stored.
pub(in super::super) fn document<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Corrupt(format!("a row cannot be written: {error}")))
}

/// A stored value.
pub(in super::super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Corrupt(format!("a stored row cannot be read: {error}")))
}

/// An id's text.
pub(super) fn id_text(id: ResourceId) -> String {
    match id {
        ResourceId::Tenant(id) => id.to_string(),
        ResourceId::ApiKey(id) => id.to_string(),
        ResourceId::Code(id) => id.to_string(),
        ResourceId::Endpoint(id) => id.to_string(),
    }
}

/// A row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Raised by every write.
    pub(super) rev: i64,
    /// Zero: nothing was ever made here.
    pub(super) version: u64,
    pub(super) live: bool,
    pub(super) document: String,
    pub(super) beside: Beside,
    /// The attempt that made this version, or told of its health last.
    pub(super) attempt: String,
    /// What is still to be done before anything else may change it.
    pub(super) open: Option<Open>,
}

/// What a row has beside its document.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Beside {
    /// The endpoint's secrets, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) secrets: Vec<NamedSecret>,
    /// The latest version of its health that was announced, or needed no announcement.
    #[serde(default)]
    pub(super) told_version: u64,
    /// The health's state in it. None: nobody was told of any.
    #[serde(default)]
    pub(super) told_state: Option<String>,
}

/// Names a secret that counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct NamedSecret {
    pub(super) id: SecretId,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Option<Timestamp>,
    /// The attempt that brought it, under which its bytes stand.
    pub(super) attempt: String,
}

/// What is still to be done for a change that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Open {
    /// What to announce.
    pub(super) change: ConfigChange,
    /// It stands behind this row of the configuration log, if anywhere.
    pub(super) after: u64,
    /// Entries of lists that came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) put: Vec<Entry>,
    /// Entries of lists that went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) drop: Vec<Entry>,
    /// Whether the number of live rows changes with it.
    #[serde(default)]
    pub(super) counted: bool,
    /// The request that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<RequestName>,
    /// Secrets whose bytes go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) forget: Vec<NamedSecret>,
}

/// What a change writes into a row's columns.
#[derive(Clone, Debug)]
pub(super) struct NewRow {
    pub(super) tenant: String,
    pub(super) created_at: Timestamp,
    pub(super) live: bool,
    pub(super) version: u64,
    pub(super) document: String,
    pub(super) beside: Beside,
    pub(super) attempt: String,
    pub(super) open: Option<Open>,
}

type Columns = (bool, i64, String, String, String, String, i64);

/// The statements on one kind's table.
#[derive(Debug)]
struct Table {
    look: PreparedStatement,
    read: PreparedStatement,
    insert: PreparedStatement,
    update: PreparedStatement,
    mark: PreparedStatement,
}

impl Table {
    async fn prepare(cql: &Cql, kind: ResourceKind) -> Result<Self, OpenError> {
        let name = kind.as_str();
        let look = format!("SELECT version, doc FROM {name} WHERE id = ?");
        let read =
            format!("SELECT live, version, doc, beside, attempt, unannounced, rev FROM {name} WHERE id = ?");
        let insert = format!(
            "INSERT INTO {name} (id, tenant, created_at, live, version, doc, beside, attempt, unannounced, rev)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1) IF NOT EXISTS"
        );
        let update = format!(
            "UPDATE {name} SET tenant = ?, created_at = ?, live = ?, version = ?, doc = ?, beside = ?, attempt = ?,
             unannounced = ?, rev = ? WHERE id = ? IF rev = ?"
        );
        let mark = format!("UPDATE {name} SET unannounced = '', rev = ? WHERE id = ? IF rev = ?");
        Ok(Self {
            look: cql.prepare(&look).await?,
            read: cql.prepare(&read).await?,
            insert: cql.prepare_conditional(&insert).await?,
            update: cql.prepare_conditional(&update).await?,
            mark: cql.prepare_conditional(&mark).await?,
        })
    }
}

/// The tables of the registry's rows.
#[derive(Debug)]
pub(super) struct Tables {
    tenant: Table,
    api_key: Table,
    code: Table,
    endpoint: Table,
}

impl Tables {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        Ok(Self {
            tenant: Table::prepare(cql, ResourceKind::Tenant).await?,
            api_key: Table::prepare(cql, ResourceKind::ApiKey).await?,
            code: Table::prepare(cql, ResourceKind::Code).await?,
            endpoint: Table::prepare(cql, ResourceKind::Endpoint).await?,
        })
    }

    fn of(&self, id: ResourceId) -> &Table {
        match id.kind() {
            ResourceKind::Tenant => &self.tenant,
            ResourceKind::ApiKey => &self.api_key,
            ResourceKind::Code => &self.code,
            ResourceKind::Endpoint => &self.endpoint,
        }
    }

    /// A row's version and document, if something was made there.
    pub(super) async fn look(&self, steps: &Steps, id: ResourceId) -> Result<Option<(u64, String)>> {
        let found: Option<(i64, String)> = steps.row(&self.of(id).look, (id_text(id),)).await?;
        Ok(found
            .map(|(version, document)| (version.cast_unsigned(), document))
            .filter(|(version, _)| *version > 0))
    }

    /// A row with all that belongs to it; also one where nothing was ever made.
    pub(super) async fn read(&self, steps: &Steps, id: ResourceId) -> Result<Option<Row>> {
        let found: Option<Columns> = steps.row(&self.of(id).read, (id_text(id),)).await?;
        let Some((live, version, document, beside, attempt, open, rev)) = found else {
            return Ok(None);
        };
        let open = if open.is_empty() {
            None
        } else {
            Some(parse(&open)?)
        };
        Ok(Some(Row {
            rev,
            version: version.cast_unsigned(),
            live,
            document,
            beside: parse(&beside)?,
            attempt,
            open,
        }))
    }

    /// Writes a row in place of what was found there. False when something else stands there now, which may be what
    /// this wrote itself: callers compare the attempt.
    pub(super) async fn write(
        &self,
        steps: &Steps,
        id: ResourceId,
        found: Option<&Row>,
        new: &NewRow,
    ) -> Result<bool> {
        let (table, key) = (self.of(id), id_text(id));
        let open = new.open.as_ref().map(document).transpose()?.unwrap_or_default();
        let (created_at, version) = (new.created_at.as_millis(), new.version.cast_signed());
        let beside = document(&new.beside)?;
        let Some(found) = found else {
            let values = (
                &key,
                &new.tenant,
                created_at,
                new.live,
                version,
                &new.document,
                beside,
                &new.attempt,
                open,
            );
            return steps.decide(&table.insert, values).await;
        };
        let values = (
            &new.tenant,
            created_at,
            new.live,
            version,
            &new.document,
            beside,
            &new.attempt,
            open,
            found.rev + 1,
            &key,
            found.rev,
        );
        steps.decide(&table.update, values).await
    }

    /// Raises a row's `rev`, with nothing left to be done for it. False when another one stands there now.
    pub(super) async fn mark(&self, steps: &Steps, id: ResourceId, found: &Row) -> Result<bool> {
        let values = (found.rev + 1, id_text(id), found.rev);
        steps.decide(&self.of(id).mark, values).await
    }

    /// Makes sure that nothing can be written any more that was decided before this look at the row. False when another
    /// one stands there now.
    pub(super) async fn fence(&self, steps: &Steps, id: ResourceId, found: Option<&Row>) -> Result<bool> {
        if let Some(found) = found {
            return self.mark(steps, id, found).await;
        }
        let nothing = NewRow {
            tenant: String::new(),
            created_at: Timestamp::EPOCH,
            live: false,
            version: 0,
            document: String::new(),
            beside: Beside::default(),
            attempt: nonce(),
            open: None,
        };
        self.write(steps, id, None, &nothing).await
    }
}
