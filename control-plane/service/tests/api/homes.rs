//! Which partition of a tenant with several becomes an endpoint's home.

use std::collections::BTreeSet;

use qrelay_store::{
    checkpoint::Follows,
    id::{OwnerId, PartitionId, TenantId},
    model::{Resource, Tenant},
    store::{Cas, Change, CheckpointDelta, Expected, Fence, Lease, SecretChange},
};
use serde_json::json;

use crate::{
    events::Scans,
    harness::{Api, endpoint},
};

/// Enough that each of two partitions has some by their hashes, but for once in half a billion.
const MANY: usize = 30;

/// The tenant has these partitions from now on. A key that nobody has used, and knows the tenant from before.
async fn spread(api: &Api, tenant: TenantId, partitions: &[PartitionId]) -> String {
    let current = api.store.tenant(tenant).await.unwrap().unwrap();
    let change = Change {
        resource: Resource::Tenant(Tenant {
            partitions: partitions.to_vec(),
            version: current.version + 1,
            ..(*current).clone()
        }),
        expected: Expected::Version(current.version),
        at: current.updated_at,
        actor: "admin".into(),
        event: None,
        secrets: SecretChange::Keep,
        request: None,
        count_max: None,
    };
    api.store.change(change).await.unwrap();
    api.key(&tenant.to_string(), "read_write").await.1
}

/// The homes of so many new endpoints.
async fn homes(api: &Api, key: &str) -> BTreeSet<PartitionId> {
    let mut homes = BTreeSet::new();
    for _ in 0..MANY {
        let id = api.post(key, "/v1/endpoints", endpoint()).await.ok().text("id");
        let row = api.store.endpoint(id.parse().unwrap()).await.unwrap().unwrap();
        homes.insert(row.home);
    }
    homes
}

/// Plays a partition's owner, which follows another partition.
async fn follow(api: &Api, home: PartitionId, other: PartitionId, level: bool) {
    let lease = api.store.lease(home).await.unwrap();
    let epoch = lease.as_ref().map_or(1, |lease| lease.fence.epoch + 1);
    let fence = Fence { epoch, beat: 0 };
    let new = Lease {
        fence,
        owner: Some(OwnerId::random()),
        addr: String::new(),
    };
    let expected = lease.map(|lease| lease.fence);
    let claimed = api.store.claim(home, expected, &new).await.unwrap();
    assert_eq!(claimed, Cas::Applied);
    let row = json!({"cursor": {}, "follows": {other.to_string(): level}});
    let mut delta = CheckpointDelta::default();
    delta.rows.insert(Follows::key(), Some(row.to_string()));
    let saved = api.store.save(home, fence, 1, &delta).await.unwrap();
    assert_eq!(saved, Cas::Applied);
}

/// The partition of a tenant, and another one.
async fn two(api: &Api, tenant: TenantId) -> [PartitionId; 2] {
    let tenant = api.store.tenant(tenant).await.unwrap().unwrap();
    let first = tenant.partitions[0];
    [first, PartitionId::new((first.as_u16() + 1) % 4)]
}

#[tokio::test]
async fn an_added_partition_is_nobodys_home_until_its_owner_has_come_to_the_end_of_the_others() {
    let api = Api::start().await;
    let scans = Scans::of(&api).await;
    let [first, added] = two(&api, scans.tenant).await;
    scans.scan(1_800_000_000_000).await;
    let key = spread(&api, scans.tenant, &[first, added]).await;
    assert_eq!(homes(&api, &key).await, BTreeSet::from([first]));
    follow(&api, added, first, false).await;
    assert_eq!(homes(&api, &key).await, BTreeSet::from([first]));
    follow(&api, added, first, true).await;
    assert_eq!(homes(&api, &key).await, BTreeSet::from([first, added]));
}

#[tokio::test]
async fn partitions_that_have_held_nothing_are_homes_at_once() {
    let api = Api::start().await;
    let tenant = api.tenant().await.parse().unwrap();
    let both = two(&api, tenant).await;
    let key = spread(&api, tenant, &both).await;
    assert_eq!(homes(&api, &key).await, BTreeSet::from(both));
}
