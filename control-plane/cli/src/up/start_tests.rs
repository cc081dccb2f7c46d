//! Tests of starting and stopping all roles in this process. What they do for users is tested in `tests/`.

use std::{path::Path, sync::Arc, time::Duration};

use qrelay_store::{
    conformance::samples,
    id::PartitionId,
    model::Resource,
    seal::{MasterKeys, Purpose, Sealer},
    sqlite::OpenError,
    store::{Change, SecretChange, SharedStore},
};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{AdminKeyTo, Config, Metrics, Running, StartError, start};

fn config(directory: &Path) -> Config {
    let mut config = Config::on_loopback(directory.to_owned());
    config.api.admin_key = Some(SecretString::from("an-admin-key-of-the-operator".to_owned()));
    config.process.drain_deadline = Duration::from_secs(20);
    config
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
    for partition in (0..store.own_partitions().await.unwrap()).map(PartitionId::new) {
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
    let mut config = config(directory.path());
    config.api.listen = taken.local_addr().unwrap();
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
    let mut own = config(directory.path());
    own.targets.public_url = Some("https://qr.example".parse().unwrap());
    let running = start(own, Metrics::detached().unwrap(), AdminKeyTo::File)
        .await
        .unwrap();
    assert_eq!(running.public_url().as_str(), "https://qr.example/");
    running.stop().await.unwrap();
}

/// Stores an endpoint with a secret.
async fn store_secret(store: &SharedStore, sealer: &Sealer) {
    let tenant = samples::tenant();
    let endpoint = samples::endpoint(tenant.id);
    let mut secret = samples::secret(endpoint.id);
    secret.sealed = sealer.seal(
        Purpose::SigningSecret,
        tenant.id,
        endpoint.id,
        secret.id,
        b"a secret of an endpoint",
    );
    let add = Change {
        secrets: SecretChange::Replace(secret),
        ..samples::create(Resource::Endpoint(Box::new(endpoint)))
    };
    store
        .change(samples::create(Resource::Tenant(tenant)))
        .await
        .unwrap();
    store.change(add).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_key_in_the_variable_makes_no_file_and_another_one_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let text = |byte: u8| data_encoding::BASE64.encode(&[byte; 32]);
    let with = |byte: u8| {
        let mut config = config(directory.path());
        config.master_key.text = Some(SecretString::from(text(byte)));
        start(config, Metrics::detached().unwrap(), AdminKeyTo::File)
    };
    let running = with(1).await.unwrap();
    let keys = MasterKeys::from_env_text(&text(1)).unwrap();
    store_secret(&running.store(), &Sealer::new(Arc::new(keys))).await;
    running.stop().await.unwrap();
    assert!(!directory.path().join("master.key").exists());
    let refused = with(2).await.unwrap_err();
    assert!(matches!(refused, StartError::WrongKey { .. }), "{refused}");
    assert!(refused.hint().unwrap().contains("--master-key-file"));
    with(1).await.unwrap().stop().await.unwrap();
}
