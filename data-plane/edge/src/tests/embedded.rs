//! The edge on the embedded store, as it is shipped: every id that was answered stands in the log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use qrelay_store::Timestamp;
use qrelay_store::appender::Appender;
use qrelay_store::clock::{SharedClock, SystemClock};
use qrelay_store::id::{EventAddress, EventId, PartitionId, Seq, WriterId};
use qrelay_store::limits::READ_BYTES_MAX;
use qrelay_store::model::Resource;
use qrelay_store::record::decode_batch;
use qrelay_store::sqlite::{Options, SqliteStore};
use qrelay_store::store::{Change, Expected, SecretChange, SharedStore};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fake_store::{code, tenant};
use super::fixture::Client;
use crate::{Config, Deps};

fn creation(resource: Resource) -> Change {
    Change {
        resource,
        expected: Expected::Absent,
        at: Timestamp::EPOCH,
        actor: "admin".to_owned(),
        event: None,
        secrets: SecretChange::Keep,
        request: None,
        count_max: None,
    }
}

/// The ids of all events that a writer has in a partition.
async fn recorded_by(store: &SharedStore, writer: WriterId, partition: PartitionId) -> BTreeSet<EventId> {
    let ids = &store.install().ids;
    let mut recorded = BTreeSet::new();
    let mut after = Seq::ZERO;
    let through = store.tail(partition, writer, after).await.unwrap();
    while after < through {
        for batch in store
            .read(partition, writer, after, through, READ_BYTES_MAX)
            .await
            .unwrap()
        {
            for index in 0..decode_batch(&batch.body).unwrap().len() {
                let index = u16::try_from(index).unwrap();
                recorded.insert(ids.event_id(EventAddress {
                    partition,
                    writer,
                    seq: batch.seq,
                    index,
                }));
            }
            after = batch.seq;
        }
    }
    recorded
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scan_answered_by_many_connections_stands_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store: SharedStore = SqliteStore::open(dir.path(), &Options::default()).unwrap();
    let owner = tenant();
    let partition = owner.partitions[0];
    let short = code(owner.id, "abcdefgh", "https://example.com/");
    store.change(creation(Resource::Tenant(owner))).await.unwrap();
    store
        .change(creation(Resource::Code(Box::new(short))))
        .await
        .unwrap();
    let clock: SharedClock = Arc::new(SystemClock);
    let appender = Appender::start(store.clone(), &clock, "test", Duration::from_millis(50))
        .await
        .unwrap();
    let deps = Deps {
        store: store.clone(),
        appender: appender.clone(),
        clock,
    };
    let edge = Config::default().build(deps).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let mut serving = JoinSet::new();
    serving.spawn(edge.serve(vec![listener], shutdown.clone()));

    let mut scanning = JoinSet::new();
    for _ in 0..20 {
        scanning.spawn(async move {
            let mut client = Client::connect(addr).await;
            let mut answered = Vec::new();
            for _ in 0..20 {
                client
                    .send(b"GET /ABCDEFGH HTTP/1.1\r\nHost: a\r\nUser-Agent: curl/8\r\n\r\n")
                    .await;
                answered.push(client.answer().await.header("x-qrelay-scan").unwrap());
            }
            answered
        });
    }
    let answered: Vec<EventId> = scanning
        .join_all()
        .await
        .concat()
        .iter()
        .map(|id| id.parse().unwrap())
        .collect();
    shutdown.cancel();
    serving.join_next().await.unwrap().unwrap();
    appender
        .close(Instant::now() + Duration::from_secs(10))
        .await
        .unwrap();

    let recorded = recorded_by(&store, appender.writer(), partition).await;
    assert_eq!(answered.len(), 400);
    assert_eq!(answered.into_iter().collect::<BTreeSet<_>>(), recorded);
}
