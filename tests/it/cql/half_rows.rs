//! Rows of which a replica has a part only: what an earlier read passed on to it. They are not there, until the rest is.

use qrelay_store::{
    conformance::{
        Fixture as _,
        samples::{P, at, attempt, batch, event, registered},
    },
    id::{EndpointId, Seq},
    store::{DeliveryFilter, StoreError},
};

use scylla::value::CqlTimestamp;

use super::{Cluster, cluster::session};

const END: Seq = Seq::new(100);
const ALL: usize = usize::MAX;

/// Puts a row down that lacks most of its columns.
async fn put_half(cluster: &Cluster, columns: &str, values: &str) {
    let insert = format!(
        "INSERT INTO {}.{columns} VALUES ({values}) USING TIMESTAMP 1",
        cluster.keyspace.name
    );
    session().await.query_unpaged(insert, ()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_batch_without_its_body_is_not_there_until_it_is_whole() {
    let cluster = Cluster::open().await;
    let store = cluster.store();
    let writer = registered(&store).await;
    for seq in [1, 3] {
        store.append(batch(P, writer, seq)).await.unwrap();
    }
    let half = format!("0, {}, 0, 2, 7", writer.as_u64());
    put_half(&cluster, "log (partition, writer, segment, seq, count)", &half).await;

    let read = async |after| store.read(P, writer, Seq::new(after), END, ALL).await.unwrap();
    assert_eq!(read(0).await, [batch(P, writer, 1)]);
    assert_eq!(read(1).await, []);
    assert_eq!(store.batch(P, writer, Seq::new(2)).await.unwrap(), None);
    let tail = store.tail(P, writer, Seq::ZERO).await.unwrap();
    assert_eq!(tail, Seq::new(1), "a tail must end where reading does");
    let next = store.next_seq(P, writer, Seq::new(1), END).await.unwrap();
    assert_eq!(next, Some(Seq::new(3)));

    // Another process, which has to look at what is there.
    let store = cluster.restart().await.store();
    store.append(batch(P, writer, 2)).await.unwrap();
    let read = store.read(P, writer, Seq::ZERO, END, ALL).await.unwrap();
    assert_eq!(read, [1, 2, 3].map(|seq| batch(P, writer, seq)));
    assert_eq!(store.tail(P, writer, Seq::ZERO).await.unwrap(), Seq::new(3));
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_half_batch_at_a_segments_end_does_not_hide_what_comes() {
    let cluster = Cluster::open().await;
    let store = cluster.store();
    let writer = registered(&store).await;
    let half = format!("0, {}, 0, 5, 7", writer.as_u64());
    put_half(&cluster, "log (partition, writer, segment, seq, count)", &half).await;
    for seq in 1..=5 {
        store.append(batch(P, writer, seq)).await.unwrap();
    }
    assert_eq!(store.tail(P, writer, Seq::ZERO).await.unwrap(), Seq::new(5));
    let mut other = batch(P, writer, 5);
    other.count += 1;
    let error = store.append(other).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn an_attempt_of_which_a_part_is_missing_is_not_there_until_it_is_whole() {
    let cluster = Cluster::open().await;
    let store = cluster.store();
    let endpoint = EndpointId::random();
    let whole = attempt(endpoint, at(1), event(1), 1);
    let half = attempt(endpoint, at(2), event(2), 1);
    store
        .record_attempts(vec![whole.clone(), half.clone()])
        .await
        .unwrap();
    let (session, table) = (session().await, format!("{}.attempts", cluster.keyspace.name));
    let keys = format!("SELECT minute, sub, first_at, event FROM {table}");
    let keys = session.query_unpaged(keys, ()).await.unwrap();
    let keys = keys.into_rows_result().unwrap();
    let (minute, sub, first_at, event_key) = keys
        .rows::<(i32, i8, CqlTimestamp, Vec<u8>)>()
        .unwrap()
        .map(Result::unwrap)
        .find(|(_, _, first_at, _)| first_at.0 == half.first_at.as_millis())
        .unwrap();
    let delete = format!(
        "DELETE detail, response_body FROM {table} \
         WHERE endpoint = ? AND minute = ? AND sub = ? AND first_at = ? AND event = ? AND number = 1"
    );
    let delete = session.prepare(delete).await.unwrap();
    let values = (endpoint.to_string(), minute, sub, first_at, event_key);
    session.execute_unpaged(&delete, values).await.unwrap();

    let listed = async || {
        let filter = DeliveryFilter::default();
        let page = store.find_deliveries(endpoint, &filter, None, 10).await.unwrap();
        let rows = page.deliveries.into_iter().map(|delivery| delivery.last);
        rows.collect::<Vec<_>>()
    };
    assert_eq!(listed().await, std::slice::from_ref(&whole));
    let attempts = async || store.attempts(endpoint, at(2), event(2)).await.unwrap();
    assert_eq!(attempts().await, []);
    store.record_attempts(vec![half.clone()]).await.unwrap();
    assert_eq!(attempts().await, std::slice::from_ref(&half));
    assert_eq!(listed().await, [half, whole]);
}
