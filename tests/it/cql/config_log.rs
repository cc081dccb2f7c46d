//! The configuration log over several CQL partitions, after rows of it have left, and that each change stands in it once.

use std::{ops::RangeInclusive, pin::pin};

use futures::future::join_all;
use qrelay_store::{
    checkpoint::HealthState,
    conformance::{
        Fixture as _,
        samples::{create, health_change, tenant, update},
    },
    id::ConfigSeq,
    model::{Resource, ResourceId},
    scylla::{ScyllaStore, Then},
    store::{ChangeError, Changed, ConfigLog as _, Registry as _, StoreError},
};
use scylla::client::session::Session;
use tokio::task::yield_now;

use super::{
    Cluster,
    cluster::session,
    config,
    crashes::{Processes, created_endpoint, new_code, of_code},
};

/// Rows that are there before anybody appends: three CQL partitions.
const ROWS: i64 = 1030;

async fn change(store: &ScyllaStore) -> ConfigSeq {
    let change = create(Resource::Tenant(tenant()));
    match store.change(change).await.unwrap() {
        Changed::Done(seq) => seq,
        Changed::Replayed(of) => panic!("nothing was to be replayed: {of:?}"),
    }
}

async fn numbers(store: &ScyllaStore, after: u64, limit: usize) -> Vec<u64> {
    let rows = store.config_after(ConfigSeq::new(after), limit).await.unwrap();
    rows.iter().map(|row| row.seq.as_u64()).collect()
}

/// Rows without changes, as if others had appended them.
async fn put_rows(session: &Session, keyspace: &str, rows: RangeInclusive<i64>) {
    let insert = format!("INSERT INTO {keyspace}.config_log (bucket, seq, changes) VALUES (?, ?, '[]')");
    let insert = session.prepare(insert).await.unwrap();
    for seq in rows {
        let values = ((seq - 1) / 512, seq);
        session.execute_unpaged(&insert, values).await.unwrap();
    }
}

