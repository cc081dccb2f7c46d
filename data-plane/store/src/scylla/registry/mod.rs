//! The registry and its announcements.
//!
//! A change of a row and what is to be announced of it are one condition on that row: it is written together with
//! `unannounced`, and nobody changes it before that is in the configuration log and cleared. A name in `pending` leads a
//! sweeper to what a crash left. Every answer waits until its change is in the configuration log.
//!
//! What a change is made of, in order:
//!
//! 1. read the request id's row, the row itself, the configuration log's end as it is noted and, for a new code, its
//!    short link: refusals end here;
//! 2. write its name into `pending`;
//! 3. where it makes or removes a live row: hold it in the count (condition);
//! 4. a new code: claim its short link (condition);
//! 5. with a request id: claim that (condition);
//! 6. with a secret: write its sealed bytes;
//! 7. **write the row** (condition): the change is made;
//! 8. write the code's version, and the entries of lists that came and went;
//! 9. append to the configuration log (condition; together with other changes of this process), note its end, and the
//!    event by tenant;
//! 10. settle the count, the request id (conditions) and forget secrets that went;
//! 11. clear `unannounced` (condition), drop the name.
//!
//! The configuration log names the attempt beside each change. So one whose answer was lost while others finished it and
//! changed the row again finds itself there, and is answered as made.
//!
//! A code's version is not claimed before its row is written: it is written after it, from the row, before the row can
//! move on; a reader who comes between finds it in the row. That saves a condition, and leaves no version that never was.
//!
//! Cost in statements, reads included (a test counts them): an update that leaves lists alone is 9 for a code and 8 for
//! anything else, 3 of them conditions. Creating a code without tags is 17 (6 conditions), 20 with a request id (8); an
//! endpoint with a secret 15 (5), a tenant 13 (5). An event adds 1, a tag, a campaign or an external id 1 each.

mod announce;
mod change;
mod claims;
mod counts;
mod finish;
mod health;
mod listing;
mod partitions;
mod row;
mod secrets;
mod steps;
mod sweep;

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use scylla::statement::prepared::PreparedStatement;
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::sleep,
};

use self::{announce::Announcer, row::Tables};
use super::{OpenError, ScyllaStore, config_log::ConfigRows, session::Cql};
use crate::{
    clock::Timestamp,
    id::{CodeId, ConfigSeq, EndpointId, KeyId, PartitionId, SecretId, TenantId, random},
    model::{ApiKey, Code, Endpoint, Resource, ResourceId, ResourceKind, SecretRow, ShortLink, Tenant},
    store::{Change, ChangeError, Changed, CodeFilter, CodePage, Page, Registry, Result},
};

#[cfg(feature = "testing")]
pub use self::steps::Then;
pub use self::sweep::{Seen, run as run_sweeper};
pub(super) use self::{
    row::{document, nonce, parse},
    steps::Steps,
};

/// The registry of a keyspace.
#[derive(Debug)]
pub(super) struct Configuration {
    steps: Steps,
    rows: ConfigRows,
    tables: Tables,
    codes: CodeStatements,
    claims: claims::Statements,
    counts: counts::Statements,
    secrets: secrets::Statements,
    listing: listing::Statements,
    pending: sweep::Statements,
    uses: UseStatements,
    partitions: partitions::Statements,
    announcer: Announcer,
    rows_turn: Turns,
    counts_turn: Turns,
}

#[derive(Debug)]
struct CodeStatements {
    put_version: PreparedStatement,
    version: PreparedStatement,
}

#[derive(Debug)]
struct UseStatements {
    touch: PreparedStatement,
    read: PreparedStatement,
}

/// One at a time in this process for each row, so that its changes meet as little as may be: the conditions are what
/// decides. Rows share some locks.
#[derive(Debug)]
struct Turns([Mutex<()>; 64]);

impl Turns {
    fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }

    async fn take(&self, of: &str) -> MutexGuard<'_, ()> {
        let slot = usize::try_from(crc32fast::hash(of.as_bytes()) % 64).unwrap_or(0);
        self.0[slot].lock().await
    }
}

