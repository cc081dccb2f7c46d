//! Rules of reported conversions.

use futures::future::join_all;

use super::samples::{P, at, conversion, event};
use crate::{
    id::{TenantId, WriterId},
    store::{ConversionRow, SharedStore},
};

pub async fn of_concurrent_claims_of_a_conversion_one_is_made(store: &SharedStore) {
    let row = conversion("order 1");
    let claims: Vec<_> = (0..8_u8)
        .map(|n| ConversionRow {
            body_hash: [n; 32],
            ..row.clone()
        })
        .collect();
    let found = join_all(claims.iter().map(|claim| store.claim_conversion(claim))).await;
    let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
    assert_eq!(found.iter().filter(|found| found.is_none()).count(), 1);
    let made = found.iter().position(Option::is_none).unwrap();
    for other in found.into_iter().flatten() {
        assert_eq!(other, claims[made]);
    }
}

pub async fn conversions_are_apart_by_tenant_and_external_id(store: &SharedStore) {
    let row = conversion("order 1");
    let mut of_another = row.clone();
    of_another.record.tenant = TenantId::random();
    let mut other = row.clone();
    other.record.external_id = "Order 1".into();
    for claim in [&row, &of_another, &other] {
        assert_eq!(store.claim_conversion(claim).await.unwrap(), None);
        assert_eq!(store.claim_conversion(claim).await.unwrap().as_ref(), Some(claim));
    }
}

pub async fn an_unfinished_conversion_is_taken_from_the_writer_that_had_it_only(store: &SharedStore) {
    let row = conversion("order 1");
    store.claim_conversion(&row).await.unwrap();
    let mut taken = ConversionRow {
        writer: WriterId::random(),
        ..row.clone()
    };
    taken.record.at = at(5000);
    assert!(!store.take_conversion(&taken, WriterId::random()).await.unwrap());
    assert!(store.take_conversion(&taken, row.writer).await.unwrap());
    assert!(
        store.take_conversion(&taken, row.writer).await.unwrap(),
        "a repetition is harmless"
    );
    assert_eq!(
        store.claim_conversion(&row).await.unwrap().as_ref(),
        Some(&taken),
        "with its time"
    );
    assert!(!store.take_conversion(&row, WriterId::random()).await.unwrap());
    assert!(
        !store
            .take_conversion(&conversion("unknown"), row.writer)
            .await
            .unwrap()
    );
}

pub async fn a_finished_conversion_keeps_its_first_address(store: &SharedStore) {
    let row = conversion("order 1");
    store.claim_conversion(&row).await.unwrap();
    for address in [event(7), event(8)] {
        store
            .finish_conversion(row.record.tenant, "order 1", address)
            .await
            .unwrap();
        assert!(!store.take_conversion(&row, row.writer).await.unwrap());
        let found = store.claim_conversion(&row).await.unwrap().unwrap();
        assert_eq!(found.event, Some(event(7)));
        assert_eq!((found.partition, &found.record), (P, &row.record));
    }
}
