//! One change of one row of the registry: compared, set and announced in one transaction.
//!
//! All that can refuse a change is asked before anything is written. A change that finds itself carried out already
//! (its caller never heard) is done, once.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    SqliteStore, config_log,
    fault::Fault,
    rows::{document, int, parse},
    writer::Atomicity,
};
use crate::{
    clock::Timestamp,
    id::EndpointId,
    model::{
        ApiKey, Code, CodeStatus, Endpoint, Resource, ResourceId, ResourceKind, SecretRow, Tenant,
        TenantStatus,
    },
    store::{Change, ChangeError, Changed, ConfigChange, Expected, RequestKey, SecretChange},
};

impl SqliteStore {
    /// See [`crate::store::Registry::change`].
    pub(super) async fn make_change(&self, change: Change) -> Result<Changed, ChangeError> {
        let end = self.config_end.clone();
        let changed = self
            .main_writer
            .submit(Atomicity::Savepoint, move |connection| {
                let changed = apply(connection, change)?;
                if let Ok(Changed::Done(seq)) = changed {
                    end.raise(seq);
                }
                Ok(changed)
            })
            .await??;
        if let Changed::Done(seq) = changed {
            self.hints.publish_config(seq);
        }
        Ok(changed)
    }
}

fn apply(connection: &Connection, change: Change) -> Result<Result<Changed, ChangeError>, Fault> {
    if let Some(request) = &change.request
        && let Some(answer) = replay(connection, request, &change)?
    {
        return Ok(answer);
    }
    let row = NewRow::of(&change.resource)?;
    let stored = stored(connection, &row)?;
    if let Some(refusal) = refuse(connection, &change, &row, stored.as_ref())? {
        if row.is_stored_as(stored.as_ref()) && secrets_stored(connection, &change.secrets)? {
            return Ok(Ok(Changed::Done(config_log::head(connection)?)));
        }
        return Ok(Err(refusal));
    }
    write(connection, &change.resource, &row)?;
    count(connection, &row, stored.is_some_and(|stored| stored.live))?;
    change_secrets(connection, change.resource.id(), &change.secrets)?;
    if let Some(request) = &change.request {
        remember(connection, request, change.resource.id())?;
    }
    let announced = ConfigChange {
        resource: change.resource.id(),
        tenant: change.resource.tenant(),
        version: change.resource.version(),
        at: change.at,
        actor: change.actor,
        event: change.event,
        health: None,
    };
    Ok(Ok(Changed::Done(config_log::announce(connection, announced)?)))
}

