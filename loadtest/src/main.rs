//! `qrelay-loadtest`: the command line of the load generators, receivers and benchmarks.

use std::{
    fmt::Display,
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use http::{HeaderValue, StatusCode};
use qrelay_loadtest::{
    all,
    arrivals::Gaps,
    backlog, cassandra, cluster, codes, deliveries,
    isolation::{self, Neighbours},
    latency::{self, Pace},
    memory,
    mix::Spread,
    posts, product, raw,
    receiver::{self, Manner},
    redirect,
    scan::{self, Load},
    target::{Target, ensure_loopback},
};
use serde::Serialize;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// Load generators, counting receivers and benchmarks for qrelay. Loopback only.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send scans and print a report as JSON.
    Scan(ScanArguments),
    /// Receive webhooks and count them by id: GET /-/counts, POST /-/missing, POST /-/reset.
    Receiver(ReceiverArguments),
    /// Answer everything with a 302 and do nothing else.
    Raw(RawArguments),
    /// Compare the CPU cost of a redirect with nginx's.
    Redirect(RedirectArguments),
    /// Send signed POSTs in a loop, do nothing else, and print a report as JSON.
    Posts(PostsArguments),
    /// Measure deliveries per second and per CPU-second beside a loop of signed POSTs.
    Deliveries(DeliveriesArguments),
    /// Compare how long a healthy endpoint's webhooks take alone and beside bad ones.
    Isolation(IsolationArguments),
    /// Measure how long a scan takes to its redirect and to its webhook.
    Latency(LatencyArguments),
    /// Measure the same across processes on a CQL cluster of one node.
    Cluster(ClusterArguments),
    /// Measure how fast an endpoint catches up that was paused.
    Backlog(BacklogArguments),
    /// Compare scans and a start with many codes to the same with few.
    Codes(CodesArguments),
    /// Measure what an idle process, a cached code and an idle endpoint hold.
    Memory(MemoryArguments),
    /// Run all benchmarks, and put the figures that have a bound into one table.
    Bench(AllArguments),
}

#[derive(Debug, Args)]
struct ScanArguments {
    /// An http:// URL on a loopback address.
    url: Target,
    /// Scans per second, whatever the server does (open loop); without it, as many as the connections allow.
    #[arg(long)]
    rate: Option<f64>,
    /// The gaps between scans of an open loop.
    #[arg(long, value_enum, default_value = "poisson")]
    gaps: Gaps,
    /// Connections, at most.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Open a new connection for each scan.
    #[arg(long)]
    fresh: bool,
    /// How long scans are begun.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How many scans are begun at most.
    #[arg(long, default_value_t = scan::REQUESTS_MAX)]
    requests: u64,
    /// How long one scan may take.
    #[arg(long, default_value_t = 10.0)]
    timeout_s: f64,
    /// Seeds the gaps.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the event ids of the answered scans there, one a line.
    #[arg(long)]
    ids: Option<PathBuf>,
    /// Of so many codes: a code's number is put behind the URL's path.
    #[arg(long)]
    codes: Option<u64>,
    /// How scans are spread over them.
    #[arg(long, value_enum, default_value = "zipf", requires = "codes")]
    spread: Spread,
}

#[derive(Debug, Args)]
struct ReceiverArguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8088")]
    listen: SocketAddr,
    /// The status webhooks are answered with.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..600))]
    status: u16,
    /// How long an answer is held back.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Stop by itself after this time.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
}

#[derive(Debug, Args)]
struct RawArguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8089")]
    listen: SocketAddr,
    /// Where the redirect leads.
    #[arg(long, default_value = "https://example.com/")]
    location: HeaderValue,
    /// Stop by itself after this time.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
}

