//! Empty keyspaces on the tests' cluster.
//!
//! Making a keyspace's tables takes seconds, so a few keyspaces serve all tests in turn: what a test left is truncated
//! before the next one.

use std::{sync::Mutex, time::Duration};

use qrelay_store::{Clock as _, Timestamp, clock::SystemClock, id::WriterId};
use qrelay_tests::cql;
use scylla::client::{
    execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder,
};
use tokio::sync::Semaphore;

/// Keyspaces in use at once.
const KEYSPACES: usize = 3;
/// What their names begin with; the millisecond they were made at follows, then something random.
const PREFIX: &str = "qrelay_test_";
/// Those that a test binary left behind are dropped when they are so old.
const LEFT_AFTER: Duration = Duration::from_secs(3600);
/// How long a statement of the tests' own may take: emptying a table waits for the disk, however busy others keep it.
const PATIENCE: Duration = Duration::from_secs(300);

static IN_USE: Semaphore = Semaphore::const_new(KEYSPACES);
static POOL: Mutex<Pool> = Mutex::new(Pool {
    begun: false,
    idle: Vec::new(),
});

struct Pool {
    begun: bool,
    idle: Vec<String>,
}

/// An empty keyspace, which nobody else uses while this lives.
pub(super) struct Keyspace {
    pub(super) name: String,
    pooled: bool,
}

impl Keyspace {
    pub(super) async fn empty() -> Self {
        IN_USE.acquire().await.unwrap().forget();
        let (first, idle) = {
            let mut pool = POOL.lock().unwrap();
            (!std::mem::replace(&mut pool.begun, true), pool.idle.pop())
        };
        if first {
            drop_left_behind(&session().await).await;
        }
        let name = match idle {
            Some(name) => {
                truncate(&session().await, &name).await;
                name
            }
            None => unused_name(),
        };
        Self { name, pooled: true }
    }

    /// A keyspace that is not there yet, and that its test removes.
    pub(super) fn unmade() -> Self {
        Self {
            name: unused_name(),
            pooled: false,
        }
    }

    pub(super) async fn remove(self) {
        let drop = format!("DROP KEYSPACE {}", self.name);
        // On a busy cluster it may take longer than a statement may: then a later run drops it, as what a run left behind.
        if let Err(error) = session().await.query_unpaged(drop, ()).await {
            println!("keyspace {} is left for a later run: {error}", self.name);
        }
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        if self.pooled {
            POOL.lock().unwrap().idle.push(self.name.clone());
            IN_USE.add_permits(1);
        }
    }
}

fn unused_name() -> String {
    format!("{PREFIX}{}_{}", SystemClock.now().as_millis(), WriterId::random())
}

pub(super) async fn session() -> Session {
    let patient = ExecutionProfile::builder().request_timeout(Some(PATIENCE));
    SessionBuilder::new()
        .known_node(cql::address())
        .default_execution_profile_handle(patient.build().into_handle())
        .fetch_schema_metadata(false)
        .build()
        .await
        .unwrap()
}

/// What a test of an earlier run left behind.
async fn drop_left_behind(session: &Session) {
    let before = SystemClock.now().before(LEFT_AFTER);
    for (name,) in rows(session, "SELECT keyspace_name FROM system_schema.keyspaces").await {
        let made = name.strip_prefix(PREFIX).and_then(|rest| rest.split('_').next());
        let made = made
            .and_then(|made| made.parse().ok())
            .map(Timestamp::from_millis);
        if made.is_some_and(|made| made < before) {
            session
                .query_unpaged(format!("DROP KEYSPACE IF EXISTS {name}"), ())
                .await
                .unwrap();
        }
    }
}

/// Empties all tables but the one that says what was fixed at creation.
async fn truncate(session: &Session, keyspace: &str) {
    let tables = format!("SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}'");
    for (table,) in rows(session, &tables).await {
        if table == "install" {
            continue;
        }
        let any = session
            .query_unpaged(format!("SELECT * FROM {keyspace}.{table} LIMIT 1"), ())
            .await;
        if any.unwrap().into_rows_result().unwrap().rows_num() > 0 {
            let truncate = format!("TRUNCATE {keyspace}.{table}");
            let mut tries = 0;
            // On a busy disk the cluster gives up waiting for itself.
            while let Err(error) = session.query_unpaged(&*truncate, ()).await {
                tries += 1;
                assert!(tries < 10, "{error}");
            }
        }
    }
}

async fn rows(session: &Session, statement: &str) -> Vec<(String,)> {
    let rows = session
        .query_unpaged(statement, ())
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    rows.rows().unwrap().map(Result::unwrap).collect()
}
