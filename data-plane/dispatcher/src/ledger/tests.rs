//! Random life of a ledger: events, attempts, saves that apply or do not, crashes, pauses, deletions. Whatever
//! happens, once everybody may send again every event was delivered to every endpoint, and counted exactly once.

mod hand_over;
mod interleavings;
mod lanes;
mod skips;
mod wide;
mod world;

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use qrelay_store::{
    Timestamp,
    checkpoint::RowKind,
    event::EventType,
    id::{EndpointId, PartitionId, ReplayId, Seq, TenantId},
    limits,
    model::EndpointIntent,
    record::Classification,
};
use tokio::time::Instant;

use self::world::{Answer, Applied, ENDPOINTS, Op, World, op, op_or_recall, op_or_replay, stream};
use super::{
    Ledger,
    feed::{Moment, Seen, SeenBatch, Verdicts},
    load::Loaded,
    sending::Finish,
};
use crate::{fixture, usage::UsageDelta};

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_event_is_delivered_and_counted_once(ops in proptest::collection::vec(op(), 0..240)) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        world.drain();
        world.check();
    }

    #[test]
    fn what_a_tenant_asks_for_again_is_delivered_again_whatever_happens(
        ops in proptest::collection::vec(op_or_recall(), 0..240),
    ) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        world.drain();
        world.check();
    }

    #[test]
    fn one_codes_events_go_out_one_after_the_other_whatever_happens(
        ops in proptest::collection::vec(op_or_recall(), 0..160),
    ) {
        let mut world = World::in_order();
        ops.iter().for_each(|op| world.step(op));
        world.drain();
        world.check();
    }

    #[test]
    fn a_replay_beside_the_live_run_sends_its_range_and_costs_the_live_run_nothing(
        ops in proptest::collection::vec(op_or_replay(), 0..240),
    ) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        world.drain();
        world.check();
    }

    #[test]
    fn an_endpoint_that_is_deleted_takes_its_replays_along(
        ops in proptest::collection::vec(op_or_replay(), 0..120),
        number in 1..=ENDPOINTS,
    ) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        world.step(&Op::Delete(number));
        world.drain();
        world.plan(Duration::ZERO);
        world.step(&Op::Save(Applied::Yes));
        world.check();
        let gone = ReplayId::prefix_of(EndpointId::from_bytes([number; 10]));
        let kept = world.rows.keys().filter(|key| key.kind == RowKind::Replay);
        assert_eq!(kept.filter(|key| key.id.starts_with(&gone)).count(), 0);
    }

    #[test]
    fn deleting_an_endpoint_at_any_moment_costs_the_others_nothing(
        ops in proptest::collection::vec(op(), 0..120),
        at in any::<prop::sample::Index>(),
        number in 1..=ENDPOINTS,
    ) {
        let mut world = World::new();
        let at = at.index(ops.len() + 1);
        for (index, op) in ops.iter().chain([&Op::Settle]).enumerate() {
            if index == at {
                world.step(&Op::Delete(number));
            }
            world.step(op);
        }
        world.drain();
        world.check();
    }
}

#[test]
fn a_quiet_healthy_life_repeats_nothing_and_writes_no_chunk() {
    let mut world = World::new();
    for count in 1..50 {
        world.step(&Op::Append {
            writer: 1,
            count: count % 4,
        });
        world.step(&Op::ReadShared);
        for _ in 0..30 {
            world.step(&Op::Start);
            while !world.in_flight.is_empty() {
                world.step(&Op::End(0, Answer::Ok));
            }
        }
        world.step(&Op::Record);
        world.step(&Op::Plan);
        world.step(&Op::Save(Applied::Yes));
        world.step(&Op::Settle);
        assert!(world.chunks.is_empty());
    }
    world.drain();
    world.check();
    assert_eq!(world.attempts, world.delivered.len());
}

#[test]
fn a_lagging_endpoint_holds_neither_memory_nor_the_shared_cursor() {
    let mut world = World::new();
    world.step(&Op::Pause(1));
    for _ in 0..17_000 {
        world.step(&Op::Append { writer: 1, count: 3 });
        world.step(&Op::ReadShared);
        while world
            .ledger
            .is_ready(EndpointId::from_bytes([2; 10]), crate::queue::Class::Fresh)
            || world
                .ledger
                .is_ready(EndpointId::from_bytes([3; 10]), crate::queue::Class::Fresh)
        {
            world.step(&Op::Start);
            while !world.in_flight.is_empty() {
                world.step(&Op::End(0, Answer::Ok));
            }
        }
        world.step(&Op::Record);
        world.step(&Op::Plan);
        world.step(&Op::Save(Applied::Yes));
        world.step(&Op::Settle);
        assert!(world.ledger.undone() <= 3, "{} undone", world.ledger.undone());
        assert!(world.ledger.shared().pending_len() <= 1);
    }
    assert!(world.rows.len() < 10 && world.chunks.is_empty());
    let paused = world.ledger.subscriber(EndpointId::from_bytes([1; 10])).unwrap();
    assert_eq!(paused.own().unwrap().behind, 51_000 - 3);
    world.drain();
    world.check();
    assert_eq!(world.attempts, world.delivered.len(), "nothing is repeated");
}

