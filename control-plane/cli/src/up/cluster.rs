//! Which CQL cluster everything is kept in: its flags, what they mean, and what is wrong with them.
//!
//! Given nodes, they take the place of a data directory. What processes of one cluster must share, the keys above all, is
//! then given to each of them, and made by none.

use std::{num::NonZeroU8, path::PathBuf, time::Duration};

use clap::Args;
use http::uri::Authority;
use qrelay_store::{
    limits,
    scylla::{Credentials, ScyllaConfig},
};

use super::{
    check::{Check, given},
    config::{Lines, path},
};
use crate::failure::Failure;

/// The keyspace, unless another is named.
const KEYSPACE: &str = "qrelay";
/// What `--scylla-tls-ca` is to hold.
const AUTHORITIES: &str = "a PEM file with the authorities of the nodes' certificates";

/// Flags that say which cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterFlags {
    /// Nodes of a ScyllaDB or Apache Cassandra cluster to begin with; the others are found from them. Port 9042, if none is
    /// named
    #[arg(
        long,
        env = "QRELAY_SCYLLA_NODES",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    pub(crate) scylla_nodes: Vec<String>,
    /// The keyspace that everything is kept in [default: qrelay]
    #[arg(long, env = "QRELAY_SCYLLA_KEYSPACE", value_name = "NAME")]
    pub(crate) scylla_keyspace: Option<String>,
    /// The data centre to use [default: the cluster's only one]
    #[arg(long, env = "QRELAY_SCYLLA_DATACENTER", value_name = "NAME")]
    pub(crate) scylla_datacenter: Option<String>,
    /// How many nodes keep each row: counts when the keyspace is made, and never again [default: 3]
    #[arg(long, env = "QRELAY_SCYLLA_REPLICATION", value_name = "NODES")]
    pub(crate) scylla_replication: Option<String>,
    /// Who logs in, where the cluster asks; needs --scylla-password-file
    #[arg(long, env = "QRELAY_SCYLLA_USER", value_name = "NAME")]
    pub(crate) scylla_user: Option<String>,
    /// A file with that user's password; needs --scylla-user
    #[arg(long, env = "QRELAY_SCYLLA_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) scylla_password_file: Option<String>,
    /// A PEM file with the authorities of the nodes' certificates, which must name the nodes' addresses [default:
    /// connections are not encrypted]
    #[arg(long, env = "QRELAY_SCYLLA_TLS_CA", value_name = "FILE")]
    pub(crate) scylla_tls_ca: Option<String>,
}

/// A keyspace of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// How to open it.
    pub scylla: ScyllaConfig,
    /// Where the password was read from.
    pub password_file: Option<PathBuf>,
}

impl ClusterFlags {
    /// The cluster, for a command that needs one and nothing else of the store.
    pub(crate) fn needed_by(&self, command: &'static str) -> Result<ClusterConfig, Failure> {
        let mut check = Check::new(command);
        let cluster = ClusterConfig::from_flags(&mut check, self, Duration::ZERO);
        if self.nodes().next().is_none() {
            check.add("scylla-nodes", "is missing");
        }
        check.finish()?;
        Ok(cluster.expect("invariant: without nodes the check fails"))
    }

    /// The nodes that were named.
    fn nodes(&self) -> impl Iterator<Item = &str> {
        self.scylla_nodes.iter().filter_map(|text| given(Some(text)))
    }

    /// Those that say something about a cluster, its nodes apart.
    fn others(&self) -> [(&'static str, Option<&str>); 6] {
        let flags = [
            ("scylla-keyspace", &self.scylla_keyspace),
            ("scylla-datacenter", &self.scylla_datacenter),
            ("scylla-replication", &self.scylla_replication),
            ("scylla-user", &self.scylla_user),
            ("scylla-password-file", &self.scylla_password_file),
            ("scylla-tls-ca", &self.scylla_tls_ca),
        ];
        flags.map(|(flag, text)| (flag, given(text.as_deref())))
    }
}

impl ClusterConfig {
    /// None where no nodes are named: then nothing else of a cluster may be, either.
    pub(super) fn from_flags(check: &mut Check, flags: &ClusterFlags, keep: Duration) -> Option<Self> {
        if flags.nodes().next().is_some() {
            return Some(Self::named(check, flags, keep));
        }
        for (flag, text) in flags.others() {
            if text.is_some() {
                check.add(flag, "needs --scylla-nodes");
            }
        }
        None
    }

