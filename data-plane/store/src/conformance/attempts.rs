//! Rules of the attempt log.

use super::samples::{at, attempt, config_event, event};
use crate::{
    clock::Timestamp,
    event::EventType,
    id::{CodeId, EndpointId, EventAddress},
    limits,
    store::{AttemptRow, DeliveryFilter, DeliveryStatus, DeliverySummary, KnownDelivery, SharedStore},
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

/// When the first attempts of all deliveries that pass began, read in pages.
async fn found_in_pages(
    store: &SharedStore,
    endpoint: EndpointId,
    filter: &DeliveryFilter,
    limit: usize,
) -> Vec<Timestamp> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = store
            .find_deliveries(endpoint, filter, before, limit)
            .await
            .unwrap();
        assert!(page.deliveries.len() <= limit);
        found.extend(page.deliveries.iter().map(|one| one.last.first_at));
        before = page.next;
        if before.is_none() {
            return found;
        }
    }
}

pub async fn deliveries_are_found_by_status_type_code_and_time(store: &SharedStore) {
    let endpoint = EndpointId::random();
    let code = CodeId::random();
    let mut rows = Vec::new();
    for number in 1..=4 {
        let mut row = attempt(endpoint, at(number), event(number.unsigned_abs()), 1);
        if number % 2 == 0 {
            (row.code, row.event_type) = (Some(code), EventType::CodeCreated);
        }
        rows.push(row.clone());
        if number > 2 {
            row.number = 2;
            rows.push(succeeded(row));
        }
    }
    let mut of_no_code = attempt(endpoint, at(5), event(5), 1);
    of_no_code.code = None;
    rows.push(of_no_code);
    store.record_attempts(rows).await.unwrap();
    let any = DeliveryFilter::default;
    let status = |status| DeliveryFilter {
        status: Some(status),
        ..any()
    };
    let between = |start, end| DeliveryFilter {
        start: Some(at(start)),
        end: Some(at(end)),
        ..any()
    };
    let events = |pattern: &str| DeliveryFilter {
        events: Some(pattern.parse().unwrap()),
        ..any()
    };
    let of_code = DeliveryFilter {
        code: Some(code),
        ..any()
    };
    let both = DeliveryFilter {
        status: Some(DeliveryStatus::Retrying),
        ..of_code.clone()
    };
    for (filter, expected) in [
        (any(), vec![5, 4, 3, 2, 1]),
        (status(DeliveryStatus::Retrying), vec![5, 2, 1]),
        (status(DeliveryStatus::Succeeded), vec![4, 3]),
        (status(DeliveryStatus::GivenUp), vec![]),
        (events("code.*"), vec![4, 2]),
        (events("scan.created"), vec![5, 3, 1]),
        (of_code, vec![4, 2]),
        (both, vec![2]),
        (between(2, 4), vec![3, 2]),
        (between(4, 4), vec![]),
        (between(5, 9), vec![5]),
    ] {
        for limit in [1, 2, 9] {
            let found = found_in_pages(store, endpoint, &filter, limit).await;
            let expected: Vec<_> = expected.iter().map(|number| at(*number)).collect();
            assert_eq!(found, expected, "{filter:?} in pages of {limit}");
        }
    }
}

pub async fn one_look_at_a_long_delivery_log_is_bounded(store: &SharedStore) {
    let endpoint = EndpointId::random();
    let count = i64::try_from(limits::DELIVERIES_SCANNED_MAX).unwrap() + 1;
    let rows = (1..=count).map(|number| attempt(endpoint, at(number), event(1), 1));
    let mut rows: Vec<_> = rows.collect();
    rows[0] = succeeded(rows[0].clone());
    store.record_attempts(rows).await.unwrap();
    let filter = DeliveryFilter {
        status: Some(DeliveryStatus::Succeeded),
        ..DeliveryFilter::default()
    };
    let first = store.find_deliveries(endpoint, &filter, None, 1).await.unwrap();
    assert_eq!((first.deliveries.len(), first.next), (0, Some((at(2), event(1)))));
    let second = store
        .find_deliveries(endpoint, &filter, first.next, 1)
        .await
        .unwrap();
    assert_eq!((second.deliveries.len(), second.next), (1, None));
}

pub async fn what_became_of_a_batch_is_found_without_repeats(store: &SharedStore) {
    let (endpoint, other) = (EndpointId::random(), EndpointId::random());
    let (one, two) = (event(3), EventAddress { index: 9, ..event(3) });
    let rows = vec![
        attempt(endpoint, at(1), one, 1),
        succeeded(attempt(endpoint, at(1), one, 2)),
        attempt(endpoint, at(1), two, 1),
        // A crash made it a delivery of its own.
        succeeded(attempt(endpoint, at(5), two, 1)),
        attempt(endpoint, at(1), event(4), 1),
        attempt(endpoint, at(1), config_event(3), 1),
        attempt(other, at(1), one, 7),
    ];
    store.record_attempts(rows).await.unwrap();
    let known = |index, first_at, attempts| KnownDelivery {
        index,
        first_at,
        attempts,
        status: DeliveryStatus::Succeeded,
    };
    let found = store
        .deliveries_of_batch(endpoint, one.partition, one.writer, one.seq)
        .await
        .unwrap();
    assert_eq!(found, [known(one.index, at(1), 2), known(9, at(5), 1)]);
    let change = config_event(3);
    let found = store
        .deliveries_of_batch(endpoint, change.partition, change.writer, change.seq)
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].status, attempt(endpoint, at(1), change, 1).status);
    let none = store
        .deliveries_of_batch(EndpointId::random(), one.partition, one.writer, one.seq)
        .await
        .unwrap();
    assert_eq!(none, []);
}
