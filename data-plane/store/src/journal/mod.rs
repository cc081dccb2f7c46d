//! The journal: batches that the store did not acknowledge in time, synced to a disk of the edge's own.
//!
//! A directory that one process owns at a time, for life ([`crate::directory_lock`]): whoever holds it knows that those
//! who wrote there before are dead, ships what they left under their ids and closes them. Files are
//! segments of entries ([`mod@format`]), which are deleted once the store has all their batches, and a marker for each
//! writer that is not closed ([`marker`]). A thread does the writing, in groups ([`disk`]).
//!
//! Rules: a batch is journaled when it is sealed and never changed; while one of its partition is not known to be in
//! the store, later ones follow it here; they are shipped with the same key and bytes, in order, as often as it
//! takes. What is full says so, and holds nothing back.
//!
//! Memory: a position of 12 bytes per batch that waits, each of which counts for [`limits::JOURNAL_CHARGE_MIN`] at
//! least against the journal's size.

mod disk;
mod format;
mod marker;
mod reading;
mod scan;
pub(crate) mod shipping;
#[cfg(feature = "testing")]
mod simulated;
pub mod succession;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

#[cfg(feature = "testing")]
pub use self::simulated::SimulatedDisk;
use self::{
    disk::{BeforeWrite, Disk, Job, Segment},
    format::{FILE_HEADER_BYTES, HeaderFault, SegmentKey},
    reading::{Reading, Unreadable, is_lost},
};
pub use self::{
    marker::Marker,
    scan::{Found, Trouble},
};
use crate::{
    directory_lock::{DirectoryLock, LockError},
    id::{PartitionId, Seq, WriterId},
    limits,
    store::{Batch, Heads, Install, StoreError, WriterRow},
};

const SEGMENT: &str = "journal";
const DAMAGED: &str = "damaged";

/// How a journal is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalConfig {
    /// Where. Best on a disk that does nothing else.
    pub dir: PathBuf,
    /// How long the store may take to acknowledge a batch before the batch goes to the journal.
    pub append_budget: Duration,
    /// What all files together may take.
    pub bytes_max: u64,
}

impl JournalConfig {
    /// With the default limits.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            append_budget: limits::APPEND_BUDGET_JOURNALED,
            bytes_max: limits::JOURNAL_BYTES_MAX_DEFAULT,
        }
    }
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error("the journal directory {} is in use by {owner}; only one process may use it at a time", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who has it, for people.
        owner: String,
    },
    /// There is no journal to look at.
    #[error("there is no journal in {}", dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory cannot be made, read or locked.
    #[error("cannot use the journal directory {}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A newer release was here.
    #[error("{} has version {found} of the journal, and this release knows versions up to {known}: use the newer release", file.display(), known = format::VERSION)]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u16,
    },
    /// What is in it belongs to another install's store.
    #[error(
        "the journal directory {} has batches of another install: they cannot go to this store",
        dir.display()
    )]
    OtherInstall {
        /// The directory.
        dir: PathBuf,
    },
}

/// Why a batch was not journaled.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WriteError {
    /// It would grow past its size.
    #[error("the journal is full")]
    Full,
    /// The disk does not take it.
    #[error("the journal cannot be written: {0}")]
    Disk(String),
}

/// Where a batch stands in the journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    segment: u32,
    offset: u32,
    bytes: u32,
}

impl Position {
    fn new(segment: u32, offset: usize, bytes: usize) -> Self {
        let narrow = |number: usize| u32::try_from(number).expect("invariant: segments are a few MiB");
        Self {
            segment,
            offset: narrow(offset),
            bytes: narrow(bytes),
        }
    }

    /// Bytes on the disk.
    pub fn bytes(self) -> usize {
        usize::try_from(self.bytes).expect("invariant: u32 fits into usize")
    }
}

/// What a batch counts for, of a body of so many bytes.
fn charge(body: usize) -> u64 {
    let bytes = body + format::ENTRY_HEADER_BYTES;
    u64::try_from(bytes.max(limits::JOURNAL_CHARGE_MIN)).expect("invariant: usize fits into u64")
}

/// A writer that used the directory before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadWriter {
    /// Its id.
    pub writer: WriterId,
    /// Who it was, if that can be read.
    pub marker: Option<Marker>,
    /// Its segments, oldest first.
    segments: Vec<(u32, PathBuf)>,
}

