//! The paces of a partition's endpoints, and the limits that those of a tenant share.

use std::{collections::HashMap, sync::Arc};

use qrelay_store::{
    id::{EndpointId, PartitionId, TenantId},
    model::Tenant,
};

use crate::{
    health,
    ledger::Ledger,
    pace::{Count, Pace, SharedLimit},
};

/// Whose requests must pass what.
#[derive(Debug, Default)]
pub struct Paces {
    endpoints: HashMap<EndpointId, Arc<Pace>>,
    tenants: HashMap<TenantId, SharedLimit>,
}

impl Paces {
    /// What an endpoint's requests must pass, as it is now: a limit that is new counts from here. None while its tenant's
    /// limit is not known.
    pub fn of(&mut self, ledger: &Ledger, endpoint: EndpointId) -> Option<Arc<Pace>> {
        let subscriber = ledger.subscriber(endpoint)?;
        let shared = self.tenants.get(&subscriber.config.tenant)?;
        let pace = self
            .endpoints
            .entry(endpoint)
            .or_insert_with(|| Arc::new(Pace::new(shared.clone())));
        pace.set(
            subscriber.config.rate_limit,
            health::on_probation(&subscriber.health),
        );
        Some(Arc::clone(pace))
    }

    /// The part of a tenant's limit for those of its endpoints that are homed here.
    pub fn limit_tenant(&mut self, tenant: &Tenant, here: PartitionId) {
        let limit: &SharedLimit = self.tenants.entry(tenant.id).or_default();
        limit.set(tenant.rate_limit_at(here));
    }

    /// Forgets what nobody needs: limits of endpoints that are gone, and what an idle endpoint without a limit of its own
    /// would start anew just the same. Nothing that an exchange still holds.
    pub fn forget_idle(&mut self, ledger: &Ledger) {
        self.endpoints.retain(|endpoint, pace| {
            let subscriber = ledger.subscriber(*endpoint);
            let limited = subscriber.is_some_and(|subscriber| subscriber.config.rate_limit.is_some());
            let counts = || {
                [Count::Plan, Count::Gate]
                    .iter()
                    .any(|count| pace.peek(*count).is_some())
            };
            Arc::strong_count(pace) > 1 || limited || (subscriber.is_some() && counts())
        });
        self.tenants
            .retain(|tenant, limit| ledger.serves(*tenant) || limit.is_held());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use qrelay_store::model::{Endpoint, RateLimit};
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::fixture;

    fn limited(number: u8) -> Endpoint {
        let mut endpoint = fixture::endpoint(number);
        endpoint.rate_limit = Some(RateLimit {
            per_second: 0.1,
            burst: 1,
        });
        endpoint
    }

    fn known(paces: &Paces) -> Vec<EndpointId> {
        let mut known: Vec<_> = paces.endpoints.keys().copied().collect();
        known.sort_unstable();
        known
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_pace_is_forgotten_once_a_new_one_would_permit_the_same_and_a_limit_is_kept() {
        let mut ledger = Ledger::new(PartitionId::new(0), 1);
        let mut paces = Paces::default();
        for endpoint in [fixture::endpoint(1), fixture::endpoint(2), limited(3), limited(4)] {
            ledger.subscribe(Arc::new(endpoint));
        }
        let ids = [1, 2, 3, 4].map(|number| EndpointId::from_bytes([number; 10]));
        assert!(paces.of(&ledger, ids[0]).is_none(), "its tenant is not known");
        paces.limit_tenant(&fixture::tenant_row(), PartitionId::new(0));
        let held = ids.map(|id| paces.of(&ledger, id).unwrap());
        paces.forget_idle(&ledger);
        assert_eq!(known(&paces), ids, "each is held by an exchange");
        // One on probation was sent something.
        assert_eq!(held[1].take(Count::Plan), None);
        drop(held);
        paces.forget_idle(&ledger);
        assert_eq!(known(&paces), ids[1..], "its next permit is not due yet");
        advance(Duration::from_millis(101)).await;
        paces.forget_idle(&ledger);
        assert_eq!(known(&paces), ids[2..]);
        // A limit that was forgotten would start anew: its first permit would be due later than it is.
        let due = Instant::now() + Duration::from_secs(10);
        advance(Duration::from_secs(5)).await;
        paces.forget_idle(&ledger);
        let pace = paces.of(&ledger, ids[2]).unwrap();
        assert!(pace.peek(Count::Plan).unwrap() < due);
        drop(pace);
        // With the endpoint its limit goes, and with the last one the tenant's.
        for number in [3, 4] {
            let mut gone = limited(number);
            (gone.deleted, gone.version) = (true, 2);
            ledger.subscribe(Arc::new(gone));
        }
        paces.forget_idle(&ledger);
        assert_eq!(known(&paces), [] as [EndpointId; 0]);
        assert_eq!(paces.tenants.len(), 1);
        for number in [1, 2] {
            let mut gone = fixture::endpoint(number);
            (gone.deleted, gone.version) = (true, 2);
            ledger.subscribe(Arc::new(gone));
        }
        ledger.settle(Instant::now());
        paces.forget_idle(&ledger);
        assert!(paces.tenants.is_empty());
    }
}
