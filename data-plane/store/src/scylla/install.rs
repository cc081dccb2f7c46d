//! What was fixed when the tables were created, and that this process is where they are at home.
//!
//! One row, which only conditional statements write: it also carries the schema's version and who is changing it
//! ([`super::schema`]).

use scylla::value::CqlTimestamp;

use super::{OpenError, ScyllaConfig, session::Cql};
use crate::{
    clock::Timestamp,
    id::{IdCipher, random},
    store::{Install, Result, StoreError},
};

/// The table, made before any other.
pub(super) const TABLE: &str = include_str!("schema/install.cql");

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
