//! Processes over one store, each with hints of its own, and real connections between them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use qrelay_proto::internal::{TellRequest, TellResponse, hint_service_client::HintServiceClient};
use qrelay_store::{
    fault::FaultStore,
    hints::Tidings,
    id::{ConfigSeq, OwnerId, PartitionId, Seq, WriterId},
    limits,
    sqlite::{Options, SqliteStore},
    store::{Cas, Fence, Lease, SharedStore},
};
use secrecy::SecretString;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status, Streaming};

use crate::{PeerKey, PeerServer, Teller, key::Challenge, tell, wire};

const P: PartitionId = PartitionId::new(1);
const Q: PartitionId = PartitionId::new(2);
const WRITER: WriterId = WriterId::from_u64(7);
/// Longer than anything here takes on a machine that is busy.
const LONG: Duration = Duration::from_secs(60);

fn key(text: &str) -> PeerKey {
    PeerKey::new(&SecretString::from(text.repeat(32))).unwrap()
}

/// A database, which processes share.
struct Database {
    store: SharedStore,
    _directory: tempfile::TempDir,
}

impl Database {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path(), &Options::default()).unwrap();
        Self {
            store,
            _directory: directory,
        }
    }

    /// A process's view, with hints of its own.
    fn process(&self) -> SharedStore {
        FaultStore::without_hints(Arc::clone(&self.store))
    }

    async fn own(&self, partition: PartitionId, address: SocketAddr) {
        let known = self
            .store
            .lease(partition)
            .await
            .unwrap()
            .map(|lease| lease.fence);
        let lease = Lease {
            fence: Fence {
                epoch: known.map_or(1, |fence| fence.epoch + 1),
                beat: 0,
            },
            owner: Some(OwnerId::from_bytes([1; 10])),
            addr: address.to_string(),
        };
        assert_eq!(
            self.store.claim(partition, known, &lease).await.unwrap(),
            Cas::Applied
        );
    }
}

/// Tasks that end with the test.
struct Tasks {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    fn new() -> Self {
        Self {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    async fn serve(&self, store: &SharedStore, key: &PeerKey) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.serve_on(listener, store, key, limits::PEER_ANSWER_TIMEOUT)
    }

    fn serve_on(
        &self,
        listener: TcpListener,
        store: &SharedStore,
        key: &PeerKey,
        patience: Duration,
    ) -> SocketAddr {
        let address = listener.local_addr().unwrap();
        let mut server = PeerServer::new(Arc::clone(store), key);
        server.patience = patience;
        self.tasks.spawn(server.serve(listener, self.stop.child_token()));
        address
    }

