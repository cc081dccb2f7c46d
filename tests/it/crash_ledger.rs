//! Promise 1 and 3 under `kill -9`: every scan that was answered is delivered to every endpoint, by id.
//!
//! A crowd scans at a fixed rate, whether the server lives or not. Three receivers note what comes; two of them fail
//! half of what they get. The server is killed at random moments and started again. At the end each id that
//! the crowd was answered with must have been accepted by each receiver. `QRELAY_TEST_KILLS` (25) and
//! `QRELAY_TEST_SEED` steer it; both are printed.
//!
//! That the test can fail was tried with two deliberate bugs: answering before the commit, and saving a cursor
//! before the deliveries that are outstanding behind it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use qrelay_tests::{
    api::Api,
    receiver::{Behaviour, Receiver},
    scan::Crowd,
    server::{Server, Setup},
    setting, wait_within,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Scans per second: enough that each kill meets scans in every stage, few enough for two cores in debug mode.
const SCANS_PER_SECOND: u32 = 150;
/// How long the receivers may take after the last kill.
const DRAIN: Duration = Duration::from_secs(180);

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
    let receivers = receivers(&api, seed).await;
    let code = json!({"short_id": "ledger", "destination_url": "https://example.com/"});
    api.post("/v1/codes", code).await;

    let crowd = Crowd::start(server.edge(), "/ledger", SCANS_PER_SECOND);
    let mut restarts = Vec::new();
    for _ in 0..kills {
        // Lets the server live for a random while: that is the experiment, not a wait for something.
        sleep(Duration::from_millis(random.random_range(20..1200))).await;
        restarts.push(kill_and_restart(&mut server, &setup).await);
    }
    let ledger = crowd.finish().await;
    let answered = ledger.answered();
    assert!(
        !answered.is_empty(),
        "no scan was answered at all: the test proved nothing"
    );

    for receiver in &receivers {
        wait_within(DRAIN, "every answered scan is delivered", async || {
            missing(&answered, &receiver.accepted()).is_empty().then_some(())
        })
        .await;
    }
    report(&answered, &receivers, &mut restarts, seed);
    check_arrivals(&receivers);
    server.stop().await;
}

async fn receivers(api: &Api, seed: u64) -> Vec<Receiver> {
    let failing = |seed| Behaviour::Fail {
        probability: 0.5,
        times_max: 6,
        seed,
    };
    let mut receivers = Vec::new();
    for behaviour in [Behaviour::Accept, failing(seed), failing(seed + 1)] {
        let receiver = Receiver::start(behaviour).await;
        // Short pauses, so that the test ends; as many as the contract allows, so that crashes do not use them up.
        let schedule: Vec<String> = std::iter::once("0s")
            .chain(std::iter::repeat_n("1s", 19))
            .map(String::from)
            .collect();
        let endpoint = json!({"url": receiver.url(), "events": ["scan.*"], "retry_schedule": schedule, "max_concurrency": 64});
        let endpoint: Value = api.post("/v1/endpoints", endpoint).await;
        receiver.expect_secret(endpoint["secret"].as_str().unwrap());
        receivers.push(receiver);
    }
    receivers
}

async fn kill_and_restart(server: &mut Server, setup: &Setup) -> Duration {
    let pid = server.pid();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    server.ended().await;
    let begun = Instant::now();
    *server = setup.start().await;
    begun.elapsed()
}

fn missing(answered: &HashSet<String>, accepted: &HashMap<String, u32>) -> Vec<String> {
    answered
        .iter()
        .filter(|id| !accepted.contains_key(*id))
        .cloned()
        .collect()
}

fn report(answered: &HashSet<String>, receivers: &[Receiver], restarts: &mut [Duration], seed: u64) {
    restarts.sort();
    let (median, longest) = (restarts.get(restarts.len() / 2), restarts.last());
    println!(
        "answered {}, restarts median {median:?}, longest {longest:?}, seed {seed}",
        answered.len()
    );
    for (at, receiver) in receivers.iter().enumerate() {
        let accepted = receiver.accepted();
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
fn check_arrivals(receivers: &[Receiver]) {
    for receiver in receivers {
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
