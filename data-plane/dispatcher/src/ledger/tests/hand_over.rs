//! A partition is handed over while a save is on its way.

use std::{collections::BTreeMap, time::Duration};

use qrelay_store::{
    Timestamp,
    id::{EventAddress, Seq},
    model::EndpointIntent,
};
use tokio::time::Instant;

use super::{batch_for_all, crowd, stream};
use crate::{
    ledger::{Ledger, feed::Moment, plan::Plan, sending::Finish},
    outstanding,
};

/// What the chunks of a plan say of events: whether somebody has an attempt of it under way.
fn abroad(plan: &Plan) -> BTreeMap<EventAddress, bool> {
    let entries = plan
        .chunks
        .iter()
        .flat_map(|chunk| outstanding::decode(&chunk.body).unwrap());
    entries.map(|entry| (entry.event, entry.abroad)).collect()
}

/// One endpoint that is sent the first of two events; a save that has both is on its way.
fn saving(at: Moment) -> (Ledger, Plan) {
    let mut ledger = crowd(1, EndpointIntent::Active);
    for seq in 1..=2 {
        ledger.feed_shared(batch_for_all(1, seq), at);
    }
    let endpoint = ledger.subscribers().next().unwrap().config.id;
    ledger.start(endpoint, at.now, |_| true).unwrap();
    let plan = ledger.plan(at.now, Duration::ZERO).unwrap();
    (ledger, plan)
}

fn event(seq: u64) -> EventAddress {
    stream(1).address(Seq::new(seq), 0)
}

/// The next owner sends at once what nobody has under way, and must not find that a save on its way called this so.
#[tokio::test(start_paused = true)]
async fn what_a_save_on_its_way_calls_nobodys_is_saved_again_as_under_way() {
    let at = Moment {
        now: Instant::now(),
        wall: Timestamp::EPOCH,
    };
    let (mut ledger, plan) = saving(at);
    assert_eq!(abroad(&plan), [(event(1), false), (event(2), false)].into());
    ledger.depart(Timestamp::from_millis(6_000));
    ledger.commit(plan);
    let plan = ledger.plan(at.now, Duration::ZERO).unwrap();
    assert_eq!(abroad(&plan), [(event(1), true)].into());
    // Meanwhile it came back unsent: then it need not be waited for.
    let endpoint = ledger.subscribers().next().unwrap().config.id;
    let unused = Finish::Unused(Duration::ZERO);
    ledger.finish(endpoint, event(1), at.wall, unused, at);
    ledger.commit(plan);
    let plan = ledger.plan(at.now, Duration::ZERO).unwrap();
    assert_eq!(abroad(&plan), [(event(1), false)].into());
    ledger.commit(plan);
    assert!(ledger.plan(at.now, Duration::ZERO).is_none());
}
