//! Tenants, and in which partition of the log a tenant lives.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::RateLimit;
use crate::{
    clock::Timestamp,
    id::{CodeId, EndpointId, PartitionId, TenantId},
};

/// A customer: the owner of codes, endpoints and keys.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// What people call it.
    pub name: String,
    /// Whether its codes redirect.
    pub status: TenantStatus,
    /// When a scan may be answered.
    pub durability: Durability,
    /// What is kept of client addresses.
    pub ip_privacy: IpPrivacy,
    /// The partitions that its events stand in; never empty, and none ever leaves. The first is the home of
    /// configuration events. One that it shares by default; a very large tenant has several of its own.
    pub partitions: Vec<PartitionId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Counts the changes, from 1.
    pub version: u64,
    /// How many requests may be begun to all of its endpoints together.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// What happens to scans that cannot be recorded.
    #[serde(default)]
    pub unrecordable_scans: UnrecordableScans,
    /// How many of `partitions`, from the first, take no more scans: what it lived in before it got its own. They are
    /// still read, and stay the homes of the endpoints that they have.
    #[serde(default)]
    pub retired: u16,
    /// How many of `partitions`, from the last, are not to be homes of new endpoints yet: owners of the others may not
    /// have heard that the tenant's limit is divided over more of them, and all together would exceed it.
    #[serde(default)]
    pub settling: u16,
}

impl Tenant {
    /// The part of its limit that one of its homes keeps. Together they keep the whole and no more, as long as the burst
    /// is at least their number, which is asked when either is set. It never grows when a tenant gets more partitions.
    pub fn rate_limit_at(&self, home: PartitionId) -> Option<RateLimit> {
        let limit = self.rate_limit?;
        let homes = u32::try_from(self.partitions.len()).unwrap_or(u32::MAX).max(1);
        let at = self.partitions.iter().position(|partition| *partition == home);
        // One that is not known gets the smallest part.
        let at = at.and_then(|at| u32::try_from(at).ok()).unwrap_or(homes - 1);
        let remainder = u32::from(at < limit.burst % homes);
        Some(RateLimit {
            per_second: limit.per_second / f64::from(homes),
            burst: (limit.burst / homes + remainder).max(1),
        })
    }

    /// The partition that `code`'s scans are appended to.
    ///
    /// # Panics
    /// Never for a stored tenant: `partitions` is not empty.
    pub fn partition(&self, code: CodeId) -> PartitionId {
        let taking = self.partitions.get(usize::from(self.retired)..);
        match or_all(taking, &self.partitions) {
            [only] => *only,
            several => several[slot(code.as_bytes(), several.len())],
        }
    }

    /// The partitions that may be the home of a new endpoint, in the order in which they should be; never empty for a stored
    /// tenant.
    pub fn homes(&self, endpoint: EndpointId) -> Vec<PartitionId> {
        let settled = self.settled();
        let mut homes = or_all(settled.get(usize::from(self.retired)..), settled).to_vec();
        if !homes.is_empty() {
            let first = slot(endpoint.as_bytes(), homes.len());
            homes.rotate_left(first);
        }
        homes
    }

    /// All partitions that may be homes of endpoints, those that take no more scans included, the oldest first.
    pub fn settled(&self) -> &[PartitionId] {
        let settled = self.partitions.len().saturating_sub(usize::from(self.settling));
        or_all(self.partitions.get(..settled), &self.partitions)
    }

    /// How many partitions it has of its own, where the install's shared ones are `0..shared`.
    pub fn own_partitions(&self, shared: u16) -> usize {
        let own = self.partitions.iter();
        own.filter(|partition| partition.as_u16() >= shared).count()
    }

    /// Gives it further partitions of its own. Its codes are hashed over all that it has of its own from then on. With a
    /// limit, the new ones become homes of endpoints later ([`Self::settling`]).
    pub fn extend(&mut self, own: &[PartitionId], shared: u16) {
        if own.is_empty() {
            return;
        }
        let count = |of: usize| u16::try_from(of).unwrap_or(u16::MAX);
        if self.own_partitions(shared) == 0 {
            self.retired = count(self.partitions.len());
        }
        if self.rate_limit.is_some() {
            self.settling = self.settling.saturating_add(count(own.len()));
        }
        self.partitions.extend(own);
    }
}

fn or_all<'a>(some: Option<&'a [PartitionId]>, all: &'a [PartitionId]) -> &'a [PartitionId] {
    some.filter(|some| !some.is_empty()).unwrap_or(all)
}

/// The shared partition in which a new tenant lives, of `count` (at least 1).
pub fn partition_of(tenant: TenantId, count: u16) -> PartitionId {
    let slot = slot(tenant.as_bytes(), usize::from(count.max(1)));
    PartitionId::new(u16::try_from(slot).expect("invariant: the slot is below a u16 count"))
}

fn slot(bytes: &[u8], count: usize) -> usize {
    let hash = Sha256::digest(bytes);
    let word = u64::from_be_bytes([
        hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7],
    ]);
    let slot = word % u64::try_from(count).expect("invariant: usize fits into u64");
    usize::try_from(slot).expect("invariant: the slot is below a usize count")
}

/// Whether a tenant's codes redirect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantStatus {
    /// They do.
    Active,
    /// They answer 404, and its keys are refused, for now.
    Suspended,
    /// They answer 410 for good.
    Deleted,
}

