//! Rules of the attempt log.

use super::samples::{at, attempt, config_event, event};
use crate::{
    id::EndpointId,
    store::{AttemptRow, DeliveryStatus, DeliverySummary, SharedStore},
};

fn succeeded(row: AttemptRow) -> AttemptRow {
    AttemptRow {
        status: DeliveryStatus::Succeeded,
        response_status: Some(200),
        next_attempt_at: None,
        error: String::new(),
        ..row
    }
}

pub async fn a_delivery_is_listed_with_its_last_attempt(store: &SharedStore) {
    let endpoint = EndpointId::random();
    let rows: Vec<_> = (1..=3)
        .map(|number| attempt(endpoint, at(5), event(1), number))
        .collect();
    let last = succeeded(rows[2].clone());
    store
        .record_attempts(vec![rows[1].clone(), rows[0].clone()])
        .await
        .unwrap();
    let of_others = vec![
        attempt(EndpointId::random(), at(5), event(1), 1),
        attempt(endpoint, at(6), event(1), 1),
        attempt(endpoint, at(5), config_event(1), 1),
    ];
    store.record_attempts(of_others).await.unwrap();
    store.record_attempts(vec![last.clone()]).await.unwrap();
    store.record_attempts(Vec::new()).await.unwrap();
    let attempts = store.attempts(endpoint, at(5), event(1)).await.unwrap();
    assert_eq!(attempts, [rows[0].clone(), rows[1].clone(), last.clone()]);
    let deliveries = store.deliveries(endpoint, None, 10).await.unwrap();
    assert_eq!(deliveries.len(), 3);
    assert_eq!(deliveries[2], DeliverySummary { last, attempts: 3 });
    assert_eq!(store.attempts(endpoint, at(7), event(1)).await.unwrap(), []);
}

pub async fn deliveries_are_paged_newest_first(store: &SharedStore) {
    let endpoint = EndpointId::random();
    let mut rows = Vec::new();
    for number in 0..9_i64 {
        // Times that clash, and addresses that differ in each part.
        let event = if number % 2 == 0 {
            event(10 - number.unsigned_abs())
        } else {
            config_event(number.unsigned_abs())
        };
        rows.push(attempt(endpoint, at(number / 4), event, 1));
        rows.push(attempt(endpoint, at(number / 4), event, 2));
    }
    store.record_attempts(rows.clone()).await.unwrap();
    let mut wanted: Vec<_> = rows.iter().map(|row| (row.first_at, row.event)).collect();
    wanted.sort();
    wanted.dedup();
    wanted.reverse();
    for limit in [1, 2, 9, 20] {
        let mut paged = Vec::new();
        while let page = store
            .deliveries(endpoint, paged.last().copied(), limit)
            .await
            .unwrap()
            && !page.is_empty()
        {
            assert!(page.len() <= limit);
            paged.extend(
                page.iter()
                    .map(|delivery| (delivery.last.first_at, delivery.last.event)),
            );
        }
        assert_eq!(paged, wanted, "pages of {limit}");
    }
}

pub async fn a_repeated_attempt_is_recorded_once(store: &SharedStore) {
    let endpoint = EndpointId::random();
    let row = attempt(endpoint, at(5), event(1), 1);
    store
        .record_attempts(vec![row.clone(), row.clone()])
        .await
        .unwrap();
    store.record_attempts(vec![row.clone()]).await.unwrap();
    assert_eq!(
        store.attempts(endpoint, at(5), event(1)).await.unwrap(),
        std::slice::from_ref(&row)
    );
    // Made again after a crash: what came of it in the end counts.
    let again = succeeded(row);
    store.record_attempts(vec![again.clone()]).await.unwrap();
    let deliveries = store.deliveries(endpoint, None, 10).await.unwrap();
    assert_eq!(
        deliveries,
        [DeliverySummary {
            last: again,
            attempts: 1
        }]
    );
}

pub async fn a_delivery_without_attempts_counts_none(store: &SharedStore) {
    let endpoint = EndpointId::random();
    let mut row = attempt(endpoint, at(5), event(1), 0);
    (row.status, row.response_status, row.next_attempt_at) = (DeliveryStatus::GivenUp, None, None);
    store.record_attempts(vec![row.clone()]).await.unwrap();
    let deliveries = store.deliveries(endpoint, None, 10).await.unwrap();
    assert_eq!(
        deliveries,
        [DeliverySummary {
            last: row,
            attempts: 0
        }]
    );
}
