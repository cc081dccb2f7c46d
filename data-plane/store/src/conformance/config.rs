//! Rules of the configuration log.

use std::collections::BTreeSet;

use futures::future::join_all;

use super::samples::{create, endpoint, health_change, tenant, update};
use crate::{
    checkpoint::HealthState,
    event::EventType,
    id::{ConfigSeq, TenantId},
    model::Resource,
    store::{Changed, SharedStore},
};

fn done(changed: Changed) -> ConfigSeq {
    match changed {
        Changed::Done(seq) => seq,
        Changed::Replayed(of) => panic!("nothing was to be replayed: {of:?}"),
    }
}

pub async fn changes_are_numbered_without_gaps_in_one_order(store: &SharedStore) {
    assert_eq!(store.config_head().await.unwrap(), ConfigSeq::ZERO);
    let tenants: Vec<_> = (0..20).map(|_| tenant()).collect();
    let changes = tenants
        .iter()
        .map(|row| store.change(create(Resource::Tenant(row.clone()))));
    let seqs: BTreeSet<_> = join_all(changes)
        .await
        .into_iter()
        .map(|changed| done(changed.unwrap()))
        .collect();
    let head = store.config_head().await.unwrap();
    assert_eq!(seqs.last(), Some(&head));
    let rows = store.config_after(ConfigSeq::ZERO, 1000).await.unwrap();
    let numbers: Vec<_> = rows.iter().map(|row| row.seq.as_u64()).collect();
    assert_eq!(numbers, (1..=head.as_u64()).collect::<Vec<_>>());
    let resources: BTreeSet<_> = rows
        .iter()
        .flat_map(|row| &row.changes)
        .map(|change| change.resource)
        .collect();
    assert_eq!(
        resources,
        tenants
            .iter()
            .map(|row| crate::model::ResourceId::Tenant(row.id))
            .collect()
    );
    assert_eq!(
        store.config_row(rows[1].seq).await.unwrap().as_ref(),
        Some(&rows[1])
    );
    assert_eq!(store.config_row(head.next()).await.unwrap(), None);
    assert_eq!(store.config_after(rows[4].seq, 2).await.unwrap(), rows[5..7]);
    assert_eq!(store.config_after(head, 2).await.unwrap(), []);
}

pub async fn a_change_is_hinted_at_after_it_is_stored(store: &SharedStore) {
    let mut hinted = store.hints().config();
    let seq = done(store.change(create(Resource::Tenant(tenant()))).await.unwrap());
    assert!(*hinted.borrow_and_update() >= seq);
    assert!(store.config_row(seq).await.unwrap().is_some());
}

pub async fn events_of_a_tenant_are_paged_backwards(store: &SharedStore) {
    let (mut one, two) = (tenant(), tenant());
    let mut wanted = Vec::new();
    let mut first = create(Resource::Tenant(one.clone()));
    first.event = Some(EventType::CodeCreated);
    let mut changes = vec![first];
    for version in 2..=6 {
        one.version = version;
        let mut change = update(Resource::Tenant(one.clone()));
        // Every second change makes no event.
        change.event = (version % 2 == 1).then_some(EventType::CodeUpdated);
        changes.push(change);
    }
    let mut of_another = create(Resource::Tenant(two));
    of_another.event = Some(EventType::CodeCreated);
    changes.push(of_another);
    for change in changes {
        let wants = change.event.is_some() && change.resource.tenant() == one.id;
        let version = change.resource.version();
        let seq = done(store.change(change).await.unwrap());
        if wants {
            wanted.insert(0, (seq, version));
        }
    }
    let mut paged = Vec::new();
    let mut before = None;
    while let page = store.config_events_before(one.id, before, 2).await.unwrap()
        && !page.is_empty()
    {
        before = page.last().map(|(seq, index, _)| (*seq, *index));
        paged.extend(page.into_iter().map(|(seq, _, change)| {
            assert_eq!(change.tenant, one.id);
            (seq, change.version)
        }));
    }
    assert_eq!(paged, wanted);
}

pub async fn each_change_of_a_health_is_announced_once_and_only_what_is_new(store: &SharedStore) {
    use HealthState::{Degraded, Disabled, Healthy};
    let row = endpoint(TenantId::random());
    store
        .change(create(Resource::Endpoint(Box::new(row.clone()))))
        .await
        .unwrap();
    let before = store.config_head().await.unwrap();
    let announce = async |version, state| {
        let change = health_change(&row, version, state);
        store.announce_health(&change).await.unwrap().is_some()
    };
    assert!(!announce(1, Healthy).await, "nobody was told otherwise");
    assert!(announce(2, Degraded).await);
    assert!(!announce(2, Degraded).await, "a repeat");
    assert!(!announce(1, Disabled).await, "an older one");
    assert!(
        !announce(5, Degraded).await,
        "told already: what lay between was not"
    );
    assert!(announce(6, Healthy).await);
    assert!(!announce(2, Degraded).await, "what a dead owner still has to say");
    assert!(announce(7, Disabled).await);
    let mut changed = row.clone();
    changed.version = 2;
    store
        .change(update(Resource::Endpoint(Box::new(changed))))
        .await
        .unwrap();
    assert!(
        !announce(7, Disabled).await,
        "the row changed, and what was told of it stays"
    );
    let wanted = [
        health_change(&row, 2, Degraded),
        health_change(&row, 6, Healthy),
        health_change(&row, 7, Disabled),
    ];
    let rows = store.config_after(before, 100).await.unwrap();
    let announced: Vec<_> = rows
        .into_iter()
        .flat_map(|row| row.changes)
        .filter(|change| change.health.is_some())
        .collect();
    assert_eq!(announced, wanted);
    let events = store.config_events_before(row.tenant, None, 10).await.unwrap();
    let events: Vec<_> = events.into_iter().rev().map(|(_, _, change)| change).collect();
    assert_eq!(events, wanted);
}

pub async fn a_health_is_announced_once_by_concurrent_callers(store: &SharedStore) {
    let row = endpoint(TenantId::random());
    store
        .change(create(Resource::Endpoint(Box::new(row.clone()))))
        .await
        .unwrap();
    let mut hinted = store.hints().config();
    let change = health_change(&row, 1, HealthState::Degraded);
    let calls = (0..8).map(|_| store.announce_health(&change));
    let seqs: Vec<_> = join_all(calls)
        .await
        .into_iter()
        .filter_map(Result::unwrap)
        .collect();
    assert_eq!(seqs.len(), 1);
    assert!(*hinted.borrow_and_update() >= seqs[0]);
}

pub async fn a_deleted_endpoint_has_no_health_to_announce(store: &SharedStore) {
    let mut row = endpoint(TenantId::random());
    let change = health_change(&row, 1, HealthState::Degraded);
    assert_eq!(store.announce_health(&change).await.unwrap(), None);
    store
        .change(create(Resource::Endpoint(Box::new(row.clone()))))
        .await
        .unwrap();
    (row.deleted, row.version) = (true, 2);
    store
        .change(update(Resource::Endpoint(Box::new(row))))
        .await
        .unwrap();
    assert_eq!(store.announce_health(&change).await.unwrap(), None);
}
