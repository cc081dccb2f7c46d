//! Positions in the log: how far somebody has read, per stream.
//!
//! A stream is what one writer appended to one partition, or the configuration log. Within a stream batches are
//! numbered without gaps; between streams there is no order. A stream that is missing from a cursor stands at 0.

use std::{collections::BTreeMap, fmt, str::FromStr};

use qrelay_store::id::{EventAddress, PartitionId, Seq, WriterId};
use serde::{Deserialize, Serialize};

/// One gap-free sequence of batches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stream {
    /// The partition, or [`PartitionId::CONFIG`].
    pub partition: PartitionId,
    /// The writer; 0 for the configuration log.
    pub writer: WriterId,
}

impl Stream {
    /// The configuration log.
    pub const CONFIG: Stream = Stream {
        partition: PartitionId::CONFIG,
        writer: WriterId::from_u64(0),
    };

    /// The stream that an event stands in.
    pub fn of(address: EventAddress) -> Self {
        Self {
            partition: address.partition,
            writer: address.writer,
        }
    }

    /// The address of an event in this stream.
    pub fn address(self, seq: Seq, index: u16) -> EventAddress {
        EventAddress {
            partition: self.partition,
            writer: self.writer,
            seq,
            index,
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::CONFIG {
            f.write_str("config")
        } else {
            write!(f, "{}/{}", self.partition, self.writer)
        }
    }
}

/// A text that names no stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a stream: expected config or partition/writer")]
pub struct InvalidStream;

impl FromStr for Stream {
    type Err = InvalidStream;

    fn from_str(text: &str) -> Result<Self, InvalidStream> {
        if text == "config" {
            return Ok(Self::CONFIG);
        }
        let (partition, writer) = text.split_once('/').ok_or(InvalidStream)?;
        let partition = partition.parse().map_err(|_| InvalidStream)?;
        let writer = u64::from_str_radix(writer, 16).map_err(|_| InvalidStream)?;
        Ok(Self {
            partition: PartitionId::new(partition),
            writer: WriterId::from_u64(writer),
        })
    }
}

impl Serialize for Stream {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stream {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Per stream, the last batch that was passed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(BTreeMap<Stream, Seq>);

impl Cursor {
    /// The last batch passed in a stream.
    pub fn at(&self, stream: Stream) -> Seq {
        self.0.get(&stream).copied().unwrap_or_default()
    }

    /// Moves on, never back. Says whether it moved.
    pub fn advance(&mut self, stream: Stream, seq: Seq) -> bool {
        if seq <= self.at(stream) {
            return false;
        }
        self.0.insert(stream, seq);
        true
    }

    /// Moves on in every stream in which `other` is further.
    pub fn advance_all(&mut self, other: &Cursor) {
        for (stream, seq) in other.iter() {
            self.advance(stream, seq);
        }
    }

    /// Whether it stands at or before `other` in every stream.
    pub fn is_within(&self, other: &Cursor) -> bool {
        self.iter().all(|(stream, seq)| seq <= other.at(stream))
    }

    /// Forgets streams that no longer exist.
    pub fn retain(&mut self, keep: impl Fn(Stream) -> bool) {
        self.0.retain(|stream, _| keep(*stream));
    }

    /// Every stream that was ever moved in.
    pub fn iter(&self) -> impl Iterator<Item = (Stream, Seq)> + '_ {
        self.0.iter().map(|(stream, seq)| (*stream, *seq))
    }

    /// Whether it never moved.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Stream, Seq)> for Cursor {
    fn from_iter<I: IntoIterator<Item = (Stream, Seq)>>(all: I) -> Self {
        let mut cursor = Self::default();
        for (stream, seq) in all {
            cursor.advance(stream, seq);
        }
        cursor
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_survives_its_json(all in proptest::collection::vec((any::<u16>(), any::<u64>(), 1_u64..1 << 48), 0..8)) {
            let cursor: Cursor = all
                .into_iter()
                .map(|(partition, writer, seq)| {
                    let stream = Stream { partition: PartitionId::new(partition), writer: WriterId::from_u64(writer) };
                    (stream, Seq::new(seq))
                })
                .chain([(Stream::CONFIG, Seq::new(7))])
                .collect();
            let text = serde_json::to_string(&cursor).unwrap();
            prop_assert_eq!(serde_json::from_str::<Cursor>(&text).unwrap(), cursor);
        }

        #[test]
        fn any_text_parses_or_fails_without_panic(text in "\\PC{0,30}") {
            let _parsed = text.parse::<Stream>().is_ok();
        }
    }

    #[test]
    fn a_cursor_never_moves_back_and_a_missing_stream_stands_at_zero() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.at(Stream::CONFIG), Seq::ZERO);
        assert!(cursor.advance(Stream::CONFIG, Seq::new(5)));
        assert!(!cursor.advance(Stream::CONFIG, Seq::new(4)));
        assert_eq!(cursor.at(Stream::CONFIG), Seq::new(5));
        assert!(Cursor::default().is_within(&cursor) && !cursor.is_within(&Cursor::default()));
    }
}