    fn named(check: &mut Check, flags: &ClusterFlags, keep: Duration) -> Self {
        let nodes: Vec<_> = flags.nodes().map(str::to_owned).collect();
        for node in nodes.iter().filter(|node| !is_node(node)) {
            check.add(
                "scylla-nodes",
                format_args!("{node:?} is no host with a port, such as db-1:9042 or [::1]:9042"),
            );
        }
        let keyspace = given(flags.scylla_keyspace.as_deref()).unwrap_or(KEYSPACE);
        let mut scylla = ScyllaConfig::new(nodes, keyspace, keep);
        if let Err(error) = scylla.check() {
            check.add("scylla-keyspace", error);
        }
        scylla.datacenter = given(flags.scylla_datacenter.as_deref()).map(str::to_owned);
        scylla.replication = replication(check, given(flags.scylla_replication.as_deref()));
        let (password_file, credentials) = login(check, flags);
        scylla.credentials = credentials;
        scylla.tls_ca = check.file("scylla-tls-ca", flags.scylla_tls_ca.as_deref(), AUTHORITIES);
        Self {
            scylla,
            password_file,
        }
    }

    /// Names and values of the variables that give the same.
    pub(super) fn lines(cluster: Option<&Self>) -> Lines {
        let scylla = cluster.map(|cluster| &cluster.scylla);
        let user = scylla.and_then(|scylla| scylla.credentials.as_ref());
        vec![
            ("SCYLLA_NODES", scylla.map(|scylla| scylla.nodes.join(","))),
            ("SCYLLA_KEYSPACE", scylla.map(|scylla| scylla.keyspace.clone())),
            (
                "SCYLLA_DATACENTER",
                scylla.and_then(|scylla| scylla.datacenter.clone()),
            ),
            (
                "SCYLLA_REPLICATION",
                scylla.map(|scylla| scylla.replication.to_string()),
            ),
            ("SCYLLA_USER", user.map(|login| login.user.clone())),
            (
                "SCYLLA_PASSWORD_FILE",
                path(cluster.and_then(|cluster| cluster.password_file.as_ref())),
            ),
            (
                "SCYLLA_TLS_CA",
                path(scylla.and_then(|scylla| scylla.tls_ca.as_ref())),
            ),
        ]
    }
}

fn replication(check: &mut Check, text: Option<&str>) -> NonZeroU8 {
    let Some(text) = text else {
        return limits::CQL_REPLICATION;
    };
    text.parse().unwrap_or_else(|_| {
        check.add(
            "scylla-replication",
            format_args!("{text:?} is no number of nodes, such as 3"),
        );
        limits::CQL_REPLICATION
    })
}

fn login(check: &mut Check, flags: &ClusterFlags) -> (Option<PathBuf>, Option<Credentials>) {
    let user = given(flags.scylla_user.as_deref());
    let file = given(flags.scylla_password_file.as_deref()).map(PathBuf::from);
    match (user, &file) {
        (Some(_), None) => check.add(
            "scylla-password-file",
            "is missing: a login needs both user and password",
        ),
        (None, Some(_)) => check.add("scylla-user", "is missing: a login needs both user and password"),
        _ => {}
    }
    let password = file
        .as_deref()
        .and_then(|file| check.secret("scylla-password-file", file, "that user's password"));
    let credentials = user.zip(password).map(|(user, password)| Credentials {
        user: user.to_owned(),
        password,
    });
    (file, credentials)
}

/// A host, with or without a port, and nothing else of a URL.
fn is_node(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else {
        return false;
    };
    let bare = authority.as_str() == authority.host() && !text.starts_with('[');
    !authority.host().is_empty() && !text.contains('@') && (bare || authority.port_u16().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_host_with_or_without_a_port() {
        for good in ["db-1", "10.0.0.1:9042", "[::1]:9042", "db.example:1"] {
            assert!(is_node(good), "{good}");
        }
        for bad in [
            "[::1]",
            "db:",
            ":9042",
            "db:99999",
            "user@db:9042",
            "http://db:9042",
            "db:9042/x",
        ] {
            assert!(!is_node(bad), "{bad}");
        }
    }
}
