//! Cursors over very many streams: a tenant of many partitions, in which many writers recorded.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use qrelay_store::{
    id::{PartitionId, Seq, WriterId},
    limits,
    model::EndpointIntent,
};
use tokio::time::Instant;

use super::super::Ledger;
use crate::{
    cursor::{Cursor, Stream},
    fixture,
};

const PARTITIONS: u16 = 64;
const WRITERS: u64 = 80;
const ENDPOINTS: u8 = 3;

fn streams() -> impl Iterator<Item = Stream> {
    let writers = |partition| {
        (1..=WRITERS).map(move |writer| Stream {
            partition: PartitionId::new(partition),
            writer: WriterId::from_u64(writer << 32 | 0xFFFF_FFFF),
        })
    };
    (0..PARTITIONS).flat_map(writers)
}

/// Saves until there is nothing more to save.
fn save_all(ledger: &mut Ledger, now: Instant) {
    for _ in 0..20 {
        let Some(plan) = ledger.plan(now, Duration::ZERO) else {
            return;
        };
        ledger.commit(plan);
        ledger.settle(now);
    }
    panic!("there is always something left to save");
}

fn saved_of_own(ledger: &Ledger) -> Vec<Cursor> {
    let own = ledger.subscribers().map(|subscriber| subscriber.own().unwrap());
    own.map(|own| own.run.saved.clone()).collect()
}

#[test]
fn runs_whose_rows_fill_a_save_move_all_the_same() {
    let now = Instant::now();
    let mut ledger = Ledger::new(PartitionId::new(0), 1);
    let mut tenant = fixture::tenant_row();
    tenant.partitions = (0..PARTITIONS).map(PartitionId::new).collect();
    for partition in &tenant.partitions[1..] {
        ledger.follow(*partition, &BTreeMap::new(), true);
    }
    ledger.learn_tenant(&Arc::new(tenant));
    for number in 1..=ENDPOINTS {
        let mut endpoint = fixture::endpoint(number);
        endpoint.intent = EndpointIntent::Paused;
        ledger.subscribe(Arc::new(endpoint));
    }
    for seq in [1 << 40, (1 << 40) + 1].map(Seq::new) {
        for stream in streams() {
            ledger.skip_shared(stream, seq);
        }
        // The first stream last: that they are not level yet is seen at once.
        for stream in streams().collect::<Vec<_>>().into_iter().rev() {
            for number in 1..=ENDPOINTS {
                ledger.skip_own(fixture::endpoint(number).id, stream, seq);
            }
        }
        ledger.settle(now);
        save_all(&mut ledger, now);
        let all: Cursor = streams().map(|stream| (stream, seq)).collect();
        assert_eq!(ledger.shared().saved, all);
        assert_eq!(saved_of_own(&ledger), [all.clone(), all.clone(), all]);
    }
    let row = serde_json::to_string(&ledger.shared().saved).unwrap();
    assert!(
        2 * row.len() > limits::CHECKPOINT_BYTES_MAX,
        "{} bytes: the test tests nothing",
        row.len()
    );
}
