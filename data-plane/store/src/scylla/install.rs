//! What was fixed when the tables were created, and that this process is where they are at home.
//!
//! One row, which only conditional statements write: it also carries the schema's version and who is changing it
//! ([`super::schema`]).

use data_encoding::HEXLOWER;
use scylla::value::CqlTimestamp;
use sha2::{Digest as _, Sha256};

use super::{OpenError, ScyllaConfig, session::Cql};
use crate::{
    clock::Timestamp,
    id::{IdCipher, random},
    store::{Install, Result, StoreError},
};

/// The statement that makes the table, before any other.
///
/// Several processes may make it at once, each through another node. Cassandra's nodes then each give the table an id of
/// their own, and disagree for ever; so it gets one that only its keyspace's name decides. ScyllaDB's nodes agree first.
pub(super) fn table(keyspace: &str, is_scylla: bool) -> String {
    let statement = include_str!("schema/install.cql").trim_end();
    if is_scylla {
        return statement.to_owned();
    }
    format!("{statement} WITH id = {}", table_id(keyspace))
}

/// A UUID of version 8 (RFC 9562) from the keyspace's name.
fn table_id(keyspace: &str) -> String {
    let digest = Sha256::new()
        .chain_update("qrelay table install of keyspace ")
        .chain_update(keyspace)
        .finalize();
    let mut id = [0_u8; 16];
    id.copy_from_slice(&digest[..16]);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    let hex = HEXLOWER.encode(&id);
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// The row.
pub(super) struct InstallRow {
    /// What was fixed.
    pub(super) install: Install,
    /// The data centre that the keyspace is at home in.
    pub(super) home: String,
    /// The schema's version.
    pub(super) version: i32,
    /// Who is changing the schema, or nobody (zero).
    pub(super) runner: i64,
    /// Moves while it does.
    pub(super) beat: i64,
}

/// The row's columns, in the order of [`SELECT`].
pub(super) type Selected = (i32, i64, i64, i32, Vec<u8>, CqlTimestamp, String);

/// Reads the row.
pub(super) const SELECT: &str =
    "SELECT version, runner, beat, partitions, id_key, created_at, home FROM install WHERE one = 1";

/// Creates the row.
pub(super) const CREATE: &str = "INSERT INTO install (one, version, runner, beat, partitions, id_key, created_at, home) \
                                 VALUES (1, 0, 0, 0, ?, ?, ?, ?) IF NOT EXISTS";

/// The values of [`CREATE`].
pub(super) fn new(cql: &Cql, config: &ScyllaConfig) -> (i32, Vec<u8>, CqlTimestamp, String) {
    let key: [u8; 16] = random();
    (
        i32::from(config.partitions.max(1)),
        key.to_vec(),
        CqlTimestamp(config.clock.now().as_millis()),
        cql.datacenter().to_owned(),
    )
}

impl InstallRow {
    /// From what was read.
    pub(super) fn read((version, runner, beat, partitions, key, at, home): Selected) -> Result<Self> {
        let damaged =
            |what: &str| StoreError::Corrupt(format!("the row of table install has no valid {what}"));
        let key: [u8; 16] = key.try_into().map_err(|_| damaged("id_key"))?;
        Ok(Self {
            install: Install {
                partitions: u16::try_from(partitions).map_err(|_| damaged("partitions"))?,
                ids: IdCipher::new(&key),
                created_at: Timestamp::from_millis(at.0),
            },
            home,
            version,
            runner,
            beat,
        })
    }
}

/// Refuses to work from another data centre than the keyspace's home: conditions are decided in one only.
pub(super) fn check_datacenter(cql: &Cql, config: &ScyllaConfig, row: &InstallRow) -> Result<(), OpenError> {
    if row.home == cql.datacenter() {
        return Ok(());
    }
    Err(OpenError::OtherDatacenter {
        keyspace: config.keyspace.clone(),
        home: row.home.clone(),
        wanted: cql.datacenter().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_a_keyspace_always_has_the_same_id() {
        let made = table("qrelay", false);
        assert_eq!(made, table("qrelay", false));
        assert_ne!(made, table("qrelay_2", false));
        let (_, id) = made.rsplit_once(" WITH id = ").unwrap();
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(!table("qrelay", true).contains("WITH"));
    }
}