/// What every benchmark takes.
#[derive(Debug, Args)]
struct BenchArguments {
    /// The release binary of qrelay.
    #[arg(long, default_value = "target/release/qrelay")]
    qrelay: PathBuf,
    /// Where data, logs and configuration go while it runs: on a disk, not in memory.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Write the figures there, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RedirectArguments {
    #[command(flatten)]
    bench: BenchArguments,
    /// nginx, by path or name.
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// How often every server takes its turn in each scenario.
    #[arg(long, default_value_t = 7)]
    cycles: usize,
    /// How long one turn takes.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Five cycles of 1.5 s: under three minutes.
    #[arg(long, conflicts_with_all = ["cycles", "seconds"])]
    quick: bool,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Scans per second of the open loop.
    #[arg(long, default_value_t = 5000)]
    rate: u32,
    /// The core of the servers.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the load generator.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

#[derive(Debug, Args)]
struct PostsArguments {
    /// An http:// URL on a loopback address.
    url: Target,
    /// The file with the body to send.
    #[arg(long)]
    body: PathBuf,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How many are sent.
    #[arg(long, default_value_t = 20_000)]
    requests: u64,
}

#[derive(Debug, Args)]
struct DeliveriesArguments {
    #[command(flatten)]
    bench: BenchArguments,
    /// How often each scenario takes its turn.
    #[arg(long, default_value_t = 5)]
    cycles: usize,
    /// How many deliveries healthy endpoints get in one turn.
    #[arg(long, default_value_t = 20_000)]
    deliveries: u64,
    /// The core of what sends.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the scans and the receiver.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

#[derive(Debug, Args)]
struct IsolationArguments {
    #[command(flatten)]
    bench: BenchArguments,
    /// Bad endpoints, of ten kinds in turn.
    #[arg(long, default_value_t = 50)]
    bad: usize,
    /// A hundred endpoints, of which a third is out of order: black holes, and ones that answer 500.
    #[arg(long, conflicts_with = "bad")]
    hundred: bool,
    /// How often both take their turn.
    #[arg(long, default_value_t = 5)]
    cycles: usize,
    /// How long one turn takes.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Scans per second.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// The core of the server.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
}

#[derive(Debug, Args)]
struct LatencyArguments {
    #[command(flatten)]
    bench: BenchArguments,
    /// How many turns.
    #[arg(long, default_value_t = 5)]
    cycles: usize,
    /// How long one turn takes.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Scans per second.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// The core of the server.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the load generator and the receiver.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

/// Where the node of a CQL cluster is.
#[derive(Debug, Args)]
struct CassandraArguments {
    /// A node that runs, as host:port; without it, one is started.
    #[arg(long, env = "QRELAY_TEST_CQL")]
    cql: Option<String>,
    /// The script that starts one.
    #[arg(long, default_value = "tests/tools/cassandra")]
    cassandra: PathBuf,
}

impl From<CassandraArguments> for cassandra::Source {
    fn from(arguments: CassandraArguments) -> Self {
        Self {
            // A variable that is set but empty counts as not set.
            running: arguments.cql.filter(|address| !address.is_empty()),
            script: arguments.cassandra,
        }
    }
}

#[derive(Debug, Args)]
struct ClusterArguments {
    #[command(flatten)]
    bench: BenchArguments,
    #[command(flatten)]
    cassandra: CassandraArguments,
    /// How many turns.
    #[arg(long, default_value_t = 5)]
    cycles: usize,
    /// How long one turn takes.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Scans per second.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// The core of the roles.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the load generator and the receiver.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

#[derive(Debug, Args)]
struct BacklogArguments {
    #[command(flatten)]
    bench: BenchArguments,
    /// How often it is done.
    #[arg(long, default_value_t = 1)]
    cycles: usize,
    /// Events that wait.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
}

#[derive(Debug, Args)]
struct CodesArguments {
    #[command(flatten)]
    bench: BenchArguments,
    /// The release binary that makes codes.
    #[arg(long, default_value = "target/release/examples/seed_codes")]
    seeder: PathBuf,
    /// How often both take their turn.
    #[arg(long, default_value_t = 5)]
    cycles: usize,
    /// How long one turn takes.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// How many codes the one has.
    #[arg(long, default_value_t = 10_000_000)]
    many: u64,
    /// How many the other has.
    #[arg(long, default_value_t = 1000)]
    few: u64,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The core of the servers.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the load generator.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

#[derive(Debug, Args)]
struct MemoryArguments {
    #[command(flatten)]
    bench: BenchArguments,
    /// The release binary that makes codes.
    #[arg(long, default_value = "target/release/examples/seed_codes")]
    seeder: PathBuf,
    /// How often it is done.
    #[arg(long, default_value_t = 3)]
    cycles: usize,
    /// How many codes are cached.
    #[arg(long, default_value_t = 50_000)]
    codes: u64,
    /// How many endpoints wait.
    #[arg(long, default_value_t = 2000)]
    endpoints: u64,
}

#[derive(Debug, Args)]
struct AllArguments {
    #[command(flatten)]
    bench: BenchArguments,
    /// nginx, by path or name.
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// The release binary that makes codes.
    #[arg(long, default_value = "target/release/examples/seed_codes")]
    seeder: PathBuf,
    #[command(flatten)]
    cassandra: CassandraArguments,
    /// Few and short turns, and fewer codes and events: under three minutes.
    #[arg(long)]
    quick: bool,
    /// Draw the table there, as SVG.
    #[arg(long)]
    picture: Option<PathBuf>,
    /// The core of the servers.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the load generator.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // The generator polls between arrivals: look at sockets often, not every 61st time.
        .event_interval(4)
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            done = run(cli.command) => done,
            stopped = stopped() => stopped,
        }
    })
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Scan(arguments) => scan(arguments).await,
        Command::Receiver(arguments) => receive(arguments).await,
        Command::Raw(arguments) => {
            let listener = listen(arguments.listen).await?;
            let stop = CancellationToken::new();
            tokio::select! {
                ended = raw::serve(listener, arguments.location, stop) => ended,
                () = sleep(Duration::from_secs(arguments.seconds)) => Ok(()),
            }
        }
        Command::Redirect(arguments) => redirect(arguments).await,
        Command::Posts(arguments) => {
            let plan = posts::Plan {
                target: arguments.url,
                body: fs::read(&arguments.body)
                    .with_context(|| format!("cannot read {}", arguments.body.display()))?
                    .into(),
                connections: arguments.connections,
                requests: arguments.requests,
            };
            let report = posts::run(plan).await?;
            Ok(writeln!(
                io::stdout(),
                "{}",
                serde_json::to_string_pretty(&report)?
            )?)
        }
        Command::Deliveries(arguments) => deliveries(arguments).await,
        Command::Isolation(arguments) => isolation(arguments).await,
        Command::Latency(arguments) => latency(arguments).await,
        Command::Cluster(arguments) => cluster(arguments).await,
        Command::Backlog(arguments) => backlog(arguments).await,
        Command::Codes(arguments) => codes(arguments).await,
        Command::Memory(arguments) => memory(arguments).await,
        Command::Bench(arguments) => bench(arguments).await,
    }
}

/// Ends with the first SIGINT or SIGTERM: dropping what runs ends the children, too.
async fn stopped() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => Ok(()),
    }
}

