//! Several processes at work on the same rows: what one is told of its change is true, whatever the others do meanwhile, and
//! also when the cluster's own answers are lost.

use std::{pin::pin, sync::Arc};

use futures::{Future, future::join_all};
use qrelay_store::{
    checkpoint::HealthState,
    conformance::samples::{create, health_change, secret, update},
    event::EventType,
    id::{CodeId, ConfigSeq},
    model::{Code, CodeStatus, Endpoint, ResourceId},
    scylla::{ScyllaStore, Then},
    store::{Change, ChangeError, Changed, ConfigLog as _, Registry as _, SecretChange, StoreError},
};

use super::crashes::{Processes, STATEMENTS_MAX, created_endpoint, new_code, of_code, of_endpoint, request};

/// Makes a call at the process whose statements are watched, and lets the others do something while one of them waits, or
/// after it was stopped there. The call's outcome, and whether it came to that statement.
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
    let stopped = all.dying.has_stopped();
    all.dying.work_again();
    match outcome {
        Some(outcome) => {
            if stopped {
                others.await;
            }
            (outcome, stopped)
        }
        None => {
            others.await;
            all.dying.go_on();
            (call.await, true)
        }
    }
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

/// The versions of an endpoint in the configuration log, each with who made it.
async fn told(all: &Processes, endpoint: &Endpoint) -> Vec<(u64, String)> {
    let (mut versions, mut after) = (Vec::new(), ConfigSeq::ZERO);
    loop {
        let rows = all.others[0].config_after(after, 500).await.unwrap();
        let Some(last) = rows.last() else {
            return versions;
        };
        after = last.seq;
        let changes = rows.into_iter().flat_map(|row| row.changes);
        let of = changes.filter(|change| change.resource == ResourceId::Endpoint(endpoint.id));
        versions.extend(of.map(|change| (change.version, change.actor)));
    }
}

