//! The conformance suite, run against this backend.

use std::{fs, path::Path, sync::Arc};

use rusqlite::Connection;
use tempfile::TempDir;

use super::{
    Options, SqliteStore,
    schema::{LOG, MAIN, Schema},
};
use crate::{conformance::Fixture, conformance_tests, store::SharedStore};

/// An empty store in a directory that lives as long as this.
pub(crate) struct Embedded {
    dir: TempDir,
    store: Arc<SqliteStore>,
}

impl Embedded {
    fn at(dir: TempDir) -> Self {
        let store = SqliteStore::open(dir.path(), &Options::default()).unwrap();
        Self { dir, store }
    }
}

impl Fixture for Embedded {
    async fn open() -> Self {
        Self::at(in_memory_dir())
    }

    fn store(&self) -> SharedStore {
        Arc::clone(&self.store) as SharedStore
    }

    async fn restart(self) -> Self {
        drop(self.store);
        Self::at(self.dir)
    }

    async fn crash(self) -> Self {
        let image = in_memory_dir();
        for schema in [&LOG, &MAIN] {
            copy_as_after_a_crash(self.dir.path(), image.path(), schema);
        }
        Self::at(image)
    }
}

/// A directory in memory where there is one: these tests wait for thousands of commits, and what a power failure
/// leaves is played by copying.
pub(crate) fn in_memory_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// Copies a file and its WAL as a power failure would leave them, while they may be written to. A reader holds the
/// WAL in place meanwhile: what a checkpoint writes into the database file during the copy is in the WAL too.
pub(super) fn copy_as_after_a_crash(from: &Path, to: &Path, schema: &Schema) {
    let reader = Connection::open(schema.path(from)).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")
        .unwrap();
    let wal = |dir: &Path| dir.join(format!("{}-wal", schema.file));
    fs::copy(schema.path(from), schema.path(to)).unwrap();
    fs::copy(wal(from), wal(to)).unwrap();
}

conformance_tests!(Embedded);