async fn scan(arguments: ScanArguments) -> anyhow::Result<()> {
    let plan = scan::Plan {
        target: arguments.url,
        load: arguments.rate.map_or(Load::Saturate, Load::Rate),
        gaps: arguments.gaps,
        connections: arguments.connections,
        fresh: arguments.fresh,
        duration: Duration::try_from_secs_f64(arguments.seconds).context("--seconds")?,
        requests_max: arguments.requests,
        timeout: Duration::try_from_secs_f64(arguments.timeout_s).context("--timeout-s")?,
        seed: arguments.seed,
        scans_file: arguments.ids,
        mix: arguments.codes.map(|codes| (codes, arguments.spread)),
    };
    let report = scan::run(plan).await?;
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

async fn receive(arguments: ReceiverArguments) -> anyhow::Result<()> {
    let listener = listen(arguments.listen).await?;
    let manner = Manner {
        status: StatusCode::from_u16(arguments.status)?,
        delay: Duration::from_millis(arguments.delay_ms),
    };
    tokio::select! {
        ended = receiver::serve(listener, manner, CancellationToken::new()) => ended,
        () = sleep(Duration::from_secs(arguments.seconds)) => Ok(()),
    }
}

/// Binds, and says where.
async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    ensure_loopback(address)?;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    writeln!(io::stderr(), "listening on http://{}", listener.local_addr()?)?;
    Ok(listener)
}

async fn redirect(arguments: RedirectArguments) -> anyhow::Result<()> {
    let (cycles, seconds) = if arguments.quick {
        (5, 1.5)
    } else {
        (arguments.cycles, arguments.seconds)
    };
    ensure!(
        (1..=1000).contains(&cycles) && (0.1..=600.0).contains(&seconds),
        "1 to 1000 cycles of 0.1 to 600 s"
    );
    let plan = redirect::Plan {
        folder: product::folder(&arguments.bench.dir)?,
        qrelay: arguments.bench.qrelay,
        nginx: arguments.nginx,
        cycles,
        turn: Duration::from_secs_f64(seconds),
        connections: arguments.connections,
        rate_per_s: arguments.rate,
        server_core: arguments.server_core,
        load_core: arguments.load_core,
    };
    tell(arguments.bench.json, &redirect::run(&plan, say).await?)
}

async fn deliveries(arguments: DeliveriesArguments) -> anyhow::Result<()> {
    let plan = deliveries::Plan {
        folder: product::folder(&arguments.bench.dir)?,
        qrelay: arguments.bench.qrelay,
        cycles: arguments.cycles,
        deliveries: arguments.deliveries,
        server_core: arguments.server_core,
        load_core: arguments.load_core,
    };
    tell(arguments.bench.json, &deliveries::run(&plan, say).await?)
}

/// Progress is a courtesy: a closed terminal must not end the measurement.
fn say(what: &str) {
    writeln!(io::stderr(), "{what}").ok();
}

