//! Endpoints that are set active with `resume: now`: whatever happens, nothing that was recorded before is sent any more,
//! all of it is told, and what comes after is delivered.

use qrelay_store::{id::EventAddress, model::Ordering};

use super::{
    super::recall::{Recall, Recalled},
    world::op_or_skip,
    *,
};

const ID: EndpointId = EndpointId::from_bytes([1; 10]);

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_an_endpoint_skips_is_given_up_and_never_sent_whatever_happens(
        ops in proptest::collection::vec(op_or_skip(), 0..240),
    ) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        world.drain();
        world.check();
    }

    #[test]
    fn what_an_endpoint_skips_leaves_its_codes_orders(
        ops in proptest::collection::vec(op_or_skip(), 0..160),
    ) {
        let mut world = World::in_order();
        ops.iter().for_each(|op| world.step(op));
        world.drain();
        world.check();
    }
}

/// So many events are recorded and read, and a moment passes.
fn events(world: &mut World, count: u16) {
    world.step(&Op::Append { writer: 1, count });
    world.step(&Op::ReadShared);
    world.step(&Op::Wait(10));
}

fn event(seq: u64, index: u16) -> EventAddress {
    stream(1).address(Seq::new(seq), index)
}

fn start(world: &mut World) -> Option<EventAddress> {
    let at = world.at();
    world.ledger.sweep_skipped(at);
    world.ledger.start(ID, at.now, |_| true).map(|job| job.event)
}

fn skipped(world: &mut World) -> Vec<(EventAddress, u32, Timestamp)> {
    let at = world.at();
    world.ledger.sweep_skipped(at);
    std::iter::from_fn(|| world.ledger.next_skipped())
        .map(|skipped| (skipped.event, skipped.number, skipped.first_at))
        .collect()
}

#[test]
fn what_waits_is_given_up_and_an_attempt_under_way_is_the_last() {
    let mut world = World::new();
    events(&mut world, 3);
    // One failed and waits, one is under way, one has not been sent.
    let (at, began) = (world.at(), world.at().wall);
    assert_eq!(start(&mut world), Some(event(1, 0)));
    let retry = Finish::Retry(Duration::from_secs(3600));
    world.ledger.finish(ID, event(1, 0), began, retry, at);
    world
        .ledger
        .observe(ID, crate::health::Sign::Success, fixture::answer(200), began);
    assert_eq!(start(&mut world), Some(event(1, 1)));
    world.step(&Op::Skip(1));
    let wish = world.at().wall;
    assert_eq!(
        skipped(&mut world),
        [(event(1, 0), 2, began), (event(1, 2), 0, wish)],
        "at once, whatever they wait for; one that was never sent begins with the wish"
    );
    assert!(world.ledger.is_skipped(ID, event(1, 1), wish));
    world.ledger.finish(ID, event(1, 1), began, retry, at);
    assert_eq!(skipped(&mut world), [(event(1, 1), 2, began)]);
    assert!(!world.ledger.has_skipped());
    for index in 0..3 {
        world.ledger.recorded(ID, event(1, index));
    }
    assert_eq!(world.ledger.subscriber(ID).unwrap().undone(), 0);
    events(&mut world, 1);
    assert_eq!(
        start(&mut world),
        Some(event(2, 0)),
        "what is recorded later is sent"
    );
}

#[test]
fn the_next_of_a_code_goes_when_what_stood_before_it_is_skipped() {
    let mut world = World::new();
    world.edit(1, |endpoint| endpoint.ordering = Ordering::PerCode);
    // Of two codes in turns.
    events(&mut world, 4);
    assert_eq!(start(&mut world), Some(event(1, 0)));
    world.step(&Op::Skip(1));
    let given_up: Vec<_> = skipped(&mut world)
        .into_iter()
        .map(|(event, ..)| event.index)
        .collect();
    assert_eq!(given_up, [1, 2, 3]);
    events(&mut world, 2);
    let (at, began) = (world.at(), world.at().wall);
    // The first of its code is still under way.
    world
        .ledger
        .observe(ID, crate::health::Sign::Success, fixture::answer(200), began);
    assert_eq!(start(&mut world), Some(event(2, 0)), "of the code that has none");
    assert_eq!(start(&mut world), None);
    world
        .ledger
        .finish(ID, event(1, 0), began, Finish::Unused(Duration::from_secs(1)), at);
    assert_eq!(
        skipped(&mut world),
        [(event(1, 0), 0, world.endpoints[&ID].skip_before.unwrap())]
    );
    assert_eq!(start(&mut world), Some(event(2, 1)));
}