/// A ledger with this many endpoints, each of a tenant of its own.
fn crowd(count: u16, intent: EndpointIntent) -> Ledger {
    let mut ledger = Ledger::new(PartitionId::new(0), 1);
    for number in 0..count {
        let mut endpoint = fixture::endpoint(0);
        let mut id = [1; 10];
        id[..2].copy_from_slice(&number.to_be_bytes());
        (endpoint.id, endpoint.tenant) = (EndpointId::from_bytes(id), TenantId::from_bytes(id));
        endpoint.intent = intent;
        ledger.subscribe(Arc::new(endpoint));
    }
    ledger
}

/// One event for each tenant of a crowd.
fn batch_for_all(count: u16, seq: u64) -> SeenBatch {
    let at = Timestamp::from_millis(1_800_000_000_000);
    let mut usage = UsageDelta::default();
    let events = (0..count).map(|number| {
        let mut id = [1; 10];
        id[..2].copy_from_slice(&number.to_be_bytes());
        usage.count_scan(TenantId::from_bytes(id), at, Classification::Human);
        Seen {
            index: number,
            tenant: TenantId::from_bytes(id),
            event_type: EventType::ScanCreated,
            recorded_at: at,
            code: None,
            classification: Some(Classification::Human),
            subject: None,
        }
    });
    SeenBatch {
        stream: stream(1),
        seq: Seq::new(seq),
        events: events.collect(),
        usage,
        verdicts: Verdicts::default(),
    }
}

/// Plans and saves until there is nothing more to save; how many saves that took. None may be too large.
fn save_all(ledger: &mut Ledger, now: Instant) -> usize {
    for saves in 0..1000 {
        let Some(plan) = ledger.plan(now, Duration::ZERO) else {
            return saves;
        };
        assert!(
            plan.delta.bytes() <= limits::CHECKPOINT_BYTES_MAX,
            "{} bytes",
            plan.delta.bytes()
        );
        ledger.commit(plan);
        ledger.settle(now);
    }
    panic!("there is always something left to save");
}

#[test]
fn what_does_not_fit_into_one_save_fits_into_several() {
    let start = Instant::now();
    let at = |ms| Moment {
        now: start + Duration::from_millis(ms),
        wall: Timestamp::from_millis(1_800_000_000_000),
    };
    for intent in [EndpointIntent::Active, EndpointIntent::Paused] {
        let count = 1100;
        let mut ledger = crowd(count, intent);
        ledger.settle(at(0).now);
        for seq in 1..=20 {
            ledger.feed_shared(batch_for_all(count, seq), at(seq));
        }
        // Everybody has failed once, so that everything is outstanding and then rescheduled.
        let ids: Vec<_> = ledger
            .subscribers()
            .map(|subscriber| subscriber.config.id)
            .collect();
        let saves = save_all(&mut ledger, at(1000).now);
        assert!(saves > 1, "it fits into one: the test tests nothing");
        assert_eq!(ledger.shared().saved.at(stream(1)), Seq::new(20));
        for endpoint in &ids {
            while let Some(job) = ledger.start(*endpoint, at(2000).now, |_| true) {
                let retry = Finish::Retry(Duration::from_secs(60));
                ledger.finish(*endpoint, job.event, at(0).wall, retry, at(2000));
            }
        }
        ledger.feed_shared(batch_for_all(count, 21), at(3000));
        save_all(&mut ledger, at(4000).now);
        assert_eq!(ledger.shared().saved.at(stream(1)), Seq::new(21));
    }
}

#[test]
fn endpoints_that_lag_never_stop_the_shared_run() {
    let start = Instant::now();
    let at = |ms| Moment {
        now: start + Duration::from_millis(ms),
        wall: Timestamp::from_millis(1_800_000_000_000),
    };
    let count = 101;
    let mut ledger = crowd(count, EndpointIntent::Active);
    let ids: Vec<_> = ledger
        .subscribers()
        .map(|subscriber| subscriber.config.id)
        .collect();
    let (healthy, gone) = ids.split_first().unwrap();
    for seq in 1..=600 {
        ledger.feed_shared(batch_for_all(count, seq), at(0));
        ledger.start(*healthy, at(0).now, |_| true).expect("it is served");
        let event = stream(1).address(Seq::new(seq), 0);
        ledger.finish(*healthy, event, at(0).wall, Finish::Delivered, at(0));
        ledger.recorded(*healthy, event);
    }
    // The shared run read 60,000 deliveries, and then all of their endpoints said that they are gone.
    assert!(!ledger.may_read(), "the test tests nothing");
    for endpoint in gone {
        ledger.observe(
            *endpoint,
            crate::health::Sign::Gone,
            fixture::answer(410),
            at(0).wall,
        );
    }
    ledger.settle(at(1).now);
    assert_eq!(ledger.own_runs().count(), gone.len());
    save_all(&mut ledger, at(1000).now);
    assert_eq!(ledger.shared().saved.at(stream(1)), Seq::new(600));
    assert!(ledger.may_read(), "lagging endpoints stop the partition");
    ledger.feed_shared(batch_for_all(count, 601), at(2000));
    let job = ledger.start(*healthy, at(2000).now, |_| true);
    assert_eq!(job.unwrap().event, stream(1).address(Seq::new(601), 0));
    assert!(
        ledger.own_window() < limits::OWN_RUN_WINDOW,
        "they share what may be read ahead"
    );
}