/// Prints what a benchmark found, and writes it to a file if one was named.
fn tell(file: Option<PathBuf>, found: &(impl Display + Serialize)) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{}", found.to_string().trim_end())?;
    let Some(file) = file else {
        return Ok(());
    };
    fs::write(&file, serde_json::to_string_pretty(found)?)
        .with_context(|| format!("cannot write {}", file.display()))
}

async fn isolation(arguments: IsolationArguments) -> anyhow::Result<()> {
    ensure!(
        (1..=1000).contains(&arguments.cycles) && (0.1..=600.0).contains(&arguments.seconds),
        "1 to 1000 cycles of 0.1 to 600 s"
    );
    let plan = isolation::Plan {
        folder: product::folder(&arguments.bench.dir)?,
        qrelay: arguments.bench.qrelay,
        neighbours: if arguments.hundred {
            Neighbours::A_THIRD_BAD
        } else {
            Neighbours::hostile(arguments.bad)
        },
        cycles: arguments.cycles,
        turn: Duration::from_secs_f64(arguments.seconds),
        rate_per_s: arguments.rate,
        server_core: arguments.server_core,
    };
    tell(arguments.bench.json, &isolation::run(&plan, say).await?)
}

fn pace(cycles: usize, seconds: f64, rate_per_s: f64) -> anyhow::Result<Pace> {
    ensure!((0.1..=600.0).contains(&seconds), "turns of 0.1 to 600 s");
    Ok(Pace {
        cycles,
        turn: Duration::from_secs_f64(seconds),
        rate_per_s,
    })
}

async fn cluster(arguments: ClusterArguments) -> anyhow::Result<()> {
    let plan = cluster::Plan {
        folder: product::folder(&arguments.bench.dir)?,
        qrelay: arguments.bench.qrelay,
        cassandra: arguments.cassandra.into(),
        pace: pace(arguments.cycles, arguments.seconds, arguments.rate)?,
        server_core: arguments.server_core,
        load_core: arguments.load_core,
    };
    tell(arguments.bench.json, &cluster::run(&plan, say).await?)
}

async fn latency(arguments: LatencyArguments) -> anyhow::Result<()> {
    let plan = latency::Plan {
        folder: product::folder(&arguments.bench.dir)?,
        qrelay: arguments.bench.qrelay,
        pace: pace(arguments.cycles, arguments.seconds, arguments.rate)?,
        server_core: arguments.server_core,
        load_core: arguments.load_core,
    };
    tell(arguments.bench.json, &latency::run(&plan, say).await?)
}

async fn backlog(arguments: BacklogArguments) -> anyhow::Result<()> {
    let plan = backlog::Plan {
        folder: product::folder(&arguments.bench.dir)?,
        qrelay: arguments.bench.qrelay,
        cycles: arguments.cycles,
        events: arguments.events,
    };
    tell(arguments.bench.json, &backlog::run(&plan, say).await?)
}

async fn codes(arguments: CodesArguments) -> anyhow::Result<()> {
    ensure!(
        (0.1..=600.0).contains(&arguments.seconds),
        "turns of 0.1 to 600 s"
    );
    let plan = codes::Plan {
        folder: product::folder(&arguments.bench.dir)?,
        qrelay: arguments.bench.qrelay,
        seeder: arguments.seeder,
        cycles: arguments.cycles,
        turn: Duration::from_secs_f64(arguments.seconds),
        many: arguments.many,
        few: arguments.few,
        connections: arguments.connections,
        server_core: arguments.server_core,
        load_core: arguments.load_core,
    };
    tell(arguments.bench.json, &codes::run(&plan, say).await?)
}

async fn memory(arguments: MemoryArguments) -> anyhow::Result<()> {
    let plan = memory::Plan {
        folder: product::folder(&arguments.bench.dir)?,
        qrelay: arguments.bench.qrelay,
        seeder: arguments.seeder,
        cycles: arguments.cycles,
        codes: arguments.codes,
        endpoints: arguments.endpoints,
    };
    tell(arguments.bench.json, &memory::run(&plan, say).await?)
}

async fn bench(arguments: AllArguments) -> anyhow::Result<()> {
    let plan = all::Plan {
        folder: product::folder(&arguments.bench.dir)?,
        qrelay: arguments.bench.qrelay,
        nginx: arguments.nginx,
        seeder: arguments.seeder,
        cassandra: arguments.cassandra.into(),
        quick: arguments.quick,
        server_core: arguments.server_core,
        load_core: arguments.load_core,
    };
    let table = all::run(&plan, say).await?;
    if let Some(file) = arguments.picture {
        fs::write(&file, table.picture()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    tell(arguments.bench.json, &table)
}