/// What a file of the journal holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contents {
    /// The file.
    pub file: PathBuf,
    /// Its batches, in order.
    pub found: Vec<Found>,
    /// What of it cannot be read.
    pub troubles: Vec<Trouble>,
}

impl DeadWriter {
    /// Whether it left nothing to ship: files are deleted once the store has all that is in them.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// What its segments hold, and what of them cannot be read. A segment that is gone by now is left out: a process that
    /// uses the journal has shipped it. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read for a reason that is not the disk's.
    pub fn contents(&self) -> io::Result<Vec<Contents>> {
        let mut contents = Vec::new();
        for (segment, path) in &self.segments {
            let scan = |unreadable| scan::scan(path, self.key(*segment), &Reading::default(), unreadable);
            let scanned = match scan(Unreadable::Fails) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if is_lost(&error) => scan(Unreadable::IsDamage)?,
                scanned => scanned?,
            };
            contents.push(Contents {
                file: path.clone(),
                found: scanned.found,
                troubles: scanned.troubles,
            });
        }
        Ok(contents)
    }

    fn key(&self, segment: u32) -> SegmentKey {
        SegmentKey {
            writer: self.writer,
            segment,
        }
    }
}

/// What a dead writer left to ship.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Per partition, in order.
    pub waiting: BTreeMap<PartitionId, VecDeque<Position>>,
    /// The last batch of each.
    pub last: Heads,
    /// What cannot be read: already logged and counted.
    pub troubles: Vec<Trouble>,
}

impl Recovered {
    /// Pieces that are lost.
    fn damaged(&self) -> u64 {
        let damaged = |trouble: &&Trouble| matches!(trouble, Trouble::Damaged { .. });
        let damaged = self.troubles.iter().filter(damaged).count();
        u64::try_from(damaged).expect("invariant: usize fits into u64")
    }
}

/// An open journal. Cheap to clone; the last clone that is dropped waits for the thread and gives the directory free.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: JournalConfig,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    left: Mutex<Vec<DeadWriter>>,
    reading: Reading,
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's thread panicked");
        }
    }
}