/// What came of the same request before, unless it is forgotten.
fn replay(
    connection: &Connection,
    request: &RequestKey,
    change: &Change,
) -> Result<Option<Result<Changed, ChangeError>>, Fault> {
    let known: Option<([u8; 32], String)> = connection
        .prepare_cached(
            "SELECT body_hash, resource FROM request
             WHERE scope = ?1 AND rpc = ?2 AND request_id = ?3 AND expires_at > ?4",
        )?
        .query_row(
            params![
                request.scope,
                request.rpc,
                request.request_id,
                change.at.as_millis()
            ],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    Ok(match known {
        None => None,
        Some((hash, _)) if hash != request.body_hash => Some(Err(ChangeError::RequestReused)),
        Some((_, resource)) => Some(Ok(Changed::Replayed(parse(&resource)?))),
    })
}

/// A row about to be written, and where it is counted.
struct NewRow {
    kind: ResourceKind,
    id: String,
    scope: String,
    live: bool,
    version: u64,
    document: String,
}

impl NewRow {
    fn of(resource: &Resource) -> Result<Self, Fault> {
        let (id, scope, live, document) = match resource {
            Resource::Tenant(row) => (
                row.id.to_string(),
                String::new(),
                row.status != TenantStatus::Deleted,
                document(row)?,
            ),
            Resource::ApiKey(row) => (
                row.id.to_string(),
                row.tenant.to_string(),
                !row.revoked,
                document(row)?,
            ),
            Resource::Code(row) => (
                row.id.to_string(),
                row.tenant.to_string(),
                row.status != CodeStatus::Deleted,
                document(row)?,
            ),
            Resource::Endpoint(row) => (
                row.id.to_string(),
                row.tenant.to_string(),
                !row.deleted,
                document(row)?,
            ),
        };
        Ok(Self {
            kind: resource.id().kind(),
            id,
            scope,
            live,
            version: resource.version(),
            document,
        })
    }

    fn is_stored_as(&self, stored: Option<&Stored>) -> bool {
        stored.is_some_and(|stored| stored.version == self.version && stored.document == self.document)
    }
}

/// The row that stands there now.
struct Stored {
    version: u64,
    live: bool,
    document: String,
}

fn stored(connection: &Connection, row: &NewRow) -> Result<Option<Stored>, Fault> {
    let sql = match row.kind {
        ResourceKind::Tenant => "SELECT version, live, doc FROM tenant WHERE id = ?1",
        ResourceKind::ApiKey => "SELECT version, live, doc FROM api_key WHERE id = ?1",
        ResourceKind::Code => "SELECT version, live, doc FROM code WHERE id = ?1",
        ResourceKind::Endpoint => "SELECT version, live, doc FROM endpoint WHERE id = ?1",
    };
    let stored = connection.prepare_cached(sql)?.query_row([&row.id], |found| {
        Ok(Stored {
            version: super::rows::number(found, 0)?,
            live: found.get(1)?,
            document: found.get(2)?,
        })
    });
    Ok(stored.optional()?)
}

/// Why the change cannot be made, if so.
fn refuse(
    connection: &Connection,
    change: &Change,
    row: &NewRow,
    stored: Option<&Stored>,
) -> Result<Option<ChangeError>, Fault> {
    let next = match (change.expected, stored) {
        (Expected::Absent, Some(_)) => return Ok(Some(ChangeError::Exists)),
        (Expected::Version(version), Some(stored)) if stored.version == version => version + 1,
        (Expected::Version(_), _) => return Ok(Some(ChangeError::Conflict)),
        (Expected::Absent, None) => 1,
    };
    if row.version != next {
        let reason = format!("a change to version {} where {next} is the next", row.version);
        return Err(Fault::Damaged(reason));
    }
    if let Resource::Code(code) = &change.resource
        && (link_taken(connection, code)?
            || (change.expected == Expected::Absent && link_found_by_others(connection, code)?))
    {
        return Ok(Some(ChangeError::Exists));
    }
    let Some(max) = change.count_max else {
        return Ok(None);
    };
    let live: i64 = connection
        .prepare_cached("SELECT count FROM live_count WHERE kind = ?1 AND scope = ?2")?
        .query_row([row.kind.as_str(), &row.scope], |found| found.get(0))
        .optional()?
        .unwrap_or(0);
    Ok((live >= int(max)).then_some(ChangeError::LimitReached(max)))
}

/// Whether the short link belongs to another code, for ever.
fn link_taken(connection: &Connection, code: &Code) -> Result<bool, Fault> {
    let owner: Option<String> = connection
        .prepare_cached("SELECT code FROM short_link WHERE host = ?1 AND short_id = ?2")?
        .query_row([&code.link.host.0, &code.link.short_id], |row| row.get(0))
        .optional()?;
    Ok(owner.is_some_and(|owner| owner != code.id.to_string()))
}

/// Whether the link is a spelling of another tenant's lower-case one: that is found in any case, so a new code of this
/// spelling would take its scans.
fn link_found_by_others(connection: &Connection, code: &Code) -> Result<bool, Fault> {
    let lower = code.link.short_id.to_ascii_lowercase();
    let tenant: Option<String> = connection
        .prepare_cached(
            "SELECT code.tenant FROM short_link AS link JOIN code ON code.id = link.code
             WHERE link.host = ?1 AND link.short_id = ?2",
        )?
        .query_row([&code.link.host.0, &lower], |row| row.get(0))
        .optional()?;
    Ok(tenant.is_some_and(|tenant| tenant != code.tenant.to_string()))
}

fn secrets_stored(connection: &Connection, secrets: &SecretChange) -> Result<bool, Fault> {
    let (SecretChange::Replace(secret) | SecretChange::Rotate { secret, .. }) = secrets else {
        return Ok(true);
    };
    let there = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM secret WHERE id = ?1)")?
        .query_row([secret.id.to_string()], |row| row.get(0))?;
    Ok(there)
}

fn write(connection: &Connection, resource: &Resource, row: &NewRow) -> Result<(), Fault> {
    match resource {
        Resource::Tenant(tenant) => write_tenant(connection, tenant, row),
        Resource::ApiKey(key) => write_api_key(connection, key, row),
        Resource::Code(code) => write_code(connection, code, row),
        Resource::Endpoint(endpoint) => write_endpoint(connection, endpoint, row),
    }
}

fn write_tenant(connection: &Connection, tenant: &Tenant, row: &NewRow) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO tenant (id, live, created_at, version, doc) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET live = excluded.live, created_at = excluded.created_at,
                 version = excluded.version, doc = excluded.doc",
        )?
        .execute(params![
            row.id,
            row.live,
            tenant.created_at.as_millis(),
            int(row.version),
            row.document
        ])?;
    Ok(())
}

fn write_api_key(connection: &Connection, key: &ApiKey, row: &NewRow) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO api_key (id, tenant, live, created_at, version, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (id) DO UPDATE SET live = excluded.live, created_at = excluded.created_at,
                 version = excluded.version, doc = excluded.doc",
        )?
        .execute(params![
            row.id,
            row.scope,
            row.live,
            key.created_at.as_millis(),
            int(row.version),
            row.document,
        ])?;
    Ok(())
}