/// What retention takes leaves from the beginning on.
async fn remove_through(session: &Session, keyspace: &str, last: i64) {
    for bucket in 0..=(last - 1) / 512 {
        let delete = format!("DELETE FROM {keyspace}.config_log WHERE bucket = {bucket} AND seq <= {last}");
        session.query_unpaged(delete, ()).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn rows_are_numbered_and_read_across_cql_partitions_whatever_has_left() {
    let cluster = Cluster::open().await;
    let (session, keyspace) = (session().await, cluster.keyspace.name.clone());
    put_rows(&session, &keyspace, 1..=ROWS).await;
    let last = u64::try_from(ROWS).unwrap();
    // Nobody noted the log's end: it is found by walking.
    let store = ScyllaStore::open(&config(&cluster.keyspace)).await.unwrap();
    assert_eq!(store.config_head().await.unwrap(), ConfigSeq::new(last));
    assert_eq!(numbers(&store, 0, 2000).await, (1..=last).collect::<Vec<_>>());
    assert_eq!(numbers(&store, 510, 4).await, [511, 512, 513, 514]);
    assert_eq!(numbers(&store, 512, 1).await, [513]);
    assert!(numbers(&store, last, 5).await.is_empty());
    assert_eq!(change(&store).await, ConfigSeq::new(last + 1));
    assert_eq!(
        numbers(&store, 1024, 100).await,
        (1025..=last + 1).collect::<Vec<_>>()
    );

    remove_through(&session, &keyspace, 3).await;
    assert_eq!(numbers(&store, 0, 2).await, [4, 5]);
    assert_eq!(numbers(&store, 2, 2).await, [4, 5]);
    remove_through(&session, &keyspace, 520).await;
    assert_eq!(numbers(&store, 0, 2).await, [521, 522]);
    assert_eq!(numbers(&store, 300, 2).await, [521, 522]);
    assert_eq!(numbers(&store, 600, 2).await, [601, 602]);
    remove_through(&session, &keyspace, ROWS).await;
    assert_eq!(numbers(&store, 0, 2).await, [last + 1]);

    // A number is never given twice, even when all rows have left.
    remove_through(&session, &keyspace, ROWS + 1).await;
    let later = ScyllaStore::open(&config(&cluster.keyspace)).await.unwrap();
    for store in [&store, &later] {
        assert_eq!(store.config_head().await.unwrap(), ConfigSeq::new(last + 1));
        assert!(numbers(store, 0, 2).await.is_empty());
    }
    assert_eq!(change(&later).await, ConfigSeq::new(last + 2));
    assert_eq!(numbers(&store, 0, 2).await, [last + 2]);
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_change_that_stands_more_rows_behind_than_are_remembered_is_not_announced_again() {
    let all = Processes::start().await;
    let mut code = new_code();
    all.others[0].change(create(of_code(&code))).await.unwrap();
    // Stopped right after it was appended: the name, the row and the code's version come before that.
    code.version = 2;
    all.dying.after_writes(3, Then::StopUnheard);
    all.dying.change(update(of_code(&code))).await.unwrap_err();
    all.dying.work_again();
    assert_eq!(numbers(&all.others[0], 0, 10).await, [1, 2]);
    // What others appended meanwhile is more than this process remembers of what it reads.
    put_rows(&all.session, &all.keyspace.name, 3..=302).await;
    code.version = 3;
    all.others[1].change(update(of_code(&code))).await.unwrap();
    for version in 1..=3 {
        let of = (ResourceId::Code(code.id), version);
        assert_eq!(
            all.announced(code.tenant, of, false).await.0,
            1,
            "version {version}"
        );
    }
    all.sweep().await;
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_change_that_several_finish_at_once_is_announced_once() {
    let all = Processes::start().await;
    let mut holder = tenant();
    all.others[0]
        .change(create(Resource::Tenant(holder.clone())))
        .await
        .unwrap();
    // A code is left right after its row was written: the name, the count and the link come before that.
    let left = new_code();
    all.others[1].after_writes(3, Then::StopUnheard);
    all.others[1].change(create(of_code(&left))).await.unwrap_err();
    all.others[1].work_again();
    // Another change is about to be appended, and what comes meanwhile waits: its name and its row come before that.
    holder.version = 2;
    all.dying.after_writes(2, Then::Hold);
    let mut appending = all.dying.change(update(Resource::Tenant(holder.clone())));
    tokio::select! {
        outcome = &mut appending => panic!("it was to wait: {outcome:?}"),
        () = all.dying.held() => {}
    }
    // Whoever wants the code's link finishes it first.
    let wanting = (0..6).map(|_| {
        let mut code = new_code();
        code.link = left.link.clone();
        all.dying.change(create(of_code(&code)))
    });
    let mut wanting = pin!(join_all(wanting));
    while all.dying.waiting_to_announce() < 2 {
        tokio::select! {
            outcomes = &mut wanting => panic!("they were to wait: {outcomes:?}"),
            () = yield_now() => {}
        }
    }
    all.dying.go_on();
    let (appended, outcomes) = tokio::join!(appending, wanting);
    appended.unwrap();
    for outcome in outcomes {
        // So many at once on one row may have to give up.
        assert!(
            matches!(
                outcome,
                Err(ChangeError::Exists | ChangeError::Store(StoreError::Unavailable(_)))
            ),
            "{outcome:?}"
        );
    }
    all.sweep().await;
    for (of, tenant) in [
        ((ResourceId::Code(left.id), 1), left.tenant),
        ((ResourceId::Tenant(holder.id), 2), holder.id),
    ] {
        assert_eq!(all.announced(tenant, of, false).await.0, 1, "{of:?}");
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn the_first_change_of_an_idle_process_reads_nothing_of_what_others_appended() {
    let all = Processes::start().await;
    let mut row = tenant();
    let (idle, busy) = (&all.dying, &all.others[0]);
    busy.change(create(Resource::Tenant(row.clone()))).await.unwrap();
    let mut cost = async |store: &ScyllaStore| {
        row.version += 1;
        let before = store.statements();
        let change = update(Resource::Tenant(row.clone()));
        store.change(change).await.unwrap();
        store.statements() - before
    };
    let usual = cost(busy).await;
    put_rows(&all.session, &all.keyspace.name, 3..=1000).await;
    // One that is busy reads what others appended since its last change, and notes the log's end.
    assert!(cost(busy).await > usual);
    assert_eq!(cost(idle).await, usual);
    // Health is announced the same way.
    let endpoint = created_endpoint(&all).await;
    let announce = async |store: &ScyllaStore, version, state| {
        let before = store.statements();
        let change = health_change(&endpoint, version, state);
        assert!(store.announce_health(&change).await.unwrap().is_some());
        store.statements() - before
    };
    let usual = announce(busy, 1, HealthState::Degraded).await;
    let cost = announce(&all.others[1], 2, HealthState::Healthy).await;
    assert_eq!(cost, usual);
}