impl Journal {
    /// Takes the directory, making it on the first start. What is left in it is only listed: how much there is delays
    /// nothing. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn open(config: JournalConfig) -> Result<Self, JournalError> {
        Self::open_with(config, Arc::new(|| Ok(())), Reading::default())
    }

    fn open_with(
        config: JournalConfig,
        before_write: BeforeWrite,
        reading: Reading,
    ) -> Result<Self, JournalError> {
        let start = |disk, waiting| disk::spawn(disk, waiting).map(Some);
        Self::start(config, before_write, reading, start)
    }

    fn start(
        config: JournalConfig,
        before_write: BeforeWrite,
        reading: Reading,
        start: impl FnOnce(Disk, mpsc::Receiver<Job>) -> Result<Option<JoinHandle<()>>, JournalError>,
    ) -> Result<Self, JournalError> {
        let dir = config.dir.clone();
        let lock = DirectoryLock::take(&dir).map_err(|error| match error {
            LockError::InUse(owner) => JournalError::InUse {
                dir: dir.clone(),
                owner,
            },
            LockError::Io(source) => JournalError::Directory {
                dir: dir.clone(),
                source,
            },
        })?;
        let listed = list(&dir)?;
        let next = listed.next;
        let disk = Disk {
            bytes_max: config.bytes_max,
            before_write,
            segments: listed.segments,
            next,
            writer: None,
            active: None,
            aside_bytes: listed.aside_bytes,
            dir,
            _lock: Arc::new(lock),
        };
        let (jobs, waiting) = mpsc::channel(limits::JOURNAL_QUEUE_MAX);
        let thread = start(disk, waiting)?;
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                jobs: Some(jobs),
                thread,
                left: Mutex::new(listed.left),
                reading,
            }),
        })
    }

    /// How it is kept.
    pub fn config(&self) -> &JournalConfig {
        &self.inner.config
    }

    /// The writers of processes that are dead and were not closed, as they were found.
    pub fn left(&self) -> Vec<DeadWriter> {
        self.inner
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Makes sure that what was left belongs to this store.
    ///
    /// # Errors
    /// [`JournalError::OtherInstall`].
    pub fn check_install(&self, install: &Install) -> Result<(), JournalError> {
        let ours = marker::fingerprint(install);
        let foreign = |dead: &DeadWriter| dead.marker.as_ref().is_some_and(|marker| marker.install != ours);
        match self.left().iter().any(foreign) {
            true => Err(JournalError::OtherInstall {
                dir: self.inner.config.dir.clone(),
            }),
            false => Ok(()),
        }
    }

    /// Names the writer whose batches come, durably. Before it registers.
    ///
    /// # Errors
    /// When what was left belongs to another install's store, or the disk does not take it.
    pub async fn begin(&self, row: &WriterRow, install: &Install) -> Result<(), JournalError> {
        self.check_install(install)?;
        let marker = Box::new(Marker {
            writer: row.writer,
            node: row.node.clone(),
            registered_at: row.registered_at,
            install: marker::fingerprint(install),
        });
        let (reply, answer) = oneshot::channel();
        let begun = self.ask(Job::Begin { marker, reply }, answer).await;
        begun
            .and_then(|begun| begun)
            .map_err(|source| JournalError::Directory {
                dir: self.inner.config.dir.clone(),
                source,
            })
    }

    /// Journals a sealed batch. When this returns, it is synced.
    ///
    /// # Errors
    /// When the journal is full, or the disk does not take it.
    pub async fn write(&self, batch: Batch) -> Result<Position, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Job::Write { batch, reply }, answer)
            .await
            .map_err(|error| WriteError::Disk(error.to_string()))?
    }

    /// Reads batches of `writer`. None for one that is not what was written, or that the disk has not given back for
    /// [`limits::JOURNAL_UNREADABLE_AFTER`]: that is logged and counted here.
    ///
    /// # Errors
    /// When the files cannot be read for a reason that is not the disk's.
    pub async fn read(
        &self,
        writer: WriterId,
        positions: Vec<Position>,
    ) -> Result<Vec<Option<Batch>>, StoreError> {
        let dir = self.inner.config.dir.clone();
        let read = move |reading: &Reading, unreadable| read(&dir, writer, &positions, reading, unreadable);
        let read = self.inner.reading.patiently(read).await;
        let (batches, damaged) =
            read.map_err(|error| StoreError::Unavailable(format!("cannot read the journal: {error}")))?;
        for segment in damaged {
            self.tell(Job::Damaged(segment)).await;
        }
        Ok(batches)
    }

    /// Reads what a dead writer left. What cannot be read is logged and counted (what the disk does not give back, after
    /// [`limits::JOURNAL_UNREADABLE_AFTER`]); all that follows it is there.
    ///
    /// # Errors
    /// When a file cannot be read for a reason that is not the disk's. To be repeated then, before anything of it was
    /// resolved.
    pub async fn recover(&self, dead: &DeadWriter) -> io::Result<Recovered> {
        let mut recovered = Recovered::default();
        let mut segments = Vec::new();
        for (segment, path) in dead.segments.clone() {
            let key = dead.key(segment);
            let scan = move |reading: &Reading, unreadable| {
                let scanned = scan::scan(&path, key, reading, unreadable);
                scanned.inspect(|scanned| tell_troubles(&path, &scanned.troubles))
            };
            let scanned = self.inner.reading.patiently(scan).await?;
            segments.push((segment, scanned.found.len(), scanned.is_damaged()));
            recovered.troubles.extend(scanned.troubles);
            for found in scanned.found {
                let waiting = recovered.waiting.entry(found.partition).or_default();
                waiting.push_back(found.position);
                let last = recovered.last.entry(found.partition).or_default();
                *last = found.seq.max(*last);
            }
        }
        for (segment, batches, damaged) in segments {
            let unresolved = u64::try_from(batches).expect("invariant: usize fits into u64");
            self.tell(Job::Adopt {
                segment,
                unresolved,
                damaged,
            })
            .await;
        }
        Ok(recovered)
    }

    /// Says that these are in the store, or given up: the journal may forget them.
    pub async fn resolve(&self, positions: Vec<Position>) {
        self.tell(Job::Resolved(positions)).await;
    }

    /// Has the files of these kept aside once they are resolved.
    async fn keep(&self, positions: &[Position]) {
        let segments: BTreeSet<_> = positions.iter().map(|position| position.segment).collect();
        for segment in segments {
            self.tell(Job::Damaged(segment)).await;
        }
    }

    /// Says that a writer is closed: nothing more is to be done for it.
    ///
    /// # Errors
    /// When the disk does not take it; repeating is harmless.
    pub async fn end(&self, writer: WriterId) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Job::End { writer, reply }, answer).await??;
        let mut left = self.inner.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|dead| dead.writer != writer);
        Ok(())
    }

    async fn tell(&self, job: Job) {
        let jobs = self.inner.jobs.as_ref().expect("invariant: only a drop takes it");
        if jobs.send(job).await.is_err() {
            tracing::error!("the journal's thread has ended");
        }
    }

    async fn ask<T: Send>(&self, job: Job, answer: oneshot::Receiver<T>) -> io::Result<T> {
        self.tell(job).await;
        // Tests with a paused clock: it must not run on while the thread works, which tokio does not see.
        #[cfg(test)]
        let answer = crate::fault::clock_held(answer);
        answer
            .await
            .map_err(|_| io::Error::other("the journal's thread has ended"))
    }
}

