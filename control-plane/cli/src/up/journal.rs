//! The journal of an edge on the embedded store.
//!
//! The data directory's lock proves that earlier writers are dead, but not that all they answered is in the store: it may
//! be in a journal. So the data directory keeps a note of the writers that had a journal, and where; a start that would
//! close one of them without its journal, and lose what is in it, is refused.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use qrelay_store::{
    id::WriterId,
    journal::{self, Journal, JournalConfig},
    store::{SharedStore, StoreError},
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::error::StartError;

/// The note's name.
const NOTE: &str = "journal.json";

/// Which writers had a journal, and where.
#[derive(Serialize, Deserialize, Debug)]
struct Note {
    dir: PathBuf,
    writers: BTreeSet<WriterId>,
}

/// Opens the journal that is configured, if any, and makes sure that no other has something of this store. `data_dir`: the
/// embedded store's.
pub(super) async fn open(
    data_dir: Option<&Path>,
    config: Option<JournalConfig>,
    store: &SharedStore,
) -> Result<Option<Journal>, StartError> {
    let journal = match config {
        None => None,
        Some(config) => Some(blocking(move || Journal::open(config)).await?),
    };
    if let Some(journal) = &journal {
        journal.check_install(store.install())?;
    }
    // Of a cluster a writer is closed by nobody but who has its journal.
    let Some(from) = data_dir.map(Path::to_owned) else {
        return Ok(journal);
    };
    let noted = blocking(move || Note::read(&from)).await;
    if let Some(noted) = noted.map_err(StartError::JournalNote)? {
        let here = journal.iter().flat_map(Journal::left).map(|dead| dead.writer);
        let missing = noted.missing(store, here.collect()).await?;
        if !missing.is_empty() {
            return Err(StartError::JournalElsewhere {
                dir: noted.dir,
                writers: missing,
            });
        }
    }
    Ok(journal)
}

/// Notes who is not closed without this journal. Before the first scan is answered.
pub(super) async fn note(data_dir: &Path, journal: &Journal, writer: WriterId) -> Result<(), StartError> {
    let dir = journal.config().dir.clone();
    let note = Note {
        // A name that does not depend on where the process was started.
        dir: dir.canonicalize().unwrap_or(dir),
        writers: journal
            .left()
            .iter()
            .map(|dead| dead.writer)
            .chain([writer])
            .collect(),
    };
    let to = data_dir.to_owned();
    let written = blocking(move || note.write(&to)).await;
    written.map_err(StartError::JournalNote)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = spawn_blocking(work).await;
    done.expect("invariant: what touches the journal's files does not panic")
}

impl Note {
    fn read(data_dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(data_dir.join(NOTE)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, data_dir: &Path) -> io::Result<()> {
        let (path, new) = (data_dir.join(NOTE), data_dir.join(NOTE).with_extension("new"));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(new, path)?;
        File::open(data_dir)?.sync_all()
    }

    /// Its writers that are not closed, and of which something may be in a journal that is not here.
    async fn missing(
        &self,
        store: &SharedStore,
        here: BTreeSet<WriterId>,
    ) -> Result<Vec<WriterId>, StoreError> {
        let rows = store.writers().await?;
        let open = rows.into_iter().filter(|row| row.closed.is_none());
        let elsewhere: Vec<_> = open
            .map(|row| row.writer)
            .filter(|writer| self.writers.contains(writer) && !here.contains(writer))
            .collect();
        if elsewhere.is_empty() {
            return Ok(elsewhere);
        }
        let dir = self.dir.clone();
        let nothing_left = blocking(move || nothing_left(&dir)).await;
        Ok(elsewhere
            .into_iter()
            .filter(|writer| !nothing_left.contains(writer))
            .collect())
    }
}

/// Writers of a journal that journaled nothing, or of whom all was shipped. A directory that is not there says
/// nothing of anybody.
fn nothing_left(dir: &Path) -> BTreeSet<WriterId> {
    let Ok(seen) = journal::inspect(dir) else {
        return BTreeSet::new();
    };
    let writers = seen.writers.into_iter();
    writers
        .filter(journal::DeadWriter::is_empty)
        .map(|dead| dead.writer)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qrelay_store::{
        clock::SystemClock,
        sqlite::{Options, SqliteStore},
        store::WriterRow,
    };
    use tempfile::TempDir;

    use super::*;

    /// A store, and a writer of it that had a journal and died.
    struct Died {
        dir: TempDir,
        store: SharedStore,
        writer: WriterId,
    }

    impl Died {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = SqliteStore::open(&dir.path().join("data"), &Options::default()).unwrap();
            let row = WriterRow::new("node", &(Arc::new(SystemClock) as _));
            let died = Self {
                dir,
                store,
                writer: row.writer,
            };
            let journal = died.open(Some("journal")).await.unwrap().unwrap();
            journal.begin(&row, died.store.install()).await.unwrap();
            died.store.register_writer(&row).await.unwrap();
            note(&died.path("data"), &journal, row.writer).await.unwrap();
            died
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        async fn open(&self, journal: Option<&str>) -> Result<Option<Journal>, StartError> {
            let config = journal.map(|name| JournalConfig::new(self.path(name)));
            open(Some(&self.path("data")), config, &self.store).await
        }

        async fn journals_a_batch(&self) {
            let journal = self.open(Some("journal")).await.unwrap().unwrap();
            let row = self.store.writers().await.unwrap().remove(0);
            journal.begin(&row, self.store.install()).await.unwrap();
            let batch = crate::operator::journal::tests::batch(self.writer, 1);
            journal.write(batch).await.unwrap();
        }

        fn is_missing(&self, opened: &Result<Option<Journal>, StartError>) -> bool {
            matches!(opened, Err(StartError::JournalElsewhere { writers, .. }) if *writers == [self.writer])
        }
    }

    #[tokio::test]
    async fn a_store_is_not_started_without_the_journal_that_has_scans_of_it() {
        let died = Died::new().await;
        died.journals_a_batch().await;
        for other in [None, Some("other")] {
            let opened = died.open(other).await;
            assert!(died.is_missing(&opened), "{opened:?}");
        }
        assert!(died.open(Some("journal")).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn nor_with_an_empty_one_in_its_place_because_its_disk_is_not_there() {
        let died = Died::new().await;
        died.journals_a_batch().await;
        fs::rename(died.path("journal"), died.path("elsewhere")).unwrap();
        for _ in 0..2 {
            let opened = died.open(Some("journal")).await;
            assert!(died.is_missing(&opened), "{opened:?}");
        }
        fs::remove_dir_all(died.path("journal")).unwrap();
        fs::rename(died.path("elsewhere"), died.path("journal")).unwrap();
        died.open(Some("journal")).await.unwrap();
    }

    #[tokio::test]
    async fn a_journal_with_nothing_in_it_is_not_needed_nor_that_of_a_closed_writer() {
        let died = Died::new().await;
        assert!(died.open(None).await.unwrap().is_none());
        died.journals_a_batch().await;
        let closed = died.store.close_writer(died.writer, &Default::default()).await;
        closed.unwrap();
        assert!(died.open(None).await.unwrap().is_none());
    }
}
