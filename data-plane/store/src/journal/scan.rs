//! Reading a segment that a dead process left: every batch that can be read, and what cannot.
//!
//! What follows the last whole entry and is shorter than an entry is a write that a crash cut off: it was never
//! acknowledged, because the sync that acknowledges covers whole entries. Anything else that cannot be read may have
//! been acknowledged, and is damage.

use std::{
    io::{self, ErrorKind},
    ops::Range,
    path::Path,
};

use super::{
    Position,
    format::{EntryFault, FILE_HEADER_BYTES, HeaderFault, SegmentKey},
    reading::{Reading, Unreadable},
};
use crate::{
    clock::Timestamp,
    id::{PartitionId, Seq},
};

/// A batch that stands in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Of which partition.
    pub partition: PartitionId,
    /// Which.
    pub seq: Seq,
    /// Records.
    pub count: u16,
    /// The earliest record's time.
    pub first_at: Timestamp,
    /// The latest record's time.
    pub last_at: Timestamp,
    /// Where it stands.
    pub(super) position: Position,
}

/// What of a segment cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The end of a write that a crash cut off. Nothing is lost: it was never acknowledged.
    Torn {
        /// From which byte on.
        offset: u64,
        /// To the end of the file.
        bytes: u64,
    },
    /// Not what was written. It may have been acknowledged.
    Damaged {
        /// From which byte on.
        offset: u64,
        /// How many cannot be read.
        bytes: u64,
        /// Which batch it was, if that can still be read.
        batch: Option<(PartitionId, Seq)>,
    },
}

/// A segment's contents.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Scanned {
    pub(super) found: Vec<Found>,
    pub(super) troubles: Vec<Trouble>,
}

impl Scanned {
    pub(super) fn is_damaged(&self) -> bool {
        self.troubles
            .iter()
            .any(|trouble| matches!(trouble, Trouble::Damaged { .. }))
    }
}

/// Reads a segment whole: it is a few MiB.
///
/// # Errors
/// When the file cannot be read, unless that is damage.
pub(super) fn scan(
    path: &Path,
    key: SegmentKey,
    reading: &Reading,
    unreadable: Unreadable,
) -> io::Result<Scanned> {
    match reading.whole(path, unreadable) {
        Ok((bytes, missing)) => Ok(scan_bytes(&bytes, &missing, key)),
        // Gone: what it held is not known.
        Err(error) if unreadable == Unreadable::IsDamage && error.kind() == ErrorKind::NotFound => {
            let mut scanned = Scanned::default();
            scanned.damaged(0, 0, None);
            Ok(scanned)
        }
        Err(error) => Err(error),
    }
}

/// `missing`: where the disk did not give what stands there.
pub(super) fn scan_bytes(bytes: &[u8], missing: &[Range<usize>], key: SegmentKey) -> Scanned {
    let mut scanned = Scanned::default();
    let mut at = match SegmentKey::of_file(bytes) {
        Ok(found) if found == key => FILE_HEADER_BYTES,
        Err(HeaderFault::Short) => {
            scanned.torn(0, bytes.len());
            return scanned;
        }
        // The file's name says what its header does not; entries say by themselves whether they are whole.
        Ok(_) | Err(HeaderFault::Damaged | HeaderFault::Newer(_)) => {
            scanned.damaged(0, FILE_HEADER_BYTES, None);
            FILE_HEADER_BYTES
        }
    };
    while at < bytes.len() {
        match key.decode(&bytes[at..]) {
            Ok((batch, size)) => {
                scanned.found.push(Found {
                    partition: batch.partition,
                    seq: batch.seq,
                    count: batch.count,
                    first_at: batch.first_at,
                    last_at: batch.last_at,
                    position: Position::new(key.segment, at, size),
                });
                at += size;
            }
            Err(EntryFault::Body {
                partition,
                seq,
                bytes: size,
            }) => {
                scanned.damaged(at, size, Some((partition, seq)));
                at += size;
            }
            Err(fault) => match key.next_header(bytes, at + 1) {
                Some(next) => {
                    scanned.damaged(at, next - at, None);
                    at = next;
                }
                None => {
                    let rest = &bytes[at..];
                    let is_known = missing.iter().all(|missing| missing.end <= at);
                    match is_known && (fault == EntryFault::Cut || rest.iter().all(|byte| *byte == 0)) {
                        true => scanned.torn(at, rest.len()),
                        false => scanned.damaged(at, rest.len(), None),
                    }
                    break;
                }
            },
        }
    }
    scanned
}

impl Scanned {
    fn torn(&mut self, at: usize, bytes: usize) {
        self.troubles.push(Trouble::Torn {
            offset: wide(at),
            bytes: wide(bytes),
        });
    }

    fn damaged(&mut self, at: usize, bytes: usize, batch: Option<(PartitionId, Seq)>) {
        self.troubles.push(Trouble::Damaged {
            offset: wide(at),
            bytes: wide(bytes),
            batch,
        });
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).expect("invariant: usize fits into u64")
}
