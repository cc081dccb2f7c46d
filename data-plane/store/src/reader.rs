//! Reading one partition of the log with a cursor: gap-free up to the heads, past the heads of silent writers.
//!
//! Used by the dispatcher's runs and by the control plane's event stream. A reader goes in two steps, so that its
//! owner can read the configuration log between them: [`PartitionReader::refresh`] learns how far may be read,
//! [`PartitionReader::read`] reads up to there and no further. Whoever matches events MUST read the configuration
//! log's tail after `refresh` returned and before it matches what `read` brings.
//!
//! Rules: a hinted or published head may be read up to. A hint that the store does not bear out is forgotten: only what
//! the writer's row (or its tail) says can be missing. A missing batch at or below such a head stops that
//! writer and is looked for again; after [`limits::GAP_AFTER`] it is reported as one [`Item::Gap`] up to the next
//! batch that exists (as several, if that is very far). (On an exclusive store a missing beginning is retention's work, and reported at once: what was
//! acknowledged there is seen at once.) A writer whose beat stands still for [`limits::WRITER_SILENT_AFTER`], on this reader's own
//! monotonic clock, is read past its head to the end of its gap-free tail, unless it is fenced. A closed writer ends where it
//! says.
//!
//! Cancel-safe: a dropped future of `refresh` or `read` moves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    hints::PartitionHints,
    id::{PartitionId, Seq, WriterId},
    limits,
    store::{Batch, Heads, Result, SharedStore, WriterRow},
};

/// How often the writers' rows are read, hints or not.
const WRITERS_PERIOD: Duration = limits::WRITERS_READ_PERIOD;
/// A missing batch is looked for again after this long.
const GAP_RETRY: Duration = limits::WRITERS_READ_PERIOD;
/// A writer is left alone for so long after the store failed to read it, so that nobody spins on it.
const READ_RETRY: Duration = limits::APPEND_RETRY_PAUSE;

/// What a read brings.
#[derive(Clone, PartialEq, Debug)]
pub enum Item {
    /// The writer's next batch.
    Batch(Batch),
    /// Batches that are given up as missing, after ten minutes of looking or because retention took them.
    Gap {
        /// Whose.
        writer: WriterId,
        /// The first missing one.
        from: Seq,
        /// The last missing one.
        through: Seq,
    },
}

/// One consumer's view of one partition.
pub struct PartitionReader {
    store: SharedStore,
    partition: PartitionId,
    hints: Arc<PartitionHints>,
    moved: watch::Receiver<u64>,
    tracks: BTreeMap<WriterId, Track>,
    /// When the writers' rows are read next.
    writers_due: Instant,
    /// The writer after this one is read first, so that all have their turn.
    last: Option<WriterId>,
}

/// What is known of one writer.
#[derive(Debug, Clone)]
struct Track {
    position: Seq,
    through: Seq,
    /// What the store itself says is there. A hint may say more, and may be wrong.
    confirmed: Seq,
    beat: Option<u64>,
    beat_moved: Instant,
    closed: bool,
    tail_due: Instant,
    tail_pause: Duration,
    missing_since: Option<Instant>,
    retry_at: Instant,
}

impl Track {
    fn new(position: Seq) -> Self {
        let now = Instant::now();
        Self {
            position,
            through: position,
            confirmed: position,
            beat: None,
            beat_moved: now,
            closed: false,
            tail_due: now,
            tail_pause: WRITERS_PERIOD,
            missing_since: None,
            retry_at: now,
        }
    }

    fn readable(&self) -> bool {
        self.position < self.through
    }

    fn silent(&self, now: Instant) -> bool {
        !self.closed && now.duration_since(self.beat_moved) >= limits::WRITER_SILENT_AFTER
    }
}

impl std::fmt::Debug for PartitionReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionReader")
            .field("partition", &self.partition)
            .field("tracks", &self.tracks)
            .finish()
    }
}

impl PartitionReader {
    /// A reader that goes on after `positions`; a writer missing there is read from its beginning.
    pub fn new(store: SharedStore, partition: PartitionId, positions: BTreeMap<WriterId, Seq>) -> Self {
        let hints = store.hints().partition(partition);
        let mut moved = hints.heads_moved();
        // What was hinted before is news to this reader.
        moved.mark_changed();
        let tracks = positions
            .into_iter()
            .map(|(writer, seq)| (writer, Track::new(seq)))
            .collect();
        Self {
            store,
            partition,
            hints,
            moved,
            tracks,
            writers_due: Instant::now(),
            last: None,
        }
    }

