//! Opening a data directory: whose it is, and what is refused.

use std::fs;

use super::*;
use crate::{
    conformance::samples::{create, tenant},
    model::Resource,
    sqlite::conformance::in_memory_dir,
    store::Registry,
};

fn open(dir: &Path) -> Result<Arc<SqliteStore>, OpenError> {
    SqliteStore::open(dir, &Options::default())
}

/// What opening says, which must name the file and begin with a clear word.
fn refusal(dir: &Path) -> OpenError {
    open(dir).expect_err("the directory should be refused")
}

#[tokio::test]
async fn what_was_appended_is_there_after_opening_again() {
    let dir = in_memory_dir();
    let store = open(dir.path()).unwrap();
    let writer = registered(&store).await;
    for seq in 1..=3 {
        store.append(sized(writer, seq, 100)).await.unwrap();
    }
    let address = crate::id::EventAddress::test();
    let event = store.install().ids.event_id(address);
    drop(store);
    assert!(
        !dir.path().join("log.db-wal").exists(),
        "an orderly end leaves one file"
    );
    let options = Options {
        partitions: 99,
        ..Options::default()
    };
    let store = SqliteStore::open(dir.path(), &options).unwrap();
    assert_eq!(store.install().ids.event_address(event), address);
    assert_eq!(
        store.install().partitions,
        limits::PARTITIONS_EMBEDDED,
        "fixed at creation"
    );
    assert_holds(&store, writer, 3, 100).await;
}

#[test]
fn a_second_owner_is_told_who_has_the_directory() {
    let dir = in_memory_dir();
    let first = open(dir.path()).unwrap();
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("in use by process {}", std::process::id())),
        "{text}"
    );
    drop(first);
    open(dir.path()).unwrap();
}

