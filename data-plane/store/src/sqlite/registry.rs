//! Look-ups and lists of the registry, in `main.db`. Changes are [`super::change`].

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Params, ToSql, params};
use serde::de::DeserializeOwned;

use super::{
    SqliteStore,
    fault::Fault,
    own_partitions,
    rows::{int, limit as sql_limit, parse, parse_id, time},
    writer::Atomicity,
};
use crate::{
    clock::Timestamp,
    id::{CodeId, ConfigSeq, EndpointId, KeyId, PartitionId, SecretId, TenantId},
    model::{ApiKey, Code, Endpoint, SecretRow, ShortLink, Tenant},
    store::{Change, ChangeError, Changed, CodeFilter, CodePage, Page, Registry, Result},
};

#[async_trait]
impl Registry for SqliteStore {
    async fn change(&self, change: Change) -> Result<Changed, ChangeError> {
        self.make_change(change).await
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Arc<Tenant>>> {
        self.one("SELECT doc FROM tenant WHERE id = ?1", id.to_string())
            .await
    }

    async fn tenants(&self, page: &Page) -> Result<Vec<Arc<Tenant>>> {
        let (at, id, limit) = bounds(page);
        self.main_lists
            .read(move |connection| {
                many(
                    connection,
                    "SELECT doc FROM tenant WHERE live = 1 AND (created_at, id) < (?1, ?2)
                     ORDER BY created_at DESC, id DESC LIMIT ?3",
                    params![at, id, limit],
                )
            })
            .await
    }

    async fn api_key(&self, id: KeyId) -> Result<Option<Arc<ApiKey>>> {
        self.one("SELECT doc FROM api_key WHERE id = ?1", id.to_string())
            .await
    }

    async fn api_keys(&self, tenant: TenantId, page: &Page) -> Result<Vec<(Arc<ApiKey>, Option<Timestamp>)>> {
        let (at, id, limit) = bounds(page);
        self.main_lists
            .read(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT doc, last_used_at FROM api_key
                     WHERE tenant = ?1 AND live = 1 AND (created_at, id) < (?2, ?3)
                     ORDER BY created_at DESC, id DESC LIMIT ?4",
                )?;
                let rows = statement.query_map(params![tenant.to_string(), at, id, limit], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?))
                })?;
                rows.map(|row| {
                    let (doc, used) = row?;
                    Ok((Arc::new(parse(&doc)?), used.map(Timestamp::from_millis)))
                })
                .collect()
            })
            .await
    }

    async fn touch_api_key(&self, id: KeyId, at: Timestamp) -> Result<()> {
        self.main_writer
            .submit(Atomicity::OneStatement, move |connection| {
                connection
                    .prepare_cached(
                        "UPDATE api_key SET last_used_at = ?2
                         WHERE id = ?1 AND (last_used_at IS NULL OR last_used_at < ?2)",
                    )?
                    .execute(params![id.to_string(), at.as_millis()])?;
                Ok(())
            })
            .await
    }

    async fn code(&self, id: CodeId) -> Result<Option<Arc<Code>>> {
        self.one("SELECT doc FROM code WHERE id = ?1", id.to_string())
            .await
    }

    async fn code_version(&self, id: CodeId, version: u64) -> Result<Option<Arc<Code>>> {
        self.main_reads
            .read(move |connection| {
                one(
                    connection,
                    "SELECT doc FROM code_version WHERE code = ?1 AND version = ?2",
                    params![id.to_string(), int(version)],
                )
            })
            .await
    }

    async fn code_by_link(&self, link: &ShortLink) -> Result<Option<Arc<Code>>> {
        let link = link.clone();
        self.main_reads
            .read(move |connection| {
                one(
                    connection,
                    "SELECT code.doc FROM short_link AS link JOIN code ON code.id = link.code
                     WHERE link.host = ?1 AND link.short_id = ?2",
                    [&link.host.0, &link.short_id],
                )
            })
            .await
    }

    async fn codes(&self, tenant: TenantId, filter: &CodeFilter, page: &Page) -> Result<CodePage> {
        let (filter, page) = (filter.clone(), page.clone());
        self.main_lists
            .read(move |connection| codes(connection, tenant, &filter, &page))
            .await
    }

    async fn endpoint(&self, id: EndpointId) -> Result<Option<Arc<Endpoint>>> {
        self.one("SELECT doc FROM endpoint WHERE id = ?1", id.to_string())
            .await
    }

    async fn endpoints(&self, tenant: TenantId, page: &Page) -> Result<Vec<Arc<Endpoint>>> {
        let (at, id, limit) = bounds(page);
        self.main_lists
            .read(move |connection| {
                many(
                    connection,
                    "SELECT doc FROM endpoint WHERE tenant = ?1 AND live = 1 AND (created_at, id) < (?2, ?3)
                     ORDER BY created_at DESC, id DESC LIMIT ?4",
                    params![tenant.to_string(), at, id, limit],
                )
            })
            .await
    }

    async fn endpoints_homed(
        &self,
        home: PartitionId,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<Arc<Endpoint>>> {
        let after = after.map_or_else(String::new, |id| id.to_string());
        self.main_reads
            .read(move |connection| {
                many(
                    connection,
                    "SELECT doc FROM endpoint WHERE home = ?1 AND live = 1 AND id > ?2 ORDER BY id LIMIT ?3",
                    params![home.as_u16(), after, sql_limit(limit)],
                )
            })
            .await
    }

    async fn secrets(&self, endpoint: EndpointId) -> Result<Vec<SecretRow>> {
        self.main_reads
            .read(move |connection| secrets(connection, endpoint))
            .await
    }

    async fn any_secret(&self) -> Result<Option<(TenantId, EndpointId, SecretId, Vec<u8>)>> {
        self.main_reads.read(any_secret).await
    }

    async fn claim_partitions(&self, count: u16) -> Result<Option<Range<u16>>> {
        let install = self.install.clone();
        self.main_writer
            .submit(Atomicity::OneStatement, move |connection| {
                own_partitions::claim(connection, &install, count)
            })
            .await
    }

    async fn own_partitions(&self) -> Result<u16> {
        let shared = self.install.partitions;
        self.main_reads
            .read(move |connection| own_partitions::end(connection, shared))
            .await
    }

    async fn claimed_at(&self, partition: PartitionId) -> Result<ConfigSeq> {
        self.main_reads
            .read(move |connection| own_partitions::claimed_at(connection, partition))
            .await
    }
}

