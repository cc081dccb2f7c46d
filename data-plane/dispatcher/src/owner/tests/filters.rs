//! Filters that ask for more than the record: what they see, what a failing store and costly expressions do to them.

use std::collections::BTreeMap;

use qrelay_store::{
    id::Seq,
    model::{Endpoint, Filter},
    reader::{Item, PartitionReader},
    store::SharedStore,
};

use super::{
    super::reader::see,
    world::{Receiver, World, until},
    *,
};
use crate::{
    bodies::Bodies,
    filters::{Asking, Budget, Filters},
};

/// An expression that costs as much as one can, and holds for every scan.
fn costly() -> String {
    let pattern = r#""x".matches("[a-z]{1,9}x?")"#;
    let padding = "y".repeat(1800);
    format!("({pattern} && {pattern} && {pattern} && {pattern}) || \"{padding}\" == \"\" || true")
}

fn asking(filter: Filter) -> impl FnOnce(&mut Endpoint) {
    move |endpoint| endpoint.filter = filter
}

fn expression(text: &str) -> Filter {
    Filter {
        expression: text.to_owned(),
        ..Filter::default()
    }
}

/// Stops the world once all is over, and says what came.
async fn in_the_end(world: &mut World, receivers: &[&Receiver]) -> Vec<Vec<String>> {
    world.stop().await;
    assert_eq!(
        world.rows().await.get("chunk"),
        None,
        "something was left to send"
    );
    let sorted = |receiver: &&Receiver| {
        let mut ids = receiver.ids();
        ids.sort_unstable();
        ids
    };
    receivers.iter().map(sorted).collect()
}