#[test]
fn an_own_run_does_not_read_again_what_it_sent_of_a_batch() {
    let mut world = World::new();
    let id = EndpointId::from_bytes([1; 10]);
    world.step(&Op::Pause(1));
    world.step(&Op::Settle);
    world.step(&Op::Append { writer: 1, count: 3 });
    world.step(&Op::ReadShared);
    world.step(&Op::Resume(1));
    world.step(&Op::ReadOwn);
    // One of three is sent; the others stand in line.
    let job = world.ledger.start(id, world.at().now, |_| true).unwrap();
    world.in_flight.push((id, job.event));
    world.step(&Op::End(0, Answer::Ok));
    world.step(&Op::Record);
    world.attempts += 1;
    world.plan(Duration::ZERO);
    world.step(&Op::Save(Applied::Yes));
    world.plan(Duration::ZERO);
    world.step(&Op::Save(Applied::Yes));
    world.step(&Op::Crash);
    world.drain();
    world.check();
    let first = world.attempts;
    assert_eq!(first, world.delivered.len(), "nothing is repeated");
}

#[test]
fn setting_an_endpoint_active_lifts_what_its_receiver_asked_for() {
    let mut world = World::new();
    let id = EndpointId::from_bytes([1; 10]);
    world.step(&Op::Append { writer: 1, count: 1 });
    world.step(&Op::ReadShared);
    world.ledger.hold(id, Duration::from_secs(3600), world.at());
    assert!(world.ledger.start(id, world.at().now, |_| true).is_none());
    // Any other edit leaves it.
    world.step(&Op::Resume(1));
    assert!(world.ledger.start(id, world.at().now, |_| true).is_none());
    world.endpoints.get_mut(&id).unwrap().enabled_epoch += 1;
    world.step(&Op::Resume(1));
    assert!(world.ledger.start(id, world.at().now, |_| true).is_some());
}

#[test]
fn trouble_of_our_own_uses_up_no_attempt_and_keeps_the_id() {
    let mut world = World::new();
    let id = EndpointId::from_bytes([1; 10]);
    world.step(&Op::Append { writer: 1, count: 1 });
    world.step(&Op::ReadShared);
    let job = world.ledger.start(id, world.at().now, |_| true).unwrap();
    let (at, began) = (world.at(), world.at().wall);
    let again = Finish::Again(Duration::from_millis(10));
    world.ledger.finish(id, job.event, began, again, at);
    world.step(&Op::Wait(20));
    let job = world.ledger.start(id, world.at().now, |_| true).unwrap();
    assert_eq!((job.number, job.first_at), (1, Some(began)));
}

#[test]
fn an_own_run_whose_row_cannot_be_read_starts_from_the_beginning() {
    let mut world = World::new();
    let id = EndpointId::from_bytes([1; 10]);
    world.step(&Op::Pause(1));
    world.step(&Op::Settle);
    world.step(&Op::Append { writer: 1, count: 2 });
    world.step(&Op::ReadShared);
    world.plan(Duration::ZERO);
    world.step(&Op::Save(Applied::Yes));
    let key = crate::checkpoint::RunName::Own(id).key();
    assert!(
        world.rows.contains_key(&key),
        "it has no row: the test tests nothing"
    );
    let mut rows = world.rows.clone();
    rows.insert(key.clone(), "{".to_owned());
    rows.retain(|key, _| key.kind != RowKind::Chunk);
    let loaded = Loaded {
        rows,
        chunks: Vec::new(),
        endpoints: world.endpoints.values().cloned().map(Arc::new).collect(),
    };
    let (ledger, damage) = Ledger::load(PartitionId::new(0), 9, loaded, world.at());
    assert_eq!(damage.rows, [key]);
    assert!(
        ledger.has_own_run(id),
        "the shared run would pass over what is owed"
    );
    let own = ledger.subscriber(id).unwrap().own().unwrap();
    assert_eq!(own.run.read.at(stream(1)), Seq::ZERO);
}

#[test]
fn a_retry_comes_in_time_although_the_clock_of_who_saved_it_was_ahead() {
    let mut world = World::new();
    world.ahead = Duration::from_secs(3600);
    world.step(&Op::Append { writer: 1, count: 1 });
    world.step(&Op::ReadShared);
    world.step(&Op::Start);
    while !world.in_flight.is_empty() {
        world.step(&Op::End(0, Answer::Failed));
    }
    for _ in 0..3 {
        world.plan(Duration::ZERO);
        world.step(&Op::Save(Applied::Yes));
    }
    world.ahead = Duration::ZERO;
    world.step(&Op::Crash);
    world.step(&Op::Wait(2000));
    world.step(&Op::Settle);
    world.step(&Op::Start);
    assert_eq!(world.in_flight.len(), usize::from(ENDPOINTS));
}
