//! Order by code over a hand-over.

use qrelay_store::store::DeliveryStatus;

use super::super::{
    Ledger,
    feed::Moment,
    load::{Loaded, LoadedChunk},
};
use crate::{
    attempt::RowOf,
    cursor::Stream,
    fixture,
    outstanding::{self, ChunkName, DoneMap, Entry},
};
use qrelay_store::{
    Timestamp,
    event::EventType,
    id::{CodeId, EventAddress, PartitionId, Seq, WriterId},
    model::{Endpoint, Ordering},
};
use std::sync::Arc;
use tokio::time::Instant;

fn event(index: u16) -> EventAddress {
    let stream = Stream {
        partition: PartitionId::new(0),
        writer: WriterId::from_u64(1),
    };
    stream.address(Seq::new(1), index)
}

/// Three events of one code: of the first two attempts were under way when the partition was handed over.
fn handed_over(endpoint: &Endpoint, at: Moment) -> Ledger {
    let entry = |index| Entry {
        endpoint: endpoint.id,
        event: event(index),
        event_type: EventType::ScanCreated,
        recorded_at: Timestamp::EPOCH,
        attempts: 0,
        first_at: None,
        due: Timestamp::EPOCH,
        code: Some(CodeId::from_bytes([1; 10])),
        replay: None,
        abroad: index < 2,
    };
    let entries: Vec<_> = (0..3).map(entry).collect();
    let entries = outstanding::decode(&outstanding::encode(&entries)).unwrap();
    let name = ChunkName { epoch: 1, number: 1 };
    let loaded = Loaded {
        chunks: vec![LoadedChunk {
            name,
            done: DoneMap::new(3),
            entries: Some(entries),
        }],
        endpoints: vec![Arc::new(endpoint.clone())],
        ..Loaded::default()
    };
    let (ledger, damage) = Ledger::load(PartitionId::new(0), 2, loaded, at);
    assert_eq!(damage, super::super::load::Damage::default());
    ledger
}

/// One whose row is being written and the next, which has begun, are both under way. Whichever is found over first, the
/// one behind them goes when both are.
#[tokio::test(start_paused = true)]
async fn two_of_one_code_that_were_under_way_at_a_hand_over_let_the_next_go_when_both_are_over() {
    let endpoint = Endpoint {
        ordering: Ordering::PerCode,
        ..fixture::endpoint(1)
    };
    let at = Moment {
        now: Instant::now(),
        wall: Timestamp::EPOCH,
    };
    for order in [[0, 1], [1, 0]] {
        let mut ledger = handed_over(&endpoint, at);
        let abroad = ledger.take_abroad();
        for index in order {
            assert!(ledger.start(endpoint.id, at.now, |_| true).is_none(), "{order:?}");
            let row = RowOf {
                endpoint: &endpoint,
                event: event(index),
                event_type: EventType::ScanCreated,
                number: 1,
                first_at: Timestamp::EPOCH,
                began: Timestamp::EPOCH,
                status: DeliveryStatus::Succeeded,
                next_attempt_at: None,
                code: None,
            };
            let one = abroad.iter().find(|one| one.event == event(index)).unwrap();
            ledger.returned(one, Some(&row.skipped("")), at);
        }
        let job = ledger.start(endpoint.id, at.now, |_| true).unwrap();
        assert_eq!(job.event, event(2), "{order:?}");
        assert_eq!(ledger.undone(), 1, "{order:?}");
    }
}
