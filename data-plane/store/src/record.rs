//! How scans and conversions are stored in the log: the codec of records and batches.
//!
//! A batch's body is `crc32 (4 bytes, little endian, of all that follows)` and then, per record,
//! `length (4 bytes, little endian) | version (1 byte) | postcard`. A record's place in this sequence is its
//! index, which is part of its event's id and so never changes: erasure replaces a record by
//! [`Record::Redacted`] in its place. Postcard does not describe itself: a changed [`ScanRecord`] needs a new
//! version byte, and old versions stay readable for as long as retention. A kind of record that a release does not
//! know has a version byte that it does not know either.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    clock::Timestamp,
    event::EventType,
    id::{CodeId, EventAddress, TenantId},
};

/// The version byte of scans and erased records.
const VERSION: u8 = 1;
/// The version byte of conversions, which came later.
const VERSION_CONVERSION: u8 = 2;
const CRC_BYTES: usize = 4;
const LENGTH_BYTES: usize = 4;

/// One entry of the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every record is a scan, and they live on the stack for a moment"
)]
pub enum Record<'a> {
    /// A scan that was (or is about to be) answered with a redirect.
    #[serde(borrow)]
    Scan(ScanRecord<'a>),
    /// An erased record, which keeps its index.
    Redacted,
    /// What a scan led to, as its tenant reported it.
    #[serde(borrow)]
    Conversion(ConversionRecord<'a>),
}

/// What records of all kinds have that make an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Which event.
    pub event: EventType,
    /// Whose.
    pub tenant: TenantId,
    /// About which code.
    pub code: CodeId,
    /// The version of the code that the event shows.
    pub code_version: u64,
    /// When it was recorded.
    pub at: Timestamp,
}

impl Record<'_> {
    /// What it is about; none for an erased one.
    pub fn head(&self) -> Option<Head> {
        Some(match self {
            Self::Scan(scan) => Head {
                event: EventType::ScanCreated,
                tenant: scan.tenant,
                code: scan.code,
                code_version: scan.code_version,
                at: scan.at,
            },
            Self::Conversion(conversion) => Head {
                event: EventType::Conversion,
                tenant: conversion.tenant,
                code: conversion.code,
                code_version: conversion.code_version,
                at: conversion.at,
            },
            Self::Redacted => return None,
        })
    }

    /// The same with texts of its own.
    pub fn into_owned(self) -> Record<'static> {
        match self {
            Self::Scan(scan) => Record::Scan(scan.into_owned()),
            Self::Conversion(conversion) => Record::Conversion(conversion.into_owned()),
            Self::Redacted => Record::Redacted,
        }
    }

    const fn version(&self) -> u8 {
        match self {
            Self::Scan(_) | Self::Redacted => VERSION,
            Self::Conversion(_) => VERSION_CONVERSION,
        }
    }
}

/// A scan, as far as privacy lets it be kept. Texts are cut by the edge (see [`crate::limits`]).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ScanRecord<'a> {
    /// Whose code was scanned.
    pub tenant: TenantId,
    /// The code.
    pub code: CodeId,
    /// The version that answered.
    pub code_version: u64,
    /// When the request came in.
    pub at: Timestamp,
    /// What asked.
    pub classification: Classification,
    /// Why it was classified so.
    #[serde(borrow)]
    pub classification_reason: Cow<'a, str>,
    /// `mobile`, `tablet`, `desktop`, …
    #[serde(borrow, deserialize_with = "borrowed")]
    pub device_type: Option<Cow<'a, str>>,
    /// `iPhone`, …
    #[serde(borrow, deserialize_with = "borrowed")]
    pub device_family: Option<Cow<'a, str>>,
    /// `iOS`, …
    #[serde(borrow, deserialize_with = "borrowed")]
    pub os_family: Option<Cow<'a, str>>,
    /// `Safari`, …
    #[serde(borrow, deserialize_with = "borrowed")]
    pub browser_family: Option<Cow<'a, str>>,
    /// ISO 3166-1 alpha-2.
    #[serde(borrow, deserialize_with = "borrowed")]
    pub country: Option<Cow<'a, str>>,
    /// The first subdivision's name.
    #[serde(borrow, deserialize_with = "borrowed")]
    pub region: Option<Cow<'a, str>>,
    /// The city's name.
    #[serde(borrow, deserialize_with = "borrowed")]
    pub city: Option<Cow<'a, str>>,
    /// Without query and fragment.
    #[serde(borrow, deserialize_with = "borrowed")]
    pub referer: Option<Cow<'a, str>>,
    /// At most 512 bytes.
    #[serde(borrow, deserialize_with = "borrowed")]
    pub user_agent: Option<Cow<'a, str>>,
    /// The host that was asked.
    #[serde(borrow, deserialize_with = "borrowed")]
    pub host: Option<Cow<'a, str>>,
    /// The query that the scan came with.
    #[serde(borrow, deserialize_with = "borrowed")]
    pub query: Option<Cow<'a, str>>,
    /// What the client reads.
    #[serde(borrow, deserialize_with = "borrowed")]
    pub accept_language: Option<Cow<'a, str>>,
    /// The truncated network of the client, where its tenant wants it.
    #[serde(borrow, deserialize_with = "borrowed")]
    pub network: Option<Cow<'a, str>>,
}

