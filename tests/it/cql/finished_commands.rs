//! Commands on a cluster: what looking for them each second costs.

use qrelay_store::{
    conformance::{
        Fixture as _,
        samples::{P, at, command},
    },
    store::{Command, CommandResult},
};

use super::{Cluster, cluster::session};

/// Commands that are finished.
const FINISHED: i64 = 20;

/// The most deletions that a read of the table met, as Apache Cassandra counts: roughly, and none as one. None on other
/// servers.
async fn deletions_met(keyspace: &str) -> Option<f64> {
    let select = format!(
        "SELECT max FROM system_views.tombstones_per_read \
         WHERE keyspace_name = '{keyspace}' AND table_name = 'command'"
    );
    let rows = session().await.query_unpaged(select, ()).await.ok()?;
    let rows = rows.into_rows_result().unwrap();
    let (most,): (f64,) = rows.single_row().unwrap();
    Some(most)
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn finished_commands_leave_nothing_that_owners_read_past() {
    let cluster = Cluster::open().await;
    let store = cluster.store();
    let waits = command(at(0));
    assert!(store.put_command(&waits).await.unwrap());
    for number in 1..=FINISHED {
        let command = command(at(number));
        assert!(store.put_command(&command).await.unwrap());
        let result = CommandResult::Taken;
        store.finish_command(P, command.id, &result).await.unwrap();
    }
    for _ in 0..3 {
        let pending: Vec<Command> = store.pending_commands(P, 10).await.unwrap();
        assert_eq!(pending, std::slice::from_ref(&waits));
    }
    let keyspace = &cluster.keyspace.name;
    if let Some(most) = deletions_met(keyspace).await {
        assert!(most < 10.0, "a read met {most} deletions");
        // It would have been seen. (The server counts by table, for longer than a test takes: no other test deletes here.)
        let session = session().await;
        for number in 1..=FINISHED {
            let delete = format!("DELETE FROM {keyspace}.command WHERE partition = 0 AND id = '{number}'");
            session.query_unpaged(delete, ()).await.unwrap();
        }
        let select = format!("SELECT id FROM {keyspace}.command WHERE partition = 0");
        session.query_unpaged(select, ()).await.unwrap();
        let most = deletions_met(keyspace).await.unwrap();
        assert!(most >= 10.0, "{FINISHED} deletions count {most}");
    }
}