#[tokio::test]
async fn the_directory_is_free_as_soon_as_the_store_is_dropped() {
    let dir = in_memory_dir();
    for _ in 0..10 {
        let store = open(dir.path()).unwrap();
        let writer = registered(&store).await;
        store.append(sized(writer, 1, 10)).await.unwrap();
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = in_memory_dir();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = refusal(&file.join("data"));
    assert!(matches!(error, OpenError::Directory { .. }), "{error:?}");
    assert!(error.to_string().contains("file/data"), "{error}");
}

#[test]
fn a_newer_schema_is_refused_and_left_as_it_is() {
    let dir = in_memory_dir();
    drop(open(dir.path()).unwrap());
    for schema in [&LOG, &MAIN] {
        let path = schema.path(dir.path());
        let set = |version: i64| {
            let connection = Connection::open(&path).unwrap();
            connection.pragma_update(None, "user_version", version).unwrap();
            connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .unwrap();
        };
        let version: i64 = Connection::open(&path)
            .unwrap()
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        set(99);
        let before = fs::read(&path).unwrap();
        let error = refusal(dir.path());
        assert!(
            matches!(error, OpenError::NewerSchema { found: 99, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(schema.file), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
        set(version);
    }
    open(dir.path()).unwrap();
}

#[test]
fn a_database_of_another_program_is_refused_and_left_as_it_is() {
    for sql in [
        "CREATE TABLE theirs (x)",
        "PRAGMA application_id = 5; PRAGMA user_version = 1",
    ] {
        let dir = in_memory_dir();
        let path = MAIN.path(dir.path());
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let before = fs::read(&path).unwrap();
        let error = refusal(dir.path());
        assert!(error.to_string().contains("another program"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[tokio::test]
async fn a_corrupt_file_is_refused_with_its_name() {
    let dir = in_memory_dir();
    let store = open(dir.path()).unwrap();
    let writer = registered(&store).await;
    for seq in 1..=50 {
        store.append(sized(writer, seq, 10_000)).await.unwrap();
    }
    for _ in 0..200 {
        store.change(create(Resource::Tenant(tenant()))).await.unwrap();
    }
    drop(store);
    for schema in [&LOG, &MAIN] {
        let path = schema.path(dir.path());
        let whole = fs::read(&path).unwrap();
        let garbled = |at: usize, len: usize| {
            let mut bytes = whole.clone();
            bytes[at..at + len].fill(0xA5);
            bytes
        };
        for (what, bytes) in [
            (
                "no database",
                b"not a database, but long enough to have had a header. ".repeat(20),
            ),
            ("a garbled header", garbled(0, 100)),
            ("a garbled schema", garbled(100, 3000)),
            ("garbled pages", garbled(4096 * 2, 4096 * 10)),
            ("cut off in the middle", whole[..whole.len() / 2].to_vec()),
            ("emptied", Vec::new()),
        ] {
            fs::write(&path, &bytes).unwrap();
            let error = refusal(dir.path());
            assert!(matches!(error, OpenError::Corrupt { .. }), "{what}: {error:?}");
            assert!(error.to_string().contains(schema.file), "{what}: {error}");
        }
        fs::remove_file(&path).unwrap();
        let error = refusal(dir.path());
        assert!(matches!(error, OpenError::Corrupt { .. }), "removed: {error:?}");
        // An empty file was made in its place; the real one brings everything back.
        for left in ["-wal", "-shm"] {
            let left = dir.path().join(format!("{}{left}", schema.file));
            assert!(!left.exists() || fs::remove_file(left).is_ok());
        }
        fs::write(&path, &whole).unwrap();
        assert_holds(&open(dir.path()).unwrap(), writer, 50, 10_000).await;
    }
}

#[test]
fn files_of_two_installs_are_not_mixed() {
    let (one, two) = (in_memory_dir(), in_memory_dir());
    for dir in [&one, &two] {
        drop(open(dir.path()).unwrap());
    }
    fs::copy(LOG.path(one.path()), LOG.path(two.path())).unwrap();
    let error = refusal(two.path());
    assert!(error.to_string().contains("another install"), "{error}");
}

#[tokio::test]
async fn a_creation_that_was_cut_off_is_completed() {
    let dir = in_memory_dir();
    drop(open(dir.path()).unwrap());
    // Whatever the first start had made of main.db; log.db is made first.
    fs::remove_file(MAIN.path(dir.path())).unwrap();
    drop(open(dir.path()).unwrap());
    Connection::open(MAIN.path(dir.path()))
        .unwrap()
        .execute_batch("DELETE FROM install")
        .unwrap();
    drop(open(dir.path()).unwrap());
    fs::write(MAIN.path(dir.path()), "").unwrap();
    let store = open(dir.path()).unwrap();
    let writer = registered(&store).await;
    store.append(sized(writer, 1, 10)).await.unwrap();
}

#[tokio::test]
async fn one_failing_piece_of_work_does_not_fail_its_group() {
    let dir = in_memory_dir();
    let store = open(dir.path()).unwrap();
    let writer = registered(&store).await;
    store.append(sized(writer, 1, 100)).await.unwrap();
    // Given together, so that they are committed together: a clash among good ones.
    let appends = (1..=40).map(|seq| store.append(sized(writer, seq, if seq == 1 { 101 } else { 100 })));
    let outcomes = futures::future::join_all(appends).await;
    assert!(outcomes[0].is_err());
    assert!(outcomes[1..].iter().all(Result::is_ok), "{outcomes:?}");
    assert_holds(&store, writer, 40, 100).await;
}

#[tokio::test]
async fn who_stops_waiting_disturbs_nobody() {
    let dir = in_memory_dir();
    let store = open(dir.path()).unwrap();
    let writer = registered(&store).await;
    for seq in 1..=20 {
        let mut append = store.append(sized(writer, seq, 10));
        if seq % 2 == 0 {
            append.await.unwrap();
        } else {
            // Given to the writer, and perhaps answered already.
            drop(futures::poll!(&mut append));
        }
    }
    assert_holds(&store, writer, 20, 10).await;
}
