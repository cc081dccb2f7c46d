//! The journal's thread: writes what waits as one, syncs once, then answers; deletes segments whose batches are all in
//! the store.
//!
//! Invariants: what was answered with a position is synced, in a file whose name is synced too. After a failed write
//! or sync nothing more is written to that file: what the disk holds of its end is not known.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot};

use super::{JournalError, Position, WriteError, format::SegmentKey, marker::Marker, sync_directory};
use crate::{directory_lock::DirectoryLock, id::WriterId, limits, store::Batch};

/// What the thread is asked to do.
pub(super) enum Job {
    /// Names the writer whose batches come, before the first of them.
    Begin {
        marker: Box<Marker>,
        reply: oneshot::Sender<io::Result<()>>,
    },
    /// Journals a batch.
    Write {
        batch: Batch,
        reply: oneshot::Sender<Result<Position, WriteError>>,
    },
    /// An old segment was read: so many of its batches are to be shipped, and whether it is to be kept aside.
    Adopt {
        segment: u32,
        unresolved: u64,
        damaged: bool,
    },
    /// These batches are in the store, or given up.
    Resolved(Vec<Position>),
    /// This segment is to be kept aside in the end: something of it cannot be read, or is in no log.
    Damaged(u32),
    /// A writer is closed: nothing of it is left here.
    End {
        writer: WriterId,
        reply: oneshot::Sender<io::Result<()>>,
    },
}

/// What tests do to writes: called before each.
pub(super) type BeforeWrite = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// The state behind the jobs.
pub(super) struct Disk {
    pub(super) dir: PathBuf,
    pub(super) bytes_max: u64,
    pub(super) before_write: BeforeWrite,
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) next: u32,
    pub(super) writer: Option<WriterId>,
    pub(super) active: Option<Active>,
    /// What files that are kept aside take.
    pub(super) aside_bytes: u64,
    pub(super) _lock: Arc<DirectoryLock>,
}

/// A segment file.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// What it counts for: its bytes, and a little more for small batches.
    pub(super) charge: u64,
    /// Batches that are not known to be in the store; none until an old segment was read.
    pub(super) unresolved: Option<u64>,
    pub(super) damaged: bool,
}

/// The segment that is written to.
pub(super) struct Active {
    id: u32,
    file: File,
    bytes: u64,
}

/// A write that waits for its sync.
struct Waiting {
    position: Position,
    reply: oneshot::Sender<Result<Position, WriteError>>,
}

