//! Which code a short id means, from a cache that follows the configuration log.
//!
//! It decides nothing about answers. Look-ups are by (host, short id), exact first, then in lower case. Every code
//! is the install's own today, whatever name the client used for the host; a host of its own would stand in the
//! key before a slash, which no short id has.
//!
//! Invariants:
//! - Codes that exist and short ids that do not are cached apart, each bounded by bytes, so that a scan of random
//!   ids cannot push out the codes.
//! - A key is loaded once at a time, and at most [`LOADS_MAX`] keys are.
//! - What a change made stale does not stay. A load may have read before a change and cache after the tail saw
//!   it, so the tail raises `generation` *before* it touches the caches, and a load, after it has cached, takes
//!   its entry out again if `generation` is not what it was when it began to read. In whatever order the two
//!   come, one of them removes the stale entry.
//! - A change of a cached code replaces its entry; while the store is away, what is cached stays.

mod flights;
mod tail;
mod tenants;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use moka::sync::Cache;
use qrelay_store::id::{CodeId, ConfigSeq, TenantId};
use qrelay_store::limits;
use qrelay_store::model::{Code, CodeStatus, Host, ShortLink, Tenant};
use qrelay_store::store::{ConfigRow, Result as StoreResult, SharedStore, StoreError};
use tokio_util::task::TaskTracker;

use self::flights::Flights;
pub(crate) use self::tenants::TenantCell;
use self::tenants::Tenants;
use crate::carrier::Carrier;
use crate::measures::Measures;

/// Keys loaded from the store at the same time: at 0.1 ms each, far more than a store answers at once.
const LOADS_MAX: usize = 1024;

/// How long a scan waits for its code to be loaded; the same patience as for its commit.
const LOAD_BUDGET: Duration = limits::APPEND_BUDGET;

/// Bytes counted for an entry besides its texts.
const ENTRY_OVERHEAD_BYTES: usize = 320;

/// What the edge asks of the store.
#[async_trait]
pub(crate) trait CodeSource: Send + Sync + 'static {
    /// The code behind a short link, exactly as written.
    async fn code_by_link(&self, link: &ShortLink) -> StoreResult<Option<Arc<Code>>>;
    /// A code by its id.
    async fn code(&self, id: CodeId) -> StoreResult<Option<Arc<Code>>>;
    /// A tenant.
    async fn tenant(&self, id: TenantId) -> StoreResult<Option<Arc<Tenant>>>;
    /// Rows of the configuration log.
    async fn config_after(&self, after: ConfigSeq, limit: usize) -> StoreResult<Vec<ConfigRow>>;
}

#[async_trait]
impl CodeSource for SharedStore {
    async fn code_by_link(&self, link: &ShortLink) -> StoreResult<Option<Arc<Code>>> {
        self.as_ref().code_by_link(link).await
    }

    async fn code(&self, id: CodeId) -> StoreResult<Option<Arc<Code>>> {
        self.as_ref().code(id).await
    }

    async fn tenant(&self, id: TenantId) -> StoreResult<Option<Arc<Tenant>>> {
        self.as_ref().tenant(id).await
    }

    async fn config_after(&self, after: ConfigSeq, limit: usize) -> StoreResult<Vec<ConfigRow>> {
        self.as_ref().config_after(after, limit).await
    }
}

/// A code as the edge needs it, ready to be answered with.
#[derive(Debug, Clone)]
pub(crate) struct CachedCode {
    pub(crate) id: CodeId,
    pub(crate) version: u64,
    pub(crate) status: CodeStatus,
    /// The destination, byte for byte as stored.
    pub(crate) location: HeaderValue,
    /// The same with the event's id, for codes that ask for it.
    pub(crate) carrier: Option<Carrier>,
    /// Shared by all codes of the tenant, and kept current.
    pub(crate) tenant: Arc<TenantCell>,
}

/// Why a code could not be looked up. Cloned to all who waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// The store failed, or took too long.
    #[error("the store could not be asked for the code")]
    Failed,
    /// Too many other codes are being asked for.
    #[error("too many codes are being looked up")]
    Full,
}

type Found = Result<Option<Arc<CachedCode>>, LookupError>;

/// The cache. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Codes {
    shared: Arc<Shared>,
}

struct Shared {
    source: Box<dyn CodeSource>,
    known: Cache<Arc<str>, Arc<CachedCode>>,
    unknown: Cache<Arc<str>, ()>,
    tenants: Tenants,
    generation: AtomicU64,
    flights: Flights,
    tasks: TaskTracker,
    measures: Arc<Measures>,
}