/// Waits somewhat before another round, longer each time.
pub(super) async fn pause(round: u32) {
    if round > 0 {
        let [jitter] = random::<1>();
        let most = 4_u64 << round.min(6);
        sleep(Duration::from_millis(most * u64::from(jitter) / 255)).await;
    }
}

impl Configuration {
    /// `ttl`: how long rows of the configuration log are kept, in seconds.
    pub(super) async fn open(cql: &Arc<Cql>, ttl: i32) -> Result<Self, OpenError> {
        let rows = ConfigRows::prepare(cql, ttl).await?;
        let steps = Steps::new(Arc::clone(cql));
        let head = rows.head(&steps, ConfigSeq::ZERO).await?;
        Ok(Self {
            steps,
            rows,
            tables: Tables::prepare(cql).await?,
            codes: CodeStatements {
                put_version: cql
                    .prepare("INSERT INTO code_version (code, version, doc) VALUES (?, ?, ?)")
                    .await?,
                version: cql
                    .prepare("SELECT doc FROM code_version WHERE code = ? AND version = ?")
                    .await?,
            },
            claims: claims::Statements::prepare(cql).await?,
            counts: counts::Statements::prepare(cql).await?,
            secrets: secrets::Statements::prepare(cql).await?,
            listing: listing::Statements::prepare(cql).await?,
            pending: sweep::Statements::prepare(cql).await?,
            uses: UseStatements {
                touch: cql
                    .prepare("INSERT INTO api_key_use (id, used_at) VALUES (?, ?) USING TIMESTAMP ?")
                    .await?,
                read: cql
                    .prepare("SELECT used_at FROM api_key_use WHERE id = ?")
                    .await?,
            },
            partitions: partitions::Statements::prepare(cql).await?,
            announcer: Announcer::new(head),
            rows_turn: Turns::new(),
            counts_turn: Turns::new(),
        })
    }

    /// The configuration log's rows, and how to execute statements on them.
    pub(super) fn config_rows(&self) -> (&ConfigRows, &Steps) {
        (&self.rows, &self.steps)
    }

    /// The last row of the configuration log.
    pub(super) async fn config_head(&self) -> Result<ConfigSeq> {
        self.rows
            .head(&self.steps, ConfigSeq::new(self.announcer.head()))
            .await
    }

    async fn look(&self, id: ResourceId) -> Result<Option<(u64, String)>> {
        self.tables.look(&self.steps, id).await
    }

    async fn one<T: DeserializeOwned>(&self, id: ResourceId) -> Result<Option<Arc<T>>> {
        let found = self.look(id).await?;
        found
            .map(|(_, document)| parse(&document).map(Arc::new))
            .transpose()
    }

    async fn code_version(&self, id: CodeId, version: u64) -> Result<Option<Arc<Code>>> {
        let key = (id.to_string(), version.cast_signed());
        let stored = async || -> Result<Option<String>> {
            let found: Option<(String,)> = self.steps.row(&self.codes.version, &key).await?;
            Ok(found.map(|(document,)| document))
        };
        let mut found = stored().await?;
        if found.is_none() {
            found = match self.look(ResourceId::Code(id)).await? {
                Some((standing, document)) if standing == version => Some(document),
                // It moved on meanwhile, which it cannot before the version is written.
                Some((standing, _)) if standing > version => stored().await?,
                _ => None,
            };
        }
        found.map(|document| parse(&document).map(Arc::new)).transpose()
    }

    async fn last_use(&self, id: KeyId) -> Result<Option<Timestamp>> {
        let found: Option<(i64,)> = self.steps.row(&self.uses.read, (id.to_string(),)).await?;
        Ok(found.map(|(at,)| Timestamp::from_millis(at)))
    }
}