fn tell_troubles(path: &Path, troubles: &[Trouble]) {
    let file = path.display();
    for trouble in troubles {
        match trouble {
            Trouble::Torn { offset, bytes } => {
                tracing::warn!(%file, offset, bytes, "the journal ends in a write that a crash cut off; it was never acknowledged, and is left out");
            }
            Trouble::Damaged { offset, bytes, batch } => {
                let (partition, seq) = batch.unzip();
                let (partition, seq) = (partition.map(PartitionId::as_u16), seq.map(Seq::as_u64));
                tracing::error!(%file, offset, bytes, partition, seq, "the journal is damaged: these bytes are not what was written, and what they held is lost; all that follows is shipped");
                metrics::counter!("qrelay_journal_damaged_total").increment(1);
            }
        }
    }
}

type ReadBatches = (Vec<Option<Batch>>, Vec<u32>);

fn read(
    dir: &Path,
    writer: WriterId,
    positions: &[Position],
    reading: &Reading,
    unreadable: Unreadable,
) -> io::Result<ReadBatches> {
    let (mut batches, mut damaged) = (Vec::with_capacity(positions.len()), Vec::new());
    let mut open: Option<(u32, File)> = None;
    for position in positions {
        let key = SegmentKey {
            writer,
            segment: position.segment,
        };
        let (batch, why) = match read_entry(dir, key, *position, reading, &mut open) {
            Ok(bytes) => (key.decode(&bytes).ok().map(|(batch, _)| batch), None),
            Err(error) if unreadable == Unreadable::IsDamage && is_lost(&error) => (None, Some(error)),
            Err(error) => return Err(error),
        };
        if batch.is_none() {
            let why = why.map_or_else(
                || "it is not what was written".to_owned(),
                |error| error.to_string(),
            );
            tracing::error!(%writer, segment = position.segment, offset = position.offset, why, "a batch in the journal cannot be read; it is lost");
            metrics::counter!("qrelay_journal_damaged_total").increment(1);
            damaged.push(position.segment);
        }
        batches.push(batch);
    }
    Ok((batches, damaged))
}

/// The bytes of one. `open`: the segment that the one before was in.
fn read_entry(
    dir: &Path,
    key: SegmentKey,
    position: Position,
    reading: &Reading,
    open: &mut Option<(u32, File)>,
) -> io::Result<Vec<u8>> {
    let path = dir.join(segment_name(key));
    let file = match open.take() {
        Some((segment, file)) if segment == key.segment => file,
        _ => File::open(&path)?,
    };
    let (_, file) = open.insert((key.segment, file));
    let mut bytes = vec![0; position.bytes()];
    reading.at(&path, file, &mut bytes, u64::from(position.offset))?;
    Ok(bytes)
}

fn segment_name(key: SegmentKey) -> String {
    format!("{:010}-{}.{SEGMENT}", key.segment, key.writer)
}

/// The writer and number that a segment's name says.
fn named(path: &Path) -> Option<SegmentKey> {
    let (segment, writer) = path.file_stem()?.to_str()?.split_once('-')?;
    Some(SegmentKey {
        writer: WriterId::from_u64(u64::from_str_radix(writer, 16).ok()?),
        segment: segment.parse().ok()?,
    })
}

/// What an earlier process left.
struct Listed {
    segments: BTreeMap<u32, Segment>,
    left: Vec<DeadWriter>,
    next: u32,
    aside: Vec<PathBuf>,
    aside_bytes: u64,
}

