//! A keyspace that several processes make at once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;
use qrelay_store::{
    Store as _,
    conformance::samples,
    id::{Seq, WriterId},
    scylla::{OpenError, ScyllaConfig, ScyllaStore},
    store::{Log as _, StoreError},
};
use qrelay_tests::{
    nodes::{NODES, Nodes},
    wait_within,
};

use super::unused_keyspace;

/// How many processes.
const PROCESSES: usize = 6;
/// How long making a keyspace may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// As a process that is started again when it ends: until it opens, or says something else than that nobody answers.
pub(super) async fn open(config: &ScyllaConfig) -> Arc<ScyllaStore> {
    wait_within(
        PATIENCE,
        "the keyspace is opened",
        async || match ScyllaStore::open(config).await {
            Ok(store) => Some(store),
            Err(error @ (OpenError::Connect { .. } | OpenError::Store(StoreError::Unavailable(_)))) => {
                println!("opening failed, and is tried again: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        },
    )
    .await
}

/// What is asked again while nobody answers.
async fn patiently<T>(ask: impl AsyncFn() -> Result<T, StoreError>) -> T {
    wait_within(PATIENCE, "the store answers", async || match ask().await {
        Ok(answer) => Some(answer),
        Err(StoreError::Unavailable(_)) => None,
        Err(error) => panic!("{error}"),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn processes_that_make_a_keyspace_at_once_through_different_nodes_agree_on_it() {
    let nodes = Nodes::start().await;
    let keyspace = unused_keyspace();
    let configs: Vec<_> = (0..PROCESSES)
        .map(|process| {
            let number = 1 + u8::try_from(process).unwrap() % NODES;
            let at = vec![nodes.address(number)];
            let mut config = ScyllaConfig::new(at, &keyspace, Duration::from_secs(3600));
            // Each would fix something else.
            config.partitions = 4 + u16::from(number);
            config
        })
        .collect();
    let stores = join_all(configs.iter().map(open)).await;
    let agreed: Vec<_> = stores
        .iter()
        .map(|store| {
            let install = store.install();
            let id = install.ids.event_id(samples::event(1));
            (install.partitions, install.created_at, id)
        })
        .collect();
    assert_eq!(agreed, vec![agreed[0]; PROCESSES]);
    // They mean the same tables: what one writes, all others read.
    let writers: Vec<_> = stores.iter().map(|_| WriterId::random()).collect();
    for (store, writer) in stores.iter().zip(&writers) {
        let row = samples::writer_row(*writer);
        patiently(async || store.register_writer(&row).await).await;
        patiently(async || store.append(samples::batch(samples::P, *writer, 1)).await).await;
    }
    for store in &stores {
        let known = patiently(async || store.writers().await).await;
        let known: BTreeSet<_> = known.into_iter().map(|row| row.writer).collect();
        assert_eq!(known, writers.iter().copied().collect());
        for writer in &writers {
            let batch = patiently(async || store.batch(samples::P, *writer, Seq::new(1)).await).await;
            assert_eq!(batch, Some(samples::batch(samples::P, *writer, 1)));
        }
    }
    // And one that comes later finds it as it is.
    let later = open(&configs[0]).await;
    assert_eq!(later.install().partitions, agreed[0].0);
    let drop = format!("DROP KEYSPACE {keyspace}");
    nodes.session().await.query_unpaged(drop, ()).await.unwrap();
}