/// A conversion. Its texts are bounded by the control plane.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConversionRecord<'a> {
    /// Whose code led to it.
    pub tenant: TenantId,
    /// The code.
    pub code: CodeId,
    /// The version that the scan led to; the latest one, if no scan is known.
    pub code_version: u64,
    /// When it was reported.
    pub at: Timestamp,
    /// The tenant's own id of it.
    pub external_id: Cow<'a, str>,
    /// A decimal number, as reported.
    pub value: Option<Cow<'a, str>>,
    /// Three letters, upper case.
    pub currency: Option<Cow<'a, str>>,
    /// A JSON object, as text.
    pub properties: Cow<'a, str>,
    /// The scan that led to it, if it is known.
    pub scan: Option<ConvertedScan<'a>>,
}

/// What a conversion says of its scan: which one, and what analysis asks for. The scan itself may be gone sooner.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConvertedScan<'a> {
    /// Where the scan's event stands.
    pub address: EventAddress,
    /// When the scan came in.
    pub at: Timestamp,
    /// What asked.
    pub classification: Classification,
    /// As in [`ScanRecord`].
    pub device_type: Option<Cow<'a, str>>,
    /// As in [`ScanRecord`].
    pub os_family: Option<Cow<'a, str>>,
    /// As in [`ScanRecord`].
    pub browser_family: Option<Cow<'a, str>>,
    /// As in [`ScanRecord`].
    pub country: Option<Cow<'a, str>>,
    /// As in [`ScanRecord`].
    pub region: Option<Cow<'a, str>>,
    /// As in [`ScanRecord`].
    pub city: Option<Cow<'a, str>>,
}

/// A text that is not copied: serde borrows one only where it is not optional.
fn borrowed<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    let text = Option::<&'de str>::deserialize(deserializer)?;
    Ok(text.map(Cow::Borrowed))
}

impl<'a> ConvertedScan<'a> {
    /// Of a scan whose event stands at `address`.
    pub fn of(address: EventAddress, scan: ScanRecord<'a>) -> Self {
        Self {
            address,
            at: scan.at,
            classification: scan.classification,
            device_type: scan.device_type,
            os_family: scan.os_family,
            browser_family: scan.browser_family,
            country: scan.country,
            region: scan.region,
            city: scan.city,
        }
    }
}

impl ConversionRecord<'_> {
    /// The same with texts of its own.
    pub fn into_owned(self) -> ConversionRecord<'static> {
        ConversionRecord {
            tenant: self.tenant,
            code: self.code,
            code_version: self.code_version,
            at: self.at,
            external_id: Cow::Owned(self.external_id.into_owned()),
            value: own(self.value),
            currency: own(self.currency),
            properties: Cow::Owned(self.properties.into_owned()),
            scan: self.scan.map(|scan| ConvertedScan {
                address: scan.address,
                at: scan.at,
                classification: scan.classification,
                device_type: own(scan.device_type),
                os_family: own(scan.os_family),
                browser_family: own(scan.browser_family),
                country: own(scan.country),
                region: own(scan.region),
                city: own(scan.city),
            }),
        }
    }
}