fn sorted(ids: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_see_the_code_as_the_event_shows_it() {
    let mut world = World::new().await;
    world
        .change_code(1, |code| {
            code.tags = vec!["b".into(), "c".into()];
            code.campaign_id = "spring".into();
        })
        .await;
    let mut receivers = Vec::new();
    let tags = |tags: &[&str]| Filter {
        tags: tags.iter().map(ToString::to_string).collect(),
        ..Filter::default()
    };
    let campaign = Filter {
        campaigns: ["spring".to_owned()].into(),
        tags: ["c".to_owned()].into(),
        ..Filter::default()
    };
    for filter in [
        Filter::default(),
        tags(&["a"]),
        tags(&["a", "c"]),
        campaign,
        expression("data.campaign_id == 'spring' || !('a' in data.tags)"),
        expression("type == 'scan.created' && data.metadata.nothing == 1"),
        expression("data.country == null && data.is_bot == false"),
    ] {
        let receiver = Receiver::ok().await;
        world.endpoint(&receiver, asking(filter)).await;
        receivers.push(receiver);
    }
    world.start();
    let old = world.scan_at_version(3, 1).await;
    let new = world.scan_at_version(3, 2).await;
    let all: Vec<_> = old.iter().chain(&new).cloned().collect();
    for (receiver, ids) in receivers
        .iter()
        .zip([&all, &old, &all, &new, &new, &Vec::new(), &all])
    {
        receiver.heard(ids).await;
    }
    let came = in_the_end(&mut world, &receivers.iter().collect::<Vec<_>>()).await;
    let [all, old, new] = [all, old, new].map(sorted);
    assert_eq!(came[0], all);
    assert_eq!(came[1], old);
    assert_eq!(came[2], all);
    assert_eq!(came[3], new);
    assert_eq!(came[4], new);
    assert!(came[5].is_empty(), "no value is not true");
    assert_eq!(came[6], all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_code_cannot_be_read_nothing_is_matched_and_nothing_is_lost() {
    let mut world = World::new().await;
    let (tagged, plain) = (Receiver::ok().await, Receiver::ok().await);
    let tags = Filter {
        tags: ["a".to_owned()].into(),
        ..Filter::default()
    };
    world.endpoint(&tagged, asking(tags)).await;
    world.endpoint(&plain, |_| {}).await;
    world.store.break_all(Op::CodeVersion, Fault::Unavailable);
    let ids = world.scan(5).await;
    world.start();
    let before = world.store.calls(Op::CodeVersion);
    until("it was tried again", async || {
        world.store.calls(Op::CodeVersion) >= before + 10
    })
    .await;
    assert!(tagged.hooks().is_empty());
    world.kill().await;
    world.start();
    world.store.heal(Op::CodeVersion);
    tagged.heard(&ids).await;
    plain.heard(&ids).await;
    let came = in_the_end(&mut world, &[&tagged, &plain]).await;
    assert_eq!(came, [sorted(ids.clone()), sorted(ids)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expressions_cost_in_one_read_is_bounded_for_each_tenant() {
    let world = World::new().await;
    let receiver = Receiver::ok().await;
    let endpoint = world.endpoint(&receiver, asking(expression(&costly()))).await;
    world.scan(100).await;
    let store: SharedStore = world.store.clone();
    let filters = Filters::new(Bodies::new(store.clone()));
    let mut asking = Asking::default();
    asking.learn(&endpoint.clone().into());
    let mut reader = PartitionReader::new(store.clone(), world.partition(), BTreeMap::new());
    let writer = world.appender.writer();
    let all = store.tail(world.partition(), writer, Seq::ZERO).await.unwrap();
    // The last batch is hinted at just after its scans are answered.
    while reader.heads().get(&writer) != Some(&all) {
        reader.refresh().await.unwrap();
        tokio::task::yield_now().await;
    }
    let (mut shared, mut own) = (Budget::of_read(), Budget::of_own_run());
    let mut undecided = HashSet::new();
    for item in reader.read(1 << 20).await.unwrap() {
        let Item::Batch(batch) = item else {
            panic!("a gap");
        };
        let mut seen = see(&batch, world.partition());
        filters.judge(&mut seen, &asking, &mut shared).await.unwrap();
        undecided.extend(std::mem::take(&mut seen.verdicts.undecided));
        filters.judge(&mut seen, &asking, &mut own).await.unwrap();
        assert!(seen.verdicts.undecided.is_empty() && seen.verdicts.refused.is_empty());
    }
    assert!(
        undecided.contains(&endpoint.id),
        "the shared run goes on without it"
    );
    assert!(own.is_turn_over(), "its own run lets others have their turns");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_whose_expressions_cost_too_much_get_everything_and_hold_nobody_up() {
    let mut world = World::new().await;
    let (slow, plain) = (Receiver::ok().await, Receiver::ok().await);
    let mut filter = expression(&costly());
    filter.humans_only = true;
    world.endpoint(&slow, asking(filter)).await;
    world.endpoint(&plain, |_| {}).await;
    let first = world.scan(200).await;
    world.start();
    plain.heard(&first).await;
    let second = world.scan(200).await;
    plain.heard(&second).await;
    let all: Vec<_> = first.into_iter().chain(second).collect();
    slow.heard(&all).await;
    let came = in_the_end(&mut world, &[&slow, &plain]).await;
    let all = sorted(all);
    assert_eq!(came[1], all);
    assert_eq!(came[0], all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_filter_holds_for_what_a_lagging_endpoint_reads_after_it() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let mut endpoint = world
        .endpoint(&receiver, |endpoint| {
            endpoint.intent = EndpointIntent::Paused;
            endpoint.filter = expression("false");
        })
        .await;
    world.start();
    until("it lags", async || world.rows().await.get("run") == Some(&2)).await;
    world.scan_at_version(20, 1).await;
    world.change_code(1, |code| code.name = "new".into()).await;
    let new = world.scan_at_version(20, 2).await;
    world
        .edit(&mut endpoint, |endpoint| {
            endpoint.filter = expression("data.name == 'new'");
        })
        .await;
    world
        .edit(&mut endpoint, |endpoint| {
            endpoint.intent = EndpointIntent::Active;
            endpoint.enabled_epoch += 1;
        })
        .await;
    receiver.heard(&new).await;
    let came = in_the_end(&mut world, &[&receiver]).await;
    assert_eq!(came[0], sorted(new));
}
