//! What can go wrong inside the backend, and what a caller is told.

use rusqlite::ErrorCode;

use crate::store::StoreError;

/// Why a piece of work on a connection failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite says no.
    Sql(rusqlite::Error),
    /// A row is not what was written.
    Damaged(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Damaged(format!("a stored document cannot be read: {error}"))
    }
}

impl Fault {
    /// An I/O error found by us: the cause may go away.
    pub(super) fn io(reason: String) -> Self {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
        Self::Sql(rusqlite::Error::SqliteFailure(code, Some(reason)))
    }

    /// Whether the error says that the file is damaged, rather than that it cannot be reached just now.
    pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
        match error {
            rusqlite::Error::SqliteFailure(failure, _) => {
                matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            }
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => true,
            _ => false,
        }
    }

    /// Whether only this piece of work failed: its statements broke a constraint or could not be read, and the
    /// connection is as good as before.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sql(rusqlite::Error::SqliteFailure(failure, _)) => matches!(
                failure.code,
                ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch
            ),
            Self::Sql(_) => true,
        }
    }

    /// Whether the connection should be opened anew before it is used again.
    pub(super) fn spoils_connection(&self) -> bool {
        !self.is_local()
            && !matches!(
                self,
                Self::Sql(rusqlite::Error::SqliteFailure(failure, _))
                    if matches!(failure.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            )
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Damaged(reason) => StoreError::Corrupt(reason),
            Fault::Sql(error) if Fault::is_damage(&error) => StoreError::Corrupt(error.to_string()),
            Fault::Sql(error) => StoreError::Unavailable(error.to_string()),
        }
    }
}
