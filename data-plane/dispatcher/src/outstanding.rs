//! Outstanding deliveries as they are stored: immutable chunks, and a done-map for each in the checkpoint.
//!
//! A chunk is written under a name never used before, before the checkpoint that names it. What changes
//! afterwards is only its done-map: a bit is set when the delivery is done, dropped, or written anew into a later
//! chunk. A chunk without open deliveries loses its row, and is deleted after that was saved. Usage that became
//! final with a bit waits beside the chunk, so that both are saved together.
//!
//! A chunk's body is `version (1 byte) | postcard of its entries`.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::BASE64;
use qrelay_store::{
    checkpoint::{RowKey, RowKind},
    clock::Timestamp,
    event::EventType,
    id::{CodeId, EndpointId, EventAddress, ReplayId},
};
use serde::{Deserialize, Serialize};

use crate::usage::UsageDelta;

const VERSION: u8 = 3;
/// Without hand-overs.
const VERSION_SECOND: u8 = 2;
/// Without codes and replays.
const VERSION_FIRST: u8 = 1;

/// Names a chunk: the claim that wrote it, and its number within the claim. Ordered by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkName {
    /// The lease's epoch.
    pub epoch: u64,
    /// Counts within the epoch.
    pub number: u64,
}

impl std::fmt::Display for ChunkName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{:012x}", self.epoch, self.number)
    }
}

impl std::str::FromStr for ChunkName {
    type Err = InvalidChunk;

    fn from_str(text: &str) -> Result<Self, InvalidChunk> {
        let (epoch, number) = text.split_once('-').ok_or(InvalidChunk::Name)?;
        let hex = |text| u64::from_str_radix(text, 16).map_err(|_| InvalidChunk::Name);
        Ok(Self {
            epoch: hex(epoch)?,
            number: hex(number)?,
        })
    }
}

/// What is stored is not a chunk, or not a chunk's row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidChunk {
    /// The name.
    #[error("not a chunk's name")]
    Name,
    /// The row in the checkpoint.
    #[error("not a chunk's row")]
    Row,
    /// The body.
    #[error("the chunk's bytes are not entries known to this release")]
    Body,
}

/// To which replay a delivery belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// The replay.
    pub of: ReplayId,
    /// Whether an attempt was made for it.
    pub sent: bool,
}

/// One outstanding delivery, as it was when its chunk was written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// For which endpoint.
    pub endpoint: EndpointId,
    /// Which event.
    pub event: EventAddress,
    /// Its type.
    pub event_type: EventType,
    /// When the event was recorded.
    pub recorded_at: Timestamp,
    /// Attempts made.
    pub attempts: u32,
    /// When the first attempt began.
    pub first_at: Option<Timestamp>,
    /// When the next attempt is due.
    pub due: Timestamp,
    /// The code whose other events wait for this one, if their endpoint wants an order.
    pub code: Option<CodeId>,
    /// The replay that it belongs to.
    pub replay: Option<Part>,
    /// An attempt was under way when the partition was handed over: whoever handed it over finishes and records it.
    pub abroad: bool,
}

/// An entry as it was before hand-overs.
#[derive(Deserialize)]
struct EntrySecond {
    endpoint: EndpointId,
    event: EventAddress,
    event_type: EventType,
    recorded_at: Timestamp,
    attempts: u32,
    first_at: Option<Timestamp>,
    due: Timestamp,
    code: Option<CodeId>,
    replay: Option<Part>,
}

impl From<EntrySecond> for Entry {
    fn from(second: EntrySecond) -> Self {
        Self {
            endpoint: second.endpoint,
            event: second.event,
            event_type: second.event_type,
            recorded_at: second.recorded_at,
            attempts: second.attempts,
            first_at: second.first_at,
            due: second.due,
            code: second.code,
            replay: second.replay,
            abroad: false,
        }
    }
}

/// An entry as the first release wrote it.
#[derive(Deserialize)]
struct EntryFirst {
    endpoint: EndpointId,
    event: EventAddress,
    event_type: EventType,
    recorded_at: Timestamp,
    attempts: u32,
    first_at: Option<Timestamp>,
    due: Timestamp,
}

impl From<EntryFirst> for Entry {
    fn from(first: EntryFirst) -> Self {
        Self {
            endpoint: first.endpoint,
            event: first.event,
            event_type: first.event_type,
            recorded_at: first.recorded_at,
            attempts: first.attempts,
            first_at: first.first_at,
            due: first.due,
            code: None,
            replay: None,
            abroad: false,
        }
    }
}