impl Codes {
    /// A cache of at most `known_bytes_max` bytes of codes and `unknown_bytes_max` of ids that are none.
    pub(crate) fn new(
        source: impl CodeSource,
        known_bytes_max: u64,
        unknown_bytes_max: u64,
        tasks: TaskTracker,
        measures: Arc<Measures>,
    ) -> Self {
        let known = Cache::builder()
            .name("codes")
            .max_capacity(known_bytes_max)
            .weigher(|key: &Arc<str>, code: &Arc<CachedCode>| {
                let carrier = code.carrier.as_ref().map_or(0, Carrier::bytes);
                weight(key.len() + code.location.len() + carrier)
            })
            .build();
        let unknown = Cache::builder()
            .name("no_codes")
            .max_capacity(unknown_bytes_max)
            .weigher(|key: &Arc<str>, ()| weight(key.len()))
            .build();
        let shared = Shared {
            source: Box::new(source),
            known,
            unknown,
            tenants: Tenants::default(),
            generation: AtomicU64::new(0),
            flights: Flights::new(LOADS_MAX),
            tasks,
            measures,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The code that a short id means: exactly as written, else in lower case.
    pub(crate) async fn find(&self, short_id: &str) -> Found {
        if let Some(code) = self.find_exact(short_id).await? {
            return Ok(Some(code));
        }
        if !short_id.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Ok(None);
        }
        self.find_exact(&short_id.to_ascii_lowercase()).await
    }

    async fn find_exact(&self, short_id: &str) -> Found {
        if let Some(code) = self.shared.known.get(short_id) {
            self.shared.measures.code_hits.increment(1);
            return Ok(Some(code));
        }
        if self.shared.unknown.get(short_id).is_some() {
            self.shared.measures.code_negative_hits.increment(1);
            return Ok(None);
        }
        self.shared.measures.code_misses.increment(1);
        let flight = self.shared.flights.join(short_id, |ticket| {
            let shared = self.shared.clone();
            self.shared
                .tasks
                .spawn(async move { ticket.fly(|key| shared.load_within_budget(key)).await })
        });
        flight.ok_or(LookupError::Full)?.await
    }

    /// Follows the configuration log from `cursor` on until the future is dropped. `hints` tells early.
    pub(crate) async fn follow(&self, cursor: ConfigSeq, hints: tokio::sync::watch::Receiver<ConfigSeq>) {
        tail::follow(&self.shared, cursor, hints).await;
    }
}

impl Shared {
    async fn load_within_budget(&self, key: Arc<str>) -> Found {
        match tokio::time::timeout(LOAD_BUDGET, self.load(&key)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a code could not be loaded");
                Err(LookupError::Failed)
            }
            Err(_elapsed) => {
                tracing::warn!("the store did not answer a look-up in time");
                Err(LookupError::Failed)
            }
        }
    }

    async fn load(&self, key: &Arc<str>) -> StoreResult<Option<Arc<CachedCode>>> {
        let generation = self.generation.load(Ordering::SeqCst);
        let link = ShortLink {
            host: Host::default(),
            short_id: key.to_string(),
        };
        let found = match self.source.code_by_link(&link).await? {
            Some(code) => {
                let tenant = self.source.tenant(code.tenant).await?;
                let tenant =
                    tenant.ok_or_else(|| StoreError::Corrupt(format!("code {} has no tenant", code.id)))?;
                Some(Arc::new(cached(&code, self.tenants.intern(tenant))?))
            }
            None => None,
        };
        match &found {
            Some(code) => self.known.insert(key.clone(), code.clone()),
            None => self.unknown.insert(key.clone(), ()),
        }
        if self.generation.load(Ordering::SeqCst) != generation {
            // See the module's invariants: something changed meanwhile, perhaps this.
            self.known.invalidate(key);
            self.unknown.invalidate(key);
        }
        Ok(found)
    }

    /// Announces that entries are about to change. Before the caches are touched.
    fn raise_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Makes the caches agree with a code as it is now.
    fn apply_code(&self, code: &Code) -> StoreResult<()> {
        let key = key_of(&code.link);
        self.unknown.invalidate(&*key);
        let Some(old) = self.known.get(&*key) else {
            return Ok(());
        };
        match cached(code, old.tenant.clone()) {
            Ok(new) => {
                self.known.insert(key, Arc::new(new));
                Ok(())
            }
            Err(error) => {
                self.known.invalidate(&*key);
                Err(error)
            }
        }
    }

    fn apply_tenant(&self, tenant: Arc<Tenant>) {
        self.tenants.update(tenant);
    }
}

fn cached(code: &Code, tenant: Arc<TenantCell>) -> StoreResult<CachedCode> {
    let location = HeaderValue::from_bytes(code.destination_url.as_bytes()).map_err(|_| {
        StoreError::Corrupt(format!("the destination of code {} fits into no header", code.id))
    })?;
    Ok(CachedCode {
        id: code.id,
        version: code.version,
        status: code.status,
        location,
        carrier: Carrier::new(&code.destination_url, &code.conversion_param),
        tenant,
    })
}

fn key_of(link: &ShortLink) -> Arc<str> {
    if link.host.0.is_empty() {
        Arc::from(link.short_id.as_str())
    } else {
        Arc::from(format!("{}/{}", link.host.0, link.short_id))
    }
}

fn weight(text_bytes: usize) -> u32 {
    u32::try_from(text_bytes + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
