//! Promises 1 and 3 where everything fails: whatever is killed, stopped, cut off and delayed, every scan that was answered
//! is delivered to every endpoint, by id.
//!
//! Two edges with journals, two control planes and three dispatchers, whose clocks differ by an hour, on three nodes. A
//! crowd scans at each edge, for several tenants, who pause and resume endpoints, rotate secrets, retry and replay; their
//! receivers are a healthy one and one that fails. Meanwhile processes are killed and stopped, nodes too, once all of them
//! for twenty seconds, and connections between them break, hang and get slow ([`super::faults`]). At the end everything is
//! healed: each id that the crowd was answered with must be accepted by each receiver of its tenant, each retry and replay
//! that was answered must have been made, every signature must be right, and an event's bytes must be the same every time.
//! Duplicates, take-over times and how often redirects were to be had are printed, and not judged: what runs beside the
//! test decides them, too. `QRELAY_TEST_LEDGER_SECONDS` (120) and `QRELAY_TEST_SEED` steer it; both are printed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use qrelay_store::scylla::ScyllaConfig;
use qrelay_tests::{
    api::Api,
    nodes::Nodes,
    receiver::{Behaviour, Receiver},
    scan::Crowd,
    setting,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    availability::{Watch, print_redirects, print_times},
    faults::harm,
    open::open,
    processes::{CONTROL_PLANE, EDGE, Process, Processes},
    unused_keyspace,
};
use crate::crash_ledger::{
    Acted, Acts, Subscription, Work, check_arrivals, make_code, missing, report, settled, some_of, tenant,
};

/// Fewer than an installation has: each is a lease, and the nodes share two cores with everything else.
const PARTITIONS: u16 = 8;
/// Enough that each dispatcher has something to deliver.
const TENANTS: usize = 4;
/// What is done to whom by default. Another one is another history.
const SEED: u64 = 5;
/// Scans per second of each tenant at each edge.
const SCANS_PER_SECOND: u32 = 3;
/// How long nothing may come of what is due after everything was healed, while the nodes answer: leases are taken over
/// first.
const STALLED: Duration = Duration::from_secs(300);
/// How often an endpoint is set active that still lacks something.
const RESUME_PERIOD: Duration = Duration::from_secs(15);
/// How long a tenant's wish may take to be answered while everything is harmed.
const ACT_PATIENCE: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn every_answered_scan_is_delivered_whatever_fails() {
    let during = Duration::from_secs(setting("QRELAY_TEST_LEDGER_SECONDS", 120));
    let seed = setting("QRELAY_TEST_SEED", SEED);
    println!("cluster ledger: {during:?}, seed {seed}");
    let begun = Instant::now();
    let nodes = Nodes::start().await;
    println!("the nodes work together after {:?}", begun.elapsed());
    let dir = Kept(tempfile::tempdir().unwrap());
    let keyspace = make_keyspace(&nodes).await;
    let processes = Processes::start(&nodes, &keyspace, dir.0.path(), seed).await;
    println!("the processes are ready after {:?}", begun.elapsed());
    let apis: Vec<Api> = processes
        .of(CONTROL_PLANE)
        .map(|process| process.admin())
        .collect();
    let mut tenants = Vec::new();
    for number in 0..TENANTS {
        tenants.push(Tenant::make(&apis[number % apis.len()], number, seed).await);
    }

    let edges: Vec<_> = processes.of(EDGE).cloned().collect();
    let crowds: Vec<Vec<Crowd>> = edges
        .iter()
        .map(|edge| tenants.iter().map(|tenant| tenant.scanned_at(edge)).collect())
        .collect();
    let acts: Vec<_> = tenants.iter().map(|tenant| tenant.acts(&apis, seed)).collect();
    let watch = Watch::start(&processes);
    let done = harm(&nodes, &processes, seed, during).await;
    println!("everything is healed after {:?}", begun.elapsed());
    nodes.heal().await;
    processes.heal().await;
    println!("everything is there again after {:?}", begun.elapsed());
    let mut acted: Vec<Acted> = Vec::new();
    for acts in acts {
        acted.push(acts.finish().await);
    }

    let session = nodes.session().await;
    let mut answered = vec![HashSet::new(); TENANTS];
    for (edge, crowds) in edges.iter().zip(crowds) {
        let mut scans = Vec::new();
        for (crowd, answered) in crowds.into_iter().zip(&mut answered) {
            let ledger = crowd.finish().await;
            scans.extend(ledger.scans());
            answered.extend(ledger.answered());
        }
        print_redirects(edge, &scans);
    }
    for (tenant, answered) in tenants.iter().zip(&answered) {
        assert!(
            !answered.is_empty(),
            "no scan was answered at all: the test proved nothing"
        );
        for subscription in tenant.subscriptions.iter() {
            let mut resumed = Instant::now();
            settled(STALLED, "every answered scan is delivered", async || {
                let missing = some_of(missing(answered, &subscription.receiver.accepted()))?;
                if resumed.elapsed() > RESUME_PERIOD {
                    // A pause that was asked for twice, because its answer was lost, may come after the resumption.
                    subscription.resume(&tenant.api).await;
                    resumed = Instant::now();
                }
                Some((missing, nodes.starved(&session).await))
            })
            .await;
        }
    }
    println!("every answered scan is delivered after {:?}", begun.elapsed());
    for ((tenant, answered), acted) in tenants.iter().zip(&answered).zip(&acted) {
        acted.settled(STALLED, &tenant.api, &tenant.subscriptions).await;
        println!("a tenant: {} scans answered, {acted}", answered.len());
        report(answered, &tenant.subscriptions);
        check_arrivals(&tenant.subscriptions);
    }
    for process in &processes.all {
        let (away, by_itself) = process.absences();
        let away = away.into_iter().map(|(from, to)| to - from).collect();
        print_times(
            &format!("{} away ({by_itself} times ended by itself)", process.name),
            away,
        );
    }
    let taken_over = watch.finish(&done.dispatchers_hit, PARTITIONS).await;
    print_times("partitions taken over", taken_over);
    println!("{done}, seed {seed}, {:?}", begun.elapsed());
    let drop = format!("DROP KEYSPACE {keyspace}");
    session.query_unpaged(drop, ()).await.ok();
}