/// A chunk's body.
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    postcard::to_extend(entries, vec![VERSION])
        .expect("invariant: an entry has no value that postcard refuses")
}

/// Reads a chunk's body.
///
/// # Errors
/// When the bytes are not entries of a known version.
pub fn decode(body: &[u8]) -> Result<Vec<Entry>, InvalidChunk> {
    match body.split_first() {
        Some((&VERSION, rest)) => entries::<Entry>(rest),
        Some((&VERSION_SECOND, rest)) => entries::<EntrySecond>(rest),
        Some((&VERSION_FIRST, rest)) => entries::<EntryFirst>(rest),
        _ => Err(InvalidChunk::Body),
    }
}

fn entries<E: serde::de::DeserializeOwned + Into<Entry>>(body: &[u8]) -> Result<Vec<Entry>, InvalidChunk> {
    match postcard::take_from_bytes::<Vec<E>>(body) {
        Ok((entries, [])) => Ok(entries.into_iter().map(Into::into).collect()),
        _ => Err(InvalidChunk::Body),
    }
}

/// Which entries of a chunk are done, by index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DoneMap {
    bits: Vec<u8>,
    length: u16,
}

#[derive(Serialize, Deserialize)]
struct DoneRow {
    entries: u16,
    done: String,
}

impl DoneMap {
    /// For a chunk of `length` entries, none of them done.
    pub fn new(length: u16) -> Self {
        Self {
            bits: vec![0; usize::from(length).div_ceil(8)],
            length,
        }
    }

    /// Marks one done. Says whether it was open.
    pub fn set(&mut self, index: u16) -> bool {
        let Some(byte) = self.bits.get_mut(usize::from(index / 8)) else {
            return false;
        };
        let bit = 1 << (index % 8);
        let was_open = index < self.length && *byte & bit == 0;
        if was_open {
            *byte |= bit;
        }
        was_open
    }

    /// Whether one is done.
    pub fn is_done(&self, index: u16) -> bool {
        let byte = self.bits.get(usize::from(index / 8)).copied().unwrap_or(u8::MAX);
        byte & 1 << (index % 8) != 0
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        let done: u32 = self.bits.iter().map(|byte| byte.count_ones()).sum();
        usize::from(self.length) - usize::try_from(done).expect("invariant: at most 65,535 bits are set")
    }

    /// As it stands in the checkpoint.
    pub fn to_row(&self) -> String {
        let row = DoneRow {
            entries: self.length,
            done: BASE64.encode(&self.bits),
        };
        serde_json::to_string(&row).expect("invariant: a number and a text make JSON")
    }

    /// From the checkpoint.
    ///
    /// # Errors
    /// When the text is not a done-map.
    pub fn from_row(text: &str) -> Result<Self, InvalidChunk> {
        let row: DoneRow = serde_json::from_str(text).map_err(|_| InvalidChunk::Row)?;
        let bits = BASE64
            .decode(row.done.as_bytes())
            .map_err(|_| InvalidChunk::Row)?;
        let map = Self {
            bits,
            length: row.entries,
        };
        let beyond = (row.entries..row.entries.next_multiple_of(8)).any(|index| map.is_done(index));
        if map.bits.len() != usize::from(row.entries).div_ceil(8) || beyond {
            return Err(InvalidChunk::Row);
        }
        Ok(map)
    }
}

/// A chunk that a saved checkpoint names.
#[derive(Clone, Debug)]
struct Chunk {
    done: DoneMap,
    members: Vec<(EndpointId, EventAddress)>,
    /// Counted when the bits set since the last save were set.
    usage: UsageDelta,
    changed: bool,
}

/// What a plan saves of one chunk: its row, and the usage that goes with it.
#[derive(Clone, Debug)]
pub struct ChunkSave {
    /// Which.
    pub name: ChunkName,
    /// Bits beyond those that are set already: entries written anew in the same save.
    pub superseded: Vec<u16>,
    /// The row, or none when nothing in it is open.
    pub row: Option<String>,
    /// Usage that becomes final.
    pub usage: UsageDelta,
}

impl ChunkSave {
    /// Its row's key.
    pub fn key(&self) -> RowKey {
        row_key(self.name)
    }
}

