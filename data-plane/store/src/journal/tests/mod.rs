//! The journal's files: what was acknowledged is found again, whatever became of the process or the file's end.

mod damage;
mod kill;
mod succession;
mod unreadable;

use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use tempfile::TempDir;

use super::*;
use crate::{
    clock::Timestamp,
    conformance::samples::{P, Q, batch},
    id::IdCipher,
    sqlite::conformance::in_memory_dir,
};

fn row(writer: WriterId) -> WriterRow {
    WriterRow {
        writer,
        node: "node".to_owned(),
        beat: 0,
        heads: Heads::new(),
        closed: None,
        registered_at: Timestamp::from_millis(1000),
    }
}

fn install() -> Install {
    Install {
        partitions: 8,
        ids: IdCipher::new(&[7; 16]),
        created_at: Timestamp::EPOCH,
    }
}

fn config(dir: &TempDir) -> JournalConfig {
    JournalConfig::new(dir.path().to_owned())
}

async fn begun(config: JournalConfig, writer: WriterId) -> Journal {
    let journal = Journal::open(config).unwrap();
    journal.begin(&row(writer), &install()).await.unwrap();
    journal
}

/// Everything that dead writers left, as it would be shipped.
async fn recovered(dir: &TempDir) -> Vec<Batch> {
    let journal = Journal::open(config(dir)).unwrap();
    let mut batches = Vec::new();
    for dead in journal.left() {
        for positions in journal.recover(&dead).await.unwrap().waiting.into_values() {
            let read = journal.read(dead.writer, positions.into()).await.unwrap();
            batches.extend(read.into_iter().map(Option::unwrap));
        }
    }
    batches
}

fn names(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn large(writer: WriterId, seq: u64) -> Batch {
    Batch {
        body: vec![7; 64 * 1024].into(),
        ..batch(P, writer, seq)
    }
}

#[tokio::test]
async fn what_was_journaled_is_there_at_the_next_start_in_order() {
    let (dir, writer) = (in_memory_dir(), WriterId::random());
    let journal = begun(config(&dir), writer).await;
    let batches: Vec<_> = (1..=50)
        .flat_map(|seq| [batch(P, writer, seq), batch(Q, writer, seq)])
        .collect();
    // Two at a time, as two partitions write.
    for pair in batches.chunks(2) {
        let written = join_all(pair.iter().map(|batch| journal.write(batch.clone()))).await;
        assert!(written.iter().all(Result::is_ok));
    }
    drop(journal);
    let found = recovered(&dir).await;
    for partition in [P, Q] {
        let of = |all: &[Batch]| -> Vec<Batch> {
            let of = all.iter().filter(|batch| batch.partition == partition);
            of.cloned().collect()
        };
        assert_eq!(of(&found), of(&batches));
    }
    // Read, but not shipped: another restart finds it again.
    assert_eq!(recovered(&dir).await.len(), 100);
}

#[tokio::test]
async fn two_processes_do_not_share_a_directory() {
    let dir = in_memory_dir();
    let journal = Journal::open(config(&dir)).unwrap();
    let second = Journal::open(config(&dir)).unwrap_err();
    assert!(matches!(second, JournalError::InUse { .. }), "{second}");
    drop(journal);
    Journal::open(config(&dir)).unwrap();
}

#[tokio::test]
async fn a_segment_goes_when_all_its_batches_are_shipped_and_not_before() {
    let (dir, writer) = (in_memory_dir(), WriterId::random());
    let journal = begun(config(&dir), writer).await;
    let (marker, first) = (format!("{writer}.writer"), format!("0000000001-{writer}.journal"));
    let one = journal.write(batch(P, writer, 1)).await.unwrap();
    let two = journal.write(batch(Q, writer, 1)).await.unwrap();
    journal.resolve(vec![one]).await;
    let three = journal.write(batch(P, writer, 2)).await.unwrap();
    assert_eq!(
        names(&dir),
        [first.clone(), marker.clone(), "qrelay.lock".to_owned()]
    );
    journal.resolve(vec![two, three]).await;
    // Another is begun for what comes later.
    let four = journal.write(batch(P, writer, 3)).await.unwrap();
    let second = first.replace("0000000001", "0000000002");
    assert_eq!(names(&dir), [second, marker, "qrelay.lock".to_owned()]);
    journal.resolve(vec![four]).await;
    journal.end(writer).await.unwrap();
    assert_eq!(names(&dir), ["qrelay.lock"]);
    drop(journal);
    assert!(Journal::open(config(&dir)).unwrap().left().is_empty());
}

#[tokio::test]
async fn large_journals_are_many_files_and_the_oldest_goes_first() {
    let (dir, writer) = (in_memory_dir(), WriterId::random());
    let journal = begun(config(&dir), writer).await;
    let mut positions = Vec::new();
    for seq in 1..=600 {
        positions.push(journal.write(large(writer, seq)).await.unwrap());
    }
    assert_eq!(positions.last().unwrap().segment, 3);
    let (first, rest): (Vec<_>, Vec<_>) = positions.into_iter().partition(|at| at.segment == 1);
    let read = journal.read(writer, vec![first[0], rest[0]]).await.unwrap();
    assert_eq!(read[0], Some(large(writer, 1)));
    let kept = u64::try_from(first.len()).unwrap() + 1;
    assert_eq!(read[1], Some(large(writer, kept)));
    journal.resolve(first).await;
    drop(journal);
    let found = recovered(&dir).await;
    assert_eq!(found.first().map(|batch| batch.seq), Some(Seq::new(kept)));
    assert_eq!(found.len(), rest.len());
}

#[tokio::test]
async fn a_full_journal_says_so_and_takes_more_once_something_is_shipped() {
    let (dir, writer) = (in_memory_dir(), WriterId::random());
    let bytes_max = 10 * 66 * 1024;
    let small = JournalConfig {
        bytes_max,
        ..config(&dir)
    };
    let journal = begun(small.clone(), writer).await;
    let mut taken = Vec::new();
    let refused = loop {
        let seq = u64::try_from(taken.len()).unwrap() + 1;
        match journal.write(large(writer, seq)).await {
            Ok(position) => taken.push(position),
            Err(error) => break error,
        }
    };
    assert_eq!((refused, taken.len()), (WriteError::Full, 10));
    // What an earlier process left counts too.
    drop(journal);
    let other = WriterId::random();
    let journal = begun(small, other).await;
    assert_eq!(journal.write(large(other, 1)).await, Err(WriteError::Full));
    let dead = journal.left().remove(0);
    let left = journal.recover(&dead).await.unwrap();
    journal.resolve(left.waiting[&P].iter().copied().collect()).await;
    journal.write(large(other, 1)).await.unwrap();
}

#[tokio::test]
async fn small_batches_count_for_enough_that_memory_is_bounded() {
    let (dir, writer) = (in_memory_dir(), WriterId::random());
    let bytes_max = 100 * u64::try_from(limits::JOURNAL_CHARGE_MIN).unwrap() + 100;
    let small = JournalConfig {
        bytes_max,
        ..config(&dir)
    };
    let journal = begun(small, writer).await;
    let mut taken = 0;
    while journal.write(batch(P, writer, taken + 1)).await.is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 100);
}

