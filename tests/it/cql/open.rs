//! Opening a keyspace: what is fixed at creation, and what is refused.

use std::process::{Command, Stdio};

use futures::future::join_all;
use qrelay_store::{
    Store as _,
    conformance::{Fixture as _, samples},
    scylla::{OpenError, ScyllaConfig, ScyllaStore},
};
use qrelay_tests::{PATIENCE, wait_within};
use serde_json::{Value, json};

use super::{
    Cluster, KEEP,
    cluster::{Keyspace, session},
    config,
};

async fn refused(config: &ScyllaConfig) -> OpenError {
    match ScyllaStore::open(config).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn what_was_fixed_at_creation_stays() {
    let cluster = Cluster::open().await;
    let before = cluster.store().install().clone();
    let cluster = cluster.restart().await;
    let mut other = config(&cluster.keyspace);
    other.partitions = before.partitions + 1;
    for after in [
        cluster.store().install(),
        ScyllaStore::open(&other).await.unwrap().install(),
    ] {
        assert_eq!(after.partitions, before.partitions);
        assert_eq!(after.created_at, before.created_at);
        let event = samples::event(1);
        assert_eq!(after.ids.event_id(event), before.ids.event_id(event));
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn processes_that_create_a_keyspace_at_once_agree_on_it() {
    let keyspace = Keyspace::unmade();
    let config = config(&keyspace);
    let opened = join_all((0..4).map(|_| ScyllaStore::open(&config))).await;
    let ids: Vec<_> = opened
        .into_iter()
        .map(|store| store.unwrap().install().ids.event_id(samples::event(1)))
        .collect();
    assert_eq!(ids, [ids[0]; 4]);
    keyspace.remove().await;
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_keyspace_of_a_newer_release_or_another_data_centre_is_refused() {
    let keyspace = Keyspace::unmade();
    drop(ScyllaStore::open(&config(&keyspace)).await.unwrap());
    let set = async |assignment: &str| {
        let update = format!(
            "UPDATE {}.install SET {assignment} WHERE one = 1 IF EXISTS",
            keyspace.name
        );
        session().await.query_unpaged(update, ()).await.unwrap();
    };
    set("version = 99").await;
    let error = refused(&config(&keyspace)).await;
    assert!(
        matches!(error, OpenError::NewerSchema { found: 99, .. }),
        "{error}"
    );
    set("version = 1").await;
    set("home = 'elsewhere'").await;
    let error = refused(&config(&keyspace)).await;
    assert!(
        matches!(&error, OpenError::OtherDatacenter { home, .. } if home == "elsewhere"),
        "{error}"
    );
    let mut nowhere = config(&keyspace);
    nowhere.datacenter = Some("nowhere".to_owned());
    let error = refused(&nowhere).await;
    assert!(matches!(error, OpenError::NoSuchDatacenter { .. }), "{error}");
    keyspace.remove().await;
}

#[tokio::test]
async fn a_cluster_that_cannot_be_reached_is_an_error_that_names_it() {
    let config = ScyllaConfig::new(vec!["127.0.0.1:1".to_owned()], "qrelay", KEEP);
    let error = refused(&config).await;
    assert!(matches!(error, OpenError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

/// Runs `qrelay schema apply`: its exit code, and the JSON that it prints.
fn apply(keyspace: &Keyspace) -> (Option<i32>, Value) {
    let output = Command::new(crate::BINARY)
        .args(["schema", "apply", "--json", "--scylla-replication=1"])
        .args([
            "--scylla-nodes",
            qrelay_tests::cql::address(),
            "--scylla-keyspace",
            &keyspace.name,
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (
        output.status.code(),
        serde_json::from_slice(&output.stdout).unwrap_or_default(),
    )
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn the_schema_is_applied_before_any_role_starts_and_what_roles_need_is_told() {
    let keyspace = Keyspace::unmade();
    // A busy machine may take longer to make all tables than one statement may take: repeating goes on.
    let told = wait_within(PATIENCE * 3, "the schema is applied", async || {
        match apply(&keyspace) {
            (Some(0), told) => Some(told),
            _ => None,
        }
    })
    .await;
    assert_eq!(told["keyspace"], json!(keyspace.name));
    assert!(told["schema_version"].as_i64() >= Some(1), "{told}");
    let grants = told["grants"]["data_plane"].as_array().unwrap();
    let append = format!("GRANT MODIFY ON {}.log TO qrelay_data_plane", keyspace.name);
    assert!(grants.contains(&json!(append)), "{told}");
    let again = wait_within(PATIENCE * 3, "it is applied again", async || {
        match apply(&keyspace) {
            (Some(0), again) => Some(again),
            _ => None,
        }
    });
    assert_eq!(again.await, told);
    keyspace.remove().await;
}