    fn tell(&self, store: &SharedStore, key: &PeerKey) {
        let teller = Teller {
            store: Arc::clone(store),
            key: key.clone(),
            me: String::new(),
        };
        self.tasks.spawn(tell(teller, self.stop.child_token()));
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(LONG, self.tasks.wait())
            .await
            .expect("everything ends when asked to");
    }
}

fn heads(seq: u64) -> BTreeMap<WriterId, Seq> {
    BTreeMap::from([(WRITER, Seq::new(seq))])
}

/// Waits until a process knows of `seq`.
async fn heard(store: &SharedStore, partition: PartitionId, seq: u64) {
    let hints = store.hints().partition(partition);
    let mut moved = hints.heads_moved();
    let waiting = async {
        while hints.heads() != heads(seq) {
            moved.changed().await.unwrap();
        }
    };
    timeout(LONG, waiting).await.expect("the hint comes");
}

#[tokio::test]
async fn a_head_reaches_its_owners_process_and_no_other() {
    let (database, tasks) = (Database::new(), Tasks::new());
    let (edge, owner, other) = (database.process(), database.process(), database.process());
    for (process, partition) in [(&owner, P), (&other, Q)] {
        database
            .own(partition, tasks.serve(process, &key("k")).await)
            .await;
    }
    let listening = [&owner, &other]
        .map(|process| [P, Q].map(|partition| process.hints().partition(partition).heads_moved()));
    tasks.tell(&edge, &key("k"));
    edge.hints().partition(P).publish_head(WRITER, Seq::new(1));
    heard(&owner, P, 1).await;
    edge.hints().partition(P).publish_head(WRITER, Seq::new(2));
    edge.hints().partition(Q).publish_head(WRITER, Seq::new(5));
    heard(&owner, P, 2).await;
    heard(&other, Q, 5).await;
    assert_eq!(owner.hints().partition(Q).heads(), BTreeMap::new());
    assert_eq!(other.hints().partition(P).heads(), BTreeMap::new());
    drop(listening);
    tasks.end().await;
}

#[tokio::test]
async fn commands_and_changes_of_the_configuration_reach_every_process() {
    let (database, tasks) = (Database::new(), Tasks::new());
    let (control, one, two) = (database.process(), database.process(), database.process());
    for (process, partition) in [(&one, P), (&two, Q)] {
        database
            .own(partition, tasks.serve(process, &key("k")).await)
            .await;
    }
    let mut listening = Vec::new();
    for process in [&one, &two] {
        listening.push((process.hints().config(), process.hints().partition(P).commands()));
    }
    tasks.tell(&control, &key("k"));
    control.hints().publish_config(ConfigSeq::new(4));
    control.hints().partition(P).publish_command();
    for (mut config, mut commands) in listening {
        timeout(LONG, config.changed()).await.expect("it hears").unwrap();
        timeout(LONG, commands.changed())
            .await
            .expect("it hears")
            .unwrap();
    }
    tasks.end().await;
}

#[tokio::test]
async fn a_head_follows_its_partition_to_another_owner() {
    let (database, tasks) = (Database::new(), Tasks::new());
    let (edge, first, second) = (database.process(), database.process(), database.process());
    let addresses = [
        tasks.serve(&first, &key("k")).await,
        tasks.serve(&second, &key("k")).await,
    ];
    database.own(P, addresses[0]).await;
    database.own(Q, addresses[1]).await;
    tasks.tell(&edge, &key("k"));
    let reading = first.hints().partition(P).heads_moved();
    edge.hints().partition(P).publish_head(WRITER, Seq::new(1));
    heard(&first, P, 1).await;
    drop(reading);
    // The first one reads it no more, and says so when it is told.
    database.own(P, addresses[1]).await;
    let _reading = second.hints().partition(P).heads_moved();
    let telling = async {
        for seq in 2.. {
            edge.hints().partition(P).publish_head(WRITER, Seq::new(seq));
            if !second.hints().partition(P).heads().is_empty() {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, telling).await.expect("the new owner hears");
    assert_eq!(first.hints().partition(P).heads(), heads(1));
    tasks.end().await;
}

#[tokio::test]
async fn a_process_that_was_away_is_told_what_was_said_meanwhile() {
    let (database, tasks, first_life) = (Database::new(), Tasks::new(), Tasks::new());
    let (edge, owner) = (database.process(), database.process());
    let address = first_life.serve(&owner, &key("k")).await;
    database.own(P, address).await;
    let _reading = owner.hints().partition(P).heads_moved();
    tasks.tell(&edge, &key("k"));
    edge.hints().partition(P).publish_head(WRITER, Seq::new(1));
    heard(&owner, P, 1).await;
    first_life.end().await;
    edge.hints().partition(P).publish_head(WRITER, Seq::new(2));
    let listener = TcpListener::bind(address).await.unwrap();
    tasks.serve_on(listener, &owner, &key("k"), limits::PEER_ANSWER_TIMEOUT);
    heard(&owner, P, 2).await;
    tasks.end().await;
}

/// A stream made by hand.
struct ByHand {
    requests: mpsc::Sender<TellRequest>,
    answers: Streaming<TellResponse>,
    challenge: Challenge,
}

impl ByHand {
    async fn open(address: SocketAddr) -> Self {
        let mut client = HintServiceClient::connect(format!("http://{address}"))
            .await
            .unwrap();
        let (requests, outgoing) = mpsc::channel(4);
        let mut answers = client
            .tell(ReceiverStream::new(outgoing))
            .await
            .unwrap()
            .into_inner();
        let first = answers.message().await.unwrap().unwrap();
        Self {
            requests,
            answers,
            challenge: first.challenge.try_into().unwrap(),
        }
    }

    async fn send(&mut self, hints: Vec<u8>, tag: Vec<u8>) -> Result<TellResponse, Status> {
        self.requests.send(TellRequest { hints, tag }).await.unwrap();
        let answer = timeout(LONG, self.answers.message())
            .await
            .expect("an answer comes");
        answer.map(|answer| answer.expect("the stream ends with a status"))
    }
}

fn head(seq: u64) -> Vec<u8> {
    wire::encode(&Tidings {
        heads: BTreeMap::from([((P, WRITER), Seq::new(seq))]),
        ..Tidings::default()
    })
}

#[tokio::test]
async fn without_the_key_nothing_is_heard() {
    let (database, tasks) = (Database::new(), Tasks::new());
    let owner = database.process();
    let address = tasks.serve(&owner, &key("k")).await;
    let moved = owner.hints().partition(P).heads_moved();
    let stranger = key("x").of(owner.install());
    let mut stream = ByHand::open(address).await;
    let tag = stranger.tag(&stream.challenge, 0, &head(1));
    assert_eq!(
        stream.send(head(1), tag).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let mut stream = ByHand::open(address).await;
    assert_eq!(
        stream.send(head(1), Vec::new()).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    // The right key, for a process of another install.
    let elsewhere = key("k").of(Database::new().store.install());
    let mut stream = ByHand::open(address).await;
    let tag = elsewhere.tag(&stream.challenge, 0, &head(1));
    assert_eq!(
        stream.send(head(1), tag).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert!(!moved.has_changed().unwrap());
    tasks.end().await;
}

#[tokio::test]
async fn what_was_heard_on_the_way_cannot_be_said_again_nor_changed() {
    let (database, tasks) = (Database::new(), Tasks::new());
    let owner = database.process();
    let address = tasks.serve(&owner, &key("k")).await;
    let _reading = owner.hints().partition(P).heads_moved();
    let key = key("k").of(owner.install());
    let mut stream = ByHand::open(address).await;
    let first = key.tag(&stream.challenge, 0, &head(1));
    assert_eq!(
        stream.send(head(1), first.clone()).await.unwrap(),
        TellResponse::default()
    );
    let changed = key.tag(&stream.challenge, 1, &head(2));
    assert_eq!(
        stream.send(head(3), changed).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let mut again = ByHand::open(address).await;
    assert_eq!(
        again.send(head(1), first).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert_eq!(owner.hints().partition(P).heads(), heads(1));
    tasks.end().await;
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_the_next_peer_is_heard() {
    let (database, tasks) = (Database::new(), Tasks::new());
    let owner = database.process();
    let address = tasks.serve(&owner, &key("k")).await;
    let key = key("k").of(owner.install());
    let mut stream = ByHand::open(address).await;
    let large = vec![0; limits::PEER_MESSAGE_BYTES_MAX + 1];
    let tag = key.tag(&stream.challenge, 0, &large);
    assert_eq!(
        stream.send(large, tag).await.unwrap_err().code(),
        Code::OutOfRange
    );
    let mut stream = ByHand::open(address).await;
    let malformed = vec![0xff; 16];
    let tag = key.tag(&stream.challenge, 0, &malformed);
    assert_eq!(
        stream.send(malformed, tag).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let mut stream = ByHand::open(address).await;
    let tag = key.tag(&stream.challenge, 0, &head(1));
    let answer = stream.send(head(1), tag).await.unwrap();
    assert_eq!(answer.unheard_partitions, [1], "nobody reads it here");
    tasks.end().await;
}

#[tokio::test]
async fn who_proves_nothing_is_cut() {
    let (database, tasks) = (Database::new(), Tasks::new());
    let owner = database.process();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let patience = Duration::from_millis(50);
    let address = tasks.serve_on(listener, &owner, &key("k"), patience);
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut said = Vec::new();
    let cut = timeout(LONG, silent.read_to_end(&mut said)).await;
    assert!(cut.is_ok(), "a connection that says nothing ends");
    let mut stream = ByHand::open(address).await;
    let ended = timeout(LONG, stream.answers.message())
        .await
        .expect("it ends, too");
    assert!(ended.is_err(), "with an error");
    tasks.end().await;
}

#[tokio::test]
async fn a_peer_that_does_not_let_us_in_holds_nothing_up() {
    let (database, tasks) = (Database::new(), Tasks::new());
    let (edge, owner, locked) = (database.process(), database.process(), database.process());
    database.own(Q, tasks.serve(&locked, &key("x")).await).await;
    database.own(P, tasks.serve(&owner, &key("k")).await).await;
    let _reading = owner.hints().partition(P).heads_moved();
    let never = locked.hints().partition(Q).heads_moved();
    tasks.tell(&edge, &key("k"));
    for seq in 1..=20 {
        edge.hints().partition(Q).publish_head(WRITER, Seq::new(seq));
        edge.hints().partition(P).publish_head(WRITER, Seq::new(seq));
        heard(&owner, P, seq).await;
    }
    assert!(!never.has_changed().unwrap());
    let (_, said) = edge.hints().said_since(0, usize::MAX);
    assert_eq!(said.heads.len(), 2, "nothing is queued for it");
    tasks.end().await;
}

#[tokio::test]
async fn what_is_learned_is_not_passed_on() {
    let (database, tasks) = (Database::new(), Tasks::new());
    let (one, two) = (database.process(), database.process());
    let address = tasks.serve(&one, &key("k")).await;
    database.own(Q, tasks.serve(&two, &key("k")).await).await;
    database.own(P, address).await;
    let _reading = one.hints().partition(P).heads_moved();
    tasks.tell(&one, &key("k"));
    tasks.tell(&two, &key("k"));
    two.hints().partition(P).publish_head(WRITER, Seq::new(3));
    heard(&one, P, 3).await;
    assert_eq!(*one.hints().said().borrow(), 0);
    assert_eq!(one.hints().said_since(0, 1).1, Tidings::default());
    tasks.end().await;
}
