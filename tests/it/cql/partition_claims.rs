//! Partitions of a tenant's own, claimed and given by a process that is stopped after each statement of that, before or after
//! it was done. Whoever asks again gets the tenant what it wants, and no number is anybody's twice.

use std::{collections::BTreeSet, sync::Arc};

use qrelay_store::{
    Store as _,
    conformance::samples::{create, tenant, update},
    id::{ConfigSeq, PartitionId, TenantId},
    model::{Resource, ResourceId, Tenant},
    scylla::{ScyllaStore, Then},
    store::{ChangeError, ConfigLog as _, Registry as _, StoreError},
};

use super::crashes::{Processes, STATEMENTS_MAX};

/// How many partitions of its own a tenant gets at once.
const COUNT: u16 = 2;

/// Gives a tenant what it lacks, as a control plane does: numbers are claimed, then named in its row.
async fn give(store: &ScyllaStore, id: TenantId) -> Result<(), StoreError> {
    let mut tenant = store.tenant(id).await?.unwrap().as_ref().clone();
    let shared = store.install().partitions;
    if tenant.own_partitions(shared) == usize::from(COUNT) {
        return Ok(());
    }
    let claimed = store.claim_partitions(COUNT).await?.unwrap();
    let claimed: Vec<_> = claimed.map(PartitionId::new).collect();
    tenant.extend(&claimed, shared);
    tenant.version += 1;
    match store.change(update(Resource::Tenant(tenant))).await {
        Ok(_) => Ok(()),
        Err(ChangeError::Store(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

/// Where a change of a tenant to some version stands in the configuration log.
async fn announced_at(store: &ScyllaStore, tenant: &Tenant) -> ConfigSeq {
    let announced = (ResourceId::Tenant(tenant.id), tenant.version);
    let mut after = ConfigSeq::ZERO;
    loop {
        let rows = store.config_after(after, 500).await.unwrap();
        for row in &rows {
            after = row.seq;
            let mut changes = row.changes.iter();
            if changes.any(|change| (change.resource, change.version) == announced) {
                return row.seq;
            }
        }
        assert!(!rows.is_empty(), "it was not announced");
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_claim_that_was_cut_off_is_made_again_and_no_number_is_given_twice() {
    let processes = Processes::start().await;
    let other: &Arc<ScyllaStore> = &processes.others[0];
    let shared = other.install().partitions;
    let (mut given, mut lost) = (BTreeSet::new(), 0);
    for then in [Then::Stop, Then::StopUnheard] {
        for statements in 0..STATEMENTS_MAX {
            let mut row = tenant();
            row.partitions = vec![PartitionId::new(0)];
            let id = row.id;
            other.change(create(Resource::Tenant(row))).await.unwrap();
            let trace = format!("{then:?} after {statements} statements");
            let before = other.own_partitions().await.unwrap();
            processes.dying.after_writes(statements, then);
            let outcome = give(&processes.dying, id).await;
            let was_stopped = processes.dying.has_stopped();
            processes.dying.work_again();
            assert_eq!(outcome.is_err(), was_stopped, "{trace}: {outcome:?}");
            if statements % 2 == 0 {
                processes.sweep().await;
            }
            give(other, id).await.unwrap();
            processes.sweep().await;

            let stands = other.tenant(id).await.unwrap().unwrap();
            assert_eq!(stands.own_partitions(shared), usize::from(COUNT), "{trace}");
            let end = other.own_partitions().await.unwrap();
            let at = announced_at(other, &stands).await;
            for number in stands
                .partitions
                .iter()
                .filter(|number| number.as_u16() >= shared)
            {
                assert!(given.insert(*number), "{trace}: {number} was given before");
                assert!((before..end).contains(&number.as_u16()), "{trace}");
                assert!(
                    other.claimed_at(*number).await.unwrap() < at,
                    "{trace}: it is announced after it was claimed"
                );
            }
            lost += usize::from(end - before) - usize::from(COUNT);
            if !was_stopped {
                break;
            }
        }
    }
    let end = usize::from(other.own_partitions().await.unwrap() - shared);
    assert_eq!(
        given.len() + lost,
        end,
        "what was claimed is a tenant's, or nobody's"
    );
    assert!(lost > 0, "some were claimed, and not given");
}
