//! Columns and what they hold: numbers, addresses and documents.
//!
//! SQLite's integers are signed. Numbers of ours are below 2^63 by nature; the conversion keeps all 64 bits, so
//! equality holds for any.

use rusqlite::Row;
use serde::{Serialize, de::DeserializeOwned};

use super::fault::Fault;
use crate::{
    clock::Timestamp,
    id::{EventAddress, Seq},
};

/// A number's column value.
pub(super) fn int(number: u64) -> i64 {
    number.cast_signed()
}

/// A column's number.
pub(super) fn number(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(i64::cast_unsigned)
}

/// A column's time.
pub(super) fn time(row: &Row<'_>, at: usize) -> rusqlite::Result<Timestamp> {
    row.get(at).map(Timestamp::from_millis)
}

/// A column's batch number.
pub(super) fn seq(row: &Row<'_>, at: usize) -> rusqlite::Result<Seq> {
    number(row, at).map(Seq::new)
}

/// How many rows, as a LIMIT.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// A row as it is stored.
pub(super) fn document<T: Serialize>(value: &T) -> Result<String, Fault> {
    Ok(serde_json::to_string(value)?)
}

/// A stored row.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    Ok(serde_json::from_str(text)?)
}

/// An id as it is stored.
pub(super) fn parse_id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Fault> {
    text.parse()
        .map_err(|error| Fault::Damaged(format!("a stored id cannot be read: {error}")))
}

/// An event's address in bytes that compare as addresses do.
pub(super) fn address_key(address: EventAddress) -> [u8; 16] {
    address.sort_key()
}

/// The address behind [`address_key`].
pub(super) fn address(key: [u8; 16]) -> EventAddress {
    EventAddress::from_sort_key(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{PartitionId, WriterId};

    fn any_address() -> impl Strategy<Value = EventAddress> {
        // Small numbers too, so that the later fields decide an order now and then.
        let word = || prop_oneof![0_u64..3, any::<u64>()];
        (prop_oneof![0_u16..2, any::<u16>()], word(), word(), any::<u16>()).prop_map(
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
        fn an_address_survives_its_key_and_keys_compare_as_addresses(a in any_address(), b in any_address()) {
            prop_assert_eq!(address(address_key(a)), a);
            prop_assert_eq!(address_key(a).cmp(&address_key(b)), a.cmp(&b));
        }
    }
}