fn own(text: Option<Cow<'_, str>>) -> Option<Cow<'static, str>> {
    text.map(|text| Cow::Owned(text.into_owned()))
}

impl ScanRecord<'_> {
    /// The same with texts of its own.
    pub fn into_owned(self) -> ScanRecord<'static> {
        ScanRecord {
            tenant: self.tenant,
            code: self.code,
            code_version: self.code_version,
            at: self.at,
            classification: self.classification,
            classification_reason: Cow::Owned(self.classification_reason.into_owned()),
            device_type: own(self.device_type),
            device_family: own(self.device_family),
            os_family: own(self.os_family),
            browser_family: own(self.browser_family),
            country: own(self.country),
            region: own(self.region),
            city: own(self.city),
            referer: own(self.referer),
            user_agent: own(self.user_agent),
            host: own(self.host),
            query: own(self.query),
            accept_language: own(self.accept_language),
            network: own(self.network),
        }
    }
}

/// What asked for a scan. Recorded with its reason, never dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Classification {
    /// A person.
    Human,
    /// A link unfurler.
    Preview,
    /// A browser ahead of a click.
    Prefetch,
    /// A search engine or other crawler.
    Crawler,
    /// A security scanner or monitor.
    Scanner,
    /// A library or command-line tool.
    Tool,
    /// A HEAD request.
    Head,
}

impl Classification {
    /// All of them, in the order of the contract.
    pub const ALL: [Self; 7] = [
        Self::Human,
        Self::Preview,
        Self::Prefetch,
        Self::Crawler,
        Self::Scanner,
        Self::Tool,
        Self::Head,
    ];

    /// As in payloads.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Preview => "preview",
            Self::Prefetch => "prefetch",
            Self::Crawler => "crawler",
            Self::Scanner => "scanner",
            Self::Tool => "tool",
            Self::Head => "head",
        }
    }

    /// True for all but people.
    pub const fn is_bot(self) -> bool {
        !matches!(self, Self::Human)
    }
}

/// A record or batch that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The body is not what was written.
    #[error("the batch's checksum does not match its bytes")]
    Checksum,
    /// The body ends in the middle of a record.
    #[error("the batch ends in the middle of a record")]
    Truncated,
    /// Written by a newer release.
    #[error("record version {0} is not known to this release")]
    Version(u8),
    /// The bytes are not a record.
    #[error("the record's bytes do not make a record")]
    Malformed,
}

/// A record that is too large for any batch. Cannot happen for scans cut at their limits.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a record of {bytes} bytes does not fit into a batch")]
pub struct RecordTooLarge {
    /// Its size.
    pub bytes: usize,
}

/// The body of a batch while it is being filled.
#[derive(Debug)]
pub struct BatchBuilder {
    body: Vec<u8>,
    count: u16,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::for_bytes(0)
    }
}

impl BatchBuilder {
    /// With room for about so many bytes: growing copies what there is again and again.
    pub fn for_bytes(bytes: usize) -> Self {
        let mut body = Vec::with_capacity(bytes.max(CRC_BYTES));
        body.extend([0; CRC_BYTES]);
        Self { body, count: 0 }
    }