#[tokio::test]
async fn a_failed_write_is_not_acknowledged_and_the_journal_goes_on_in_another_file() {
    let (dir, writer) = (in_memory_dir(), WriterId::random());
    let broken = Arc::new(AtomicBool::new(false));
    let before_write: BeforeWrite = {
        let broken = Arc::clone(&broken);
        Arc::new(move || match broken.load(Ordering::SeqCst) {
            true => Err(io::Error::from(io::ErrorKind::StorageFull)),
            false => Ok(()),
        })
    };
    let journal = Journal::open_with(config(&dir), before_write, Reading::default()).unwrap();
    journal.begin(&row(writer), &install()).await.unwrap();
    let one = journal.write(batch(P, writer, 1)).await.unwrap();
    broken.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = journal.write(batch(P, writer, 2)).await.unwrap_err();
        assert!(matches!(refused, WriteError::Disk(_)), "{refused}");
    }
    broken.store(false, Ordering::SeqCst);
    let two = journal.write(batch(P, writer, 2)).await.unwrap();
    assert_ne!(one.segment, two.segment);
    drop(journal);
    let found = recovered(&dir).await;
    assert_eq!(found, [batch(P, writer, 1), batch(P, writer, 2)]);
}

#[tokio::test]
async fn a_writer_that_journaled_nothing_leaves_no_file() {
    let (dir, writer) = (in_memory_dir(), WriterId::random());
    let small = JournalConfig {
        bytes_max: 1024,
        ..config(&dir)
    };
    let journal = begun(small, writer).await;
    // The file is made, and then there is no room for the batch.
    assert_eq!(journal.write(large(writer, 1)).await, Err(WriteError::Full));
    assert_eq!(names(&dir).len(), 3);
    journal.end(writer).await.unwrap();
    assert_eq!(names(&dir), ["qrelay.lock"]);
}

#[tokio::test]
async fn a_journal_can_be_looked_at_while_it_is_used_and_afterwards() {
    let (dir, writer) = (in_memory_dir(), WriterId::random());
    assert!(matches!(inspect(dir.path()), Err(JournalError::Missing { .. })));
    let journal = begun(config(&dir), writer).await;
    let position = journal.write(batch(P, writer, 1)).await.unwrap();
    let seen = inspect(dir.path()).unwrap();
    assert_eq!(seen.in_use_by, Some(format!("process {}", std::process::id())));
    let contents = seen.writers[0].contents().unwrap();
    assert_eq!((seen.writers[0].writer, contents[0].found.len()), (writer, 1));
    // What is shipped between the look and the reading is not there any more, and that is no damage.
    journal.resolve(vec![position]).await;
    journal.end(writer).await.unwrap();
    assert!(seen.writers[0].contents().unwrap().is_empty());
    drop(journal);
    let nothing = Inspected {
        in_use_by: None,
        writers: Vec::new(),
        aside: Vec::new(),
    };
    assert_eq!(inspect(dir.path()).unwrap(), nothing);
}

#[tokio::test]
async fn a_journal_of_another_install_is_refused() {
    let dir = in_memory_dir();
    drop(begun(config(&dir), WriterId::random()).await);
    let journal = Journal::open(config(&dir)).unwrap();
    journal.check_install(&install()).unwrap();
    let other = Install {
        ids: IdCipher::new(&[8; 16]),
        ..install()
    };
    let refused = journal.begin(&row(WriterId::random()), &other).await.unwrap_err();
    assert!(matches!(refused, JournalError::OtherInstall { .. }), "{refused}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_a_clear_error() {
    let dir = in_memory_dir();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = Journal::open(JournalConfig::new(file.join("journal"))).unwrap_err();
    assert!(matches!(error, JournalError::Directory { .. }), "{error}");
}