    /// A reader that stands at the present end: it brings everything that is acknowledged after this returned, and
    /// perhaps a little of what was before.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn at_end(store: SharedStore, partition: PartitionId) -> Result<Self> {
        let mut reader = Self::new(store, partition, BTreeMap::new());
        reader.refresh().await?;
        for track in reader.tracks.values_mut() {
            // Not where hints say it is: a wrong one would skip what is to come.
            (track.position, track.through) = (track.confirmed, track.confirmed);
        }
        Ok(reader)
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// How far it has read: the last batch of each writer that [`Self::read`] returned (or gave up).
    pub fn positions(&self) -> BTreeMap<WriterId, Seq> {
        self.tracks
            .iter()
            .map(|(writer, track)| (*writer, track.position))
            .collect()
    }

    /// How far may be read, as the last [`Self::refresh`] learned.
    pub fn heads(&self) -> BTreeMap<WriterId, Seq> {
        self.tracks
            .iter()
            .map(|(writer, track)| (*writer, track.through))
            .collect()
    }

    /// Whether all that may be read was read.
    pub fn caught_up(&self) -> bool {
        self.tracks.values().all(|track| !track.readable())
    }

    /// Learns heads: from hints always, from the writers' rows once a second, from the tails of silent writers as
    /// they are due. Returns the writers' rows if it read them, for readers of other partitions beside this one.
    ///
    /// # Errors
    /// When the store fails; what hints said counts all the same.
    pub async fn refresh(&mut self) -> Result<Option<Vec<WriterRow>>> {
        self.hear();
        let mut read = None;
        if Instant::now() >= self.writers_due {
            let rows = self.store.writers().await;
            // After a failure too: whoever waits for changes must not spin on a store that is away.
            self.writers_due = Instant::now() + WRITERS_PERIOD;
            let rows = rows?;
            self.learn(&rows);
            read = Some(rows);
        }
        self.read_tails().await?;
        Ok(read)
    }

    /// The same for a reader beside another one, whose [`Self::refresh`] read the writers' rows, or did not.
    ///
    /// # Errors
    /// When the store fails; what hints and rows said counts all the same.
    pub async fn refresh_beside(&mut self, rows: Option<&[WriterRow]>) -> Result<()> {
        self.hear();
        if let Some(rows) = rows {
            self.learn(rows);
        }
        self.read_tails().await
    }

    fn hear(&mut self) {
        self.moved.mark_unchanged();
        for (writer, seq) in self.hints.heads() {
            let track = self.tracks.entry(writer).or_insert_with(|| Track::new(Seq::ZERO));
            if !track.closed {
                track.through = track.through.max(seq);
            }
        }
    }

    fn learn(&mut self, rows: &[WriterRow]) {
        let now = Instant::now();
        for row in rows {
            let track = self
                .tracks
                .entry(row.writer)
                .or_insert_with(|| Track::new(Seq::ZERO));
            if track.beat != Some(row.beat) {
                (track.beat, track.beat_moved) = (Some(row.beat), now);
                (track.tail_due, track.tail_pause) = (now, WRITERS_PERIOD);
            }
            let told = told_by(row, self.partition);
            if row.closed.is_some() {
                track.closed = true;
                track.through = told.max(track.position);
                track.confirmed = track.through;
            } else {
                track.confirmed = track.confirmed.max(told);
                track.through = track.through.max(told);
            }
            if track.closed && !track.readable() {
                self.hints.forget(row.writer);
            }
        }
        // A writer is expired only when it is closed and its batches are gone.
        let known = |writer: &WriterId| rows.iter().any(|row| row.writer == *writer);
        self.tracks
            .retain(|writer, track| known(writer) || track.readable());
    }

    async fn read_tails(&mut self) -> Result<()> {
        let now = Instant::now();
        let due = |track: &Track| track.silent(now) && !track.readable() && now >= track.tail_due;
        let silent: Vec<_> = self
            .tracks
            .iter()
            .filter(|(_, track)| due(track))
            .map(|(w, t)| (*w, t.through))
            .collect();
        for (writer, after) in silent {
            let mut tail = self.store.tail(self.partition, writer, after).await?;
            // Asked after the look: what is seen before a fence is at or below the writer's end. What comes later may not
            // be, and that end is for its row to tell.
            if tail > after && !self.store.exclusive() && self.store.is_fenced(writer).await? {
                tail = after;
            }
            let track = self
                .tracks
                .get_mut(&writer)
                .expect("invariant: only `learn` forgets tracks");
            track.tail_pause = if tail > track.through {
                WRITERS_PERIOD
            } else {
                (track.tail_pause * 2).min(limits::SILENT_PROBE_PAUSE_MAX)
            };
            track.tail_due = now + track.tail_pause;
            track.through = track.through.max(tail);
            track.confirmed = track.confirmed.max(tail);
        }
        Ok(())
    }

