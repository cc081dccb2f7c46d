//! Rules of leases, checkpoints and chunks.

use bytes::Bytes;
use futures::future::join_all;

use super::samples::{P, Q, create, lease, tenant};
use crate::{
    checkpoint::{RowKey, RowKind, UsageCounts},
    id::{EndpointId, OwnerId, PartitionId, TenantId},
    limits::CHECKPOINT_BYTES_MAX,
    model::Resource,
    record::Classification,
    store::{Cas, CheckpointDelta, Fence, Lease, Member, SharedStore, StoreError, usage_row},
};

fn key(kind: RowKind, id: &str) -> RowKey {
    RowKey {
        kind,
        id: id.to_owned(),
    }
}

fn delta(rows: &[(RowKey, Option<&str>)]) -> CheckpointDelta {
    let rows = rows
        .iter()
        .map(|(key, row)| (key.clone(), row.map(str::to_owned)));
    CheckpointDelta { rows: rows.collect() }
}

async fn claimed(store: &SharedStore) -> Lease {
    let mine = lease(1, 1, Some(OwnerId::random()));
    assert_eq!(store.claim(P, None, &mine).await.unwrap(), Cas::Applied);
    mine
}

pub async fn a_lease_is_claimed_only_as_expected(store: &SharedStore) {
    assert_eq!(store.lease(P).await.unwrap(), None);
    let nowhere = Some(Fence { epoch: 1, beat: 1 });
    let mine = lease(1, 1, Some(OwnerId::random()));
    assert_eq!(store.claim(P, nowhere, &mine).await.unwrap(), Cas::Lost(None));
    assert_eq!(store.claim(P, None, &mine).await.unwrap(), Cas::Applied);
    assert_eq!(store.lease(P).await.unwrap().as_ref(), Some(&mine));
    let theirs = lease(2, 1, Some(OwnerId::random()));
    for stale in [
        None,
        Some(Fence { epoch: 1, beat: 0 }),
        Some(Fence { epoch: 0, beat: 1 }),
    ] {
        assert_eq!(
            store.claim(P, stale, &theirs).await.unwrap(),
            Cas::Lost(Some(mine.clone()))
        );
    }
    assert_eq!(
        store.claim(P, Some(mine.fence), &theirs).await.unwrap(),
        Cas::Applied
    );
    // Repeated because the answer was lost: what stands there tells that it was applied.
    assert_eq!(
        store.claim(P, Some(mine.fence), &theirs).await.unwrap(),
        Cas::Lost(Some(theirs))
    );
    assert_eq!(store.lease(Q).await.unwrap(), None);
}

pub async fn of_concurrent_claims_one_applies(store: &SharedStore) {
    let rivals: Vec<_> = (0..6).map(|_| lease(1, 1, Some(OwnerId::random()))).collect();
    let outcomes = join_all(rivals.iter().map(|rival| store.claim(P, None, rival))).await;
    let holder = store.lease(P).await.unwrap().unwrap();
    for (rival, outcome) in rivals.iter().zip(outcomes) {
        let wanted = if *rival == holder {
            Cas::Applied
        } else {
            Cas::Lost(Some(holder.clone()))
        };
        assert_eq!(outcome.unwrap(), wanted);
    }
}

pub async fn a_save_moves_the_beat_and_the_rows_together(store: &SharedStore) {
    let mine = claimed(store).await;
    let (run, chunk) = (key(RowKind::Run, "r"), key(RowKind::Chunk, "c"));
    let health = RowKey::health(EndpointId::random());
    let first = delta(&[
        (run.clone(), Some("1")),
        (chunk.clone(), Some("2")),
        (health.clone(), Some("3")),
    ]);
    assert_eq!(store.save(P, mine.fence, 2, &first).await.unwrap(), Cas::Applied);
    let second = delta(&[
        (run.clone(), Some("\"'ü\"")),
        (chunk.clone(), None),
        (key(RowKind::Run, "no"), None),
    ]);
    let fence = Fence { epoch: 1, beat: 2 };
    assert_eq!(store.save(P, fence, 3, &second).await.unwrap(), Cas::Applied);
    let (lease, rows) = store.checkpoint(P).await.unwrap();
    assert_eq!(
        lease,
        Some(Lease {
            fence: Fence { epoch: 1, beat: 3 },
            ..mine
        })
    );
    let wanted = [
        (run.clone(), "\"'ü\"".to_owned()),
        (health.clone(), "3".to_owned()),
    ];
    assert_eq!(rows, wanted.into());
    assert_eq!(
        store.checkpoint_row(P, &health).await.unwrap().as_deref(),
        Some("3")
    );
    assert_eq!(store.checkpoint_row(P, &chunk).await.unwrap(), None);
    assert_eq!(store.checkpoint_row(Q, &health).await.unwrap(), None);
    assert_eq!(store.checkpoint(Q).await.unwrap(), (None, [].into()));
}

