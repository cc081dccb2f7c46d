//! Why all roles could not be started or stopped.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use qrelay_control::tls::TlsError;
use qrelay_dispatcher::exchange::TlsConfigError;
use qrelay_store::{
    StoreError,
    appender::{AppendError, AppenderError},
    id::WriterId,
    journal::JournalError,
    scylla,
    seal::{CheckError, MasterKeyError},
    sqlite,
};

use super::{admin_key::AdminKeyError, config};

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Open(#[from] sqlite::OpenError),
    /// The cluster's keyspace.
    #[error("--scylla-{flag} (QRELAY_SCYLLA_{})", flag.replace('-', "_").to_ascii_uppercase())]
    Cluster {
        /// What is likeliest to be at fault: `nodes`, `keyspace`, `datacenter`, `user`, `password-file` or `tls-ca`.
        flag: &'static str,
        /// Why it cannot be used.
        source: scylla::OpenError,
    },
    /// A cluster whose keys were not given.
    #[error("on a cluster the admin key and the master keys must be given: none is made")]
    KeysNeeded,
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
    /// The system gives no more threads.
    #[error("cannot start the edge's threads")]
    Threads(#[source] io::Error),
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
    #[error("--master-key-file (QRELAY_MASTER_KEY_FILE)")]
    MasterKey(#[from] MasterKeyError),
    /// The master keys do not open what is stored.
    #[error(
        "--master-key-file (QRELAY_MASTER_KEY_FILE): {} is not the key file of this install",
        path.display()
    )]
    WrongKeys {
        /// The key file.
        path: PathBuf,
        /// What does not open.
        source: CheckError,
    },
    /// The key in the variable does not open what is stored.
    #[error("QRELAY_MASTER_KEY is not the key of this install")]
    WrongKey {
        /// What does not open.
        source: CheckError,
    },
    /// The admin key.
    #[error(transparent)]
    AdminKey(#[from] AdminKeyError),
    /// The store failed once it was open.
    #[error("the store failed at the start")]
    Store(#[from] StoreError),
    /// The journal.
    #[error("--journal-dir (QRELAY_JOURNAL_DIR)")]
    Journal(#[from] JournalError),
    /// Another journal has scans of this store.
    #[error("the journal in {} may have scans that are not in the store yet", dir.display())]
    JournalElsewhere {
        /// Where it was.
        dir: PathBuf,
        /// Whose scans.
        writers: Vec<WriterId>,
    },
    /// The data directory's note of where its journal is.
    #[error("the data directory's journal.json, which says where its journal is")]
    JournalNote(#[source] io::Error),
    /// The GeoIP database.
    #[error("--geoip-db (QRELAY_GEOIP_DB)")]
    Geo(#[source] qrelay_edge::GeoError),
    /// The edge.
    #[error(transparent)]
    Edge(#[from] qrelay_edge::BuildError),
    /// The API's certificate.
    #[error("--api-tls-cert (QRELAY_API_TLS_CERT)")]
    TlsCert(#[source] TlsError),
    /// The API's private key.
    #[error("--api-tls-key (QRELAY_API_TLS_KEY)")]
    TlsKey(#[source] TlsError),
    /// The API's certificate and key do not fit each other, or are not what a server needs.
    #[error("--api-tls-cert {} and --api-tls-key {}", cert.display(), key.display())]
    TlsPair {
        /// The chain.
        cert: PathBuf,
        /// The private key.
        key: PathBuf,
        /// Why.
        source: TlsError,
    },
    /// The authorities that receivers are checked against.
    #[error("--ca-bundle (QRELAY_CA_BUNDLE)")]
    CaBundle(#[source] TlsConfigError),
    /// TLS to receivers cannot be set up, whatever the authorities are.
    #[error("the dispatcher cannot start")]
    Dispatcher(#[source] TlsConfigError),
    /// The control plane.
    #[error("the control plane cannot start")]
    Control(#[from] qrelay_control::BuildError),
}

impl From<scylla::OpenError> for StartError {
    fn from(source: scylla::OpenError) -> Self {
        use scylla::OpenError as E;
        let flag = match &source {
            E::Keyspace { .. } | E::NewerSchema { .. } | E::Migrate { .. } => "keyspace",
            E::DatacenterNeeded { .. } | E::NoSuchDatacenter { .. } | E::OtherDatacenter { .. } => {
                "datacenter"
            }
            E::Tls { .. } | E::Encrypt { .. } => "tls-ca",
            E::LoginNeeded { .. } => "user",
            E::Login { .. } => "password-file",
            E::Connect { .. } | E::Statement { .. } | E::Store(_) => "nodes",
        };
        Self::Cluster { flag, source }
    }
}

impl From<AppenderError> for StartError {
    fn from(error: AppenderError) -> Self {
        match error {
            AppenderError::Store(error) => error.into(),
            AppenderError::Journal(error) => error.into(),
        }
    }
}

impl StartError {
    /// Whether the configuration is at fault, and the same start would never succeed.
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::MasterKey(MasterKeyError::File { source, .. }) => is_wrong_path(source.kind()),
            Self::MasterKey(_)
            | Self::Geo(_)
            | Self::TlsCert(_)
            | Self::TlsKey(_)
            | Self::TlsPair { .. }
            | Self::CaBundle(_) => true,
            // Certificates and logins may be put right on the nodes, too.
            Self::Cluster { source, .. } => matches!(
                source,
                scylla::OpenError::Tls { .. }
                    | scylla::OpenError::DatacenterNeeded { .. }
                    | scylla::OpenError::NoSuchDatacenter { .. }
                    | scylla::OpenError::OtherDatacenter { .. }
            ),
            _ => false,
        }
    }

    /// Whether the same start may succeed in a while, without anybody changing anything.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Cluster { source, .. } if source.may_pass())
    }

    /// What to do next, where that is not said by the error.
    pub(crate) fn hint(&self) -> Option<String> {
        let expected = match self {
            Self::MasterKey(MasterKeyError::Exposed { .. }) => return None,
            Self::MasterKey(_) | Self::WrongKeys { .. } => config::MASTER_KEY_FILE,
            Self::Geo(_) => config::GEOIP_DB,
            Self::TlsCert(_) => config::API_TLS_CERT,
            Self::TlsKey(_) => config::API_TLS_KEY,
            Self::TlsPair { .. } => "a certificate and the private key that was made with it",
            Self::CaBundle(_) => config::CA_BUNDLE,
            Self::JournalElsewhere { dir, writers } => return Some(bring_journal(dir, writers)),
            other => return other.action().map(str::to_owned),
        };
        Some(format!("name {expected}"))
    }

    fn action(&self) -> Option<&'static str> {
        match self {
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    Some("another process listens there; choose another port, or 0 for any free one")
                }
                io::ErrorKind::PermissionDenied => Some("ports below 1024 need a privilege"),
                io::ErrorKind::AddrNotAvailable => Some("this machine does not have that address"),
                _ => None,
            },
            Self::WrongKey { .. } => Some(
                "set it to the key that this install's secrets were sealed with, or name a key file with --master-key-file",
            ),
            Self::Cluster { source, .. } => match source {
                scylla::OpenError::Connect { .. } => Some(
                    "see that the nodes are up and can be reached from here, and that --scylla-tls-ca is set if, and only if, they take encrypted connections",
                ),
                scylla::OpenError::Encrypt { .. } => Some(
                    "name a PEM file with the authorities of the nodes' certificates, which must name the addresses that the nodes announce; without --scylla-tls-ca connections are not encrypted",
                ),
                scylla::OpenError::LoginNeeded { .. } => Some("set --scylla-user and --scylla-password-file"),
                scylla::OpenError::Login { .. } => Some(
                    "see that the login is there, may log in, and that --scylla-user and --scylla-password-file are its name and its password",
                ),
                scylla::OpenError::Store(StoreError::Unavailable(_)) => Some(
                    "more than half of the nodes that keep a row must be up: that is two where the keyspace was made with --scylla-replication 3",
                ),
                scylla::OpenError::Migrate { .. } => Some(
                    "`qrelay schema apply`, with a login that may make and alter tables, does it once for all processes",
                ),
                _ => None,
            },
            Self::Journal(JournalError::InUse { .. }) => {
                Some("stop the other process, or choose another --journal-dir")
            }
            Self::Journal(JournalError::OtherInstall { .. }) => {
                Some("name this install's own journal, or an empty directory")
            }
            Self::Open(sqlite::OpenError::InUse { .. }) => {
                Some("stop the other process, or choose another --data-dir")
            }
            _ => None,
        }
    }
}

fn bring_journal(dir: &Path, writers: &[WriterId]) -> String {
    let lost: Vec<_> = writers
        .iter()
        .map(|writer| format!("--writer {writer}"))
        .collect();
    format!(
        "start with --journal-dir {}, with the journal's files in it (is its disk mounted?); if they are lost, `qrelay journal abandon --data-dir … {}` gives up what was in them",
        dir.display(),
        lost.join(" ")
    )
}

/// Of what cannot be read or made: whether another path would do, where others (a full disk) are for the machine.
fn is_wrong_path(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ReadOnlyFilesystem
            // Not UTF-8, so no key file.
            | io::ErrorKind::InvalidData
    )
}

/// What a stop did not achieve. Nothing that was answered is lost by it.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The writer's last batches were not acknowledged in time.
    #[error("the log's writer could not be closed in time")]
    Writer(#[source] AppendError),
    /// Something did not end before the drain deadline.
    #[error("these did not end in time and were cut off: {0}")]
    Late(String),
}