    /// Reads on, up to the heads that the last [`Self::refresh`] learned: batches of one writer, in order. Empty
    /// when nothing can be read just now.
    ///
    /// # Errors
    /// When the store fails; nothing is moved then.
    pub async fn read(&mut self, bytes_max: usize) -> Result<Vec<Item>> {
        let mut turn: Vec<WriterId> = self
            .tracks
            .iter()
            .filter(|(_, t)| t.readable())
            .map(|(w, _)| *w)
            .collect();
        let first = turn.partition_point(|writer| self.last.is_some_and(|last| *writer <= last));
        turn.rotate_left(first);
        for writer in turn {
            let items = self.read_writer(writer, bytes_max).await?;
            if !items.is_empty() {
                self.last = Some(writer);
                return Ok(items);
            }
        }
        Ok(Vec::new())
    }

    async fn read_writer(&mut self, writer: WriterId, bytes_max: usize) -> Result<Vec<Item>> {
        let Some(track) = self.tracks.get(&writer).cloned() else {
            return Ok(Vec::new());
        };
        if Instant::now() < track.retry_at {
            return Ok(Vec::new());
        }
        let read = self
            .store
            .read(self.partition, writer, track.position, track.through, bytes_max)
            .await;
        let batches = match read {
            Ok(batches) => batches,
            Err(error) => {
                self.rest(writer);
                return Err(error);
            }
        };
        if let Some(last) = batches.last() {
            self.move_to(writer, last.seq);
            return Ok(batches.into_iter().map(Item::Batch).collect());
        }
        let missing = self.missing(writer, &track).await;
        if missing.is_err() {
            self.rest(writer);
        }
        missing
    }

    /// What cannot be read is left alone for a while, and the others come first then: one must not starve them.
    fn rest(&mut self, writer: WriterId) {
        let track = self
            .tracks
            .get_mut(&writer)
            .expect("invariant: only `learn` forgets tracks");
        track.retry_at = Instant::now() + READ_RETRY;
        self.last = Some(writer);
    }

    /// A batch at or below a head is not there.
    async fn missing(&mut self, writer: WriterId, track: &Track) -> Result<Vec<Item>> {
        if track.position >= track.confirmed {
            self.doubt(writer);
            return Ok(Vec::new());
        }
        let now = Instant::now();
        let since = track.missing_since.unwrap_or(now);
        let expired = self.expired(writer, track.position).await?;
        if !expired && now.duration_since(since) < limits::GAP_AFTER {
            let track = self
                .tracks
                .get_mut(&writer)
                .expect("invariant: only `learn` forgets tracks");
            (track.missing_since, track.retry_at) = (Some(since), now + GAP_RETRY);
            return Ok(Vec::new());
        }
        let through = end_of_gap(
            &self.store,
            self.partition,
            writer,
            (track.position, track.confirmed),
        )
        .await?;
        if through <= track.position {
            // It came in between.
            return Ok(Vec::new());
        }
        let from = track.position.next();
        if expired {
            tracing::warn!(partition = %self.partition, %writer, %from, %through, "retention took batches before they were read");
            metrics::counter!("qrelay_log_expired_unread_batches_total")
                .increment(through.as_u64() - track.position.as_u64());
        } else {
            tracing::error!(partition = %self.partition, %writer, %from, %through, "batches are missing from the log; given up");
            metrics::counter!("qrelay_log_gaps_total").increment(1);
        }
        self.move_to(writer, through);
        if through < track.confirmed && through.as_u64() - track.position.as_u64() == limits::GAP_LOOK_MAX {
            // It may go on, and was waited for.
            let track = self
                .tracks
                .get_mut(&writer)
                .expect("invariant: only `learn` forgets tracks");
            track.missing_since = Some(since);
        }
        Ok(vec![Item::Gap {
            writer,
            from,
            through,
        }])
    }

    /// A hint spoke of batches that are not there, and the writer's row does not know of: it counts no more. Were it
    /// believed for long, a wrong one would end as a gap, and take what the writer really appends there.
    fn doubt(&mut self, writer: WriterId) {
        let track = self
            .tracks
            .get_mut(&writer)
            .expect("invariant: only `learn` forgets tracks");
        self.hints.retract(writer, track.through);
        track.through = track.position;
    }

    /// Whether the batch after `position` is missing because retention took all from the beginning past it.
    async fn expired(&self, writer: WriterId, position: Seq) -> Result<bool> {
        if !self.store.exclusive() {
            return Ok(false);
        }
        let before = self
            .store
            .next_seq(self.partition, writer, Seq::ZERO, position.next());
        Ok(before.await?.is_none())
    }

    fn move_to(&mut self, writer: WriterId, seq: Seq) {
        let track = self
            .tracks
            .get_mut(&writer)
            .expect("invariant: only `learn` forgets tracks");
        (track.position, track.missing_since) = (seq, None);
    }

