//! Identifiers: random names of resources, addresses in the log, and the opaque ids made of them.
//!
//! Text form: a prefix and lower-case Crockford base32, without padding. Only the canonical text parses.
//! An event's id is its address enciphered as one AES block, so that a look-up needs no index and an id tells
//! nothing; a delivery's id adds a second block with the endpoint and the time of the first attempt.

use std::{fmt, str::FromStr, sync::LazyLock};

use aes::{
    Aes128,
    cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit},
};
use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    spec.encoding()
        .expect("invariant: 32 distinct symbols make an encoding")
});

/// Lower-case Crockford base32 without padding.
pub fn base32(bytes: &[u8]) -> String {
    BASE32.encode(bytes)
}

/// A text that is not an id of the kind asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a valid id: expected {prefix}…")]
pub struct InvalidId {
    /// What such an id begins with.
    pub prefix: &'static str,
}

fn parse<const N: usize>(prefix: &'static str, text: &str) -> Result<[u8; N], InvalidId> {
    let body = text.strip_prefix(prefix).ok_or(InvalidId { prefix })?;
    if body.len() > 2 * N {
        return Err(InvalidId { prefix });
    }
    let bytes = BASE32.decode(body.as_bytes()).map_err(|_| InvalidId { prefix })?;
    bytes.try_into().map_err(|_| InvalidId { prefix })
}

/// Random bytes from the operating system (in a test that asked for it, from its seed).
///
/// # Panics
/// When the operating system has no randomness: nothing secure can be done then.
pub fn random<const N: usize>() -> [u8; N] {
    #[cfg(feature = "testing")]
    if let Some(bytes) = crate::seeded::bytes() {
        return bytes;
    }
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("invariant: the operating system's randomness works");
    bytes
}

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// What the text form begins with.
            pub const PREFIX: &'static str = $prefix;

            /// From its bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; ($bytes * 8_usize).div_ceil(5)];
                BASE32.encode_mut(&self.0, &mut text);
                f.write_str($prefix)?;
                f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse($prefix, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; $bytes]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

macro_rules! resource_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        opaque_id!($(#[$doc])* $name, 10, $prefix);

        impl $name {
            /// A new one: 80 random bits.
            pub fn random() -> Self {
                Self(random())
            }
        }
    };
}

resource_id!(/** A tenant. */ TenantId, "ten_");
resource_id!(/** A code. */ CodeId, "code_");
resource_id!(/** An endpoint. */ EndpointId, "ep_");
resource_id!(/** An API key; not a secret. */ KeyId, "key_");
resource_id!(/** A signing secret's row; not a secret. */ SecretId, "sec_");
resource_id!(/** A command to a partition's owner. */ CommandId, "cmd_");
resource_id!(/** A dispatcher process start. */ OwnerId, "own_");
resource_id!(/** A run: a cursor through the log with the endpoints that it feeds. */ RunId, "run_");
opaque_id!(/** A replay of an endpoint's events: the endpoint, and 80 bits of its own. */ ReplayId, 20, "rpl_");
opaque_id!(
    /** An event: its [`EventAddress`] enciphered. Equal to `webhook-id` and `x-qrelay-scan`. */
    EventId, 16, "evt_"
);
opaque_id!(/** A delivery: event, endpoint and first attempt, enciphered. */ DeliveryId, 32, "dlv_");

impl ReplayId {
    /// A new one for an endpoint.
    pub fn random(endpoint: EndpointId) -> Self {
        Self::of(endpoint, random())
    }

    /// The one of an endpoint with these bytes.
    pub fn of(endpoint: EndpointId, own: [u8; 10]) -> Self {
        let mut bytes = [0; 20];
        bytes[..10].copy_from_slice(endpoint.as_bytes());
        bytes[10..].copy_from_slice(&own);
        Self(bytes)
    }

    /// Whose events it replays.
    pub fn endpoint(&self) -> EndpointId {
        EndpointId::from_bytes(self.half(0))
    }

    /// What tells it from the endpoint's other replays.
    pub fn own(&self) -> [u8; 10] {
        self.half(10)
    }

    /// What the text form of all replays of an endpoint begins with.
    pub fn prefix_of(endpoint: EndpointId) -> String {
        format!("{}{}", Self::PREFIX, base32(endpoint.as_bytes()))
    }

    fn half(&self, from: usize) -> [u8; 10] {
        let mut half = [0; 10];
        half.copy_from_slice(&self.0[from..from + 10]);
        half
    }
}

/// One process start that records events. New and random at every start, so that a sequence number is never
/// used again with other bytes. 48 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterId(u64);

impl WriterId {
    const MASK: u64 = (1 << 48) - 1;

    /// A new one.
    pub fn random() -> Self {
        Self(u64::from_le_bytes(random()) & Self::MASK)
    }

