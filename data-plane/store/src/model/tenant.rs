//! Tenants, and in which partition of the log a tenant lives.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::RateLimit;
use crate::{
    clock::Timestamp,
    id::{CodeId, PartitionId, TenantId},
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
    /// The partitions that its codes are hashed over; never empty. The first is the home of configuration
    /// events. One by default; a very large tenant has several of its own.
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
}

impl Tenant {
    /// The part of its limit that each of its homes keeps: together they keep the whole.
    pub fn rate_limit_per_home(&self) -> Option<RateLimit> {
        let limit = self.rate_limit?;
        let homes = u32::try_from(self.partitions.len()).unwrap_or(u32::MAX).max(1);
        Some(RateLimit {
            per_second: limit.per_second / f64::from(homes),
            burst: (limit.burst / homes).max(1),
        })
    }

    /// The partition that `code`'s scans are appended to.
    ///
    /// # Panics
    /// Never for a stored tenant: `partitions` is not empty.
    pub fn partition(&self, code: CodeId) -> PartitionId {
        match self.partitions.as_slice() {
            [only] => *only,
            several => several[slot(code.as_bytes(), several.len())],
        }
    }
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
    }
}
