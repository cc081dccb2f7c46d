//! Authentication: from the text that a caller presents to a [`Caller`].
//!
//! A key is found by the id in its text and compared by SHA-256 in constant time; what was found is believed for
//! a second, so a revocation, an expiry or a suspension works within that. Failures are limited per client
//! address, and only those: a key that worked from anywhere in the last minutes still works from an address
//! that others fail from, so that one broken client behind a proxy does not lock out its neighbours.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use moka::{future::Cache, sync::Cache as SyncCache};
use qrelay_store::{
    StoreError,
    clock::SharedClock,
    id::KeyId,
    limits,
    model::{ApiKey, Tenant, TenantStatus},
    store::SharedStore,
};
use tonic::Status;

use crate::{
    api_key::{AdminKey, Fingerprint, id_in},
    caller::{Caller, Role},
    limiter::Limiter,
    measures, refusal,
};

/// How long a key that worked is spared from its address' failures.
const SPARED: Duration = Duration::from_secs(600);

/// A key's row and its tenant's.
#[derive(Clone)]
struct Credential {
    key: Arc<ApiKey>,
    tenant: Arc<Tenant>,
}

/// Checks keys.
pub(crate) struct Authenticator {
    store: SharedStore,
    clock: SharedClock,
    admin: AdminKey,
    credentials: Cache<KeyId, Option<Credential>>,
    touched: SyncCache<KeyId, ()>,
    worked: SyncCache<[u8; 32], ()>,
    blocked: SyncCache<IpAddr, ()>,
    failures: Limiter<IpAddr>,
}

impl Authenticator {
    pub(crate) fn new(store: SharedStore, clock: SharedClock, admin: AdminKey) -> Self {
        let cached = |ttl| {
            SyncCache::builder()
                .max_capacity(limits::API_KEYS_CACHED_MAX)
                .time_to_live(ttl)
        };
        Self {
            store,
            clock,
            admin,
            credentials: Cache::builder()
                .max_capacity(limits::API_KEYS_CACHED_MAX)
                .time_to_live(limits::API_KEY_CACHED)
                .build(),
            touched: cached(limits::API_KEY_TOUCH_PERIOD).build(),
            worked: SyncCache::builder()
                .max_capacity(limits::API_KEYS_CACHED_MAX)
                .time_to_live(SPARED)
                .build(),
            blocked: SyncCache::builder()
                .max_capacity(limits::API_KEYS_CACHED_MAX)
                .time_to_live(limits::API_AUTH_FAILURE_PERIOD)
                .build(),
            failures: Limiter::new(limits::API_AUTH_FAILURE_PERIOD, limits::API_AUTH_FAILURES_BURST),
        }
    }

    /// Who presents this text from this address.
    ///
    /// # Errors
    /// UNAUTHENTICATED for what is no key (any more), PERMISSION_DENIED for a suspended tenant's, RESOURCE_EXHAUSTED
    /// for an address that failed too often.
    pub(crate) async fn authenticate(&self, presented: &str, from: Option<IpAddr>) -> Result<Caller, Status> {
        let fingerprint = Fingerprint::of(presented);
        let from = from.map(network);
        let spared = fingerprint.is_some_and(|print| self.worked.contains_key(&print.to_bytes()));
        if let Some(from) = from.filter(|from| !spared && self.blocked.contains_key(from)) {
            return Err(self.too_many_failures(from, limits::API_AUTH_FAILURE_PERIOD));
        }
        let found = match fingerprint {
            Some(print) => self
                .identify(presented, print)
                .await?
                .map(|caller| (print, caller)),
            None => None,
        };
        match found {
            Some((print, caller)) => {
                self.worked.insert(print.to_bytes(), ());
                self.touch(&caller).await;
                Ok(caller)
            }
            None => Err(self.failed(from)),
        }
    }

    /// Whether a caller that was authenticated before still is: for open streams.
    ///
    /// # Errors
    /// As [`Authenticator::authenticate`].
    pub(crate) async fn recheck(&self, caller: &Caller) -> Result<(), Status> {
        let Role::Tenant { key, .. } = &caller.role else {
            return Ok(());
        };
        let credential = self.credential(*key).await?.ok_or_else(invalid)?;
        self.judge(&credential)
    }

    async fn identify(&self, presented: &str, print: Fingerprint) -> Result<Option<Caller>, Status> {
        if self.admin.matches(&print) {
            return Ok(Some(Caller { role: Role::Admin }));
        }
        let Some(id) = id_in(presented) else {
            return Ok(None);
        };
        let found = self.credential(id).await?;
        let right = found.filter(|found| print.matches_stored(&found.key.hash) && !found.key.revoked);
        let Some(credential) = right else { return Ok(None) };
        self.judge(&credential)?;
        let Credential { key, tenant } = credential;
        Ok(Some(Caller {
            role: Role::Tenant {
                tenant,
                access: key.role,
                key: key.id,
            },
        }))
    }

    async fn credential(&self, id: KeyId) -> Result<Option<Credential>, Status> {
        let load = async {
            let Some(key) = self.store.api_key(id).await? else {
                return Ok(None);
            };
            let tenant = self.store.tenant(key.tenant).await?;
            Ok::<_, StoreError>(tenant.map(|tenant| Credential { key, tenant }))
        };
        self.credentials.try_get_with(id, load).await.map_err(|error| {
            refusal::store(match &*error {
                StoreError::Unavailable(why) => StoreError::Unavailable(why.clone()),
                StoreError::Corrupt(why) => StoreError::Corrupt(why.clone()),
            })
        })
    }

    /// The rules about a key whose text was right.
    fn judge(&self, credential: &Credential) -> Result<(), Status> {
        if credential.key.revoked {
            return Err(invalid());
        }
        if credential.key.expires_at.is_some_and(|at| at <= self.clock.now()) {
            return Err(expired());
        }
        match credential.tenant.status {
            TenantStatus::Active => Ok(()),
            TenantStatus::Suspended => Err(refusal::denied("TENANT_SUSPENDED", "the tenant is suspended")),
            TenantStatus::Deleted => Err(invalid()),
        }
    }

    fn failed(&self, from: Option<IpAddr>) -> Status {
        measures::auth_failed();
        let Some(from) = from else { return invalid() };
        match self.failures.check(&from) {
            Ok(()) => invalid(),
            Err(wait) => {
                self.blocked.insert(from, ());
                self.too_many_failures(from, wait)
            }
        }
    }

    fn too_many_failures(&self, from: IpAddr, wait: Duration) -> Status {
        tracing::warn!(client = %from, "too many wrong API keys from one address");
        refusal::too_fast(
            "TOO_MANY_AUTH_FAILURES",
            "too many wrong API keys from this address",
            wait,
        )
    }

    /// Notes the key's use, at most once per period and process. A failure is not the caller's.
    async fn touch(&self, caller: &Caller) {
        let Role::Tenant { key, .. } = &caller.role else {
            return;
        };
        if self.touched.contains_key(key) {
            return;
        }
        self.touched.insert(*key, ());
        if let Err(error) = self.store.touch_api_key(*key, self.clock.now()).await {
            tracing::warn!(%error, %key, "cannot note a key's last use");
        }
    }
}

fn invalid() -> Status {
    refusal::unauthenticated("the API key is not valid")
}

fn expired() -> Status {
    refusal::unauthenticated("the API key has expired")
}

/// What one client can be told by: its IPv4 address, or the /64 that an IPv6 client has to itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_by_their_address_or_their_64() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
