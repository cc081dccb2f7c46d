//! A disk that does not give back what it took: for a while, or for good.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "a disk has a list of bad places, mostly of one"
)]

use std::sync::Mutex;

use tokio::time::Instant;

use super::*;

/// A disk some of whose bytes cannot be read, and how often it was asked for them.
#[derive(Clone, Default)]
struct Disk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Default)]
struct DiskState {
    bad: Vec<std::ops::Range<u64>>,
    error: Option<rustix::io::Errno>,
    /// Asked so often, it gives all.
    heals_after: Option<u64>,
    asked: u64,
}

impl Disk {
    fn new(bad: Vec<std::ops::Range<u64>>) -> Self {
        let disk = Self::default();
        disk.state.lock().unwrap().bad = bad;
        disk
    }

    fn fails_with(self, error: rustix::io::Errno) -> Self {
        self.state.lock().unwrap().error = Some(error);
        self
    }

    fn heals_after(self, asked: u64) -> Self {
        self.state.lock().unwrap().heals_after = Some(asked);
        self
    }

    fn journal(&self, dir: &TempDir) -> Journal {
        let state = Arc::clone(&self.state);
        let reading = Reading::with(Arc::new(move |_path, range| {
            let mut state = state.lock().unwrap();
            let meets = |bad: &std::ops::Range<u64>| bad.start < range.end && range.start < bad.end;
            if !state.bad.iter().any(meets) {
                return Ok(());
            }
            state.asked += 1;
            match state.heals_after.is_some_and(|after| state.asked > after) {
                true => Ok(()),
                false => Err(state.error.unwrap_or(rustix::io::Errno::IO).into()),
            }
        }));
        Journal::open_with(config(dir), Arc::new(|| Ok(())), reading).unwrap()
    }
}

/// A journal with five large batches and a small one: where it is, and where they are.
async fn six(writer: WriterId) -> (TempDir, Vec<Position>) {
    let dir = in_memory_dir();
    let journal = begun(config(&dir), writer).await;
    let mut positions = Vec::new();
    for seq in 1..=5 {
        positions.push(journal.write(large(writer, seq)).await.unwrap());
    }
    positions.push(journal.write(batch(P, writer, 6)).await.unwrap());
    (dir, positions)
}

fn begin(position: Position) -> u64 {
    u64::from(position.offset)
}

async fn recovered_from(disk: &Disk, dir: &TempDir) -> (Journal, Recovered) {
    let journal = disk.journal(dir);
    let dead = journal.left().remove(0);
    let recovered = journal.recover(&dead).await.unwrap();
    (journal, recovered)
}

fn of(positions: &[Position], left: &[usize]) -> VecDeque<Position> {
    left.iter().map(|at| positions[*at]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_bad_sector_is_damage_in_the_end_and_costs_the_batch_it_is_in() {
    let writer = WriterId::random();
    let (dir, positions) = six(writer).await;
    let inside = begin(positions[2]) + 20_000;
    let disk = Disk::new(vec![inside..inside + 1]);
    let asked = Instant::now();
    let (journal, recovered) = recovered_from(&disk, &dir).await;
    assert!(
        asked.elapsed() >= limits::JOURNAL_UNREADABLE_AFTER,
        "it is not given up at once"
    );
    assert_eq!(recovered.waiting[&P], of(&positions, &[0, 1, 3, 4, 5]));
    let lost = Trouble::Damaged {
        offset: begin(positions[2]),
        bytes: u64::from(positions[2].bytes),
        batch: Some((P, Seq::new(3))),
    };
    assert_eq!(recovered.troubles, [lost]);
    // The others are shipped, and the file is kept.
    let rest: Vec<_> = recovered.waiting[&P].iter().copied().collect();
    let read = journal.read(writer, rest.clone()).await.unwrap();
    assert_eq!(read[2], Some(large(writer, 4)));
    journal.resolve(rest).await;
    journal.end(writer).await.unwrap();
    assert_eq!(inspect(dir.path()).unwrap().aside.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_sector_costs_the_batches_it_touches_wherever_it_is() {
    let writer = WriterId::random();
    let (dir, positions) = six(writer).await;
    let end = begin(positions[5]) + u64::from(positions[5].bytes);
    for (bad, left) in [
        // The file's header, and the first batch's.
        (0, vec![1, 2, 3, 4, 5]),
        // A batch's header: the sector has the end of the one before.
        (begin(positions[2]) + 8, vec![0, 3, 4, 5]),
        // The end of the file: what cannot be read is not taken for a write that a crash cut off.
        (end - 1, vec![0, 1, 2, 3]),
    ] {
        let (_journal, recovered) = recovered_from(&Disk::new(vec![bad..bad + 1]), &dir).await;
        assert_eq!(recovered.waiting[&P], of(&positions, &left), "byte {bad}");
        let lost = 6 - u64::try_from(left.len()).unwrap();
        assert!(recovered.damaged() >= lost, "byte {bad}");
        let torn = |trouble: &Trouble| matches!(trouble, Trouble::Torn { .. });
        assert!(!recovered.troubles.iter().any(torn), "byte {bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_when_the_disk_gives_it_back_in_time() {
    let writer = WriterId::random();
    let (dir, positions) = six(writer).await;
    let all = 0..u64::MAX;
    for asked in [1, 2, 20] {
        let disk = Disk::new(vec![all.clone()]).heals_after(asked);
        let (_journal, recovered) = recovered_from(&disk, &dir).await;
        assert_eq!(recovered.waiting[&P], of(&positions, &[0, 1, 2, 3, 4, 5]));
        assert_eq!(recovered.troubles, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_in_a_bad_sector_holds_up_no_other_that_is_shipped_with_it() {
    let writer = WriterId::random();
    let (dir, second) = (in_memory_dir(), 65_580..70_000);
    let journal = Disk::new(vec![second.clone()]).journal(&dir);
    journal.begin(&row(writer), &install()).await.unwrap();
    let mut positions = Vec::new();
    for seq in 1..=4 {
        positions.push(journal.write(large(writer, seq)).await.unwrap());
    }
    assert!(begin(positions[1]) > second.start && begin(positions[2]) > second.end);
    let read = journal.read(writer, positions.clone()).await.unwrap();
    let expected = [
        // It ends where the second begins.
        None,
        None,
        Some(large(writer, 3)),
        Some(large(writer, 4)),
    ];
    assert_eq!(read, expected);
    journal.resolve(positions).await;
    journal.end(writer).await.unwrap();
    assert_eq!(inspect(dir.path()).unwrap().aside.len(), 1, "its file is kept");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_is_given_up_too() {
    let writer = WriterId::random();
    let (dir, positions) = six(writer).await;
    let journal = Disk::default().journal(&dir);
    let dead = journal.left().remove(0);
    fs::remove_file(&dead.segments[0].1).unwrap();
    let read = journal.read(writer, positions).await.unwrap();
    assert_eq!(read, vec![None; 6]);
    let recovered = journal.recover(&dead).await.unwrap();
    assert_eq!((recovered.waiting.len(), recovered.damaged()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_not_the_disks_is_no_damage() {
    let writer = WriterId::random();
    let (dir, positions) = six(writer).await;
    for error in [rustix::io::Errno::MFILE, rustix::io::Errno::ACCESS] {
        let disk = Disk::new(vec![0..u64::MAX]).fails_with(error);
        let journal = disk.journal(&dir);
        let dead = journal.left().remove(0);
        let refused = journal.recover(&dead).await.unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(error.raw_os_error()));
        let refused = journal.read(writer, positions.clone()).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    }
}
