//! The configuration log over several CQL partitions, and after rows of it have left.

use qrelay_store::{
    conformance::{
        Fixture as _,
        samples::{create, tenant},
    },
    id::ConfigSeq,
    model::Resource,
    scylla::ScyllaStore,
    store::{Changed, ConfigLog as _, Registry as _},
};
use scylla::client::session::Session;

use super::{Cluster, cluster::session, config};

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
    let insert = format!("INSERT INTO {keyspace}.config_log (bucket, seq, changes) VALUES (?, ?, '[]')");
    let insert = session.prepare(insert).await.unwrap();
    for seq in 1..=ROWS {
        let values = ((seq - 1) / 512, seq);
        session.execute_unpaged(&insert, values).await.unwrap();
    }
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