#[async_trait]
impl Registry for ScyllaStore {
    async fn change(&self, change: Change) -> Result<Changed, ChangeError> {
        let changed = self.registry.change(&change).await?;
        if let Changed::Done(seq) = changed {
            self.hints.publish_config(seq);
        }
        Ok(changed)
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Arc<Tenant>>> {
        self.registry.one(ResourceId::Tenant(id)).await
    }

    async fn tenants(&self, page: &Page) -> Result<Vec<Arc<Tenant>>> {
        let tenant = |resource| match resource {
            Resource::Tenant(row) => Some(Arc::new(row)),
            _ => None,
        };
        self.registry
            .list_all(ResourceKind::Tenant, None, page, tenant)
            .await
    }

    async fn api_key(&self, id: KeyId) -> Result<Option<Arc<ApiKey>>> {
        self.registry.one(ResourceId::ApiKey(id)).await
    }

    async fn api_keys(&self, tenant: TenantId, page: &Page) -> Result<Vec<(Arc<ApiKey>, Option<Timestamp>)>> {
        let key = |resource| match resource {
            Resource::ApiKey(row) => Some(Arc::new(row)),
            _ => None,
        };
        let keys = self
            .registry
            .list_all(ResourceKind::ApiKey, Some(tenant), page, key)
            .await?;
        let mut all = Vec::new();
        for key in keys {
            let used = self.registry.last_use(key.id).await?;
            all.push((key, used));
        }
        Ok(all)
    }

    async fn touch_api_key(&self, id: KeyId, at: Timestamp) -> Result<()> {
        let at = at.as_millis();
        let registry = &self.registry;
        // Its own time as the write's: the latest use stays, whichever write comes last.
        registry
            .steps
            .write(&registry.uses.touch, (id.to_string(), at, at))
            .await
    }

    async fn code(&self, id: CodeId) -> Result<Option<Arc<Code>>> {
        self.registry.one(ResourceId::Code(id)).await
    }

    async fn code_version(&self, id: CodeId, version: u64) -> Result<Option<Arc<Code>>> {
        self.registry.code_version(id, version).await
    }

    async fn code_by_link(&self, link: &ShortLink) -> Result<Option<Arc<Code>>> {
        match self.registry.code_of_link(link).await? {
            Some(id) => self.registry.one(ResourceId::Code(id)).await,
            None => Ok(None),
        }
    }

    async fn codes(&self, tenant: TenantId, filter: &CodeFilter, page: &Page) -> Result<CodePage> {
        self.registry.list_codes(tenant, filter, page).await
    }

    async fn endpoint(&self, id: EndpointId) -> Result<Option<Arc<Endpoint>>> {
        self.registry.one(ResourceId::Endpoint(id)).await
    }

    async fn endpoints(&self, tenant: TenantId, page: &Page) -> Result<Vec<Arc<Endpoint>>> {
        self.registry
            .list_all(ResourceKind::Endpoint, Some(tenant), page, endpoint)
            .await
    }

    async fn endpoints_homed(
        &self,
        home: PartitionId,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<Arc<Endpoint>>> {
        self.registry.list_home(home, after, limit, endpoint).await
    }

    async fn secrets(&self, endpoint: EndpointId) -> Result<Vec<SecretRow>> {
        self.registry.secrets_of(endpoint).await
    }

    async fn any_secret(&self) -> Result<Option<(TenantId, EndpointId, SecretId, Vec<u8>)>> {
        self.registry.one_secret().await
    }

    async fn claim_partitions(&self, count: u16) -> Result<Option<Range<u16>>> {
        self.registry.claim_partitions(&self.install, count).await
    }

    async fn own_partitions(&self) -> Result<u16> {
        self.registry.own_partitions(&self.install).await
    }

    async fn claimed_at(&self, partition: PartitionId) -> Result<ConfigSeq> {
        self.registry.claimed_at(partition).await
    }
}

fn endpoint(resource: Resource) -> Option<Arc<Endpoint>> {
    match resource {
        Resource::Endpoint(row) => Some(Arc::new(*row)),
        _ => None,
    }
}
