//! What becomes of a dead writer that left nothing, or is given up.

use super::*;
use crate::{
    conformance::Fixture as _,
    journal::succession::{self, abandon, succeed},
    sqlite::conformance::Embedded,
    store::SharedStore,
};

/// A store, and a journal that a dead writer of it left.
struct Left {
    fixture: Embedded,
    dir: TempDir,
    writer: WriterId,
}

impl Left {
    async fn new() -> Self {
        let left = Self {
            fixture: Embedded::open().await,
            dir: in_memory_dir(),
            writer: WriterId::random(),
        };
        let store = left.store();
        let journal = Journal::open(config(&left.dir)).unwrap();
        journal.begin(&row(left.writer), store.install()).await.unwrap();
        store.register_writer(&row(left.writer)).await.unwrap();
        store.append(batch(P, left.writer, 1)).await.unwrap();
        for seq in [2, 3] {
            journal.write(batch(P, left.writer, seq)).await.unwrap();
        }
        left
    }

    fn store(&self) -> SharedStore {
        self.fixture.store()
    }

    fn open(&self) -> (Journal, DeadWriter) {
        let journal = Journal::open(config(&self.dir)).unwrap();
        let dead = journal.left().remove(0);
        (journal, dead)
    }
}

#[tokio::test]
async fn a_writer_without_name_and_batches_is_ended_and_not_registered() {
    let (fixture, dir, writer) = (Embedded::open().await, in_memory_dir(), WriterId::random());
    let key = SegmentKey { writer, segment: 1 };
    fs::write(dir.path().join(segment_name(key)), key.file_header()).unwrap();
    let journal = Journal::open(config(&dir)).unwrap();
    let (store, dead): (SharedStore, _) = (fixture.store(), journal.left().remove(0));
    let done = succeed(&journal, &store, &dead, |error| panic!("{error}")).await;
    assert_eq!(done, succession::Succeeded::default());
    assert_eq!(names(&dir), ["qrelay.lock"]);
    assert_eq!(store.writers().await.unwrap(), []);
}

#[tokio::test]
async fn a_writer_without_name_that_is_not_closed_is_closed() {
    let left = Left::new().await;
    fs::remove_file(left.dir.path().join(format!("{}.writer", left.writer))).unwrap();
    let (journal, dead) = left.open();
    let done = succeed(&journal, &left.store(), &dead, |error| panic!("{error}")).await;
    assert_eq!((done.shipped, done.damaged), (2, 0));
    let closed = left.store().writers().await.unwrap().remove(0).closed;
    assert_eq!(closed, Some(Heads::from([(P, Seq::new(3))])));
    assert_eq!(names(&left.dir), ["qrelay.lock"]);
}

#[tokio::test]
async fn what_is_given_up_is_kept_aside_and_never_shipped() {
    let left = Left::new().await;
    let last = Heads::from([(P, Seq::new(1))]);
    left.store().close_writer(left.writer, &last).await.unwrap();
    let (journal, dead) = left.open();
    let done = abandon(&journal, &dead, last).await.unwrap();
    assert_eq!((done.shipped, done.past_the_end), (0, 2));
    drop(journal);
    let seen = inspect(left.dir.path()).unwrap();
    assert_eq!((seen.writers.len(), seen.aside.len()), (0, 1));
    let tail = left.store().tail(P, left.writer, Seq::ZERO).await.unwrap();
    assert_eq!(tail, Seq::new(1));
}
