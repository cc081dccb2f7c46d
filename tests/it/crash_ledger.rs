//! Promise 1 and 3 under `kill -9`: every scan that was answered is delivered to every endpoint, by id.
//!
//! A crowd scans at a fixed rate, whether the server lives or not. Receivers note what comes: a healthy one, two that
//! fail half of what they get, one that asks for pauses, one that a rate limit throttles. Meanwhile a tenant pauses and
//! resumes endpoints, rotates their secrets with an overlap, retries deliveries by hand and replays ranges ([`acts`]). The
//! server is killed at random moments and started again. At the end each id that the crowd was answered with must have
//! been accepted by each receiver, each retry and replay that was answered must have been made, every signature must be
//! one of a secret that was valid, and the limit must have held over all kills. `QRELAY_TEST_KILLS` (25) and
//! `QRELAY_TEST_SEED` steer it; both are printed.
//!
//! That the test can fail was tried with deliberate bugs: answering before the commit, saving a cursor before the
//! deliveries that are outstanding behind it, and finishing a retry's command before its delivery is saved.

mod acts;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use qrelay_tests::{
    api::Api,
    receiver::{Behaviour, Receiver, verify},
    scan::Crowd,
    server::{Server, Setup},
    setting,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::acts::{Acts, Subscription};

/// Scans per second: enough that each kill meets scans in every stage, few enough for two cores in debug mode.
const SCANS_PER_SECOND: u32 = 100;
/// What the throttled endpoint may get a second: less than there are scans, so that its backlog grows.
const THROTTLE_PER_SECOND: u32 = 80;
const THROTTLE_BURST: u32 = 5;
/// How long nothing may come of what is due: how much that is depends on how many kills there were, and on what the
/// throttled endpoint is behind.
const STALLED: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_scan_is_delivered_across_kills() {
    let kills = setting("QRELAY_TEST_KILLS", 25);
    let seed = setting("QRELAY_TEST_SEED", rand::random_range(0..1_000_000));
    println!("crash ledger: {kills} kills, seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));

    let mut server = setup.start().await;
    let (_, api) = server.admin().tenant("ledger").await;
    let begun = Instant::now();
    let subscriptions = subscriptions(&api, seed).await;
    let code = json!({"short_id": "ledger", "destination_url": "https://example.com/"});
    api.post("/v1/codes", code).await;

    let crowd = Crowd::start(server.edge(), "/ledger", SCANS_PER_SECOND);
    let acts = Acts::start(api.clone(), Arc::clone(&subscriptions), seed);
    let mut restarts = Vec::new();
    for _ in 0..kills {
        // Lets the server live for a random while: that is the experiment, not a wait for something.
        sleep(Duration::from_millis(random.random_range(20..1200))).await;
        restarts.push(kill_and_restart(&mut server, &setup).await);
    }
    let acted = acts.finish().await;
    let ledger = crowd.finish().await;
    let answered = ledger.answered();
    assert!(
        !answered.is_empty(),
        "no scan was answered at all: the test proved nothing"
    );

    for (at, subscription) in subscriptions.iter().enumerate() {
        let what = format!("receiver {at} has every answered scan");
        settled(&what, async || {
            let mut missing = missing(&answered, &subscription.receiver.accepted());
            missing.sort();
            (!missing.is_empty()).then(|| (missing.len(), missing[..missing.len().min(3)].to_vec()))
        })
        .await;
    }
    settled("every retry that was answered is made", async || {
        let arrivals: Vec<_> = subscriptions.iter().map(|one| one.receiver.arrivals()).collect();
        let retries = acted.retries.iter();
        let due = retries.filter(|retry| !retry.is_made(&arrivals)).count();
        (due > 0).then_some(due)
    })
    .await;
    for replay in &acted.replays {
        settled("every replay that was answered comes to its end", async || {
            replay.under_way(&api, &subscriptions).await
        })
        .await;
    }
    report(&answered, &subscriptions, &mut restarts, seed);
    println!(
        "{} pauses, {} rotations, {} retries by hand, {} replays",
        acted.pauses,
        acted.rotations,
        acted.retries.len(),
        acted.replays.len()
    );
    check_arrivals(&subscriptions);
    check_limit(begun, &subscriptions[THROTTLED].receiver);
    check_newest_secrets(&api, &subscriptions).await;
    server.stop().await;
}

/// Which of the subscriptions a rate limit throttles.
const THROTTLED: usize = 4;

async fn subscriptions(api: &Api, seed: u64) -> Arc<Vec<Subscription>> {
    let failing = |seed| Behaviour::Fail {
        probability: 0.5,
        times_max: 6,
        seed,
    };
    let busy = Behaviour::Busy {
        probability: 0.02,
        seed,
    };
    let limit = json!({"per_second": THROTTLE_PER_SECOND, "burst": THROTTLE_BURST});
    let mut subscriptions = Vec::new();
    for (behaviour, settings) in [
        (Behaviour::Accept, json!({})),
        (failing(seed), json!({})),
        // Never degraded: its retries are not slowed down, and more of them are outstanding at each kill.
        (failing(seed + 1), json!({"failure": {"degrade_after": 0}})),
        (busy, json!({"failure": {"retry_after_max": "0.2s"}})),
        (Behaviour::Accept, json!({"rate_limit": limit})),
    ] {
        let receiver = Receiver::start(behaviour).await;
        // Short pauses, so that the test ends; as many as the contract allows, so that crashes do not use them up.
        let schedule: Vec<String> = std::iter::once("0s")
            .chain(std::iter::repeat_n("1s", 19))
            .map(String::from)
            .collect();
        let mut endpoint = json!({"url": receiver.url(), "events": ["scan.*"], "retry_schedule": schedule, "max_concurrency": 64});
        let fields = endpoint.as_object_mut().unwrap();
        fields.extend(settings.as_object().unwrap().clone());
        let endpoint: Value = api.post("/v1/endpoints", endpoint).await;
        subscriptions.push(Subscription::new(receiver, &endpoint));
    }
    Arc::new(subscriptions)
}

async fn kill_and_restart(server: &mut Server, setup: &Setup) -> Duration {
    let pid = server.pid();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    server.ended().await;
    let begun = Instant::now();
    *server = setup.start().await;
    begun.elapsed()
}

/// Waits until nothing is due any more, as long as what is due changes.
async fn settled<T: std::fmt::Debug + PartialEq>(what: &str, mut due: impl AsyncFnMut() -> Option<T>) {
    let (mut last, mut since) = (None, Instant::now());
    loop {
        let due = due().await;
        if due.is_none() {
            return;
        }
        if due != last {
            (last, since) = (due, Instant::now());
        }
        assert!(
            since.elapsed() < STALLED,
            "waited in vain: {what}; since {STALLED:?} there is {last:?}"
        );
        sleep(Duration::from_millis(200)).await;
    }
}

fn missing(answered: &HashSet<String>, accepted: &HashMap<String, u32>) -> Vec<String> {
    answered
        .iter()
        .filter(|id| !accepted.contains_key(*id))
        .cloned()
        .collect()
}

fn report(answered: &HashSet<String>, subscriptions: &[Subscription], restarts: &mut [Duration], seed: u64) {
    restarts.sort();
    let (median, longest) = (restarts.get(restarts.len() / 2), restarts.last());
    println!(
        "answered {}, restarts median {median:?}, longest {longest:?}, seed {seed}",
        answered.len()
    );
    for (at, subscription) in subscriptions.iter().enumerate() {
        let accepted = subscription.receiver.accepted();
        let duplicates: u32 = accepted.values().map(|count| count - 1).sum();
        // Scans recorded but cut off before their answer are delivered too.
        let unanswered = accepted.keys().filter(|id| !answered.contains(*id)).count();
        println!(
            "receiver {at}: {} events, {duplicates} duplicates, {unanswered} recorded but not answered",
            accepted.len()
        );
    }
}

/// Each attempt of an event had the same bytes and a right signature.
fn check_arrivals(subscriptions: &[Subscription]) {
    for Subscription { receiver, .. } in subscriptions {
        let mut bodies = HashMap::new();
        for arrival in receiver.arrivals() {
            assert_eq!(
                arrival.verified,
                Some(true),
                "{}: the signature is wrong",
                arrival.id
            );
            let first = bodies
                .entry(arrival.id.clone())
                .or_insert_with(|| arrival.body.clone());
            assert_eq!(
                first, &arrival.body,
                "{}: attempts differ in their bytes",
                arrival.id
            );
        }
    }
}

/// At every arrival no more came than the limit permitted since the endpoint was made. A request arrives after its first
/// byte was written, never before, so this holds without any tolerance.
fn check_limit(begun: Instant, receiver: &Receiver) {
    for (count, arrival) in (1_u32..).zip(receiver.arrivals()) {
        let elapsed = arrival.at.saturating_duration_since(begun).as_secs_f64();
        let permitted = f64::from(THROTTLE_PER_SECOND) * elapsed + f64::from(THROTTLE_BURST);
        assert!(
            f64::from(count) <= permitted,
            "{count} came where {permitted} were permitted"
        );
    }
}

/// The last rotation holds: a test is signed with the newest secret.
async fn check_newest_secrets(api: &Api, subscriptions: &[Subscription]) {
    for subscription in subscriptions {
        subscription.receiver.behave(Behaviour::Accept);
        let before = subscription.receiver.arrivals().len();
        api.post(&format!("{}/test", subscription.path), json!({})).await;
        let arrivals = subscription.receiver.arrivals();
        let newest = subscription.newest_secret();
        assert!(
            arrivals[before..].iter().any(|arrival| {
                let text = |name: &str| arrival.headers[name].to_str().unwrap();
                let (time, signatures) = (text("webhook-timestamp"), text("webhook-signature"));
                verify(&newest, &arrival.id, time, &arrival.body, signatures)
            }),
            "the newest secret does not sign"
        );
    }
}