/// A directory that a failed test leaves behind, with the logs that say why.
struct Kept(TempDir);

impl Drop for Kept {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            println!("what the processes logged is in {}", self.0.path().display());
        }
    }
}

/// A keyspace with few partitions.
async fn make_keyspace(nodes: &Nodes) -> String {
    let keyspace = unused_keyspace();
    let mut config = ScyllaConfig::new(nodes.addresses(), &keyspace, Duration::from_secs(30 * 24 * 3600));
    config.partitions = PARTITIONS;
    open(&config).await;
    keyspace
}

/// A tenant with a code, and with receivers that want its scans.
struct Tenant {
    api: Api,
    path: String,
    subscriptions: Arc<Vec<Subscription>>,
}

impl Tenant {
    async fn make(admin: &Api, number: usize, seed: u64) -> Self {
        let api = tenant(admin).await;
        let short_id = format!("ledger{number}");
        make_code(&api, &short_id).await;
        let failing = Behaviour::Fail {
            probability: 0.3,
            times_max: 4,
            seed: seed + u64::try_from(number).unwrap(),
        };
        let settings = json!({"failure": {"degrade_after": 0}});
        let mut subscriptions = Vec::new();
        for behaviour in [Behaviour::Accept, failing] {
            let receiver = Receiver::start(behaviour).await;
            subscriptions.push(Subscription::make(&api, receiver, &settings).await);
        }
        Self {
            api,
            path: format!("/{short_id}"),
            subscriptions: Arc::new(subscriptions),
        }
    }

    fn scanned_at(&self, edge: &Arc<Process>) -> Crowd {
        Crowd::start(edge.setup.edge(), &self.path, SCANS_PER_SECOND)
    }

    /// What it does at any of the control planes.
    fn acts(&self, admins: &[Api], seed: u64) -> Acts {
        Acts::start(Work {
            apis: admins.iter().map(|admin| admin.with_key(&self.api.key)).collect(),
            subscriptions: Arc::clone(&self.subscriptions),
            seed,
            pauses: 500..3000,
            replays_max: 1,
            patience: ACT_PATIENCE,
        })
    }
}
