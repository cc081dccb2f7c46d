//! Why a keyspace cannot be used.

use std::path::PathBuf;

use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind as Setup, DbError, MetadataError,
    NewSessionError,
};

use super::ScyllaConfig;
use crate::store::StoreError;

/// Why a keyspace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its name is not one that we use.
    #[error(
        "{keyspace:?} cannot be the keyspace's name: it takes lower-case letters, digits and _, a letter first, 48 at most"
    )]
    Keyspace {
        /// The name.
        keyspace: String,
    },
    /// The certificates cannot be read.
    #[error("cannot use the certificates in {}: {reason}", file.display())]
    Tls {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// No node can be reached, or none lets us in.
    #[error("cannot connect to the CQL cluster at {}", nodes.join(", "))]
    Connect {
        /// The nodes that were tried.
        nodes: Vec<String>,
        /// Why.
        source: Box<NewSessionError>,
    },
    /// Encryption with the nodes cannot be agreed on: their certificates, most likely.
    #[error("cannot encrypt connections to the CQL cluster at {}: {reason}", nodes.join(", "))]
    Encrypt {
        /// The nodes that were tried.
        nodes: Vec<String>,
        /// Why.
        reason: String,
    },
    /// The nodes ask who logs in, and nobody was named.
    #[error("the CQL cluster at {} asks for a login, and none is set", nodes.join(", "))]
    LoginNeeded {
        /// The nodes that were tried.
        nodes: Vec<String>,
    },
    /// The nodes do not let this login in. Never shows its password.
    #[error("the CQL cluster at {} refuses the login of {user:?}: {reason}", nodes.join(", "))]
    Login {
        /// The nodes that were tried.
        nodes: Vec<String>,
        /// Who logged in.
        user: String,
        /// What they say.
        reason: String,
    },
    /// The cluster has several data centres, and none was named.
    #[error("the CQL cluster has the data centres {}: name the one to use", found.join(", "))]
    DatacenterNeeded {
        /// Those that it has.
        found: Vec<String>,
    },
    /// The cluster has no such data centre.
    #[error("the CQL cluster has no data centre {wanted:?}; it has {}", found.join(", "))]
    NoSuchDatacenter {
        /// The one that was named.
        wanted: String,
        /// Those that it has.
        found: Vec<String>,
    },
    /// The keyspace belongs to another data centre. Two that write to it would each decide conditions alone.
    #[error(
        "keyspace {keyspace} has its home in data centre {home:?}, and this process is set to use {wanted:?}"
    )]
    OtherDatacenter {
        /// The keyspace.
        keyspace: String,
        /// Where it was created.
        home: String,
        /// The one that was named.
        wanted: String,
    },
    /// A newer release was here.
    #[error(
        "keyspace {keyspace} has schema version {found}, and this release knows versions up to {known}: use the newer \
         release"
    )]
    NewerSchema {
        /// The keyspace.
        keyspace: String,
        /// Its version.
        found: i32,
        /// The latest that this release knows.
        known: i32,
    },
    /// A table cannot be made or changed.
    #[error(
        "cannot bring keyspace {keyspace} to schema version {version}: {reason}; the statement was: {statement}"
    )]
    Migrate {
        /// The keyspace.
        keyspace: String,
        /// To which version.
        version: i32,
        /// The statement's beginning.
        statement: String,
        /// Why.
        reason: String,
    },
    /// The cluster does not take a statement that this release needs.
    #[error("the CQL cluster refuses a statement that is needed: {reason}; the statement was: {statement}")]
    Statement {
        /// The statement's beginning.
        statement: String,
        /// Why.
        reason: String,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    /// Why there is no session.
    pub(super) fn connecting(config: &ScyllaConfig, error: NewSessionError) -> Self {
        let nodes = config.nodes.clone();
        match last_connection(&error) {
            Some(ConnectionError::ConnectionSetupRequestError(request)) => match &request.error {
                Setup::MissingAuthentication => return Self::LoginNeeded { nodes },
                Setup::DbError(DbError::AuthenticationError, reason) => {
                    let login = config.credentials.as_ref();
                    return Self::Login {
                        nodes,
                        user: login.map(|login| login.user.clone()).unwrap_or_default(),
                        reason: reason.clone(),
                    };
                }
                _ => {}
            },
            Some(ConnectionError::IoError(error)) => {
                let cause = error.get_ref();
                if let Some(cause) = cause.and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
                    return Self::Encrypt {
                        nodes,
                        reason: cause.to_string(),
                    };
                }
            }
            _ => {}
        }
        Self::Connect {
            nodes,
            source: Box::new(error),
        }
    }
}

/// What the last node that was tried came to.
fn last_connection(error: &NewSessionError) -> Option<&ConnectionError> {
    match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
            last_connection_error,
        })) => Some(last_connection_error),
        _ => None,
    }
}

/// A statement's beginning, for an error's text.
pub(super) fn beginning(statement: &str) -> String {
    let line: String = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(120).collect()
}
