//! Disks that are full, read-only, failing or gone: a clear error, nothing acknowledged that is not stored, and
//! recovery by itself once the cause is gone.
//!
//! Where a test cannot make the disk itself misbehave, the connection is made to: `max_page_count` gives the error
//! of a full disk and `query_only` that of a read-only one, on every connection until it is healed. The real things
//! run in a process of their own: a small file system that fills up and is mounted read-only where mounting is
//! permitted, and a file size limit as an I/O error everywhere.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU8, Ordering},
};

use super::*;
use crate::{
    conformance::samples::{create, tenant},
    model::Resource,
    sqlite::{conformance::in_memory_dir, writer::Atomicity},
    store::{ChangeError, Registry, StoreError},
};

const BYTES: usize = 20_000;

#[derive(Default)]
struct Disk(AtomicU8);

const HEALTHY: u8 = 0;
const FULL: u8 = 1;
const READ_ONLY: u8 = 2;

impl Disk {
    fn open(self: &Arc<Self>, dir: &Path) -> Arc<SqliteStore> {
        let disk = Arc::clone(self);
        let on_connect: OnConnect = Arc::new(move |connection| disk.apply(connection));
        SqliteStore::open_with(dir, &Options::default(), &on_connect).unwrap()
    }

    fn apply(&self, connection: &Connection) -> rusqlite::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            // The least that it can be is what there is.
            FULL => connection.query_row("PRAGMA max_page_count = 1", [], |_| Ok(())),
            READ_ONLY => connection.pragma_update(None, "query_only", "ON"),
            _ => Ok(()),
        }
    }

    async fn break_down(self: &Arc<Self>, store: &SqliteStore, how: u8) {
        self.0.store(how, Ordering::SeqCst);
        for writer in [&store.log_writer, &store.main_writer] {
            let disk = Arc::clone(self);
            // A connection that cannot write any more cannot end its transaction well either.
            drop(
                writer
                    .submit(Atomicity::OneStatement, move |connection| {
                        Ok(disk.apply(connection)?)
                    })
                    .await,
            );
        }
    }
}

fn is_unavailable<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Unavailable(_)))
}