/// The key of a chunk's row.
pub fn row_key(name: ChunkName) -> RowKey {
    RowKey {
        kind: RowKind::Chunk,
        id: name.to_string(),
    }
}

/// The chunks that the saved checkpoint names.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    chunks: BTreeMap<ChunkName, Chunk>,
    changed: BTreeSet<ChunkName>,
}

impl Chunks {
    /// Takes in a chunk that is saved.
    pub fn insert(&mut self, name: ChunkName, done: DoneMap, members: Vec<(EndpointId, EventAddress)>) {
        let chunk = Chunk {
            done,
            members,
            usage: UsageDelta::default(),
            changed: false,
        };
        if chunk.done.open() == 0 {
            self.changed.insert(name);
        }
        self.chunks.insert(name, chunk);
    }

    /// Marks an entry done, with the usage that this makes final.
    pub fn settle(&mut self, name: ChunkName, index: u16, usage: &UsageDelta) {
        let Some(chunk) = self.chunks.get_mut(&name) else {
            debug_assert!(false, "a delivery names a chunk that is gone");
            return;
        };
        if chunk.done.set(index) {
            chunk.usage.add(usage);
            chunk.changed = true;
            self.changed.insert(name);
        }
    }

    /// Chunks whose rows must be saved, oldest first.
    pub fn changed(&self) -> impl Iterator<Item = ChunkName> + '_ {
        self.changed.iter().copied()
    }

    /// What to save of a chunk, with `superseded` entries marked done.
    pub fn save(&self, name: ChunkName, superseded: Vec<u16>) -> Option<ChunkSave> {
        let chunk = self.chunks.get(&name)?;
        let mut done = chunk.done.clone();
        for index in &superseded {
            done.set(*index);
        }
        Some(ChunkSave {
            name,
            superseded,
            row: (done.open() > 0).then(|| done.to_row()),
            usage: chunk.usage.clone(),
        })
    }

    /// Notes what was saved, once it is. Returns the names of chunks that nothing names any more.
    pub fn saved(&mut self, saves: &[ChunkSave]) -> Vec<ChunkName> {
        let mut unnamed = Vec::new();
        for save in saves {
            let Some(chunk) = self.chunks.get_mut(&save.name) else {
                continue;
            };
            for index in &save.superseded {
                chunk.done.set(*index);
            }
            chunk.usage.subtract(&save.usage);
            if save.row.is_none() {
                self.chunks.remove(&save.name);
                self.changed.remove(&save.name);
                unnamed.push(save.name);
                continue;
            }
            let row = Some(chunk.done.to_row());
            chunk.changed = row != save.row || !chunk.usage.is_empty();
            if !chunk.changed {
                self.changed.remove(&save.name);
            }
        }
        unnamed
    }

    /// Open entries of sparse chunks that are worth writing anew, so that few rows name many deliveries: from the
    /// oldest chunks that are at most a quarter full, when more than `tolerated` such chunks stand.
    pub fn sparse(&self, tolerated: usize, entries_max: usize) -> Vec<(EndpointId, EventAddress)> {
        let quarter = qrelay_store::limits::CHUNK_DELIVERIES_MAX / 4;
        let sparse: Vec<_> = self
            .chunks
            .values()
            .filter(|chunk| chunk.done.open() <= quarter)
            .collect();
        if sparse.len() <= tolerated {
            return Vec::new();
        }
        let open = sparse.into_iter().flat_map(|chunk| {
            let indexed = (0_u16..).zip(&chunk.members);
            indexed
                .filter(|(index, _)| !chunk.done.is_done(*index))
                .map(|(_, member)| *member)
        });
        open.take(entries_max).collect()
    }

    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qrelay_store::id::{PartitionId, Seq, WriterId};

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let address = (any::<u16>(), any::<u64>(), any::<u64>(), any::<u16>());
        let event = proptest::sample::select(EventType::ALL.to_vec());
        let first_at = proptest::option::of(0_i64..9_999_999_999_999);
        (
            any::<[u8; 10]>(),
            address,
            event,
            any::<u32>(),
            first_at,
            0_i64..9_999_999_999_999,
            proptest::option::of((any::<[u8; 20]>(), any::<bool>())),
        )
            .prop_map(
                |(endpoint, (partition, writer, seq, index), event_type, attempts, first_at, due, replay)| {
                    Entry {
                        endpoint: EndpointId::from_bytes(endpoint),
                        event: EventAddress {
                            partition: PartitionId::new(partition),
                            writer: WriterId::from_u64(writer),
                            seq: Seq::new(seq),
                            index,
                        },
                        event_type,
                        recorded_at: Timestamp::from_millis(due),
                        attempts,
                        first_at: first_at.map(Timestamp::from_millis),
                        due: Timestamp::from_millis(due),
                        code: (attempts % 2 == 0).then_some(CodeId::from_bytes(endpoint)),
                        replay: replay.map(|(id, sent)| Part {
                            of: ReplayId::from_bytes(id),
                            sent,
                        }),
                        abroad: index % 2 == 1,
                    }
                },
            )
    }

    #[test]
    fn chunks_of_the_first_release_are_read() {
        let address = address(7);
        let (endpoint, at) = (EndpointId::from_bytes([1; 10]), Timestamp::from_millis(5));
        let first = (endpoint, address, EventType::ScanCreated, at, 3_u32, Some(at), at);
        let body = postcard::to_extend(&[first][..], vec![VERSION_FIRST]).unwrap();
        let entry = Entry {
            endpoint,
            event: address,
            event_type: EventType::ScanCreated,
            recorded_at: at,
            attempts: 3,
            first_at: Some(at),
            due: at,
            code: None,
            replay: None,
            abroad: false,
        };
        assert_eq!(decode(&body).unwrap(), [entry]);
    }

    proptest! {
        #[test]
        fn a_chunk_survives_its_bytes(entries in proptest::collection::vec(entry(), 0..40)) {
            prop_assert_eq!(decode(&encode(&entries)).unwrap(), entries);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes: Vec<u8>, text in "\\PC{0,60}") {
            let _read = (decode(&bytes).is_ok(), DoneMap::from_row(&text).is_ok(), text.parse::<ChunkName>().is_ok());
        }

        #[test]
        fn a_done_map_survives_its_row(length in 0_u16..=512, set in proptest::collection::vec(0_u16..600, 0..64)) {
            let mut map = DoneMap::new(length);
            for index in &set {
                map.set(*index);
            }
            let expected: BTreeSet<_> = set.into_iter().filter(|index| *index < length).collect();
            prop_assert_eq!(map.open(), usize::from(length) - expected.len());
            let read = DoneMap::from_row(&map.to_row()).unwrap();
            prop_assert!((0..length).all(|index| read.is_done(index) == expected.contains(&index)));
            prop_assert_eq!(read, map);
        }

        #[test]
        fn a_name_survives_its_text_and_orders_by_age(epoch: u64, number in 0_u64..1 << 48) {
            let name = ChunkName { epoch, number };
            prop_assert_eq!(name.to_string().parse::<ChunkName>().unwrap(), name);
        }
    }

    #[test]
    fn a_chunk_whose_entries_are_all_done_loses_its_row() {
        let (mut chunks, name) = (Chunks::default(), ChunkName { epoch: 1, number: 1 });
        let endpoint = EndpointId::from_bytes([1; 10]);
        chunks.insert(
            name,
            DoneMap::new(2),
            vec![(endpoint, address(0)), (endpoint, address(1))],
        );
        chunks.settle(name, 0, &UsageDelta::default());
        let save = chunks.save(name, vec![1]).unwrap();
        assert_eq!(save.row, None);
        assert_eq!(chunks.saved(&[save]), [name]);
        assert!(chunks.is_empty());
    }

    #[test]
    fn a_bit_set_while_a_save_is_under_way_is_saved_next() {
        let (mut chunks, name) = (Chunks::default(), ChunkName { epoch: 1, number: 1 });
        let member = |index| (EndpointId::from_bytes([1; 10]), address(index));
        chunks.insert(name, DoneMap::new(3), vec![member(0), member(1), member(2)]);
        chunks.settle(name, 0, &UsageDelta::default());
        let save = chunks.save(name, Vec::new()).unwrap();
        chunks.settle(name, 1, &UsageDelta::default());
        assert!(chunks.saved(&[save]).is_empty());
        assert_eq!(chunks.changed().collect::<Vec<_>>(), [name]);
        let save = chunks.save(name, Vec::new()).unwrap();
        chunks.saved(&[save]);
        assert_eq!(chunks.changed().count(), 0);
    }

    fn address(index: u16) -> EventAddress {
        crate::cursor::Stream::CONFIG.address(Seq::new(1), index)
    }
}