impl Disk {
    /// Works until every handle is gone.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        self.measure();
        let mut group = Vec::new();
        while jobs.blocking_recv_many(&mut group, limits::JOURNAL_GROUP_MAX) > 0 {
            self.work(&mut group);
        }
    }

    /// Does what was asked, all writes with one sync.
    pub(super) fn work(&mut self, group: &mut Vec<Job>) {
        let mut writes = Vec::new();
        for job in group.drain(..) {
            match job {
                Job::Write { batch, reply } => writes.push((batch, reply)),
                Job::Begin { marker, reply } => {
                    self.writer = Some(marker.writer);
                    // Who asked may have gone.
                    drop(reply.send(marker.write(&self.dir)));
                }
                Job::Adopt {
                    segment,
                    unresolved,
                    damaged,
                } => self.adopt(segment, unresolved, damaged),
                Job::Resolved(positions) => self.resolve(&positions),
                Job::Damaged(segment) => self.note_damage(segment),
                Job::End { writer, reply } => drop(reply.send(self.end(writer))),
            }
        }
        if !writes.is_empty() {
            self.write(writes);
        }
        self.measure();
    }

    fn charged(&self) -> u64 {
        self.segments.values().map(|segment| segment.charge).sum::<u64>() + self.aside_bytes
    }

    fn measure(&self) {
        metrics::gauge!("qrelay_journal_bytes").set(to_f64(self.charged()));
        let unresolved = self.segments.values().filter_map(|segment| segment.unresolved);
        metrics::gauge!("qrelay_journal_unshipped_batches").set(to_f64(unresolved.sum()));
    }

    fn write(&mut self, writes: Vec<(Batch, oneshot::Sender<Result<Position, WriteError>>)>) {
        let active = match self.active() {
            Ok(active) => active,
            Err(error) => {
                let error = WriteError::Disk(error.to_string());
                return writes
                    .into_iter()
                    .for_each(|(_, reply)| answer(reply, Err(error.clone())));
            }
        };
        let (key, begin) = active;
        let mut free = self.bytes_max.saturating_sub(self.charged());
        let (mut bytes, mut waiting, mut charge) = (Vec::new(), Vec::new(), 0);
        for (batch, reply) in writes {
            let size = super::charge(batch.body.len());
            if size > free {
                answer(reply, Err(WriteError::Full));
                continue;
            }
            free -= size;
            charge += size;
            let offset = begin + bytes.len();
            let size = key.encode(&batch, &mut bytes);
            let size = usize::try_from(size).expect("invariant: it was added to a vector");
            waiting.push(Waiting {
                position: Position::new(key.segment, offset, size),
                reply,
            });
        }
        if waiting.is_empty() {
            return;
        }
        match self.append(&bytes) {
            Ok(()) => self.written(waiting, charge),
            Err(error) => self.not_written(waiting, &error),
        }
    }

    /// The segment to write to, and where its next entry stands.
    fn active(&mut self) -> io::Result<(SegmentKey, usize)> {
        let writer = self
            .writer
            .ok_or_else(|| io::Error::other("the journal has no writer"))?;
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.bytes >= limits::JOURNAL_SEGMENT_BYTES)
        {
            self.retire();
        }
        if self.active.is_none() {
            (self.before_write)()?;
            self.active = Some(self.create(writer)?);
        }
        let active = self.active.as_ref().expect("invariant: it was made above");
        let key = SegmentKey {
            writer,
            segment: active.id,
        };
        Ok((key, usize::try_from(active.bytes).unwrap_or(usize::MAX)))
    }

    fn create(&mut self, writer: WriterId) -> io::Result<Active> {
        let key = SegmentKey {
            writer,
            segment: self.next,
        };
        let path = self.dir.join(super::segment_name(key));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        // A number is used once, also when what follows fails.
        self.next += 1;
        let header = key.file_header();
        let made = file
            .write_all(&header)
            .and_then(|()| file.sync_all())
            .and_then(|()| sync_directory(&self.dir));
        if let Err(error) = made {
            remove(&path);
            return Err(error);
        }
        let charge = u64::try_from(header.len()).expect("invariant: a header is small");
        let segment = Segment {
            path,
            charge,
            unresolved: Some(0),
            damaged: false,
        };
        self.segments.insert(key.segment, segment);
        Ok(Active {
            id: key.segment,
            file,
            bytes: charge,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        (self.before_write)()?;
        let active = self
            .active
            .as_mut()
            .expect("invariant: callers have an active segment");
        active.file.write_all(bytes)?;
        active.file.sync_data()?;
        active.bytes += u64::try_from(bytes.len()).expect("invariant: usize fits into u64");
        Ok(())
    }

    fn written(&mut self, waiting: Vec<Waiting>, charge: u64) {
        let batches = u64::try_from(waiting.len()).expect("invariant: usize fits into u64");
        let id = waiting.first().map_or(0, |first| first.position.segment);
        let segment = self
            .segments
            .get_mut(&id)
            .expect("invariant: the active segment is known");
        segment.charge += charge;
        segment.unresolved = segment.unresolved.map(|count| count + batches);
        metrics::counter!("qrelay_journal_batches_total").increment(batches);
        for write in waiting {
            // Somebody who does not wait any more resolves nothing: the batch is shipped at the next start.
            answer(write.reply, Ok(write.position));
        }
    }

    fn not_written(&mut self, waiting: Vec<Waiting>, error: &io::Error) {
        tracing::error!(%error, dir = %self.dir.display(), "cannot write the journal");
        if let Some(active) = &self.active
            && let Err(error) = active.file.set_len(active.bytes)
        {
            // What may stand there is whole batches that are tried again with the same bytes: harmless.
            tracing::warn!(%error, "cannot cut off a failed write of the journal");
        }
        self.retire();
        let error = WriteError::Disk(error.to_string());
        for write in waiting {
            answer(write.reply, Err(error.clone()));
        }
    }

    /// Writes no more to the active segment.
    fn retire(&mut self) {
        if let Some(active) = self.active.take() {
            self.remove_if_done(active.id);
        }
    }

    fn adopt(&mut self, id: u32, unresolved: u64, damaged: bool) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.unresolved = Some(unresolved);
            segment.damaged |= damaged;
        }
        self.remove_if_done(id);
    }

    fn note_damage(&mut self, id: u32) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.damaged = true;
        }
    }

    fn resolve(&mut self, positions: &[Position]) {
        for position in positions {
            if let Some(segment) = self.segments.get_mut(&position.segment) {
                segment.unresolved = segment.unresolved.map(|count| count.saturating_sub(1));
            }
            self.remove_if_done(position.segment);
        }
    }

    fn remove_if_done(&mut self, id: u32) {
        let done = |segment: &Segment| segment.unresolved == Some(0);
        if !self.segments.get(&id).is_some_and(done) {
            return;
        }
        if self.active.as_ref().is_some_and(|active| active.id == id) {
            self.active = None;
        }
        let Some(segment) = self.segments.remove(&id) else {
            return;
        };
        if !segment.damaged {
            return remove(&segment.path);
        }
        let aside = segment.path.with_extension(super::DAMAGED);
        tracing::error!(file = %aside.display(), "a file of the journal is kept aside: not all that was in it is in the store; the log above says why");
        self.aside_bytes += segment.charge;
        if let Err(error) = fs::rename(&segment.path, &aside) {
            tracing::warn!(%error, "cannot rename a file of the journal");
        }
    }

    fn end(&mut self, writer: WriterId) -> io::Result<()> {
        if self.writer == Some(writer) {
            // All that it wrote is in the store, so it has no segment but perhaps one that nothing was written to.
            self.retire();
        }
        // Gone for good before the marker is: a segment without a marker would be a writer that nobody closes.
        sync_directory(&self.dir)?;
        Marker::remove(&self.dir, writer)
    }
}

/// Who waited may have gone.
fn answer(reply: oneshot::Sender<Result<Position, WriteError>>, answer: Result<Position, WriteError>) {
    if let Err(WriteError::Full) = &answer {
        metrics::counter!("qrelay_journal_full_total").increment(1);
    }
    drop(reply.send(answer));
}

/// A file that stays is shipped again at the next start: harmless.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(%error, file = %path.display(), "cannot remove a file of the journal");
    }
}

#[allow(clippy::cast_precision_loss, reason = "a gauge of bytes far below 2^53")]
fn to_f64(number: u64) -> f64 {
    number as f64
}

/// Starts the thread.
pub(super) fn spawn(
    disk: Disk,
    jobs: mpsc::Receiver<Job>,
) -> Result<std::thread::JoinHandle<()>, JournalError> {
    let dir = disk.dir.clone();
    std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(move || disk.run(jobs))
        .map_err(|source| JournalError::Directory { dir, source })
}