fn write_code(connection: &Connection, code: &Code, row: &NewRow) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO code (id, tenant, live, created_at, version, short_id, campaign_id, external_id, doc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (id) DO UPDATE SET live = excluded.live, created_at = excluded.created_at,
                 version = excluded.version, short_id = excluded.short_id, campaign_id = excluded.campaign_id,
                 external_id = excluded.external_id, doc = excluded.doc",
        )?
        .execute(params![
            row.id,
            row.scope,
            row.live,
            code.created_at.as_millis(),
            int(row.version),
            code.link.short_id,
            code.campaign_id,
            code.external_id,
            row.document,
        ])?;
    connection
        .prepare_cached("INSERT INTO code_version (code, version, doc) VALUES (?1, ?2, ?3)")?
        .execute(params![row.id, int(row.version), row.document])?;
    connection
        .prepare_cached(
            "INSERT INTO short_link (host, short_id, code) VALUES (?1, ?2, ?3)
             ON CONFLICT (host, short_id) DO NOTHING",
        )?
        .execute([&code.link.host.0, &code.link.short_id, &row.id])?;
    connection
        .prepare_cached("DELETE FROM code_tag WHERE code = ?1")?
        .execute([&row.id])?;
    if row.live {
        let mut tag_it = connection.prepare_cached(
            "INSERT OR IGNORE INTO code_tag (tenant, tag, created_at, code) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for tag in &code.tags {
            tag_it.execute(params![row.scope, tag, code.created_at.as_millis(), row.id])?;
        }
    }
    Ok(())
}

fn write_endpoint(connection: &Connection, endpoint: &Endpoint, row: &NewRow) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO endpoint (id, tenant, home, live, created_at, version, doc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (id) DO UPDATE SET home = excluded.home, live = excluded.live,
                 created_at = excluded.created_at, version = excluded.version, doc = excluded.doc",
        )?
        .execute(params![
            row.id,
            row.scope,
            endpoint.home.as_u16(),
            row.live,
            endpoint.created_at.as_millis(),
            int(row.version),
            row.document,
        ])?;
    Ok(())
}

fn count(connection: &Connection, row: &NewRow, was_live: bool) -> Result<(), Fault> {
    let difference = i64::from(row.live) - i64::from(was_live);
    if difference != 0 {
        connection
            .prepare_cached(
                "INSERT INTO live_count (kind, scope, count) VALUES (?1, ?2, ?3)
                 ON CONFLICT (kind, scope) DO UPDATE SET count = count + excluded.count",
            )?
            .execute(params![row.kind.as_str(), row.scope, difference])?;
    }
    Ok(())
}

fn change_secrets(connection: &Connection, of: ResourceId, secrets: &SecretChange) -> Result<(), Fault> {
    let ResourceId::Endpoint(endpoint) = of else {
        return Ok(());
    };
    let add = match secrets {
        SecretChange::Keep => return Ok(()),
        SecretChange::Replace(secret) => Some(secret),
        SecretChange::Rotate { secret, until } => return rotate(connection, endpoint, secret, *until),
        SecretChange::Clear => None,
    };
    connection
        .prepare_cached("DELETE FROM secret WHERE endpoint = ?1")?
        .execute([endpoint.to_string()])?;
    add.map_or(Ok(()), |secret| add_secret(connection, secret))
}

fn rotate(
    connection: &Connection,
    endpoint: EndpointId,
    secret: &SecretRow,
    until: Timestamp,
) -> Result<(), Fault> {
    let endpoint = endpoint.to_string();
    connection
        .prepare_cached(
            "DELETE FROM secret WHERE endpoint = ?1 AND id <> (SELECT id FROM secret WHERE endpoint = ?1
             ORDER BY created_at DESC, rowid DESC LIMIT 1)",
        )?
        .execute([&endpoint])?;
    connection
        .prepare_cached(
            "UPDATE secret SET expires_at = min(coalesce(expires_at, ?2), ?2) WHERE endpoint = ?1",
        )?
        .execute(params![endpoint, until.as_millis()])?;
    add_secret(connection, secret)
}

fn add_secret(connection: &Connection, secret: &SecretRow) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO secret (id, endpoint, sealed, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            secret.id.to_string(),
            secret.endpoint.to_string(),
            secret.sealed,
            secret.created_at.as_millis(),
            secret.expires_at.map(Timestamp::as_millis),
        ])?;
    Ok(())
}

fn remember(connection: &Connection, request: &RequestKey, resource: ResourceId) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO request (scope, rpc, request_id, body_hash, resource, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            request.scope,
            request.rpc,
            request.request_id,
            request.body_hash,
            document(&resource)?,
            request.expires_at.as_millis(),
        ])?;
    Ok(())
}
