//! What was fixed when the data directory was created, and that its two files belong together.
//!
//! `log.db` is made first, with the install's id; the install row in `main.db` is written last and completes the
//! creation. A crash between the two leaves an empty log, which the next start adopts.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    OpenError, Options,
    fault::Fault,
    schema::{LOG, MAIN, Schema},
};
use crate::{
    clock::Timestamp,
    id::{IdCipher, random},
    store::Install,
};

/// Tells one install's files from another's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InstallId([u8; 16]);

/// Reads the install row, or writes it if this is the first start.
pub(super) fn load(
    dir: &Path,
    log: &Connection,
    main: &Connection,
    options: &Options,
) -> Result<(InstallId, Install), OpenError> {
    let corrupt = |schema: &Schema, reason: &str| OpenError::Corrupt {
        file: schema.path(dir),
        reason: reason.to_owned(),
    };
    let of_log = id(log, &LOG).map_err(|fault| LOG.open_error(dir, fault))?;
    let row = read(main).map_err(|fault| MAIN.open_error(dir, fault))?;
    match (row, of_log) {
        (Some((id, install)), Some(of_log)) if id == of_log => Ok((id, install)),
        (Some(_), Some(_)) => Err(corrupt(
            &LOG,
            "it belongs to another install than main.db beside it",
        )),
        (Some(_), None) => Err(corrupt(
            &LOG,
            "it is missing or empty, and main.db beside it is not",
        )),
        (None, of_log) => {
            let used: bool = log
                .query_row(
                    "SELECT EXISTS (SELECT 1 FROM writer) OR EXISTS (SELECT 1 FROM log)",
                    [],
                    |row| row.get(0),
                )
                .map_err(|error| LOG.open_error(dir, error.into()))?;
            if used {
                return Err(corrupt(
                    &MAIN,
                    "it is missing or empty, and log.db beside it is not",
                ));
            }
            create(dir, log, main, of_log, options)
        }
    }
}

fn create(
    dir: &Path,
    log: &Connection,
    main: &Connection,
    of_log: Option<InstallId>,
    options: &Options,
) -> Result<(InstallId, Install), OpenError> {
    let id = of_log.unwrap_or_else(|| InstallId(random()));
    if of_log.is_none() {
        log.execute("INSERT INTO belongs (install) VALUES (?1)", [id.0])
            .map_err(|error| LOG.open_error(dir, error.into()))?;
    }
    let key: [u8; 16] = random();
    let now = options.clock.now();
    main.execute(
        "INSERT INTO install (one, id, partitions, id_key, created_at) VALUES (1, ?1, ?2, ?3, ?4)",
        params![id.0, options.partitions.max(1), key, now.as_millis()],
    )
    .map_err(|error| MAIN.open_error(dir, error.into()))?;
    let install = Install {
        partitions: options.partitions.max(1),
        ids: IdCipher::new(&key),
        created_at: now,
    };
    Ok((id, install))
}

fn read(main: &Connection) -> Result<Option<(InstallId, Install)>, Fault> {
    let row = main.query_row(
        "SELECT id, partitions, id_key, created_at FROM install",
        [],
        |row| {
            let install = Install {
                partitions: row.get(1)?,
                ids: IdCipher::new(&row.get(2)?),
                created_at: Timestamp::from_millis(row.get(3)?),
            };
            Ok((InstallId(row.get(0)?), install))
        },
    );
    Ok(row.optional()?)
}

fn id(connection: &Connection, schema: &Schema) -> Result<Option<InstallId>, Fault> {
    let id = connection.query_row(schema.install_sql, [], |row| row.get(0));
    Ok(id.optional()?.map(InstallId))
}

/// Checks that a file opened anew is the one that was opened at the start.
pub(super) fn verify(connection: &Connection, schema: &Schema, expected: InstallId) -> Result<(), Fault> {
    match id(connection, schema)? {
        Some(found) if found == expected => Ok(()),
        _ => Err(Fault::io(format!("{} is another file than it was", schema.file))),
    }
}
