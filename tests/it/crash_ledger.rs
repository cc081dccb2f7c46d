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
    fmt::Debug,
    ops::Range,
    sync::Arc,
    time::Duration,
};

use qrelay_tests::{
    PATIENCE,
    api::Api,
    receiver::{Behaviour, Receiver, verify},
    scan::Crowd,
    server::{Server, Setup},
    setting,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::time::{Instant, sleep};

pub(crate) use self::acts::{Acted, Acts, Subscription, Work};

/// How a server is tried.
pub(crate) struct Trial {
    /// How often it is killed.
    pub(crate) kills: u64,
    pub(crate) seed: u64,
    /// Enough that each kill meets scans in every stage, few enough for two cores in debug mode.
    pub(crate) scans_per_second: u32,
    /// How long it lives until a kill: a random while.
    pub(crate) life: fn(&mut StdRng) -> Duration,
    /// Milliseconds between two things that the tenant does.
    pub(crate) pauses: Range<u64>,
    /// Replays at most: each of them sends all that there was once more.
    pub(crate) replays_max: usize,
    /// How long it may take until one of them is answered.
    pub(crate) patience: Duration,
    /// How long nothing may come of what is due: how much that is depends on how many kills there were, and on what the
    /// throttled endpoint is behind.
    pub(crate) stalled: Duration,
}

/// What the throttled endpoint may get a second: less than there are scans, so that its backlog grows.
const THROTTLE_PER_SECOND: u32 = 80;
const THROTTLE_BURST: u32 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_scan_is_delivered_across_kills() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let trial = Trial {
        kills: setting("QRELAY_TEST_KILLS", 25),
        seed: setting("QRELAY_TEST_SEED", rand::random_range(0..1_000_000)),
        scans_per_second: 100,
        life: |random| Duration::from_millis(random.random_range(20..1200)),
        pauses: 10..150,
        replays_max: 3,
        patience: PATIENCE,
        stalled: Duration::from_secs(90),
    };
    try_server(&setup, &trial).await;
}

/// Starts a server and kills it again and again. All that was answered must come, and nothing that must not.
pub(crate) async fn try_server(setup: &Setup, trial: &Trial) {
    let (kills, seed) = (trial.kills, trial.seed);
    println!("crash ledger: {kills} kills, seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = setup.start().await;
    let api = tenant(&server.admin()).await;
    let begun = Instant::now();
    let subscriptions = subscriptions(&api, seed).await;
    make_code(&api, "ledger").await;

    let crowd = Crowd::start(server.edge(), "/ledger", trial.scans_per_second);
    let acts = Acts::start(Work {
        apis: vec![api.clone()],
        subscriptions: Arc::clone(&subscriptions),
        seed,
        pauses: trial.pauses.clone(),
        replays_max: trial.replays_max,
        patience: trial.patience,
    });
    let mut restarts = Vec::new();
    for _ in 0..kills {
        // Lets the server live for a random while: that is the experiment, not a wait for something.
        sleep((trial.life)(&mut random)).await;
        restarts.push(kill_and_restart(&mut server, setup).await);
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
        settled(trial.stalled, &what, async || {
            some_of(missing(&answered, &subscription.receiver.accepted()))
        })
        .await;
    }
    acted.settled(trial.stalled, &api, &subscriptions).await;
    restarts.sort();
    let (median, longest) = (restarts.get(restarts.len() / 2), restarts.last());
    println!(
        "answered {}, restarts median {median:?}, longest {longest:?}, seed {seed}",
        answered.len()
    );
    report(&answered, &subscriptions);
    println!("{acted}");
    check_arrivals(&subscriptions);
    check_limit(begun, &subscriptions[THROTTLED].receiver);
    check_newest_secrets(&api, &subscriptions).await;
    server.stop().await;
}

/// A new tenant's API.
pub(crate) async fn tenant(admin: &Api) -> Api {
    let tenant = admin.persist("/v1/tenants", &json!({"name": "ledger"})).await;
    let keys = format!("/v1/tenants/{}/api_keys", tenant["id"].as_str().unwrap());
    let key = admin.persist(&keys, &json!({"name": "test"})).await;
    admin.with_key(key["key"].as_str().unwrap())
}

/// A code. Its answer may be lost: asked for twice, it is made once.
pub(crate) async fn make_code(api: &Api, short_id: &str) {
    let code = json!({"short_id": short_id, "destination_url": "https://example.com/"});
    api.persist("/v1/codes?request_id=code", &code).await;
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
    for (behaviour, mut settings) in [
        (Behaviour::Accept, json!({})),
        (failing(seed), json!({})),
        // Never degraded: its retries are not slowed down, and more of them are outstanding at each kill.
        (failing(seed + 1), json!({"failure": {"degrade_after": 0}})),
        (busy, json!({"failure": {"retry_after_max": "0.2s"}})),
        (Behaviour::Accept, json!({"rate_limit": limit})),
    ] {
        settings["max_concurrency"] = json!(64);
        let receiver = Receiver::start(behaviour).await;
        subscriptions.push(Subscription::make(api, receiver, &settings).await);
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

/// Waits until nothing is due any more, as long as what is due changes within `stalled`.
pub(crate) async fn settled<T: Debug + PartialEq>(
    stalled: Duration,
    what: &str,
    mut due: impl AsyncFnMut() -> Option<T>,
) {
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
            since.elapsed() < stalled,
            "waited in vain: {what}; since {stalled:?} there is {last:?}"
        );
        sleep(Duration::from_millis(200)).await;
    }
}

/// The events of answered scans that a receiver has not accepted.
pub(crate) fn missing(answered: &HashSet<String>, accepted: &HashMap<String, u32>) -> Vec<String> {
    answered
        .iter()
        .filter(|id| !accepted.contains_key(*id))
        .cloned()
        .collect()
}

/// How many they are and the first of them, if there are any.
pub(crate) fn some_of(mut events: Vec<String>) -> Option<(usize, Vec<String>)> {
    events.sort();
    (!events.is_empty()).then(|| (events.len(), events[..events.len().min(3)].to_vec()))
}

/// Prints what each receiver got, and how often more than once.
pub(crate) fn report(answered: &HashSet<String>, subscriptions: &[Subscription]) {
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
pub(crate) fn check_arrivals(subscriptions: &[Subscription]) {
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
        api.persist(&format!("{}/test", subscription.path), &json!({}))
            .await;
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
