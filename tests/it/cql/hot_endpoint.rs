//! The attempt log of an endpoint that is hot: where its rows lie, and that lists do not show it.

use qrelay_store::{
    conformance::{
        Fixture as _,
        samples::{at, attempt, event},
    },
    id::{EndpointId, EventAddress},
    store::DeliveryFilter,
};

use super::{Cluster, cluster::session};

/// Deliveries of one minute.
const DELIVERIES: u16 = 160;

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_hot_endpoints_minute_is_spread_over_cql_partitions_and_listed_in_one_order() {
    let cluster = Cluster::open().await;
    let store = cluster.store();
    let endpoint = EndpointId::random();
    // Batches of ten events, some of which are delivered at the same time, some with a second attempt.
    let events = (0..DELIVERIES).map(|number| EventAddress {
        index: number % 10,
        ..event(u64::from(number / 10) + 1)
    });
    let mut rows = Vec::new();
    for (event, number) in events.zip(0_i64..) {
        rows.push(attempt(endpoint, at(number / 3), event, 1));
        if number % 4 == 0 {
            rows.push(attempt(endpoint, at(number / 3), event, 2));
        }
    }
    store.record_attempts(rows.clone()).await.unwrap();
    let mut wanted: Vec<_> = rows
        .iter()
        .map(|row| {
            let attempts = rows.iter().filter(|other| other.event == row.event).count();
            (row.first_at, row.event, u32::try_from(attempts).unwrap())
        })
        .collect();
    wanted.sort();
    wanted.dedup();
    wanted.reverse();
    for limit in [7, 500] {
        let (mut listed, mut before) = (Vec::new(), None);
        loop {
            let filter = DeliveryFilter::default();
            let page = store
                .find_deliveries(endpoint, &filter, before, limit)
                .await
                .unwrap();
            let rows = page.deliveries.iter();
            listed.extend(rows.map(|one| (one.last.first_at, one.last.event, one.attempts)));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(listed, wanted, "pages of {limit}");
    }

    let select = format!("SELECT minute, sub FROM {}.attempts", cluster.keyspace.name);
    let stored = session().await.query_unpaged(select, ()).await.unwrap();
    let stored = stored.into_rows_result().unwrap();
    let mut parts: Vec<(i32, i8)> = stored.rows().unwrap().map(Result::unwrap).collect();
    let all = parts.len();
    parts.sort_unstable();
    let most = parts.chunk_by(|one, other| one == other).map(<[_]>::len).max();
    assert_eq!(all, rows.len());
    assert!(
        most.unwrap() <= all / 4,
        "one CQL partition holds {most:?} of {all}"
    );
}
