//! Tests of starting and stopping all roles in this process. What they do for users is tested in `tests/`.

use std::{path::Path, time::Duration};

use qrelay_store::{id::PartitionId, sqlite::OpenError};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{AdminKeyTo, Config, Metrics, Running, StartError, start};

fn config(directory: &Path) -> Config {
    Config {
        admin_key: Some(SecretString::from("an-admin-key-of-the-operator".to_owned())),
        drain_deadline: Duration::from_secs(20),
        ..Config::on_loopback(directory.to_owned())
    }
}

async fn started(directory: &Path) -> Result<Running, StartError> {
    start(config(directory), Metrics::detached().unwrap(), AdminKeyTo::File).await
}

async fn ready(running: &Running) -> String {
    let mut stream = TcpStream::connect(running.addresses().ops).await.unwrap();
    let request = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_process_at_a_time_and_is_free_after_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    let first = started(directory.path()).await.unwrap();
    assert!(ready(&first).await.starts_with("HTTP/1.1 200"));
    let second = started(directory.path()).await.unwrap_err();
    assert!(
        matches!(second, StartError::Open(OpenError::InUse { .. })),
        "{second}"
    );
    assert!(second.hint().unwrap().contains("--data-dir"));
    first.stop().await.unwrap();
    started(directory.path()).await.unwrap().stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_closes_the_writer_and_gives_the_leases_back() {
    let directory = tempfile::tempdir().unwrap();
    started(directory.path()).await.unwrap().stop().await.unwrap();
    let running = started(directory.path()).await.unwrap();
    let writers = running.store().writers().await.unwrap();
    let open = writers.iter().filter(|writer| writer.closed.is_none()).count();
    assert_eq!(
        (writers.len(), open),
        (2, 1),
        "the first process's writer is closed, ours is open"
    );
    let store = running.store();
    running.stop().await.unwrap();
    for partition in (0..store.install().partitions).map(PartitionId::new) {
        let lease = store.lease(partition).await.unwrap();
        assert!(
            lease.is_none_or(|lease| lease.owner.is_none()),
            "{partition} is still owned"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        api_listen: taken.local_addr().unwrap(),
        ..config(directory.path())
    };
    let refused = start(config, Metrics::detached().unwrap(), AdminKeyTo::File)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("--api-listen"), "{refused}");
    assert!(refused.hint().unwrap().contains("another process"));
}

#[tokio::test(flavor = "multi_thread")]
async fn short_links_begin_with_the_edges_address_unless_told_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let running = started(directory.path()).await.unwrap();
    assert_eq!(
        running.public_url().as_str(),
        format!("http://{}/", running.addresses().edge)
    );
    running.stop().await.unwrap();
    let own = Config {
        public_url: Some("https://qr.example".parse().unwrap()),
        ..config(directory.path())
    };
    let running = start(own, Metrics::detached().unwrap(), AdminKeyTo::File)
        .await
        .unwrap();
    assert_eq!(running.public_url().as_str(), "https://qr.example/");
    running.stop().await.unwrap();
}