/// Changes an endpoint as a caller without an etag does: as often as it takes.
async fn patch(store: &Arc<ScyllaStore>, endpoint: &Endpoint, actor: &str) {
    loop {
        let row = store.endpoint(endpoint.id).await.unwrap().unwrap();
        let next = Endpoint {
            version: row.version + 1,
            max_concurrency: row.max_concurrency + 1,
            // Two that wrote the very same would both be told that it was made.
            description: actor.to_owned(),
            ..(*row).clone()
        };
        let change = Change {
            actor: actor.to_owned(),
            ..update(of_endpoint(&next))
        };
        match store.change(change).await {
            Ok(Changed::Done(_)) => return,
            Err(ChangeError::Conflict) => {}
            other => panic!("{actor}: {other:?}"),
        }
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn what_one_process_is_told_of_an_update_is_true_whatever_two_others_make_of_the_row() {
    let all = Processes::start().await;
    for then in [Then::Hold, Then::Repeat, Then::StopUnheard] {
        for statements in 0..STATEMENTS_MAX {
            let trace = format!("{then:?} after {statements} statements");
            let endpoint = created_endpoint(&all).await;
            let new = secret(endpoint.id);
            let change = Change {
                actor: "one".to_owned(),
                event: Some(EventType::CodeUpdated),
                secrets: SecretChange::Replace(new.clone()),
                ..update(of_endpoint(&Endpoint {
                    version: 2,
                    max_concurrency: endpoint.max_concurrency + 1,
                    description: "one".to_owned(),
                    ..endpoint.clone()
                }))
            };
            let others = async {
                tokio::join!(
                    patch(&all.others[0], &endpoint, "two"),
                    patch(&all.others[1], &endpoint, "three"),
                );
            };
            let call = all.dying.change(change);
            let (answer, reached) = meanwhile(&all, (statements, then), call, others).await;
            all.sweep().await;
            let made = told(&all, &endpoint).await;
            let by = |who: &str| made.iter().filter(|(_, actor)| actor == who).count();
            match &answer {
                Ok(Changed::Done(_)) => assert_eq!(by("one"), 1, "{trace}: {made:?}"),
                Err(ChangeError::Conflict) => assert_eq!(by("one"), 0, "{trace}: {made:?}"),
                Err(ChangeError::Store(StoreError::Unavailable(_))) if then == Then::StopUnheard => {}
                other => panic!("{trace}: {other:?}"),
            }
            let others = usize::from(reached);
            assert_eq!((by("two"), by("three")), (others, others), "{trace}: {made:?}");
            let versions: Vec<u64> = made.iter().map(|(version, _)| *version).collect();
            let last = u64::try_from(made.len()).unwrap();
            assert_eq!(versions, (1..=last).collect::<Vec<_>>(), "{trace}");
            let row = all.others[0].endpoint(endpoint.id).await.unwrap().unwrap();
            let raised = u64::from(row.max_concurrency - endpoint.max_concurrency);
            assert_eq!((row.version, raised), (last, last - 1), "{trace}");
            let secrets = all.others[1].secrets(endpoint.id).await.unwrap();
            assert_eq!(secrets.len(), by("one"), "{trace}");
            assert!(secrets.iter().all(|secret| *secret == new), "{trace}");
            let stored = all
                .count("secret", &format!("WHERE endpoint = '{}'", endpoint.id))
                .await;
            assert_eq!(stored, secrets.len(), "{trace}: a secret was left");
            if !reached {
                assert!(statements > 6, "{trace}");
                break;
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_request_that_is_sent_to_two_processes_at_once_is_carried_out_once() {
    let all = Processes::start().await;
    for then in [Then::Hold, Then::Repeat] {
        for statements in 0..STATEMENTS_MAX {
            let trace = format!("{then:?} after {statements} statements");
            let first = new_code();
            // Each process makes an id of its own.
            let second = Code {
                id: CodeId::random(),
                ..first.clone()
            };
            let create = |code: &Code| Change {
                request: Some(request(&first)),
                count_max: Some(1),
                ..create(of_code(code))
            };
            let mut other = None;
            let others = async {
                other = Some(all.others[0].change(create(&second)).await);
            };
            let call = all.dying.change(create(&first));
            let (answer, reached) = meanwhile(&all, (statements, then), call, others).await;
            all.sweep().await;
            let made = all.others[1].code_by_link(&first.link).await.unwrap().unwrap().id;
            let answers = [(&first, Some(answer)), (&second, other)];
            for (code, answer) in answers
                .into_iter()
                .filter_map(|(code, answer)| Some((code, answer?)))
            {
                let announced = all.announced(code.tenant, (ResourceId::Code(code.id), 1), false);
                assert_eq!(announced.await.0, usize::from(code.id == made), "{trace}");
                match answer {
                    Ok(Changed::Done(_)) => assert_eq!(code.id, made, "{trace}"),
                    Ok(Changed::Replayed(id)) => {
                        assert!(code.id != made && id == ResourceId::Code(made), "{trace}");
                    }
                    Err(error) => panic!("{trace}: {error}"),
                }
            }
            assert_eq!(all.live("code", first.tenant).await, 1, "{trace}");
            if !reached {
                assert!(statements > 8, "{trace}");
                break;
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn of_processes_that_want_one_link_at_once_one_gets_it() {
    let all = Processes::start().await;
    let stores = [&all.dying, &all.others[0], &all.others[1]];
    for round in 0..10 {
        let link = new_code().link;
        let codes = [(); 3].map(|()| Code {
            link: link.clone(),
            ..new_code()
        });
        let creates = stores
            .iter()
            .zip(&codes)
            .map(|(store, code)| store.change(create(of_code(code))));
        let answers = join_all(creates).await;
        let mut owner = None;
        for (code, answer) in codes.iter().zip(&answers) {
            let made = match answer {
                Ok(Changed::Done(_)) => true,
                Err(ChangeError::Exists) => false,
                other => panic!("round {round}: {other:?}"),
            };
            let stored = all.others[0].code(code.id).await.unwrap();
            assert_eq!(stored.is_some(), made, "round {round}");
            let announced = all.announced(code.tenant, (ResourceId::Code(code.id), 1), false);
            assert_eq!(announced.await.0, usize::from(made), "round {round}");
            assert_eq!(
                all.live("code", code.tenant).await,
                i64::from(made),
                "round {round}"
            );
            if made {
                assert_eq!(owner.replace(code), None, "round {round}: {answers:?}");
            }
        }
        let linked = all.others[1].code_by_link(&link).await.unwrap();
        assert_eq!(linked.as_deref(), owner, "round {round}");
        assert!(owner.is_some(), "round {round}: {answers:?}");
    }
    assert_eq!(all.count("pending", "").await, 0);
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn processes_that_change_one_endpoint_at_once_lose_nothing() {
    let all = Processes::start().await;
    let endpoint = created_endpoint(&all).await;
    let stores = [
        (&all.dying, "one"),
        (&all.others[0], "two"),
        (&all.others[1], "three"),
    ];
    let patches = stores.into_iter().map(async |(store, actor)| {
        for _ in 0..8 {
            patch(store, &endpoint, actor).await;
        }
    });
    join_all(patches).await;
    let made = told(&all, &endpoint).await;
    let versions: Vec<u64> = made.iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, (1..=25).collect::<Vec<_>>());
    for (_, actor) in stores {
        assert_eq!(made.iter().filter(|(_, by)| by == actor).count(), 8, "{made:?}");
    }
    let row = all.others[0].endpoint(endpoint.id).await.unwrap().unwrap();
    assert_eq!(
        (row.version, row.max_concurrency),
        (25, endpoint.max_concurrency + 24)
    );
    assert_eq!(all.count("pending", "").await, 0);
}
