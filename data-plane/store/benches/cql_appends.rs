//! What a recorded scan costs on a CQL cluster, with and without gathering records into batches.
//!
//! `cargo bench -p qrelay-store --bench cql_appends -- HOST:PORT [SERVER_PID]` makes a keyspace there, records scans for some
//! seconds in each way, prints scans and appends per second and the CPU time of one scan, this process's and the server's,
//! and leaves the keyspace `qrelay_bench` behind, to be dropped.

#![allow(clippy::print_stdout, reason = "figures are what it is for")]
#![allow(clippy::unwrap_used, reason = "it ends where something fails")]

use std::{fs, num::NonZeroU8, process, sync::Arc, time::Duration};

use futures::future::join_all;
use qrelay_store::{
    Clock as _, Timestamp,
    appender::Appender,
    clock::{SharedClock, SystemClock},
    id::{CodeId, PartitionId, Seq, TenantId, WriterId},
    record::{BatchBuilder, Classification, Record, ScanRecord},
    scylla::{ScyllaConfig, ScyllaStore},
    store::{Batch, Heads, SharedStore, WriterRow},
};
use tokio::time::Instant;

/// How long each way is measured.
const MEASURED: Duration = Duration::from_secs(10);
/// Appends under way at once, without gathering.
const ALONE: u16 = 32;
/// Scans under way at once, with gathering, and the partitions that they are spread over.
const GATHERED: (u16, u16) = (512, 8);

#[tokio::main]
async fn main() {
    // cargo adds `--bench`.
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"));
    let Some(node) = arguments.next() else {
        println!("HOST:PORT of a CQL node is needed");
        return;
    };
    let server: Option<u32> = arguments.next().map(|pid| pid.parse().unwrap());
    let mut config = ScyllaConfig::new(vec![node], "qrelay_bench", Duration::from_secs(3600));
    config.replication = NonZeroU8::MIN;
    let store: SharedStore = ScyllaStore::open(&config).await.unwrap();
    for round in 1..=3 {
        println!("round {round}");
        report("each scan appended alone", server, alone(&store)).await;
        report("scans gathered into batches", server, gathered(&store)).await;
    }
}

/// Runs a load that says how many scans and appends it made.
async fn report(name: &str, server: Option<u32>, load: impl Future<Output = (u64, u64)>) {
    let cpu = |pid: Option<u32>| pid.map(cpu_seconds);
    let (own, servers, began) = (cpu_seconds(process::id()), cpu(server), Instant::now());
    let (scans, appends) = load.await;
    let seconds = began.elapsed().as_secs_f64();
    let per_scan = |seconds: f64| seconds * 1e6 / number(scans);
    let own = cpu_seconds(process::id()) - own;
    println!(
        "  {name}: {:.0} scans/s, {:.0} appends/s, {:.0} scans per CPU-second here ({:.1} µs each)",
        number(scans) / seconds,
        number(appends) / seconds,
        number(scans) / own,
        per_scan(own),
    );
    if let (Some(before), Some(after)) = (servers, cpu(server)) {
        println!("    the server: {:.1} µs of CPU each", per_scan(after - before));
    }
}

fn number(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

/// User and system time, in steps of 10 ms.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    [fields[11], fields[12]]
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .iter()
        .sum::<f64>()
        / 100.0
}

async fn alone(store: &SharedStore) -> (u64, u64) {
    let writer = WriterId::random();
    store.register_writer(&row(writer)).await.unwrap();
    let until = Instant::now() + MEASURED;
    let lanes = (0..ALONE).map(|partition| async move {
        let mut seq = Seq::ZERO;
        while Instant::now() < until {
            seq = seq.next();
            let at = SystemClock.now();
            let mut body = BatchBuilder::default();
            body.push(&scan(at)).unwrap();
            let batch = Batch {
                partition: PartitionId::new(partition),
                writer,
                seq,
                first_at: at,
                last_at: at,
                count: 1,
                body: body.finish().into(),
            };
            store.append(batch).await.unwrap();
        }
        seq.as_u64()
    });
    let appends = join_all(lanes).await.into_iter().sum();
    (appends, appends)
}

async fn gathered(store: &SharedStore) -> (u64, u64) {
    let clock: SharedClock = Arc::new(SystemClock);
    let appender = Appender::start(Arc::clone(store), &clock, "bench", Duration::from_millis(50))
        .await
        .unwrap();
    let until = Instant::now() + MEASURED;
    let (scans, partitions) = GATHERED;
    let lanes = (0..scans).map(|lane| {
        let appender = appender.clone();
        async move {
            let mut done = 0;
            while Instant::now() < until {
                let at = SystemClock.now();
                let partition = PartitionId::new(lane % partitions);
                appender
                    .append(partition, at, &scan(at))
                    .unwrap()
                    .durable()
                    .await
                    .unwrap();
                done += 1;
            }
            done
        }
    });
    let scans = join_all(lanes).await.into_iter().sum();
    appender.close(Instant::now() + MEASURED).await.unwrap();
    let writers = store.writers().await.unwrap();
    let closed = writers
        .into_iter()
        .find(|row| row.writer == appender.writer())
        .unwrap()
        .closed
        .unwrap();
    (scans, closed.values().map(|seq| seq.as_u64()).sum())
}

fn row(writer: WriterId) -> WriterRow {
    WriterRow {
        writer,
        node: "bench".to_owned(),
        beat: 0,
        heads: Heads::new(),
        closed: None,
        registered_at: SystemClock.now(),
    }
}

/// A scan with what most have: some 300 bytes.
fn scan(at: Timestamp) -> Record<'static> {
    Record::Scan(ScanRecord {
        tenant: TenantId::from_bytes([1; 10]),
        code: CodeId::from_bytes([2; 10]),
        code_version: 1,
        at,
        classification: Classification::Human,
        classification_reason: "a browser's user agent".into(),
        device_type: Some("mobile".into()),
        device_family: Some("iPhone".into()),
        os_family: Some("iOS".into()),
        browser_family: Some("Mobile Safari".into()),
        country: Some("DE".into()),
        region: Some("Bavaria".into()),
        city: Some("Munich".into()),
        referer: None,
        user_agent: Some(
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
             Version/17.4 Mobile/15E148 Safari/604.1"
                .into(),
        ),
        host: Some("go.example.com".into()),
        query: None,
        accept_language: Some("de-DE,de;q=0.9".into()),
        network: None,
    })
}