impl SqliteStore {
    async fn one<T>(&self, sql: &'static str, id: String) -> Result<Option<Arc<T>>>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        self.main_reads
            .read(move |connection| one(connection, sql, [id]))
            .await
    }
}

fn one<T: DeserializeOwned>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
) -> Result<Option<Arc<T>>, Fault> {
    let doc: Option<String> = connection
        .prepare_cached(sql)?
        .query_row(params, |row| row.get(0))
        .optional()?;
    Ok(doc.as_deref().map(parse).transpose()?.map(Arc::new))
}

fn many<T: DeserializeOwned>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
) -> Result<Vec<Arc<T>>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params, |row| row.get::<_, String>(0))?;
    rows.map(|doc| Ok(Arc::new(parse(&doc?)?))).collect()
}

/// Rows strictly below this creation time and id.
fn bounds(page: &Page) -> (i64, String, i64) {
    let (at, id) = match &page.after {
        Some(after) => (after.created_at.as_millis(), after.id.clone()),
        None => (i64::MAX, String::new()),
    };
    (at, id, sql_limit(page.limit))
}

fn codes(
    connection: &Connection,
    tenant: TenantId,
    filter: &CodeFilter,
    page: &Page,
) -> Result<CodePage, Fault> {
    let (at, id, _) = bounds(page);
    // One more says whether there is more.
    let limit = sql_limit(page.limit.saturating_add(1));
    let tenant = tenant.to_string();
    let mut sql = String::from("SELECT code.doc FROM code");
    let mut values: Vec<&dyn ToSql> = vec![&tenant, &at, &id, &limit];
    // A tag's own table is in the order of the list.
    let order = match &filter.tag {
        Some(tag) => {
            values.push(tag);
            sql.push_str(
                " JOIN code_tag AS tag ON tag.code = code.id
                 WHERE tag.tenant = ?1 AND tag.tag = ?5 AND (tag.created_at, tag.code) < (?2, ?3)
                   AND code.live = 1",
            );
            " ORDER BY tag.created_at DESC, tag.code DESC LIMIT ?4"
        }
        None => {
            sql.push_str(
                " WHERE code.tenant = ?1 AND code.live = 1 AND (code.created_at, code.id) < (?2, ?3)",
            );
            " ORDER BY code.created_at DESC, code.id DESC LIMIT ?4"
        }
    };
    let columns = [
        ("short_id", &filter.short_id),
        ("campaign_id", &filter.campaign_id),
        ("external_id", &filter.external_id),
    ];
    for (column, wanted) in columns {
        if let Some(wanted) = wanted {
            values.push(wanted);
            // The second test lets SQLite use the index, which leaves empty texts out.
            let filled = if wanted.is_empty() || column == "short_id" {
                ""
            } else {
                " <> ''"
            };
            sql.push_str(&format!(" AND code.{column} = ?{}", values.len()));
            if !filled.is_empty() {
                sql.push_str(&format!(" AND code.{column}{filled}"));
            }
        }
    }
    sql.push_str(order);
    let codes = many(connection, &sql, values.as_slice())?;
    Ok(CodePage::cut(codes, page.limit))
}

fn secrets(connection: &Connection, endpoint: EndpointId) -> Result<Vec<SecretRow>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT id, sealed, created_at, expires_at FROM secret WHERE endpoint = ?1
         ORDER BY created_at DESC, rowid DESC",
    )?;
    let mut rows = statement.query([endpoint.to_string()])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(SecretRow {
            id: parse_id(&row.get::<_, String>(0)?)?,
            endpoint,
            sealed: row.get(1)?,
            created_at: time(row, 2)?,
            expires_at: row.get::<_, Option<i64>>(3)?.map(Timestamp::from_millis),
        });
    }
    Ok(all)
}

/// A secret with what its seal is bound to.
type Sealed = (TenantId, EndpointId, SecretId, Vec<u8>);

fn any_secret(connection: &Connection) -> Result<Option<Sealed>, Fault> {
    let found: Option<(String, String, String, Vec<u8>)> = connection
        .prepare_cached(
            "SELECT endpoint.tenant, secret.endpoint, secret.id, secret.sealed
             FROM secret JOIN endpoint ON endpoint.id = secret.endpoint LIMIT 1",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((tenant, endpoint, secret, sealed)) = found else {
        return Ok(None);
    };
    Ok(Some((
        parse_id(&tenant)?,
        parse_id(&endpoint)?,
        parse_id(&secret)?,
        sealed,
    )))
}
