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

    /// Whether it may pass by itself: nodes that are starting, or cannot be reached just now. All else is for a person.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect { source, .. } => session_may_come(source),
            // So Cassandra says while it cannot read its own table of logins.
            Self::Login { reason, .. } => reason.contains("Unable to perform authentication"),
            Self::Store(StoreError::Unavailable(_)) => true,
            _ => false,
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

fn session_may_come(error: &NewSessionError) -> bool {
    match (error, last_connection(error)) {
        (_, Some(ConnectionError::ConnectionSetupRequestError(request))) => setup_may_succeed(&request.error),
        // A name that is not known yet: the nodes' machines are being started.
        (NewSessionError::FailedToResolveAnyHostname(_) | NewSessionError::MetadataError(_), _) => true,
        _ => false,
    }
}

fn setup_may_succeed(error: &Setup) -> bool {
    match error {
        Setup::DbError(why, _) => !matches!(
            why,
            DbError::Unauthorized | DbError::SyntaxError | DbError::Invalid | DbError::ConfigError
        ),
        Setup::BrokenConnection(_) | Setup::UnableToAllocStreamId => true,
        _ => false,
    }
}

/// A statement's beginning, for an error's text.
pub(super) fn beginning(statement: &str) -> String {
    let line: String = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;

    fn connect(last_connection_error: ConnectionError) -> OpenError {
        let broken = ConnectionPoolError::Broken {
            last_connection_error,
        };
        OpenError::Connect {
            nodes: vec!["db-1:9042".to_owned()],
            source: Box::new(NewSessionError::MetadataError(broken.into())),
        }
    }

    fn refused(reason: &str) -> OpenError {
        OpenError::Login {
            nodes: vec!["db-1:9042".to_owned()],
            user: "qrelay".to_owned(),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn nodes_that_are_starting_are_waited_for_and_refusals_are_not() {
        let io = |kind: io::ErrorKind| connect(ConnectionError::IoError(Arc::new(kind.into())));
        let passing = [
            io(io::ErrorKind::ConnectionRefused),
            io(io::ErrorKind::HostUnreachable),
            io(io::ErrorKind::ConnectionReset),
            connect(ConnectionError::ConnectTimeout),
            OpenError::Store(StoreError::Unavailable("two nodes are down".to_owned())),
            OpenError::Connect {
                nodes: Vec::new(),
                source: Box::new(NewSessionError::FailedToResolveAnyHostname(vec![
                    "db-1".to_owned(),
                ])),
            },
        ];
        for error in passing {
            assert!(error.may_pass(), "{error:?}");
        }
        let lasting = [
            OpenError::LoginNeeded { nodes: Vec::new() },
            OpenError::Encrypt {
                nodes: Vec::new(),
                reason: "unknown issuer".to_owned(),
            },
            OpenError::Store(StoreError::Corrupt("damaged".to_owned())),
            OpenError::NoSuchDatacenter {
                wanted: "a".to_owned(),
                found: vec!["b".to_owned()],
            },
            OpenError::NewerSchema {
                keyspace: "qrelay".to_owned(),
                found: 9,
                known: 3,
            },
        ];
        for error in lasting {
            assert!(!error.may_pass(), "{error:?}");
        }
    }

    #[test]
    fn a_wrong_password_is_not_tried_again_and_a_login_that_nobody_can_judge_is() {
        assert!(refused("Unable to perform authentication: Cannot achieve consistency level").may_pass());
        assert!(!refused("Provided username qrelay and/or password are incorrect").may_pass());
        let setup = |why| Setup::DbError(why, "no".to_owned());
        assert!(setup_may_succeed(&setup(DbError::Overloaded)));
        assert!(setup_may_succeed(&setup(DbError::IsBootstrapping)));
        assert!(!setup_may_succeed(&setup(DbError::Unauthorized)));
    }
}
