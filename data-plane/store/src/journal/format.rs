//! The bytes of a segment: a header, then entries, each a sealed batch.
//!
//! File header: `magic (8) | version u16 | writer u64 | segment u32 | crc32`. Entry: `magic (4) | partition u16 |
//! count u16 | seq u64 | first_at i64 | last_at i64 | length u32 | crc32 of the body | crc32 of the header | body`.
//! Numbers are little endian. The header's checksum begins with the writer and the segment's number, so that what a
//! disk shows of an older file is no entry of this one; it stands alone, so that a damaged body costs only itself and
//! a damaged header is stepped over by looking for the next one that is whole.

use bytes::Bytes;

use crate::{
    clock::Timestamp,
    id::{PartitionId, Seq, WriterId},
    store::Batch,
};

const FILE_MAGIC: [u8; 8] = *b"qrjournl";
const ENTRY_MAGIC: [u8; 4] = *b"QRJe";
/// What this release writes, and the latest that it reads.
pub(super) const VERSION: u16 = 1;
pub(super) const FILE_HEADER_BYTES: usize = 26;
pub(super) const ENTRY_HEADER_BYTES: usize = 44;

/// Which segment of which writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentKey {
    pub(super) writer: WriterId,
    pub(super) segment: u32,
}

/// Why a file's beginning is not a segment's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeaderFault {
    /// The file ends before its header does: nothing in it was ever acknowledged.
    Short,
    /// A newer release wrote it.
    Newer(u16),
    /// It is not what was written.
    Damaged,
}

/// Why bytes are no entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EntryFault {
    /// They end before the entry does.
    Cut,
    /// The header is not what was written.
    Header,
    /// The header is whole, the body is not.
    Body {
        partition: PartitionId,
        seq: Seq,
        /// The whole entry.
        bytes: usize,
    },
}

impl SegmentKey {
    pub(super) fn file_header(self) -> [u8; FILE_HEADER_BYTES] {
        let mut header = [0; FILE_HEADER_BYTES];
        header[..8].copy_from_slice(&FILE_MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[10..18].copy_from_slice(&self.writer.as_u64().to_le_bytes());
        header[18..22].copy_from_slice(&self.segment.to_le_bytes());
        let crc = crc32fast::hash(&header[..22]);
        header[22..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// Reads a file's beginning.
    pub(super) fn of_file(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let header: &[u8; FILE_HEADER_BYTES] = bytes.first_chunk().ok_or(HeaderFault::Short)?;
        if header[..8] != FILE_MAGIC || crc32fast::hash(&header[..22]) != u32_at(header, 22) {
            return Err(HeaderFault::Damaged);
        }
        let version = u16_at(header, 8);
        if version > VERSION {
            return Err(HeaderFault::Newer(version));
        }
        Ok(Self {
            writer: WriterId::from_u64(u64_at(header, 10)),
            segment: u32_at(header, 18),
        })
    }

    /// Adds an entry, and returns how many bytes it has.
    ///
    /// # Panics
    /// Never: a batch is far smaller than 4 GiB.
    pub(super) fn encode(self, batch: &Batch, into: &mut Vec<u8>) -> u32 {
        let start = into.len();
        let length = u32::try_from(batch.body.len()).expect("invariant: batches are sealed at 64 KiB");
        into.extend_from_slice(&ENTRY_MAGIC);
        into.extend_from_slice(&batch.partition.as_u16().to_le_bytes());
        into.extend_from_slice(&batch.count.to_le_bytes());
        into.extend_from_slice(&batch.seq.as_u64().to_le_bytes());
        into.extend_from_slice(&batch.first_at.as_millis().to_le_bytes());
        into.extend_from_slice(&batch.last_at.as_millis().to_le_bytes());
        into.extend_from_slice(&length.to_le_bytes());
        into.extend_from_slice(&crc32fast::hash(&batch.body).to_le_bytes());
        let crc = self.checksum(&into[start..]);
        into.extend_from_slice(&crc.to_le_bytes());
        into.extend_from_slice(&batch.body);
        u32::try_from(into.len() - start).expect("invariant: batches are sealed at 64 KiB")
    }

    /// The batch that `bytes` begin with, and the size of its entry.
    pub(super) fn decode(self, bytes: &[u8]) -> Result<(Batch, usize), EntryFault> {
        let header: &[u8; ENTRY_HEADER_BYTES] = bytes.first_chunk().ok_or(EntryFault::Cut)?;
        if !self.is_header(header) {
            return Err(EntryFault::Header);
        }
        let length = usize::try_from(u32_at(header, 32)).map_err(|_| EntryFault::Header)?;
        let end = ENTRY_HEADER_BYTES + length;
        let body = bytes.get(ENTRY_HEADER_BYTES..end).ok_or(EntryFault::Cut)?;
        let batch = Batch {
            partition: PartitionId::new(u16_at(header, 4)),
            writer: self.writer,
            seq: Seq::new(u64_at(header, 8)),
            first_at: Timestamp::from_millis(i64_at(header, 16)),
            last_at: Timestamp::from_millis(i64_at(header, 24)),
            count: u16_at(header, 6),
            body: Bytes::copy_from_slice(body),
        };
        match crc32fast::hash(body) == u32_at(header, 36) {
            true => Ok((batch, end)),
            false => Err(EntryFault::Body {
                partition: batch.partition,
                seq: batch.seq,
                bytes: end,
            }),
        }
    }

    /// Where, from `from` on, the next whole header stands.
    pub(super) fn next_header(self, bytes: &[u8], from: usize) -> Option<usize> {
        let last = bytes.len().checked_sub(ENTRY_HEADER_BYTES)?;
        (from..=last).find(|at| {
            let header = bytes[*at..].first_chunk::<ENTRY_HEADER_BYTES>();
            header.is_some_and(|header| self.is_header(header))
        })
    }

    fn is_header(self, header: &[u8; ENTRY_HEADER_BYTES]) -> bool {
        header[..4] == ENTRY_MAGIC && self.checksum(&header[..40]) == u32_at(header, 40)
    }

    fn checksum(self, header: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.writer.as_u64().to_le_bytes());
        hasher.update(&self.segment.to_le_bytes());
        hasher.update(header);
        hasher.finalize()
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("invariant: a slice of N bytes makes an array of N")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(array(bytes, at))
}