#[test]
fn what_was_skipped_is_sent_when_its_tenant_asks_for_it_also_after_a_crash() {
    let mut world = World::new();
    events(&mut world, 1);
    world.step(&Op::Skip(1));
    let (at, wall) = (world.at(), world.at().wall);
    let recalled = Recalled {
        event: event(1, 0),
        event_type: EventType::ScanCreated,
        attempts: 0,
        first_at: wall,
    };
    assert_eq!(skipped(&mut world), [(event(1, 0), 0, wall)]);
    assert_eq!(
        world.ledger.recall(ID, recalled, at),
        Recall::Busy,
        "it is being given up"
    );
    world.ledger.recorded(ID, event(1, 0));
    assert!(matches!(
        world.ledger.recall(ID, recalled, at),
        Recall::Taken { .. }
    ));
    save_all(&mut world);
    assert_eq!(start(&mut world), Some(event(1, 0)));
    world.step(&Op::Crash);
    assert_eq!(skipped(&mut world), []);
    assert_eq!(start(&mut world), Some(event(1, 0)));
}

fn save_all(world: &mut World) {
    for _ in 0..3 {
        world.plan(Duration::ZERO);
        world.step(&Op::Save(Applied::Yes));
    }
}

#[test]
fn a_replay_waits_until_the_live_run_has_passed_over_its_range() {
    let mut world = World::new();
    world.step(&Op::Pause(1));
    world.step(&Op::Settle);
    events(&mut world, 2);
    save_all(&mut world);
    world.step(&Op::Skip(1));
    world.step(&Op::Resume(1));
    world.step(&Op::Replay(1));
    world.step(&Op::ReadReplays);
    world.step(&Op::ReadReplays);
    let id = world.ledger.replays_running().next().unwrap();
    assert!(
        world
            .ledger
            .replay_wants(id, world.at().now)
            .unwrap()
            .log
            .is_none(),
        "it left them to a run that does not send them"
    );
    world.drain();
    world.check();
    assert!(world.delivered.contains(&(ID, event(1, 0))) && world.delivered.contains(&(ID, event(1, 1))));
    assert_eq!(world.skipped, 2);
}

#[test]
fn a_clock_that_was_set_back_swallows_nothing() {
    let mut world = World::new();
    let ahead = world.at().wall.after(Duration::from_secs(3600));
    world.edit(1, |endpoint| endpoint.skip_before = Some(ahead));
    events(&mut world, 1);
    assert_eq!(skipped(&mut world), []);
    assert_eq!(start(&mut world), Some(event(1, 0)));
    let soon = world.at().wall.after(Duration::from_secs(2));
    world.edit(2, |endpoint| endpoint.skip_before = Some(soon));
    world.ledger.sweep_skipped(world.at());
    let other = world.ledger.next_skipped().map(|skipped| skipped.endpoint.id);
    assert_eq!(
        other,
        Some(EndpointId::from_bytes([2; 10])),
        "clocks of two machines differ by so much"
    );
}

#[test]
fn what_is_skipped_does_not_count_as_waiting() {
    let mut world = World::new();
    world.step(&Op::Pause(1));
    world.step(&Op::Settle);
    for _ in 0..5 {
        events(&mut world, 3);
    }
    world.step(&Op::Report);
    let backlog = |world: &World| world.ledger.subscriber(ID).unwrap().health.backlog.clone();
    assert_eq!(backlog(&world).unwrap().events, 15);
    world.step(&Op::Skip(1));
    world.ledger.sweep_skipped(world.at());
    world.step(&Op::Report);
    assert_eq!(backlog(&world), None);
    events(&mut world, 1);
    world.step(&Op::Report);
    assert_eq!(backlog(&world).unwrap().events, 1);
}
