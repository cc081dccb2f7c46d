//! A running edge on a free port, and a client that writes and reads bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use qrelay_store::appender::Appender;
use qrelay_store::clock::SharedClock;
use qrelay_store::id::{CodeId, TenantId};
use qrelay_store::journal::{Journal, JournalConfig};
use qrelay_store::model::Tenant;
use qrelay_store::store::SharedStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fake_store::{FakeStore, FixedClock, code, tenant};
use crate::{Config, Deps};

/// Long enough for anything that is not stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a browser on a phone calls itself.
pub(crate) const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 \
                                 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1";

pub(crate) struct Fixture {
    pub(crate) store: Arc<FakeStore>,
    pub(crate) tenant: TenantId,
    pub(crate) addr: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinSet<()>,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::start_with(Config::default(), |_| {}).await
    }

    pub(crate) async fn start_with(config: Config, edit: impl FnOnce(&mut Tenant)) -> Self {
        Self::start_on(config, None, edit).await
    }

    pub(crate) async fn start_journaled(journal: JournalConfig, edit: impl FnOnce(&mut Tenant)) -> Self {
        Self::start_on(Config::default(), Some(journal), edit).await
    }

    async fn start_on(
        config: Config,
        journal: Option<JournalConfig>,
        edit: impl FnOnce(&mut Tenant),
    ) -> Self {
        let store = FakeStore::new();
        let mut owner = tenant();
        edit(&mut owner);
        let tenant = owner.id;
        store.put_tenant(owner);
        let shared: SharedStore = store.clone();
        let clock: SharedClock = Arc::new(FixedClock);
        let (store_of_log, heads_period) = (shared.clone(), Duration::from_millis(50));
        let appender = match journal {
            None => Appender::start(store_of_log, &clock, "test", heads_period)
                .await
                .unwrap(),
            Some(journal) => {
                let journal = Journal::open(journal).unwrap();
                Appender::start_journaled(
                    &tokio::runtime::Handle::current(),
                    store_of_log,
                    &clock,
                    "test",
                    heads_period,
                    journal,
                )
                .await
                .unwrap()
            }
        };
        let edge = config
            .build(Deps {
                store: shared,
                appender,
                clock,
            })
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let mut serving = JoinSet::new();
        serving.spawn(edge.serve(vec![listener], shutdown.clone()));
        Self {
            store,
            tenant,
            addr,
            shutdown,
            serving,
        }
    }

    pub(crate) fn add_code(&self, short_id: &str, destination: &str) -> CodeId {
        let code = code(self.tenant, short_id, destination);
        let id = code.id;
        self.store.put_code(code);
        id
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// The answer to one GET on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request(&format!(
            "GET {path} HTTP/1.1\r\nHost: qr.example\r\nUser-Agent: {IPHONE}\r\n\r\n"
        ))
        .await
    }

    pub(crate) async fn request(&self, bytes: &str) -> Answer {
        let mut client = self.client().await;
        client.send(bytes.as_bytes()).await;
        client.answer().await
    }

    /// Gets a path until its answer is as wanted, or the patience ends.
    pub(crate) async fn answer_when(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let waiting = async {
            loop {
                let answer = self.get(path).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("the answer becomes as wanted")
    }
}

pub(crate) struct Client {
    pub(crate) tcp: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: Vec<u8>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let head = String::from_utf8_lossy(&self.head).into_owned();
        head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self {
            tcp: TcpStream::connect(addr).await.unwrap(),
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        tokio::time::timeout(PATIENCE, self.tcp.write_all(bytes))
            .await
            .expect("written in time")
            .unwrap();
    }

    async fn fill(&mut self) -> usize {
        let read = tokio::time::timeout(PATIENCE, self.tcp.read_buf(&mut self.buffer)).await;
        read.expect("an answer or an end comes in time").unwrap_or(0)
    }

    /// The next answer to a GET (an answer to HEAD has no body: see `head_answer`).
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = self.head_answer().await;
        let length: usize = answer
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        while self.buffer.len() < length {
            assert_ne!(self.fill().await, 0, "the connection ended inside a body");
        }
        answer.body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        answer
    }

    pub(crate) async fn head_answer(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert_ne!(
                self.fill().await,
                0,
                "the connection ended without an answer: {:?}",
                self.buffer
            );
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let status = String::from_utf8_lossy(&head[9..12]).parse().unwrap();
        Answer {
            status,
            head,
            body: String::new(),
        }
    }

    /// Waits for the connection's end; what comes before it is dropped. Returns how many bytes that was.
    pub(crate) async fn end(&mut self) -> usize {
        let mut dropped = self.buffer.len();
        self.buffer.clear();
        loop {
            match self.fill().await {
                0 => return dropped,
                read => dropped += read,
            }
            self.buffer.clear();
        }
    }
}