    /// From a number; only the low 48 bits count.
    pub const fn from_u64(value: u64) -> Self {
        Self(value & Self::MASK)
    }

    /// As a number below 2^48.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

/// A slice of the log, and the unit that a dispatcher leases.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(u16);

impl PartitionId {
    /// Not a partition: marks addresses in the configuration log.
    pub const CONFIG: PartitionId = PartitionId(0xFFFF);
    /// Not a partition: marks synthetic events of endpoint tests.
    pub const TEST: PartitionId = PartitionId(0xFFFE);
    /// The first number that no partition ever has: it and all above are kept for marks.
    pub const RESERVED: u16 = 0xFF00;

    /// The partition with this number.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Numbers a writer's batches within a partition: 1, 2, 3, … Zero means "none yet". Below 2^48.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(u64);

impl Seq {
    /// Before the first batch.
    pub const ZERO: Seq = Seq(0);

    /// From its number; only the low 48 bits count.
    pub const fn new(number: u64) -> Self {
        Self(number & WriterId::MASK)
    }

    /// Its number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an event stands: in the log, in the configuration log ([`PartitionId::CONFIG`], writer 0, `seq` =
/// the configuration log's, `index` = the change within the row), or nowhere ([`PartitionId::TEST`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct EventAddress {
    /// The partition.
    pub partition: PartitionId,
    /// Who recorded it.
    pub writer: WriterId,
    /// The batch.
    pub seq: Seq,
    /// The record within the batch, from 0.
    pub index: u16,
}

/// No event has it: a batch holds as many records at most.
const RANGE_INDEX: u16 = u16::MAX;

impl EventAddress {
    /// The address that stands for this event's batch and some that follow it, where a row of the delivery log tells of all
    /// their events at once. It is no event's: so what becomes of one of them later leaves that row as it is.
    #[must_use]
    pub const fn range_from(self) -> Self {
        Self {
            index: RANGE_INDEX,
            ..self
        }
    }

    /// Whether it stands for batches ([`Self::range_from`]).
    pub const fn is_range(self) -> bool {
        self.index == RANGE_INDEX
    }

    /// A configuration event's address.
    pub const fn config(seq: ConfigSeq, index: u16) -> Self {
        Self {
            partition: PartitionId::CONFIG,
            writer: WriterId(0),
            seq: Seq::new(seq.0),
            index,
        }
    }

    /// A new address of a synthetic event.
    pub fn test() -> Self {
        Self {
            partition: PartitionId::TEST,
            writer: WriterId::random(),
            seq: Seq::new(u64::from_le_bytes(random())),
            index: 0,
        }
    }

    /// In bytes that compare as addresses do: partition (2), writer (6), seq (6), index (2), big endian.
    pub(crate) fn sort_key(self) -> [u8; 16] {
        let mut key = [0; 16];
        key[0..2].copy_from_slice(&self.partition.0.to_be_bytes());
        key[2..8].copy_from_slice(&self.writer.0.to_be_bytes()[2..]);
        key[8..14].copy_from_slice(&self.seq.0.to_be_bytes()[2..]);
        key[14..16].copy_from_slice(&self.index.to_be_bytes());
        key
    }

    /// The address behind [`Self::sort_key`].
    pub(crate) fn from_sort_key(key: [u8; 16]) -> Self {
        let word = |at: usize| {
            key[at..at + 6]
                .iter()
                .fold(0_u64, |all, byte| all << 8 | u64::from(*byte))
        };
        Self {
            partition: PartitionId(u16::from_be_bytes([key[0], key[1]])),
            writer: WriterId(word(2)),
            seq: Seq(word(8)),
            index: u16::from_be_bytes([key[14], key[15]]),
        }
    }

    fn to_block(self) -> [u8; 16] {
        let mut block = [0; 16];
        block[0..6].copy_from_slice(&self.writer.0.to_be_bytes()[2..]);
        block[6..8].copy_from_slice(&self.partition.0.to_be_bytes());
        block[8..14].copy_from_slice(&self.seq.0.to_be_bytes()[2..]);
        block[14..16].copy_from_slice(&self.index.to_be_bytes());
        block
    }

    fn from_block(block: [u8; 16]) -> Self {
        let word = |at: usize| {
            block[at..at + 6]
                .iter()
                .fold(0_u64, |all, byte| all << 8 | u64::from(*byte))
        };
        Self {
            writer: WriterId(word(0)),
            partition: PartitionId(u16::from_be_bytes([block[6], block[7]])),
            seq: Seq(word(8)),
            index: u16::from_be_bytes([block[14], block[15]]),
        }
    }
}

/// Numbers the rows of the configuration log, gap-free from 1. Zero means "none yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfigSeq(u64);

impl ConfigSeq {
    /// Before the first row.
    pub const ZERO: ConfigSeq = ConfigSeq(0);