/// When a scan may be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// After it is durable.
    Durable,
    /// At once.
    Relaxed,
}

/// What happens to a scan that cannot be recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnrecordableScans {
    /// It is refused.
    #[default]
    Refuse,
    /// It is redirected all the same.
    Answer,
}

/// What is kept of client addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpPrivacy {
    /// Nothing.
    Drop,
    /// The /24 (IPv4) or /48 (IPv6) network.
    Truncate,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_row_of_an_earlier_release_is_read_with_the_defaults_of_what_came_later() {
        let row = serde_json::json!({
            "id": TenantId::from_bytes([1; 10]), "name": "Acme", "status": "active", "durability": "durable",
            "ip_privacy": "drop", "partitions": [3], "created_at": 1, "updated_at": 2, "version": 4,
        });
        let tenant: Tenant = serde_json::from_value(row).unwrap();
        assert_eq!(
            (tenant.rate_limit, tenant.unrecordable_scans),
            (None, UnrecordableScans::Refuse)
        );
        assert_eq!((tenant.retired, tenant.settling), (0, 0));
        assert_eq!(tenant.partition(CodeId::random()), PartitionId::new(3));
    }

    const SHARED: u16 = 8;

    fn tenant_in(partitions: &[u16], rate_limit: Option<(f64, u32)>) -> Tenant {
        Tenant {
            id: TenantId::from_bytes([1; 10]),
            name: String::new(),
            status: TenantStatus::Active,
            durability: Durability::Durable,
            ip_privacy: IpPrivacy::Drop,
            partitions: partitions.iter().copied().map(PartitionId::new).collect(),
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
            version: 1,
            rate_limit: rate_limit.map(|(per_second, burst)| RateLimit { per_second, burst }),
            unrecordable_scans: UnrecordableScans::Refuse,
            retired: 0,
            settling: 0,
        }
    }

    fn own(numbers: std::ops::Range<u16>) -> Vec<PartitionId> {
        numbers.map(PartitionId::new).collect()
    }

    /// Where a thousand codes and a thousand endpoints go.
    fn spread(tenant: &Tenant) -> (BTreeSet<u16>, BTreeSet<u16>) {
        let ids = (0..1000_u16).map(|n| {
            let mut id = [7; 10];
            id[..2].copy_from_slice(&n.to_be_bytes());
            id
        });
        let codes = ids
            .clone()
            .map(|id| tenant.partition(CodeId::from_bytes(id)).as_u16());
        let homes = ids.map(|id| tenant.homes(EndpointId::from_bytes(id))[0].as_u16());
        (codes.collect(), homes.collect())
    }

    #[test]
    fn a_tenant_that_gets_its_own_partitions_leaves_the_shared_one_and_stays_readable_there() {
        let mut tenant = tenant_in(&[3], None);
        assert_eq!(spread(&tenant), ([3].into(), [3].into()));
        tenant.extend(&own(9..11), SHARED);
        assert_eq!(tenant.partitions, [3, 9, 10].map(PartitionId::new));
        assert_eq!(tenant.own_partitions(SHARED), 2);
        assert_eq!(spread(&tenant), ([9, 10].into(), [9, 10].into()));
        tenant.extend(&own(12..14), SHARED);
        assert_eq!(spread(&tenant).0, [9, 10, 12, 13].into());
        assert_eq!(tenant.retired, 1);
        let mut born_with = tenant_in(&[9], None);
        born_with.extend(&own(20..21), SHARED);
        assert_eq!(spread(&born_with), ([9, 20].into(), [9, 20].into()));
    }

    #[test]
    fn new_partitions_of_a_limited_tenant_are_no_homes_until_all_have_heard_of_them() {
        let mut tenant = tenant_in(&[3], Some((10.0, 9)));
        tenant.extend(&own(9..11), SHARED);
        assert_eq!(spread(&tenant), ([9, 10].into(), [3].into()));
        tenant.settling = 0;
        assert_eq!(spread(&tenant).1, [9, 10].into());
        tenant.extend(&own(11..13), SHARED);
        assert_eq!(spread(&tenant), ((9..13).collect(), [9, 10].into()));
    }

    #[test]
    fn homes_keep_the_whole_limit_together_and_none_of_them_more_when_there_are_more() {
        for burst in 9..40 {
            let mut tenant = tenant_in(&[3], Some((12.5, burst)));
            let mut before = vec![(12.5, burst)];
            for more in [own(9..10), own(10..13), own(13..17)] {
                tenant.extend(&more, SHARED);
                let parts: Vec<_> = tenant
                    .partitions
                    .iter()
                    .map(|home| tenant.rate_limit_at(*home).unwrap())
                    .map(|limit| (limit.per_second, limit.burst))
                    .collect();
                assert_eq!(parts.iter().map(|part| part.1).sum::<u32>(), burst);
                assert!((parts.iter().map(|part| part.0).sum::<f64>() - 12.5).abs() < 1e-9);
                let grown = before
                    .iter()
                    .zip(&parts)
                    .any(|(old, new)| new.0 > old.0 || new.1 > old.1);
                assert!(!grown, "{before:?} became {parts:?}");
                before = parts;
            }
        }
        assert_eq!(tenant_in(&[1, 2], None).rate_limit_at(PartitionId::new(1)), None);
    }
}
