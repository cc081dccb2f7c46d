//! The configuration of the roles: read from their flags, checked as a whole, and printed.
//!
//! One group for each role, and for what roles share. All violations are reported at once. Files are checked to be
//! there, so that a wrong path is a wrong configuration (64) and not a failed start; what they hold is judged by those who use
//! them.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use qrelay_dispatcher::exchange::EgressProxy;
use qrelay_store::journal::JournalConfig;
use secrecy::SecretString;
use url::Url;

use super::{
    check::{Check, given},
    cluster::ClusterConfig,
    flags::{ApiFlags, DispatcherFlags, EdgeFlags, Flags, ProcessFlags, TargetFlags},
    journal_flags,
    peers::PeerConfig,
};
use crate::failure::Failure;

/// The data directory, unless another or a cluster is named.
const DATA_DIR: &str = "qrelay-data";
/// The shortest retention: less than the default retry schedule would give deliveries up unseen.
const RETENTION_MIN: Duration = Duration::from_secs(3600);
/// The longest retention: ten years, beyond which a typing error is likelier than a wish.
const RETENTION_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// The longest drain: nobody waits longer for a stop.
const DRAIN_DEADLINE_MAX: Duration = Duration::from_secs(600);

/// What each file is to hold, as an operator is told who named another.
pub(super) const GEOIP_DB: &str = "a GeoIP database in MaxMind's format (.mmdb)";
pub(super) const CA_BUNDLE: &str = "a PEM file with certificates of authorities";
pub(super) const API_TLS_CERT: &str =
    "a PEM file with the certificate chain, the API's own certificate first";
pub(super) const API_TLS_KEY: &str = "a PEM file with the certificate's private key, not encrypted";
pub(super) const MASTER_KEY_FILE: &str = "the key file that this install's first start made, or a copy of it; for a new install, a path in an existing directory where no file is yet";

/// A name of a process, in characters: it stands in lists.
const NODE_NAME_CHARS_MAX: usize = 64;
/// What is printed in a secret's place.
const MASKED: &str = "********";

/// How all roles run in one process.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub store: StoreConfig,
    /// The edge.
    pub edge: EdgeConfig,
    /// The control plane.
    pub api: ApiConfig,
    /// The keys that seal stored secrets.
    pub master_key: MasterKeyConfig,
    /// The dispatcher.
    pub dispatcher: DispatcherConfig,
    /// Where webhooks may go.
    pub targets: TargetConfig,
    /// How long what was recorded is kept.
    pub retention: Duration,
    /// Who is told what happens here, on a cluster.
    pub peers: Option<PeerConfig>,
    /// The process.
    pub process: ProcessConfig,
}

/// Where everything is kept.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// In a directory of this machine, that one process at a time may use.
    Embedded(PathBuf),
    /// In a keyspace that any number of processes may use.
    Cluster(Box<ClusterConfig>),
}

/// Where the keys are that seal stored secrets.
#[derive(Clone, Default, Debug)]
pub struct MasterKeyConfig {
    /// Themselves; if none, those in the file.
    pub text: Option<SecretString>,
    /// Their file; `master.key` in the data directory, if none. Made if it is not there, but on a cluster.
    pub file: Option<PathBuf>,
}

/// How an edge runs.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Where scans come in. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections to the edge begin with a PROXY header.
    pub proxy_protocol: bool,
    /// A GeoIP database.
    pub geoip_db: Option<PathBuf>,
    /// Where scans are kept that the store does not take in time. None: they are refused.
    pub journal: Option<JournalConfig>,
}

/// How a control plane runs.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Where the API is.
    pub listen: SocketAddr,
    /// TLS for the API.
    pub tls: Option<ApiTls>,
    /// The admin key. If none, the one that an earlier start was given or made; else one is made, but on a cluster.
    pub admin_key: Option<SecretString>,
}

/// PEM files of the API's certificate and key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiTls {
    /// The chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How a dispatcher runs.
#[derive(Clone, Default, Debug)]
pub struct DispatcherConfig {
    /// Authorities beside the system's, PEM.
    pub ca_bundle: Option<PathBuf>,
    /// What all webhooks go through.
    pub egress_proxy: Option<EgressProxy>,
}

/// Where webhooks may go: for the control plane and the dispatcher.
#[derive(Clone, Default, Debug)]
pub struct TargetConfig {
    /// What short links begin with, an origin; `http://` and the edge's bound address, if none.
    pub public_url: Option<Url>,
    /// Networks that webhooks may go to although they are not public.
    pub dangerous_allow: Vec<IpNet>,
    /// Networks that webhooks must not go to.
    pub deny: Vec<IpNet>,
}

/// How any process of ours runs.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// What it is called, for people; the host's name, if none.
    pub node_name: Option<String>,
    /// Where metrics and health are.
    pub ops_listen: SocketAddr,
    /// How long a stop may take.
    pub drain_deadline: Duration,
}

