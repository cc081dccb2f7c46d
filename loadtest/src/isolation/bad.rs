//! Receivers that misbehave, on a thread of their own, each on its own port.
//!
//! Elsewhere they have machines of their own. Here they share two cores with what is measured, so their thread is of the
//! lowest priority: it takes what the others leave, and what it costs to write a 10 MB body is not told as the sender's delay.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, anyhow};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// A connection that was kept open for so long is given up: the sender's exchanges take five seconds at most.
const CONNECTION_MAX: Duration = Duration::from_secs(60);
/// Added to the thread's niceness: Linux cuts it at the lowest priority there is.
const LOWEST: i32 = 19;
/// Of a body that is too large.
const LARGE_BYTES: usize = 10_000_000;

/// How a receiver misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Takes the request and says nothing.
    BlackHole,
    /// 200, and then a byte of the body a second.
    Trickle,
    /// 200 with 10 MB.
    Large,
    /// 200 with 10 MB that say that they are compressed.
    GzipBomb,
    /// Resets the connection.
    Reset,
    /// Closes its side and says nothing.
    HalfClosed,
    /// Answers what is not HTTP.
    Garbage,
    /// Is sent to with TLS and speaks none.
    NoTls,
    /// Leads elsewhere.
    Redirect,
    /// A million response headers.
    ManyHeaders,
    /// 500, and the connection is closed.
    Failing,
}

impl Kind {
    /// Out of order, as receivers are now and then.
    pub const OUT_OF_ORDER: [Self; 2] = [Self::BlackHole, Self::Failing];
    /// Those that do what no receiver should.
    pub const HOSTILE: [Self; 10] = [
        Self::BlackHole,
        Self::Trickle,
        Self::Large,
        Self::GzipBomb,
        Self::Reset,
        Self::HalfClosed,
        Self::Garbage,
        Self::NoTls,
        Self::Redirect,
        Self::ManyHeaders,
    ];
}

/// A receiver.
#[derive(Debug, Clone)]
pub struct Bad {
    /// How it misbehaves.
    pub kind: Kind,
    /// Where.
    pub address: SocketAddr,
    connections: Arc<AtomicU64>,
}

impl Bad {
    /// The URL of an endpoint for it.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.kind == Kind::NoTls { "https" } else { "http" };
        format!("{scheme}://{}/hook", self.address)
    }

    /// Connections that it took so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Receivers that run until this is dropped.
#[derive(Debug)]
pub struct Crowd {
    /// They.
    pub members: Vec<Bad>,
    stop: CancellationToken,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Crowd {
    /// Starts so many, of these kinds in turn.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub async fn start(count: usize, kinds: &'static [Kind]) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let (tell, told) = oneshot::channel();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("bad-receivers".into())
            .spawn(move || {
                // Of this thread alone: that is what Linux takes a process's priority for.
                rustix::process::nice(LOWEST).context("the bad receivers' priority cannot be lowered")?;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                let kinds = kinds.iter().copied().cycle().take(count);
                runtime.block_on(serve(kinds, tell, stopped))
            })?;
        let members = told
            .await
            .map_err(|_| anyhow!("the bad receivers could not be started"))?;
        Ok(Self {
            members,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // What it has to say was said at the start.
            thread.join().ok();
        }
    }
}

async fn serve(
    kinds: impl Iterator<Item = Kind>,
    tell: oneshot::Sender<Vec<Bad>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (mut members, mut accepts) = (Vec::new(), JoinSet::new());
    for kind in kinds {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let bad = Bad {
            kind,
            address: listener.local_addr()?,
            connections: Arc::default(),
        };
        members.push(bad.clone());
        accepts.spawn(accept(listener, bad));
    }
    // Nobody listens any more when the benchmark has ended.
    tell.send(members).ok();
    stop.cancelled().await;
    Ok(())
}

async fn accept(listener: TcpListener, bad: Bad) {
    let mut open = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        bad.connections.fetch_add(1, Ordering::Relaxed);
        open.spawn(tokio::time::timeout(CONNECTION_MAX, misbehave(bad.kind, tcp)));
        while open.try_join_next().is_some() {}
    }
}

/// Errors are the sender's way to say that it has enough.
async fn misbehave(kind: Kind, mut tcp: TcpStream) -> std::io::Result<()> {
    let mut request = vec![0; 64 * 1024];
    // Nobody looks at the request: what comes with its first bytes is enough of it.
    if tcp.read(&mut request).await? == 0 {
        return Ok(());
    }
    match kind {
        Kind::BlackHole => while tcp.read(&mut request).await? > 0 {},
        Kind::Trickle => {
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                .await?;
            loop {
                tcp.write_all(b"x").await?;
                sleep(Duration::from_secs(1)).await;
            }
        }
        Kind::Large | Kind::GzipBomb => {
            let encoding = if kind == Kind::GzipBomb {
                "content-encoding: gzip\r\n"
            } else {
                ""
            };
            let head = format!("HTTP/1.1 200 OK\r\n{encoding}content-length: {LARGE_BYTES}\r\n\r\n");
            tcp.write_all(head.as_bytes()).await?;
            let block = [b"\x1f\x8b\x08\x00".as_slice(), &[0; 16 * 1024 - 4]].concat();
            for _ in 0..LARGE_BYTES / block.len() {
                tcp.write_all(&block).await?;
            }
        }
        Kind::Reset => tcp.set_zero_linger()?,
        Kind::HalfClosed => {
            tcp.shutdown().await?;
            while tcp.read(&mut request).await? > 0 {}
        }
        Kind::Garbage | Kind::NoTls => tcp.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await?,
        Kind::Redirect => {
            let answer = "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
            tcp.write_all(answer.as_bytes()).await?;
        }
        Kind::ManyHeaders => {
            tcp.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            for _ in 0..1_000_000 {
                tcp.write_all(b"x-header: value\r\n").await?;
            }
        }
        Kind::Failing => {
            let answer =
                "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            tcp.write_all(answer.as_bytes()).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_kind_answers_in_its_way_and_counts_its_connections() {
        let hostile = Crowd::start(Kind::HOSTILE.len(), &Kind::HOSTILE).await.unwrap();
        let broken = Crowd::start(3, &Kind::OUT_OF_ORDER).await.unwrap();
        assert_eq!(broken.members[2].kind, Kind::BlackHole);
        for bad in hostile.members.iter().chain(&broken.members) {
            let mut tcp = TcpStream::connect(bad.address).await.unwrap();
            tcp.write_all(b"POST /hook HTTP/1.1\r\n\r\n").await.unwrap();
            let mut answer = [0; 12];
            if bad.kind == Kind::BlackHole {
                // It would never come.
                continue;
            }
            let read = tcp.read_exact(&mut answer).await;
            let is_http = read.is_ok() && answer.starts_with(b"HTTP/1.1 ");
            let answers = !matches!(
                bad.kind,
                Kind::Reset | Kind::HalfClosed | Kind::Garbage | Kind::NoTls
            );
            assert_eq!(is_http, answers, "{:?}: {read:?}", bad.kind);
            assert_eq!(bad.connections(), 1);
        }
        assert!(hostile.members[7].url().starts_with("https://"));
    }
}