pub async fn a_save_under_another_fence_changes_nothing(store: &SharedStore) {
    let mine = claimed(store).await;
    let run = key(RowKind::Run, "r");
    let change = |body| delta(&[(run.clone(), Some(body))]);
    assert_eq!(
        store.save(P, mine.fence, 2, &change("mine")).await.unwrap(),
        Cas::Applied
    );
    let standing = Lease {
        fence: Fence { epoch: 1, beat: 2 },
        ..mine
    };
    // A lost answer repeated, a zombie's epoch, and a partition without a lease.
    for stale in [mine_at(1, 1), mine_at(0, 2), mine_at(2, 2)] {
        let outcome = store.save(P, stale, 9, &change("zombie")).await.unwrap();
        assert_eq!(outcome, Cas::Lost(Some(standing.clone())));
    }
    assert_eq!(
        store.save(Q, mine_at(1, 1), 2, &change("zombie")).await.unwrap(),
        Cas::Lost(None)
    );
    assert_eq!(
        store.checkpoint(P).await.unwrap().1,
        [(run, "mine".to_owned())].into()
    );
    assert_eq!(store.lease(P).await.unwrap(), Some(standing));
}

pub async fn a_save_of_the_largest_size_is_kept_whole(store: &SharedStore) {
    let mine = claimed(store).await;
    let body = format!("\"{}\"", "x".repeat(100));
    let mut large = CheckpointDelta::default();
    while large.bytes() < CHECKPOINT_BYTES_MAX {
        let id = format!("{:05}", large.rows.len());
        large.rows.insert(key(RowKind::Usage, &id), Some(body.clone()));
    }
    assert_eq!(store.save(P, mine.fence, 2, &large).await.unwrap(), Cas::Applied);
    let (lease, rows) = store.checkpoint(P).await.unwrap();
    assert_eq!(lease.map(|lease| lease.fence), Some(mine_at(1, 2)));
    let wanted = large.rows.into_iter().map(|(key, row)| (key, row.unwrap()));
    assert_eq!(rows, wanted.collect());
    // And as many go away at once.
    let none = CheckpointDelta {
        rows: rows.into_keys().map(|key| (key, None)).collect(),
    };
    assert_eq!(
        store.save(P, mine_at(1, 2), 3, &none).await.unwrap(),
        Cas::Applied
    );
    let (lease, rows) = store.checkpoint(P).await.unwrap();
    assert_eq!(
        (lease.map(|lease| lease.fence), rows),
        (Some(mine_at(1, 3)), [].into())
    );
}

fn mine_at(epoch: u64, beat: u64) -> Fence {
    Fence { epoch, beat }
}

pub async fn a_released_lease_keeps_its_checkpoint(store: &SharedStore) {
    let mine = claimed(store).await;
    let rows = delta(&[(key(RowKind::Run, "r"), Some("{}"))]);
    store.save(P, mine.fence, 2, &rows).await.unwrap();
    let released = lease(1, 3, None);
    assert_eq!(
        store.claim(P, Some(mine_at(1, 2)), &released).await.unwrap(),
        Cas::Applied
    );
    assert_eq!(store.lease(P).await.unwrap(), Some(released));
    let next = lease(2, 1, Some(OwnerId::random()));
    assert_eq!(
        store.claim(P, Some(mine_at(1, 3)), &next).await.unwrap(),
        Cas::Applied
    );
    let (standing, rows) = store.checkpoint(P).await.unwrap();
    assert_eq!((standing, rows.len()), (Some(next), 1));
}

pub async fn usage_is_summed_over_partitions(store: &SharedStore) {
    let (tenant, other) = (TenantId::random(), TenantId::random());
    let mut counted = UsageCounts::default();
    counted.count_scan(Classification::Human);
    counted.deliveries = 4;
    let text = serde_json::to_string(&counted).unwrap();
    for partition in [P, Q] {
        let mine = lease(1, 1, Some(OwnerId::random()));
        store.claim(partition, None, &mine).await.unwrap();
        let rows = [(tenant, "2026-05"), (tenant, "2026-06"), (other, "2026-05")]
            .map(|(tenant, month)| (usage_row(tenant, month), Some(text.as_str())));
        store.save(partition, mine.fence, 2, &delta(&rows)).await.unwrap();
    }
    let mut wanted = counted.clone();
    wanted.add(&counted);
    assert_eq!(store.usage(tenant, "2026-05").await.unwrap(), wanted);
    assert_eq!(
        store.usage(tenant, "2026-07").await.unwrap(),
        UsageCounts::default()
    );
}