    /// Records so far.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Appends a record and returns its index.
    ///
    /// # Errors
    /// When the record alone exceeds [`crate::limits::BATCH_BYTES_MAX`]; nothing is changed then.
    ///
    /// # Panics
    /// When the batch already holds 65,535 records: the caller seals before.
    pub fn push(&mut self, record: &Record<'_>) -> Result<u16, RecordTooLarge> {
        let start = self.body.len();
        self.body.extend_from_slice(&[0; LENGTH_BYTES]);
        self.body.push(record.version());
        // Writing into a vector fails only for values that serde refuses, and a record has none.
        let mut body = postcard::to_extend(record, std::mem::take(&mut self.body))
            .expect("invariant: a record has no value that postcard refuses");
        let bytes = body.len() - start - LENGTH_BYTES;
        if bytes > crate::limits::BATCH_BYTES_MAX {
            body.truncate(start);
            self.body = body;
            return Err(RecordTooLarge { bytes });
        }
        let length = u32::try_from(bytes).expect("invariant: checked against the limit above");
        body[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        self.body = body;
        let index = self.count;
        self.count = self
            .count
            .checked_add(1)
            .expect("invariant: batches are sealed before the index overflows");
        Ok(index)
    }

    /// The finished body.
    pub fn finish(mut self) -> Vec<u8> {
        let crc = crc32fast::hash(&self.body[CRC_BYTES..]);
        self.body[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        self.body
    }
}

/// Checks a body and walks its records: one result per index, so that one undecodable record costs only itself.
///
/// # Errors
/// When the checksum does not match or the frame is cut off: then no record can be trusted.
pub fn decode_batch(body: &[u8]) -> Result<Vec<Result<Record<'_>, DecodeError>>, DecodeError> {
    let (crc, mut rest) = body.split_at_checked(CRC_BYTES).ok_or(DecodeError::Truncated)?;
    if crc32fast::hash(rest).to_le_bytes() != crc {
        return Err(DecodeError::Checksum);
    }
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or(DecodeError::Truncated)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DecodeError::Truncated)?;
        let (record, after) = after.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        records.push(decode_record(record));
        rest = after;
    }
    Ok(records)
}

/// One record of a body whose checksum was checked before ([`decode_batch`]), without decoding the others. None when
/// it has no such index.
///
/// # Errors
/// When the frame is cut off, or this record cannot be decoded.
pub fn record_at(body: &[u8], index: u16) -> Result<Option<Record<'_>>, DecodeError> {
    let (_, mut rest) = body.split_at_checked(CRC_BYTES).ok_or(DecodeError::Truncated)?;
    let mut at = 0;
    while !rest.is_empty() {
        let (length, after) = rest
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or(DecodeError::Truncated)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DecodeError::Truncated)?;
        let (record, after) = after.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        if at == index {
            return decode_record(record).map(Some);
        }
        (at, rest) = (at.saturating_add(1), after);
    }
    Ok(None)
}

fn decode_record(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    match bytes.split_first() {
        Some((&version @ (VERSION | VERSION_CONVERSION), record)) => {
            match postcard::take_from_bytes::<Record<'_>>(record) {
                Ok((record, [])) if record.version() == version => Ok(record),
                _ => Err(DecodeError::Malformed),
            }
        }
        Some((&version, _)) => Err(DecodeError::Version(version)),
        None => Err(DecodeError::Malformed),
    }
}

#[cfg(any(test, feature = "testing"))]
pub use testing::any_record;

#[cfg(any(test, feature = "testing"))]
mod testing {
    use proptest::{option, prelude::*, sample::select};

    use super::*;
    use crate::id::{PartitionId, Seq, WriterId};

