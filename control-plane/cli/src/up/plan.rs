//! Which roles a process runs, and with what: all of them, or one in a process of its own.
//!
//! A role of its own shares a cluster with others, and nothing else. It has the flags that it obeys and no others: an edge
//! is given no key at all.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    check::{Check, given},
    cluster::{ClusterConfig, ClusterFlags},
    config::{
        ApiConfig, Config, DispatcherConfig, EdgeConfig, Lines, MasterKeyConfig, ProcessConfig, StoreConfig,
        TargetConfig, duration, environment, retention,
    },
    flags::{ControlPlaneFlags, DataPlaneFlags, DispatcherRoleFlags, ProcessFlags, TargetFlags},
    peers::PeerConfig,
};
use crate::failure::Failure;

/// What a process runs.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its command, which stands in lists of processes.
    pub(crate) command: &'static str,
    /// Where everything is kept.
    pub(crate) store: StoreConfig,
    /// An edge.
    pub(crate) edge: Option<EdgeConfig>,
    /// A control plane.
    pub(crate) api: Option<ApiConfig>,
    /// A dispatcher.
    pub(crate) dispatcher: Option<DispatcherConfig>,
    /// The keys that seal stored secrets, for control plane and dispatcher.
    pub(crate) master_key: MasterKeyConfig,
    /// Where webhooks may go, for control plane and dispatcher.
    pub(crate) targets: TargetConfig,
    /// How long what is recorded is kept.
    pub(crate) retention: Duration,
    /// Who is told what happens here.
    pub(crate) peers: Option<PeerConfig>,
    /// The process.
    pub(crate) process: ProcessConfig,
}

impl From<Config> for Plan {
    fn from(config: Config) -> Self {
        Self {
            command: "up",
            store: config.store,
            edge: Some(config.edge),
            api: Some(config.api),
            dispatcher: Some(config.dispatcher),
            master_key: config.master_key,
            targets: config.targets,
            retention: config.retention,
            peers: config.peers,
            process: config.process,
        }
    }
}

impl Plan {
    /// `qrelay data-plane`.
    pub(crate) fn data_plane(flags: &DataPlaneFlags) -> Result<Self, Failure> {
        let mut check = Check::new("data-plane");
        let bare = Self::bare(
            &mut check,
            &flags.cluster,
            &flags.retention.retention,
            &flags.process,
        );
        let plan = Self {
            edge: Some(EdgeConfig::from_flags(&mut check, &flags.edge)),
            peers: PeerConfig::telling(&mut check, &flags.peers),
            ..bare
        };
        plan.checked(check)
    }

    /// `qrelay control-plane`.
    pub(crate) fn control_plane(flags: &ControlPlaneFlags) -> Result<Self, Failure> {
        let mut check = Check::new("control-plane");
        let bare = Self::bare(
            &mut check,
            &flags.cluster,
            &flags.retention.retention,
            &flags.process,
        );
        check.admin_key_is_given(&flags.api.admin.0);
        check.master_key_is_given(&flags.master_key.0);
        let plan = Self {
            api: Some(ApiConfig::from_flags(&mut check, &flags.api)),
            master_key: check.master_key(&flags.master_key.0),
            targets: targets(&mut check, &flags.targets),
            peers: PeerConfig::telling(&mut check, &flags.peers),
            ..bare
        };
        plan.checked(check)
    }

    /// `qrelay dispatcher`.
    pub(crate) fn dispatcher(flags: &DispatcherRoleFlags) -> Result<Self, Failure> {
        let mut check = Check::new("dispatcher");
        let bare = Self::bare(
            &mut check,
            &flags.cluster,
            &flags.retention.retention,
            &flags.process,
        );
        check.master_key_is_given(&flags.master_key.0);
        let plan = Self {
            dispatcher: Some(DispatcherConfig::from_flags(&mut check, &flags.dispatcher)),
            master_key: check.master_key(&flags.master_key.0),
            targets: targets(&mut check, &flags.targets),
            peers: PeerConfig::told(&mut check, &flags.peers),
            ..bare
        };
        plan.checked(check)
    }

    /// A process on a cluster, without a role yet.
    fn bare(check: &mut Check, cluster: &ClusterFlags, keep: &str, process: &ProcessFlags) -> Self {
        let retention = retention(check, keep);
        let cluster = ClusterConfig::from_flags(check, cluster, retention);
        let store = cluster.map(|cluster| StoreConfig::Cluster(Box::new(cluster)));
        Self {
            command: check.command(),
            store: store.unwrap_or_else(|| {
                check.add(
                    "scylla-nodes",
                    "is missing: roles in processes of their own share a cluster; on a data directory `qrelay up` runs all of them in one process",
                );
                // Nothing is done with it.
                StoreConfig::Embedded(PathBuf::new())
            }),
            edge: None,
            api: None,
            dispatcher: None,
            master_key: MasterKeyConfig::default(),
            targets: TargetConfig::default(),
            retention,
            peers: None,
            process: ProcessConfig::from_flags(check, process),
        }
    }

    fn checked(self, mut check: Check) -> Result<Self, Failure> {
        let peer = self.peers.as_ref().and_then(|peers| peers.listen);
        let listens: [(&str, Option<SocketAddr>); 4] = [
            ("edge-listen", self.edge.as_ref().map(|edge| edge.listen)),
            ("api-listen", self.api.as_ref().map(|api| api.listen)),
            ("peer-listen", peer),
            ("ops-listen", Some(self.process.ops_listen)),
        ];
        let listens: Vec<_> = listens
            .into_iter()
            .filter_map(|(flag, address)| Some((flag, address?)))
            .collect();
        check.distinct(&listens);
        check.finish().map(|()| self)
    }

    /// The configuration as an environment file that gives the same one. Secrets are masked.
    pub(crate) fn print(&self, log: &str) -> String {
        let mut lines: Lines = self.store.cluster_lines();
        lines.extend(self.edge.iter().flat_map(EdgeConfig::lines));
        lines.extend(self.api.iter().flat_map(ApiConfig::lines));
        if self.seals() {
            lines.extend(self.master_key.lines(&self.store));
        }
        lines.extend(self.dispatcher.iter().flat_map(DispatcherConfig::lines));
        if self.seals() {
            lines.extend(self.targets.lines());
        }
        lines.push(("RETENTION", Some(duration(self.retention))));
        lines.extend(match self.dispatcher {
            Some(_) => PeerConfig::lines(self.peers.as_ref()),
            None => PeerConfig::key_lines(self.peers.as_ref()),
        });
        lines.extend(self.process.lines(log));
        environment(lines)
    }

    /// Whether a role of it seals or opens secrets.
    pub(super) fn seals(&self) -> bool {
        self.api.is_some() || self.dispatcher.is_some()
    }
}

/// Without an edge in the process, what short links begin with cannot be guessed.
fn targets(check: &mut Check, flags: &TargetFlags) -> TargetConfig {
    if given(flags.public_url.as_deref()).is_none() {
        check.add(
            "public-url",
            "is missing: short links begin with it, and webhooks must not go there",
        );
    }
    TargetConfig::from_flags(check, flags)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
