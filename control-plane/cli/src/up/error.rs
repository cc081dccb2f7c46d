//! Why all roles could not be started or stopped.

use std::{io, net::SocketAddr, path::PathBuf};

use qrelay_store::{
    StoreError,
    appender::AppendError,
    seal::{CheckError, MasterKeyError},
    sqlite,
};

use super::admin_key::AdminKeyError;

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Open(#[from] sqlite::OpenError),
    /// An address.
    #[error("cannot listen on {address} (--{flag}-listen)")]
    Listen {
        /// `edge`, `api` or `ops`.
        flag: &'static str,
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The store has secrets, and their key is gone.
    #[error(
        "the master key file {} is missing, and this store has secrets sealed with it: bring it back, or name it with --master-key-file",
        path.display()
    )]
    MasterKeyLost {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The master keys cannot be read or made.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// The master keys do not open what is stored.
    #[error(transparent)]
    WrongKeys(#[from] CheckError),
    /// The admin key.
    #[error(transparent)]
    AdminKey(#[from] AdminKeyError),
    /// The store failed once it was open.
    #[error("the store failed at the start")]
    Store(#[from] StoreError),
    /// The edge.
    #[error(transparent)]
    Edge(#[from] qrelay_edge::BuildError),
    /// The API's certificate or key.
    #[error("cannot use the API's TLS files")]
    Tls(#[from] qrelay_control::tls::TlsError),
    /// The authorities that receivers are checked against.
    #[error("the dispatcher cannot start")]
    Dispatcher(#[from] qrelay_dispatcher::exchange::TlsConfigError),
    /// The control plane.
    #[error("the control plane cannot start")]
    Control(#[from] qrelay_control::BuildError),
}

impl StartError {
    /// What to do next, where that is not said by the error.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    Some("another process listens there; choose another port, or 0 for any free one")
                }
                io::ErrorKind::PermissionDenied => Some("ports below 1024 need a privilege"),
                io::ErrorKind::AddrNotAvailable => Some("this machine does not have that address"),
                _ => None,
            },
            Self::Open(sqlite::OpenError::InUse { .. }) => {
                Some("stop the other process, or choose another --data-dir")
            }
            _ => None,
        }
    }
}

/// What a stop did not achieve. Nothing that was answered is lost by it.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The writer's last batches were not acknowledged in time.
    #[error("the log's writer could not be closed; the next start does it")]
    Writer(#[source] AppendError),
    /// Something did not end before the drain deadline.
    #[error("these did not end in time and were cut off: {0}")]
    Late(String),
}
