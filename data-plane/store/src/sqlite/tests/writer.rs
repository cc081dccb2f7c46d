//! The writer threads: groups, what is undone with a failing piece of work, and how commits reach the disk.

use futures::future::join_all;

use super::*;
use crate::{
    sqlite::{conformance::in_memory_dir, fault::Fault, writer::Atomicity},
    store::StoreError,
};

fn store() -> (tempfile::TempDir, Arc<SqliteStore>) {
    let dir = in_memory_dir();
    let store = SqliteStore::open(dir.path(), &Options::default()).unwrap();
    (dir, store)
}

/// Inserts two tenants; fails between them, or not.
fn two_rows(connection: &Connection, names: [&str; 2], fails: bool) -> Result<(), Fault> {
    let mut insert = connection
        .prepare_cached("INSERT INTO tenant (id, live, created_at, version, doc) VALUES (?1, 1, 1, 1, '')")?;
    insert.execute([names[0]])?;
    if fails {
        return Err(Fault::Damaged("on purpose".to_owned()));
    }
    insert.execute([names[1]])?;
    Ok(())
}

async fn tenants(store: &SqliteStore) -> Vec<String> {
    let ids = |connection: &Connection| {
        let mut statement = connection.prepare("SELECT id FROM tenant ORDER BY id")?;
        let ids = statement
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(ids)
    };
    store.main_reads.read(ids).await.unwrap()
}

#[tokio::test]
async fn work_that_fails_half_way_leaves_nothing_and_its_group_everything() {
    let (_dir, store) = store();
    let work = [
        (["a", "b"], false),
        (["c", "d"], true),
        (["a", "e"], false),
        (["f", "g"], false),
    ];
    let given = work.map(|(names, fails)| {
        store.main_writer.submit(Atomicity::Savepoint, move |connection| {
            two_rows(connection, names, fails)
        })
    });
    let outcomes = join_all(given).await;
    assert!(outcomes[0].is_ok() && outcomes[3].is_ok(), "{outcomes:?}");
    assert!(matches!(outcomes[1], Err(StoreError::Corrupt(_))), "{outcomes:?}");
    assert!(outcomes[2].is_err(), "a row that is there already");
    assert_eq!(tenants(&store).await, ["a", "b", "f", "g"]);
}

#[tokio::test]
async fn an_error_of_the_disk_fails_the_group_and_leaves_nothing_of_it() {
    let (_dir, store) = store();
    // The first keeps the thread busy, so that the others are one group.
    let outcomes = join_all((0..6).map(|at| {
        let work = move |connection: &Connection| {
            let names = [format!("{at}a"), format!("{at}b")];
            two_rows(connection, [&names[0], &names[1]], false)?;
            match at {
                0 => std::thread::sleep(std::time::Duration::from_millis(50)),
                4 => return Err(Fault::io("on purpose".to_owned())),
                _ => {}
            }
            Ok(())
        };
        store.main_writer.submit(Atomicity::Savepoint, work)
    }))
    .await;
    let stored = tenants(&store).await;
    for (at, outcome) in outcomes.iter().enumerate() {
        let there = stored.contains(&format!("{at}a"));
        assert_eq!(outcome.is_ok(), there, "{at}: {outcome:?} {stored:?}");
    }
    assert!(matches!(outcomes[4], Err(StoreError::Unavailable(_))));
    assert!(
        matches!(outcomes[5], Err(StoreError::Unavailable(_))),
        "the rest of the group shares its fate"
    );
    store
        .main_writer
        .submit(Atomicity::Savepoint, |connection| {
            two_rows(connection, ["y", "z"], false)
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn every_connection_that_writes_syncs_each_commit() {
    let (_dir, store) = store();
    for writer in [&store.log_writer, &store.main_writer] {
        for reopened in [false, true] {
            let pragmas = writer
                .submit(Atomicity::OneStatement, |connection| {
                    let synchronous: i64 =
                        connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
                    let mode: String =
                        connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
                    Ok((synchronous, mode))
                })
                .await
                .unwrap();
            assert_eq!(pragmas, (2, "wal".to_owned()), "opened again: {reopened}");
            // Makes the thread open its connection anew.
            let spoiling = |_: &Connection| Err::<(), _>(Fault::io("on purpose".to_owned()));
            assert!(writer.submit(Atomicity::OneStatement, spoiling).await.is_err());
        }
    }
}