/// While the disk is broken nothing is acknowledged and everything can be read; afterwards all goes on.
async fn fails_clearly_and_recovers(how: u8, words: &str) {
    let (dir, disk) = (in_memory_dir(), Arc::new(Disk::default()));
    let store = disk.open(dir.path());
    let writer = registered(&store).await;
    for seq in 1..=3 {
        store.append(sized(writer, seq, BYTES)).await.unwrap();
    }
    disk.break_down(&store, how).await;
    let mut refused = 0;
    for _ in 0..5 {
        let outcome = store.append(sized(writer, 4, BYTES)).await;
        assert!(is_unavailable(&outcome), "{outcome:?}");
        assert!(outcome.unwrap_err().to_string().contains(words));
        // A page may have room for a few rows yet, and then it is full.
        let changes = (0..40).map(|_| store.change(create(Resource::Tenant(tenant()))));
        for outcome in futures::future::join_all(changes).await {
            match outcome {
                Ok(_) => assert_eq!(how, FULL),
                Err(ChangeError::Store(StoreError::Unavailable(_))) => refused += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    assert!(refused > 0);
    assert_holds(&store, writer, 3, BYTES).await;
    assert_eq!(store.batch(P, writer, Seq::new(4)).await.unwrap(), None);
    disk.0.store(HEALTHY, Ordering::SeqCst);
    // A connection that was opened on the broken disk fails once more, as soon as its last page is full, and is replaced.
    let mut failures = [0; 2];
    for seq in 4..=6 {
        while let Err(error) = store.append(sized(writer, seq, BYTES)).await {
            assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
            failures[0] += 1;
        }
        while let Err(error) = store.change(create(Resource::Tenant(tenant()))).await {
            assert!(
                matches!(error, ChangeError::Store(StoreError::Unavailable(_))),
                "{error:?}"
            );
            failures[1] += 1;
        }
    }
    assert!(failures.iter().all(|failures| *failures <= 1), "{failures:?}");
    drop(store);
    let store = disk.open(dir.path());
    assert_holds(&store, writer, 6, BYTES).await;
}

#[tokio::test]
async fn a_full_database_takes_nothing_and_goes_on_when_there_is_room() {
    fails_clearly_and_recovers(FULL, "full").await;
}

#[tokio::test]
async fn a_read_only_database_takes_nothing_and_goes_on_when_it_is_writable() {
    fails_clearly_and_recovers(READ_ONLY, "readonly").await;
}

#[tokio::test]
async fn a_directory_that_was_moved_away_takes_nothing_until_it_is_back() {
    let parent = in_memory_dir();
    let (dir, away) = (parent.path().join("data"), parent.path().join("away"));
    let store = SqliteStore::open(&dir, &Options::default()).unwrap();
    let writer = registered(&store).await;
    store.append(sized(writer, 1, BYTES)).await.unwrap();
    fs::rename(&dir, &away).unwrap();
    for _ in 0..3 {
        let outcome = store.append(sized(writer, 2, BYTES)).await;
        assert!(is_unavailable(&outcome), "{outcome:?}");
    }
    // Another directory in its place is not ours either.
    drop(SqliteStore::open(&dir, &Options::default()).unwrap());
    for _ in 0..3 {
        let outcome = store.append(sized(writer, 2, BYTES)).await;
        assert!(is_unavailable(&outcome), "{outcome:?}");
    }
    fs::remove_dir_all(&dir).unwrap();
    fs::rename(&away, &dir).unwrap();
    for seq in 2..=3 {
        store.append(sized(writer, seq, BYTES)).await.unwrap();
    }
    drop(store);
    assert_holds(
        &SqliteStore::open(&dir, &Options::default()).unwrap(),
        writer,
        3,
        BYTES,
    )
    .await;
}

#[tokio::test]
async fn a_page_that_is_damaged_while_running_is_told_as_damage_and_the_log_goes_on() {
    let dir = in_memory_dir();
    let store = SqliteStore::open(dir.path(), &Options::default()).unwrap();
    let writer = registered(&store).await;
    let mut tenants = Vec::new();
    for _ in 0..300 {
        let tenant = tenant();
        tenants.push(tenant.id);
        store.change(create(Resource::Tenant(tenant))).await.unwrap();
    }
    drop(store);
    let store = SqliteStore::open(dir.path(), &Options::default()).unwrap();
    let path = MAIN.path(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    // All but the first page, which says what the others are.
    bytes[4096..].fill(0xA5);
    fs::write(&path, bytes).unwrap();
    let outcome = store.tenant(tenants[150]).await;
    assert!(matches!(outcome, Err(StoreError::Corrupt(_))), "{outcome:?}");
    for seq in 1..=3 {
        store.append(sized(writer, seq, BYTES)).await.unwrap();
    }
    assert_holds(&store, writer, 3, BYTES).await;
}

// ---- In a process of its own ----

/// Runs one of the ignored tests below in its own process, through `sh`: `$0` is this program, `$1` the test.
fn in_own_process(shell: &[&str], script: &str, test: &str) -> Output {
    let (first, rest) = shell.split_first().unwrap();
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    Command::new(first)
        .args(rest)
        .args(["sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .output()
        .unwrap()
}

fn assert_passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{errors}"
    );
}

/// What makes a mount namespace of one's own, if anything may.
fn namespace() -> Option<&'static [&'static str]> {
    const WAYS: [&[&str]; 2] = [
        &["unshare", "--mount"],
        &["unshare", "--mount", "--map-root-user"],
    ];
    WAYS.into_iter().find(|way| {
        let mount = ["sh", "-c", "mount -t tmpfs -o size=64k none /mnt"];
        let tried = Command::new(way[0]).args(&way[1..]).args(mount).output();
        tried.is_ok_and(|output| output.status.success())
    })
}

#[test]
fn a_full_disk_takes_nothing_and_goes_on_when_there_is_room() {
    let Some(namespace) = namespace() else {
        println!("skipped: mounting is not permitted here");
        return;
    };
    let script = r#"mount -t tmpfs -o size=3m none /mnt && cd /mnt && exec "$0" --exact "$1" --ignored"#;
    assert_passed(&in_own_process(namespace, script, "on_a_small_file_system"));
}

#[test]
fn a_read_only_disk_is_refused_and_taken_when_it_is_writable() {
    let Some(namespace) = namespace() else {
        println!("skipped: mounting is not permitted here");
        return;
    };
    let script = r#"mount -t tmpfs -o size=64m none /mnt && cd /mnt && exec "$0" --exact "$1" --ignored"#;
    assert_passed(&in_own_process(
        namespace,
        script,
        "on_a_file_system_that_becomes_read_only",
    ));
}

#[test]
fn an_io_error_takes_nothing_and_goes_on_when_the_disk_works() {
    // Ignored, the signal leaves an error in its place.
    let script = r#"trap '' XFSZ; exec "$0" --exact "$1" --ignored"#;
    assert_passed(&in_own_process(&["env"], script, "under_a_file_size_limit"));
}

/// The file system that a test was started on, if it is one made for it.
fn own_file_system(bytes_max: u64) -> Option<PathBuf> {
    let dir = std::env::current_dir().unwrap();
    let stat = rustix::fs::statvfs(&dir).unwrap();
    (stat.f_blocks * stat.f_frsize <= bytes_max).then_some(dir)
}

#[tokio::test]
#[ignore = "run by `a_full_disk_takes_nothing_and_goes_on_when_there_is_room`, on a file system of its own"]
async fn on_a_small_file_system() {
    let Some(root) = own_file_system(4 << 20) else {
        return;
    };
    let (dir, filler) = (root.join("data"), root.join("filler"));
    fs::write(&filler, vec![1; 1 << 20]).unwrap();
    let store = SqliteStore::open(&dir, &Options::default()).unwrap();
    let writer = registered(&store).await;
    let mut acknowledged = 0;
    let error = loop {
        match store.append(sized(writer, acknowledged + 1, BYTES)).await {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "3 MiB take no 20 MB");
    };
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(acknowledged > 5);
    for _ in 0..5 {
        assert!(is_unavailable(
            &store.append(sized(writer, acknowledged + 1, BYTES)).await
        ));
    }
    assert_holds(&store, writer, acknowledged, BYTES).await;
    fs::remove_file(&filler).unwrap();
    for _ in 0..10 {
        acknowledged += 1;
        store.append(sized(writer, acknowledged, BYTES)).await.unwrap();
    }
    drop(store);
    let store = SqliteStore::open(&dir, &Options::default()).unwrap();
    assert_holds(&store, writer, acknowledged, BYTES).await;
}

#[tokio::test]
#[ignore = "run by `a_read_only_disk_is_refused_and_taken_when_it_is_writable`, on a file system of its own"]
async fn on_a_file_system_that_becomes_read_only() {
    let Some(root) = own_file_system(64 << 20) else {
        return;
    };
    let remount = |how: &str| {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(&root)
            .status();
        assert!(status.unwrap().success());
    };
    let dir = root.join("data");
    let store = SqliteStore::open(&dir, &Options::default()).unwrap();
    let writer = registered(&store).await;
    store.append(sized(writer, 1, BYTES)).await.unwrap();
    drop(store);
    remount("ro");
    let error = SqliteStore::open(&dir, &Options::default()).unwrap_err();
    let OpenError::Directory { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(source.to_string().contains("Read-only"), "{source}");
    remount("rw");
    let store = SqliteStore::open(&dir, &Options::default()).unwrap();
    store.append(sized(writer, 2, BYTES)).await.unwrap();
    assert_holds(&store, writer, 2, BYTES).await;
}

#[tokio::test]
#[ignore = "run by `an_io_error_takes_nothing_and_goes_on_when_the_disk_works`, in a process of its own"]
async fn under_a_file_size_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let signal_ignored = fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        // SIGXFSZ is 25.
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask >> 24 & 1 == 1)
    });
    if !signal_ignored {
        return;
    }
    let unlimited = getrlimit(Resource::Fsize);
    let limit = |bytes| {
        setrlimit(
            Resource::Fsize,
            Rlimit {
                current: bytes,
                ..unlimited
            },
        )
        .unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path(), &Options::default()).unwrap();
    let writer = registered(&store).await;
    let mut acknowledged = 0;
    for round in 1..=3_u64 {
        limit(Some(round * 300_000));
        let error = loop {
            match store.append(sized(writer, acknowledged + 1, BYTES)).await {
                Ok(()) => acknowledged += 1,
                Err(error) => break error,
            }
            assert!(acknowledged < 1000, "a limited file takes no 20 MB");
        };
        assert!(
            matches!(&error, StoreError::Unavailable(why) if why.contains("I/O")),
            "{error:?}"
        );
        assert_holds(&store, writer, acknowledged, BYTES).await;
        limit(unlimited.current);
        acknowledged += 1;
        store.append(sized(writer, acknowledged, BYTES)).await.unwrap();
    }
    drop(store);
    let store = SqliteStore::open(dir.path(), &Options::default()).unwrap();
    assert_holds(&store, writer, acknowledged, BYTES).await;
}