    fn text() -> impl Strategy<Value = Cow<'static, str>> {
        "\\PC{0,40}".prop_map(Cow::Owned)
    }

    /// Any record, for round-trip properties.
    pub fn any_record() -> impl Strategy<Value = Record<'static>> {
        let who = (
            any::<[u8; 10]>(),
            any::<[u8; 10]>(),
            any::<u64>(),
            0_i64..253_402_207_199_999,
        );
        let what = (select(Classification::ALL.to_vec()), text());
        let texts = proptest::collection::vec(option::of(text()), 13);
        let scan = (who, what, texts).prop_map(
            |((tenant, code, code_version, at), (classification, reason), mut texts)| {
                let mut next = || texts.pop().flatten();
                Record::Scan(ScanRecord {
                    tenant: TenantId::from_bytes(tenant),
                    code: CodeId::from_bytes(code),
                    code_version,
                    at: Timestamp::from_millis(at),
                    classification,
                    classification_reason: reason,
                    device_type: next(),
                    device_family: next(),
                    os_family: next(),
                    browser_family: next(),
                    country: next(),
                    region: next(),
                    city: next(),
                    referer: next(),
                    user_agent: next(),
                    host: next(),
                    query: next(),
                    accept_language: next(),
                    network: next(),
                })
            },
        );
        prop_oneof![9 => scan, 3 => conversion(), 1 => Just(Record::Redacted)]
    }

    fn conversion() -> impl Strategy<Value = Record<'static>> {
        let who = (any::<[u8; 10]>(), any::<u64>(), 0_i64..253_402_207_199_999);
        let what = (text(), option::of(text()), option::of(text()));
        let address = (any::<u16>(), any::<u64>(), any::<u64>(), any::<u16>());
        let scan = (
            address,
            select(Classification::ALL.to_vec()),
            proptest::collection::vec(option::of(text()), 6),
        );
        (who, what, option::of(scan)).prop_map(
            |((id, code_version, at), (external_id, value, currency), scan)| {
                let at = Timestamp::from_millis(at);
                Record::Conversion(ConversionRecord {
                    tenant: TenantId::from_bytes(id),
                    code: CodeId::from_bytes(id),
                    code_version,
                    at,
                    external_id,
                    value,
                    currency,
                    properties: "{}".into(),
                    scan: scan.map(|((partition, writer, seq, index), classification, mut texts)| {
                        let mut next = || texts.pop().flatten();
                        ConvertedScan {
                            address: EventAddress {
                                partition: PartitionId::new(partition),
                                writer: WriterId::from_u64(writer),
                                seq: Seq::new(seq),
                                index,
                            },
                            at,
                            classification,
                            device_type: next(),
                            os_family: next(),
                            browser_family: next(),
                            country: next(),
                            region: next(),
                            city: next(),
                        }
                    }),
                })
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_survives_its_bytes(records in proptest::collection::vec(any_record(), 0..20)) {
            let mut builder = BatchBuilder::default();
            for (at, record) in records.iter().enumerate() {
                prop_assert_eq!(usize::from(builder.push(record).unwrap()), at);
            }
            let body = builder.finish();
            let read: Vec<_> = decode_batch(&body).unwrap().into_iter().map(Result::unwrap).collect();
            for (at, record) in (0_u16..).zip(&read) {
                let found = record_at(&body, at).unwrap();
                prop_assert_eq!(found.as_ref(), Some(record));
            }
            prop_assert_eq!(record_at(&body, u16::try_from(read.len()).unwrap()), Ok(None));
            prop_assert_eq!(read, records);
        }

        #[test]
        fn any_bytes_decode_or_fail_without_panic(mut bytes: Vec<u8>) {
            let _unchecked = decode_batch(&bytes).is_ok();
            if bytes.len() >= CRC_BYTES {
                let crc = crc32fast::hash(&bytes[CRC_BYTES..]).to_le_bytes();
                bytes[..CRC_BYTES].copy_from_slice(&crc);
                let _checked = decode_batch(&bytes).is_ok();
            }
        }

        #[test]
        fn a_flipped_bit_is_noticed(records in proptest::collection::vec(any_record(), 1..5), at: prop::sample::Index, bit in 0_u8..8) {
            let mut builder = BatchBuilder::default();
            for record in &records {
                builder.push(record).unwrap();
            }
            let mut body = builder.finish();
            let at = at.index(body.len());
            body[at] ^= 1 << bit;
            prop_assert_eq!(decode_batch(&body), Err(DecodeError::Checksum));
        }
    }

    #[test]
    fn a_scan_is_written_as_before_there_were_conversions() {
        // Written by the first release: `version 1 | variant 1`.
        let mut builder = BatchBuilder::default();
        builder.push(&Record::Redacted).unwrap();
        assert_eq!(builder.finish()[CRC_BYTES + LENGTH_BYTES..], [1, 1]);
    }

    #[test]
    fn a_newer_record_costs_only_itself() {
        let mut builder = BatchBuilder::default();
        builder.push(&Record::Redacted).unwrap();
        builder.push(&Record::Redacted).unwrap();
        let mut body = builder.finish();
        body[CRC_BYTES + LENGTH_BYTES] = 9;
        let crc = crc32fast::hash(&body[CRC_BYTES..]).to_le_bytes();
        body[..CRC_BYTES].copy_from_slice(&crc);
        assert_eq!(
            decode_batch(&body).unwrap(),
            [Err(DecodeError::Version(9)), Ok(Record::Redacted)]
        );
    }
}