/// Names and values, as an environment file has them.
pub(super) type Lines = Vec<(&'static str, Option<String>)>;

impl StoreConfig {
    fn from_flags(check: &mut Check, flags: &Flags, retention: Duration) -> Self {
        let directory = flags.data_dir.as_deref();
        match ClusterConfig::from_flags(check, &flags.cluster, retention) {
            None => Self::Embedded(check.path("data-dir", directory.unwrap_or(DATA_DIR))),
            Some(cluster) => {
                if given(directory).is_some() {
                    check.add(
                        "data-dir",
                        "--scylla-nodes is set too, and everything is kept in one of them: leave the other out",
                    );
                }
                check.admin_key_is_given(&flags.api.admin.0);
                check.master_key_is_given(&flags.master_key.0);
                Self::Cluster(Box::new(cluster))
            }
        }
    }

    /// The directory, if it is one.
    pub(super) fn directory(&self) -> Option<&Path> {
        match self {
            Self::Embedded(directory) => Some(directory),
            Self::Cluster(_) => None,
        }
    }

    pub(super) fn cluster_lines(&self) -> Lines {
        let cluster = match self {
            Self::Embedded(_) => None,
            Self::Cluster(cluster) => Some(&**cluster),
        };
        ClusterConfig::lines(cluster)
    }
}

impl MasterKeyConfig {
    /// The file, if they are in one.
    pub(super) fn path(&self, store: &StoreConfig) -> Option<PathBuf> {
        if self.text.is_some() {
            return None;
        }
        let beside = || Some(store.directory()?.join("master.key"));
        self.file.clone().or_else(beside)
    }

    pub(super) fn lines(&self, store: &StoreConfig) -> Lines {
        vec![
            ("MASTER_KEY", masked(self.text.as_ref())),
            ("MASTER_KEY_FILE", path(self.path(store).as_ref())),
        ]
    }
}

impl EdgeConfig {
    pub(super) fn from_flags(check: &mut Check, flags: &EdgeFlags) -> Self {
        Self {
            listen: check.listen("edge-listen", &flags.edge_listen),
            trusted_proxies: check.networks("trusted-proxies", &flags.trusted_proxies),
            proxy_protocol: check.switch("proxy-protocol", &flags.proxy_protocol),
            geoip_db: check.file("geoip-db", flags.geoip_db.as_deref(), GEOIP_DB),
            journal: check.journal(&flags.journal),
        }
    }

    pub(super) fn lines(&self) -> Lines {
        let mut lines = vec![
            ("EDGE_LISTEN", Some(self.listen.to_string())),
            ("TRUSTED_PROXIES", networks(&self.trusted_proxies)),
            ("PROXY_PROTOCOL", Some(self.proxy_protocol.to_string())),
            ("GEOIP_DB", path(self.geoip_db.as_ref())),
        ];
        lines.extend(journal_flags::print(self.journal.as_ref()));
        lines
    }
}

impl ApiConfig {
    pub(super) fn from_flags(check: &mut Check, flags: &ApiFlags) -> Self {
        Self {
            listen: check.listen("api-listen", &flags.api_listen),
            tls: check.api_tls(flags),
            admin_key: check.admin_key(&flags.admin.0),
        }
    }

    pub(super) fn lines(&self) -> Lines {
        let (cert, key) = (
            self.tls.as_ref().map(|tls| &tls.cert),
            self.tls.as_ref().map(|tls| &tls.key),
        );
        vec![
            ("API_LISTEN", Some(self.listen.to_string())),
            ("API_TLS_CERT", path(cert)),
            ("API_TLS_KEY", path(key)),
            ("ADMIN_KEY", masked(self.admin_key.as_ref())),
        ]
    }
}

impl DispatcherConfig {
    pub(super) fn from_flags(check: &mut Check, flags: &DispatcherFlags) -> Self {
        Self {
            ca_bundle: check.file("ca-bundle", flags.ca_bundle.as_deref(), CA_BUNDLE),
            egress_proxy: check.egress_proxy(flags.egress_proxy.as_ref()),
        }
    }

    pub(super) fn lines(&self) -> Lines {
        vec![
            ("CA_BUNDLE", path(self.ca_bundle.as_ref())),
            (
                "EGRESS_PROXY",
                self.egress_proxy.as_ref().map(ToString::to_string),
            ),
        ]
    }
}

impl TargetConfig {
    pub(super) fn from_flags(check: &mut Check, flags: &TargetFlags) -> Self {
        Self {
            public_url: check.public_url(given(flags.public_url.as_deref())),
            dangerous_allow: check.networks("dangerous-allow-target", &flags.dangerous_allow_target),
            deny: check.networks("deny-target", &flags.deny_target),
        }
    }

    pub(super) fn lines(&self) -> Lines {
        vec![
            ("PUBLIC_URL", self.public_url.as_ref().map(origin)),
            ("DANGEROUS_ALLOW_TARGET", networks(&self.dangerous_allow)),
            ("DENY_TARGET", networks(&self.deny)),
        ]
    }
}

impl ProcessConfig {
    pub(super) fn from_flags(check: &mut Check, flags: &ProcessFlags) -> Self {
        let config = Self {
            node_name: check.name("node-name", flags.node_name.as_deref(), NODE_NAME_CHARS_MAX),
            ops_listen: check.listen("ops-listen", &flags.ops_listen),
            drain_deadline: check.duration(
                "drain-deadline",
                &flags.drain_deadline,
                Duration::from_secs(1),
                DRAIN_DEADLINE_MAX,
            ),
        };
        check.log(&flags.log);
        config
    }

    pub(super) fn lines(&self, log: &str) -> Lines {
        vec![
            ("NODE_NAME", self.node_name.clone()),
            ("OPS_LISTEN", Some(self.ops_listen.to_string())),
            ("DRAIN_DEADLINE", Some(duration(self.drain_deadline))),
            ("LOG", Some(log.to_owned())),
        ]
    }
}

impl Config {
    /// All roles on loopback, on any free ports, with the defaults of the flags.
    pub fn on_loopback(data_dir: PathBuf) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            store: StoreConfig::Embedded(data_dir),
            edge: EdgeConfig {
                listen: any,
                trusted_proxies: Vec::new(),
                proxy_protocol: false,
                geoip_db: None,
                journal: None,
            },
            api: ApiConfig {
                listen: any,
                tls: None,
                admin_key: None,
            },
            master_key: MasterKeyConfig::default(),
            dispatcher: DispatcherConfig::default(),
            targets: TargetConfig::default(),
            retention: Duration::from_secs(30 * 24 * 3600),
            peers: None,
            process: ProcessConfig {
                node_name: None,
                ops_listen: any,
                drain_deadline: Duration::from_secs(25),
            },
        }
    }

    /// Reads the flags.
    pub(crate) fn from_flags(flags: &Flags) -> Result<Self, Failure> {
        let mut check = Check::new("up");
        let retention = retention(&mut check, &flags.retention.retention);
        let store = StoreConfig::from_flags(&mut check, flags, retention);
        let edge = EdgeConfig::from_flags(&mut check, &flags.edge);
        let api = ApiConfig::from_flags(&mut check, &flags.api);
        let master_key = check.master_key(&flags.master_key.0);
        let config = Self {
            store,
            edge,
            api,
            master_key,
            dispatcher: DispatcherConfig::from_flags(&mut check, &flags.dispatcher),
            targets: TargetConfig::from_flags(&mut check, &flags.targets),
            retention,
            peers: PeerConfig::told(&mut check, &flags.peers),
            process: ProcessConfig::from_flags(&mut check, &flags.process),
        };
        check.journal_apart(config.edge.journal.as_ref(), config.store.directory());
        check.distinct(&[
            ("edge-listen", config.edge.listen),
            ("api-listen", config.api.listen),
            ("ops-listen", config.process.ops_listen),
        ]);
        if config.peers.is_some() && config.store.directory().is_some() {
            check.add(
                "peer-key-file",
                "needs --scylla-nodes: on a data directory there are no other processes",
            );
        }
        check.finish().map(|()| config)
    }

    /// The configuration as an environment file that gives the same one. Secrets are masked.
    pub(crate) fn print(&self, log: &str) -> String {
        let directory = self
            .store
            .directory()
            .map(|directory| directory.display().to_string());
        let mut lines = vec![("DATA_DIR", directory)];
        lines.extend(self.store.cluster_lines());
        lines.extend(self.edge.lines());
        lines.extend(self.api.lines());
        lines.extend(self.master_key.lines(&self.store));
        lines.extend(self.dispatcher.lines());
        lines.extend(self.targets.lines());
        lines.push(("RETENTION", Some(duration(self.retention))));
        lines.extend(PeerConfig::lines(self.peers.as_ref()));
        lines.extend(self.process.lines(log));
        environment(lines)
    }
}

/// Names and values as an environment file has them.
pub(super) fn environment(lines: Lines) -> String {
    let mut text = String::new();
    for (name, value) in lines {
        writeln!(text, "QRELAY_{name}={}", value.unwrap_or_default())
            .expect("invariant: a String takes text");
    }
    text
}

/// How long what was recorded is kept.
pub(super) fn retention(check: &mut Check, text: &str) -> Duration {
    check.duration("retention", text, RETENTION_MIN, RETENTION_MAX)
}

pub(super) fn path(path: Option<&PathBuf>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

fn networks(networks: &[IpNet]) -> Option<String> {
    let texts: Vec<_> = networks.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

pub(super) fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn masked(secret: Option<&SecretString>) -> Option<String> {
    secret.map(|_| MASKED.to_owned())
}

/// A URL's origin, without the slash that [`Url`] ends it with.
pub(crate) fn origin(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