    /// Waits until a head moved, or until it is time to look anyway.
    pub async fn changed(&mut self) {
        let due = self.writers_due;
        tokio::select! {
            biased;
            () = self.changed_beside() => {}
            () = sleep_until(due) => {}
        }
    }

    /// The same for a reader beside another one, which knows when it is time: waits until a head moved, or something that
    /// could not be read may be read by now.
    pub async fn changed_beside(&mut self) {
        let readable = self.tracks.values().filter(|track| track.readable());
        let retry = readable.map(|track| track.retry_at).min();
        let retry = async {
            match retry {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            moved = self.moved.changed() => {
                // The sender lives in `hints`, which this reader holds.
                moved.expect("invariant: the hints outlive their reader");
            }
            () = retry => {}
        }
    }
}

/// Up to which batch of a partition a writer's row says that all is there: its head, or its end once it is closed.
#[must_use]
pub fn told_by(row: &WriterRow, partition: PartitionId) -> Seq {
    let heads = row.closed.as_ref().unwrap_or(&row.heads);
    heads.get(&partition).copied().unwrap_or_default()
}

/// Where the gap behind `after` ends, and `through` at the latest: its last missing batch. One look goes as far as
/// [`limits::GAP_LOOK_MAX`]; behind that the gap may go on. `after` itself where there is none.
///
/// # Errors
/// When the store fails.
pub async fn end_of_gap(
    store: &SharedStore,
    partition: PartitionId,
    writer: WriterId,
    (after, through): (Seq, Seq),
) -> Result<Seq> {
    let looked = after.as_u64().saturating_add(limits::GAP_LOOK_MAX);
    let looked = Seq::new(looked.min(through.as_u64()));
    let next = store.next_seq(partition, writer, after, looked).await?;
    Ok(next.map_or(looked, |next| Seq::new(next.as_u64() - 1)))
}

/// Closes the writers of processes that are known to be dead, each at the end of its gap-free tail: only for a
/// store whose lock proves that nobody else writes ([`crate::Store::exclusive`]). Those in `except` are left alone.
///
/// # Errors
/// When the store fails; repeating is harmless.
///
/// # Panics
/// When the store is not exclusive: a living writer would lose what it appends.
pub async fn close_dead_writers(store: &SharedStore, except: &[WriterId]) -> Result<()> {
    assert!(store.exclusive(), "only a lock proves that a writer is dead");
    for row in store.writers().await? {
        if row.closed.is_some() || except.contains(&row.writer) {
            continue;
        }
        let last = end_of(store, &row, &Heads::new()).await?;
        store.close_writer(row.writer, &last).await?;
        tracing::info!(writer = %row.writer, node = row.node, "closed the writer of a process that ended");
    }
    Ok(())
}

/// Closes a silent writer from outside: fences it and closes it where it ends then. Where that is; none when nobody knows the
/// writer any more. Safe whether it lives or not, if it is one that asks
/// ([`crate::appender::Appender::start_fenced`]): what it acknowledged is below that end, and it acknowledges nothing more.
///
/// # Errors
/// When the store fails; repeating is harmless.
pub async fn fence_and_close(store: &SharedStore, writer: WriterId) -> Result<Option<Heads>> {
    store.fence_writer(writer).await?;
    let row = async || {
        let rows = store.writers().await?;
        Ok::<_, crate::StoreError>(rows.into_iter().find(|row| row.writer == writer))
    };
    let Some(found) = row().await? else {
        return Ok(None);
    };
    if found.closed.is_some() {
        return Ok(found.closed);
    }
    let last = end_of(store, &found, &Heads::new()).await?;
    store.close_writer(writer, &last).await?;
    // Another may have been first, and seen more or less of what was on its way.
    Ok(row().await?.and_then(|row| row.closed))
}

/// Where a dead writer ends, per partition: the end of the gap-free tail behind what its head and `known` say.
///
/// # Errors
/// When the store fails.
pub async fn end_of(store: &SharedStore, row: &WriterRow, known: &Heads) -> Result<Heads> {
    // Those of tenants' own, too: what a writer died with may be its first batch there, of which no head tells yet. It
    // was claimed before, so it is below this.
    let end = store.own_partitions().await?.max(store.install().partitions);
    let mut partitions: BTreeSet<_> = (0..end).map(PartitionId::new).collect();
    partitions.extend(row.heads.keys().chain(known.keys()));
    let mut last = Heads::new();
    for partition in partitions {
        let of = |heads: &Heads| heads.get(&partition).copied().unwrap_or_default();
        let from = of(&row.heads).max(of(known));
        let tail = store.tail(partition, row.writer, from).await?;
        if tail > Seq::ZERO {
            last.insert(partition, tail);
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests;
