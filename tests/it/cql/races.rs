//! Several processes at work on the same rows: what one is told of its change is true, whatever the others do meanwhile, and
//! also when the cluster's own answers are lost.

use std::{pin::pin, sync::Arc};

use futures::Future;
use qrelay_store::{
    checkpoint::HealthState,
    conformance::samples::{create, health_change, update},
    id::ConfigSeq,
    model::{CodeStatus, Endpoint, ResourceId},
    scylla::{ScyllaStore, Then},
    store::{Change, Changed, ConfigLog as _, Registry as _},
};

use super::crashes::{Processes, created_endpoint, new_code, of_code, of_endpoint, request};

/// Makes a call at the process whose statements are watched, and lets the others do something while one of them waits.
/// The call's outcome, and whether it came to that statement.
async fn meanwhile<T>(
    all: &Processes,
    (statements, then): (u64, Then),
    call: impl Future<Output = T>,
    others: impl Future<Output = ()>,
) -> (T, bool) {
    let mut call = pin!(call);
    all.dying.after_writes(statements, then);
    let outcome = tokio::select! {
        outcome = &mut call => Some(outcome),
        () = all.dying.held() => None,
    };
    all.dying.work_again();
    if let Some(outcome) = outcome {
        return (outcome, false);
    }
    others.await;
    all.dying.go_on();
    (call.await, true)
}

/// Raises an endpoint's version by a change of somebody else's.
async fn next_version(store: &Arc<ScyllaStore>, endpoint: &Endpoint) {
    let row = store.endpoint(endpoint.id).await.unwrap().unwrap();
    let next = Endpoint {
        version: row.version + 1,
        ..(*row).clone()
    };
    store.change(update(of_endpoint(&next))).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn an_update_whose_answer_is_lost_while_others_go_on_is_answered_as_made() {
    let all = Processes::start().await;
    // The name is the first statement, the row the second.
    let row = (1, Then::Repeat);
    for further in 1..=2 {
        let endpoint = created_endpoint(&all).await;
        let second = Endpoint {
            version: 2,
            ..endpoint.clone()
        };
        let others = async {
            for _ in 0..further {
                next_version(&all.others[0], &endpoint).await;
            }
        };
        let call = all.dying.change(update(of_endpoint(&second)));
        let (answer, reached) = meanwhile(&all, row, call, others).await;
        assert!(reached);
        let Changed::Done(seq) = answer.unwrap() else {
            panic!("nothing was to be replayed")
        };
        let told = all.others[0].config_row(seq).await.unwrap().unwrap();
        let (id, version) = (ResourceId::Endpoint(endpoint.id), 2);
        assert!(
            told.changes
                .iter()
                .any(|change| (change.resource, change.version) == (id, version)),
            "{told:?}"
        );
        for version in 1..=2 + further {
            let announced = all.announced(endpoint.tenant, (id, version), false).await;
            assert_eq!(announced.0, 1, "version {version}");
        }
        all.sweep().await;
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_creation_whose_answer_is_lost_while_others_go_on_is_answered_as_made() {
    let all = Processes::start().await;
    let code = new_code();
    let change = Change {
        request: Some(request(&code)),
        count_max: Some(1),
        ..create(of_code(&code))
    };
    let others = async {
        let mut gone = code.clone();
        (gone.version, gone.status) = (2, CodeStatus::Deleted);
        all.others[0].change(update(of_code(&gone))).await.unwrap();
    };
    // The name, the count, the link and the request come before the row.
    let call = all.dying.change(change.clone());
    let (answer, reached) = meanwhile(&all, (4, Then::Repeat), call, others).await;
    assert!(reached);
    assert!(matches!(answer.unwrap(), Changed::Done(_)));
    let of = |version| (ResourceId::Code(code.id), version);
    for version in 1..=2 {
        assert_eq!(all.announced(code.tenant, of(version), false).await.0, 1);
    }
    let again = all.dying.change(change).await.unwrap();
    assert_eq!(again, Changed::Replayed(ResourceId::Code(code.id)));
    assert_eq!(all.live("code", code.tenant).await, 0);
    all.sweep().await;
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_health_whose_answer_is_lost_while_others_go_on_is_answered_as_announced() {
    let all = Processes::start().await;
    let endpoint = created_endpoint(&all).await;
    let announce = |version, state| health_change(&endpoint, version, state);
    let others = async {
        let later = announce(4, HealthState::Healthy);
        assert!(all.others[0].announce_health(&later).await.unwrap().is_some());
    };
    let first = announce(3, HealthState::Degraded);
    let call = all.dying.announce_health(&first);
    let (answer, reached) = meanwhile(&all, (1, Then::Repeat), call, others).await;
    assert!(reached);
    let seq: ConfigSeq = answer.unwrap().unwrap();
    let told = all.others[0].config_row(seq).await.unwrap().unwrap();
    assert!(told.changes.contains(&first), "{told:?}");
    let of = (ResourceId::Endpoint(endpoint.id), 3);
    assert_eq!(all.announced(endpoint.tenant, of, true).await, (1, 1));
    all.sweep().await;
}