/// What stands in a directory, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspected {
    /// Who uses it just now, for people.
    pub in_use_by: Option<String>,
    /// Its writers that are not closed; that of who uses it too.
    pub writers: Vec<DeadWriter>,
    /// Files kept aside because not all that was in them is in the store.
    pub aside: Vec<PathBuf>,
}

/// Looks at a journal without taking it or changing anything: it may be in use. Blocks.
///
/// # Errors
/// When there is none, it cannot be read, or a newer release wrote it.
pub fn inspect(dir: &Path) -> Result<Inspected, JournalError> {
    if !is_journal(dir) {
        return Err(JournalError::Missing { dir: dir.to_owned() });
    }
    // Asked before: who ends in between has left what is found.
    let in_use_by = DirectoryLock::holder(dir).map_err(|source| JournalError::Directory {
        dir: dir.to_owned(),
        source,
    })?;
    let listed = list(dir)?;
    Ok(Inspected {
        in_use_by,
        writers: listed.left,
        aside: listed.aside,
    })
}

/// Whether a journal was ever kept there. Blocks.
pub fn is_journal(dir: &Path) -> bool {
    DirectoryLock::was_taken(dir)
}

fn list(dir: &Path) -> Result<Listed, JournalError> {
    let failed = |source| JournalError::Directory {
        dir: dir.to_owned(),
        source,
    };
    let mut listed = Listed {
        segments: BTreeMap::new(),
        left: Vec::new(),
        next: 1,
        aside: Vec::new(),
        aside_bytes: 0,
    };
    let mut writers: BTreeMap<WriterId, DeadWriter> = BTreeMap::new();
    let dead = |writer| DeadWriter {
        writer,
        marker: None,
        segments: Vec::new(),
    };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            // Nothing here is one: reading it for ever would keep all else from being shipped.
            tracing::warn!(directory = %path.display(), "a directory in the journal is left alone");
            continue;
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(SEGMENT) => {
                let Some(key) = named(&path) else { continue };
                let Some(bytes) = segment_bytes(&path)? else {
                    continue;
                };
                listed.next = listed.next.max(key.segment.saturating_add(1));
                let segment = Segment {
                    path: path.clone(),
                    charge: bytes,
                    unresolved: None,
                    damaged: false,
                };
                listed.segments.insert(key.segment, segment);
                let dead = writers.entry(key.writer).or_insert_with(|| dead(key.writer));
                dead.segments.push((key.segment, path));
            }
            Some(marker::EXTENSION) => {
                let Some(writer) = marker_writer(&path) else {
                    continue;
                };
                let marker = match Marker::read(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    read => read.inspect_err(|error| {
                        tracing::error!(%error, file = %path.display(), "cannot read who used the journal before");
                    }),
                };
                writers.entry(writer).or_insert_with(|| dead(writer)).marker = marker.ok();
            }
            Some(DAMAGED) => {
                listed.aside_bytes += fs::metadata(&path).map_err(failed)?.len();
                if let Some(key) = named(&path) {
                    listed.next = listed.next.max(key.segment.saturating_add(1));
                }
                listed.aside.push(path);
            }
            _ => {}
        }
    }
    listed.left = writers.into_values().collect();
    listed.left.iter_mut().for_each(|dead| dead.segments.sort());
    listed.aside.sort();
    Ok(listed)
}

fn marker_writer(path: &Path) -> Option<WriterId> {
    let number = u64::from_str_radix(path.file_stem()?.to_str()?, 16).ok()?;
    Some(WriterId::from_u64(number))
}

/// A segment's size; none when it is gone by now. Refuses what a newer release wrote.
fn segment_bytes(path: &Path) -> Result<Option<u64>, JournalError> {
    let failed = |source| JournalError::Directory {
        dir: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mut header = [0; FILE_HEADER_BYTES];
    let bytes = file.metadata().map_err(failed)?.len();
    let whole = file.read_exact_at(&mut header, 0).is_ok();
    match SegmentKey::of_file(&header) {
        Err(HeaderFault::Newer(found)) if whole => Err(JournalError::Newer {
            file: path.to_owned(),
            found,
        }),
        _ => Ok(Some(bytes)),
    }
}

/// Makes new names in a directory durable.
fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