pub async fn usage_counts_in_partitions_of_a_tenants_own(store: &SharedStore) {
    let own = store.claim_partitions(2).await.unwrap().unwrap();
    let mut tenant = tenant();
    tenant.partitions.extend(own.map(PartitionId::new));
    store
        .change(create(Resource::Tenant(tenant.clone())))
        .await
        .unwrap();
    let mut counted = UsageCounts::default();
    counted.count_scan(Classification::Human);
    let text = serde_json::to_string(&counted).unwrap();
    let mut wanted = UsageCounts::default();
    for partition in tenant.partitions {
        let mine = lease(1, 1, Some(OwnerId::random()));
        store.claim(partition, None, &mine).await.unwrap();
        let row = [(usage_row(tenant.id, "2026-05"), Some(text.as_str()))];
        store.save(partition, mine.fence, 2, &delta(&row)).await.unwrap();
        wanted.add(&counted);
    }
    assert_eq!(store.usage(tenant.id, "2026-05").await.unwrap(), wanted);
}

pub async fn a_chunk_never_changes(store: &SharedStore) {
    let body = Bytes::from(vec![0xAB; 70_000]);
    store.put_chunk(P, "one", body.clone()).await.unwrap();
    store.put_chunk(P, "one", body.clone()).await.unwrap();
    let error = store
        .put_chunk(P, "one", Bytes::from_static(b"other"))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
    store.put_chunk(P, "two", Bytes::new()).await.unwrap();
    store.put_chunk(Q, "one", Bytes::from_static(b"q")).await.unwrap();
    assert_eq!(store.chunk(P, "one").await.unwrap(), Some(body));
    assert_eq!(store.chunk(P, "two").await.unwrap(), Some(Bytes::new()));
    assert_eq!(store.chunk(P, "three").await.unwrap(), None);
    let names = ["one".to_owned(), "three".to_owned()];
    store.delete_chunks(P, &names).await.unwrap();
    store.delete_chunks(P, &[]).await.unwrap();
    assert_eq!(store.chunk(P, "one").await.unwrap(), None);
    assert!(store.chunk(P, "two").await.unwrap().is_some());
    assert!(store.chunk(Q, "one").await.unwrap().is_some());
}

pub async fn rows_of_a_kind_are_found_by_what_their_ids_begin_with(store: &SharedStore) {
    store
        .claim(P, None, &lease(1, 0, Some(OwnerId::random())))
        .await
        .unwrap();
    let rows = delta(&[
        (key(RowKind::Replay, "rpl_b1"), Some("1")),
        (key(RowKind::Replay, "rpl_bz"), Some("2")),
        (key(RowKind::Replay, "rpl_c"), Some("3")),
        (key(RowKind::Replay, "rpl_a"), Some("4")),
        (key(RowKind::Run, "rpl_b2"), Some("5")),
    ]);
    let fence = Fence { epoch: 1, beat: 0 };
    assert_eq!(store.save(P, fence, 1, &rows).await.unwrap(), Cas::Applied);
    let found = store.checkpoint_rows(P, RowKind::Replay, "rpl_b").await.unwrap();
    let row = |id: &str, body: &str| (id.to_owned(), body.to_owned());
    assert_eq!(found, [row("rpl_b1", "1"), row("rpl_bz", "2")]);
    assert_eq!(
        store.checkpoint_rows(Q, RowKind::Replay, "rpl_").await.unwrap(),
        []
    );
}

pub async fn members_are_listed_until_they_leave(store: &SharedStore) {
    assert_eq!(store.members().await.unwrap(), []);
    let member = |byte: u8, beat, wants: &[_]| Member {
        owner: OwnerId::from_bytes([byte; 10]),
        addr: format!("127.0.0.1:{byte}"),
        beat,
        wants: wants.iter().copied().collect(),
    };
    let (one, two) = (member(1, 1, &[]), member(2, u64::from(u32::MAX), &[P, Q]));
    store.put_member(&two).await.unwrap();
    store.put_member(&one).await.unwrap();
    store.put_member(&one).await.unwrap();
    assert_eq!(store.members().await.unwrap(), [one.clone(), two.clone()]);
    let moved = member(1, 2, &[Q]);
    store.put_member(&moved).await.unwrap();
    assert_eq!(store.members().await.unwrap(), [moved, two.clone()]);
    for _ in 0..2 {
        store.remove_member(one.owner).await.unwrap();
        assert_eq!(store.members().await.unwrap(), std::slice::from_ref(&two));
    }
}