    /// From its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What a delivery's id holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DeliveryKey {
    /// For which endpoint.
    pub endpoint: EndpointId,
    /// When the first attempt began: with the endpoint it finds the delivery's rows in the attempt log.
    pub first_at: Timestamp,
    /// The event.
    pub event: EventAddress,
}

/// Turns addresses into ids and back, under the install-wide id key.
#[derive(Clone)]
pub struct IdCipher(Aes128);

impl fmt::Debug for IdCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdCipher(..)")
    }
}

impl IdCipher {
    /// With the install's id key.
    pub fn new(key: &[u8; 16]) -> Self {
        Self(Aes128::new(&Array::from(*key)))
    }

    /// The id of the event at `address`.
    pub fn event_id(&self, address: EventAddress) -> EventId {
        EventId(self.encipher(address.to_block()))
    }

    /// Where the event with this id would stand. Any 128 bits decipher to some address: whether there is an
    /// event is for the log to say.
    pub fn event_address(&self, id: EventId) -> EventAddress {
        EventAddress::from_block(self.decipher(id.0))
    }

    /// The id of a delivery. The second block is chained to the first, as in CBC.
    pub fn delivery_id(&self, key: &DeliveryKey) -> DeliveryId {
        let event = self.encipher(key.event.to_block());
        let mut second = [0; 16];
        second[..10].copy_from_slice(&key.endpoint.0);
        second[10..].copy_from_slice(&key.first_at.as_millis().to_be_bytes()[2..]);
        let second = self.encipher(xor(second, event));
        let mut id = [0; 32];
        id[..16].copy_from_slice(&event);
        id[16..].copy_from_slice(&second);
        DeliveryId(id)
    }

    /// What a delivery's id holds.
    pub fn delivery_key(&self, id: DeliveryId) -> DeliveryKey {
        let (mut event, mut second) = ([0; 16], [0; 16]);
        event.copy_from_slice(&id.0[..16]);
        second.copy_from_slice(&id.0[16..]);
        let second = xor(self.decipher(second), event);
        let mut endpoint = [0; 10];
        endpoint.copy_from_slice(&second[..10]);
        let at = second[10..]
            .iter()
            .fold(0_i64, |all, byte| all << 8 | i64::from(*byte));
        DeliveryKey {
            endpoint: EndpointId(endpoint),
            first_at: Timestamp::from_millis(at),
            event: EventAddress::from_block(self.decipher(event)),
        }
    }

    fn encipher(&self, block: [u8; 16]) -> [u8; 16] {
        let mut block = Array::from(block);
        self.0.encrypt_block(&mut block);
        block.into()
    }

    fn decipher(&self, block: [u8; 16]) -> [u8; 16] {
        let mut block = Array::from(block);
        self.0.decrypt_block(&mut block);
        block.into()
    }
}

fn xor(mut a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    for (a, b) in a.iter_mut().zip(b) {
        *a ^= b;
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = EventAddress> {
        (any::<u16>(), any::<u64>(), any::<u64>(), any::<u16>()).prop_map(
            |(partition, writer, seq, index)| EventAddress {
                partition: PartitionId::new(partition),
                writer: WriterId::from_u64(writer),
                seq: Seq::new(seq),
                index,
            },
        )
    }

    proptest! {
        #[test]
        fn an_address_survives_its_id(address in address(), key: [u8; 16], endpoint: [u8; 10], at in 0_i64..200_000_000_000_000) {
            let cipher = IdCipher::new(&key);
            let id: EventId = cipher.event_id(address).to_string().parse().unwrap();
            prop_assert_eq!(cipher.event_address(id), address);
            let key = DeliveryKey { endpoint: EndpointId(endpoint), first_at: Timestamp::from_millis(at), event: address };
            let id: DeliveryId = cipher.delivery_id(&key).to_string().parse().unwrap();
            prop_assert_eq!(cipher.delivery_key(id), key);
        }

        #[test]
        fn parsing_an_id_never_panics_and_takes_only_the_canonical_text(text in "\\PC{0,80}") {
            if let Ok(id) = text.parse::<EventId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn ids_are_lower_case_and_of_fixed_length() {
        assert_eq!(TenantId::random().to_string().len(), "ten_".len() + 16);
        assert_eq!(
            EventId::from_bytes([0xFF; 16]).to_string().len(),
            "evt_".len() + 26
        );
        assert!("ten_".parse::<TenantId>().is_err());
        assert!("code_0000000000000000".parse::<TenantId>().is_err());
        assert!("ten_000000000000000U".parse::<TenantId>().is_err());
    }
}
