//! The flags of a role's process, as they are written: texts. What they mean, and all that is wrong with them, is for
//! [`super::config`] to say at once; clap would stop at the first.
//!
//! One group for each role, and for what roles share: a command has the groups of its roles. Every flag has an environment
//! variable of the same name. A variable that is set but empty counts as not set: orchestrators write those.

use clap::Args;
use secrecy::SecretString;

use super::{
    cluster::ClusterFlags,
    journal_flags::JournalFlags,
    peers::{PeerFlags, PeerKeyFlags},
};
use crate::flag_first::{FlagFirst, SecretOrFile};

/// Flags of `qrelay up`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Flags {
    /// Where everything is kept, unless in a cluster; one process at a time may use it [default: qrelay-data]
    #[arg(long, env = "QRELAY_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
    #[command(flatten)]
    pub(crate) edge: EdgeFlags,
    #[command(flatten)]
    pub(crate) api: ApiFlags,
    #[command(flatten)]
    pub(crate) master_key: FlagFirst<MasterKeyArgs>,
    #[command(flatten)]
    pub(crate) dispatcher: DispatcherFlags,
    #[command(flatten)]
    pub(crate) targets: TargetFlags,
    #[command(flatten)]
    pub(crate) retention: RetentionFlags,
    #[command(flatten)]
    pub(crate) peers: PeerFlags,
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
}

/// Flags of `qrelay data-plane`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DataPlaneFlags {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
    #[command(flatten)]
    pub(crate) edge: EdgeFlags,
    #[command(flatten)]
    pub(crate) retention: RetentionFlags,
    #[command(flatten)]
    pub(crate) peers: PeerKeyFlags,
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
}

/// Flags of `qrelay control-plane`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ControlPlaneFlags {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
    #[command(flatten)]
    pub(crate) api: ApiFlags,
    #[command(flatten)]
    pub(crate) master_key: FlagFirst<MasterKeyArgs>,
    #[command(flatten)]
    pub(crate) targets: TargetFlags,
    #[command(flatten)]
    pub(crate) retention: RetentionFlags,
    #[command(flatten)]
    pub(crate) peers: PeerKeyFlags,
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
}

/// Flags of `qrelay dispatcher`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DispatcherRoleFlags {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
    #[command(flatten)]
    pub(crate) master_key: FlagFirst<MasterKeyArgs>,
    #[command(flatten)]
    pub(crate) dispatcher: DispatcherFlags,
    #[command(flatten)]
    pub(crate) targets: TargetFlags,
    #[command(flatten)]
    pub(crate) retention: RetentionFlags,
    #[command(flatten)]
    pub(crate) peers: PeerFlags,
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
}

/// How long things are kept. On a cluster each process gives what it records its time to live.
#[derive(Args, Clone, Debug)]
pub(crate) struct RetentionFlags {
    /// How long scans, deliveries and attempts are kept
    #[arg(
        long,
        env = "QRELAY_RETENTION",
        default_value = "30d",
        value_name = "DURATION"
    )]
    pub(crate) retention: String,
}

/// Flags of the edge.
#[derive(Args, Clone, Debug)]
pub(crate) struct EdgeFlags {
    /// Where scans come in
    #[arg(
        long,
        env = "QRELAY_EDGE_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS:PORT"
    )]
    pub(crate) edge_listen: String,
    /// Networks of proxies whose X-Forwarded-For is believed
    #[arg(
        long,
        env = "QRELAY_TRUSTED_PROXIES",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    pub(crate) trusted_proxies: Vec<String>,
    /// Every connection to the edge begins with a PROXY header
    #[arg(long, env = "QRELAY_PROXY_PROTOCOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_name = "BOOL", hide_default_value = true)]
    pub(crate) proxy_protocol: String,
    /// A GeoIP database in MaxMind's format
    #[arg(long, env = "QRELAY_GEOIP_DB", value_name = "FILE")]
    pub(crate) geoip_db: Option<String>,
    #[command(flatten)]
    pub(crate) journal: JournalFlags,
}

/// Flags of the control plane.
#[derive(Args, Clone, Debug)]
pub(crate) struct ApiFlags {
    /// Where the API is, gRPC and REST
    #[arg(
        long,
        env = "QRELAY_API_LISTEN",
        default_value = "127.0.0.1:7070",
        value_name = "ADDRESS:PORT"
    )]
    pub(crate) api_listen: String,
    /// A PEM file with the API's certificate chain; needs --api-tls-key
    #[arg(long, env = "QRELAY_API_TLS_CERT", value_name = "FILE")]
    pub(crate) api_tls_cert: Option<String>,
    /// A PEM file with the API's private key; needs --api-tls-cert
    #[arg(long, env = "QRELAY_API_TLS_KEY", value_name = "FILE")]
    pub(crate) api_tls_key: Option<String>,
    #[command(flatten)]
    pub(crate) admin: FlagFirst<AdminKeyArgs>,
}

/// Flags of the dispatcher.
#[derive(Args, Clone, Debug)]
pub(crate) struct DispatcherFlags {
    /// A PEM file with authorities that receivers' certificates are checked against, beside the system's
    #[arg(long, env = "QRELAY_CA_BUNDLE", value_name = "FILE")]
    pub(crate) ca_bundle: Option<String>,
    /// A proxy that all webhooks go through: http:// or https:// (CONNECT), or socks5://. Receivers are still looked up
    /// and judged here. One with user:password@ is taken from the variable only
    #[arg(long, env = "QRELAY_EGRESS_PROXY", value_name = "URL", hide_env_values = true)]
    pub(crate) egress_proxy: Option<SecretString>,
}

/// Flags that say where webhooks may go: of the control plane, which refuses such endpoints, and of the dispatcher, which
/// looks again before it sends.
#[derive(Args, Clone, Debug)]
pub(crate) struct TargetFlags {
    /// What short links begin with, as printed [default, where an edge runs in the process: http:// and the bound
    /// --edge-listen]
    #[arg(long, env = "QRELAY_PUBLIC_URL", value_name = "URL")]
    pub(crate) public_url: Option<String>,
    /// Development only: a network that webhooks may go to although it is not public, over http too. A name is
    /// reached by every address it has: where localhost is ::1 as well, allow ::1/128 beside 127.0.0.0/8
    #[arg(
        long,
        env = "QRELAY_DANGEROUS_ALLOW_TARGET",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    pub(crate) dangerous_allow_target: Vec<String>,
    /// A network that webhooks must not go to, beside all that are not public
    #[arg(long, env = "QRELAY_DENY_TARGET", value_delimiter = ',', value_name = "CIDR")]
    pub(crate) deny_target: Vec<String>,
}

/// Flags of every process.
#[derive(Args, Clone, Debug)]
pub(crate) struct ProcessFlags {
    /// What this process is called where processes are listed, for people [default: the host's name]
    #[arg(long, env = "QRELAY_NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Where metrics and health are
    #[arg(
        long,
        env = "QRELAY_OPS_LISTEN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDRESS:PORT"
    )]
    pub(crate) ops_listen: String,
    /// How long a stop may take
    #[arg(
        long,
        env = "QRELAY_DRAIN_DEADLINE",
        default_value = "25s",
        value_name = "DURATION"
    )]
    pub(crate) drain_deadline: String,
    /// What is logged: a level, or directives such as info,qrelay_edge=debug
    #[arg(long, env = "QRELAY_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// Print the configuration, secrets masked, and do nothing else
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// The keys that seal stored secrets: of the control plane and the dispatcher. From the variable, or from a file.
#[derive(Args, Clone, Debug)]
pub(crate) struct MasterKeyArgs {
    /// Refused on the command line: see `command_line::secret_in_arguments`.
    #[arg(long, env = "QRELAY_MASTER_KEY", hide_env_values = true, hide = true)]
    pub(crate) master_key: Option<SecretString>,
    /// The keys that seal stored secrets, instead of QRELAY_MASTER_KEY (base64 of 32 bytes) [default, on a data directory:
    /// its master.key, made at the first start]
    #[arg(long, env = "QRELAY_MASTER_KEY_FILE", value_name = "FILE")]
    pub(crate) master_key_file: Option<String>,
}

impl SecretOrFile for MasterKeyArgs {
    const FILE: &'static str = "master_key_file";

    fn forget_secret(&mut self) {
        self.master_key = None;
    }
}

/// The admin key: from the variable, or from a file.
#[derive(Args, Clone, Debug)]
pub(crate) struct AdminKeyArgs {
    /// Refused on the command line: see `command_line::secret_in_arguments`.
    #[arg(long, env = "QRELAY_ADMIN_KEY", hide_env_values = true, hide = true)]
    pub(crate) admin_key: Option<SecretString>,
    /// A file with the admin key, instead of QRELAY_ADMIN_KEY [default, on a data directory: made at the first start]
    #[arg(long, env = "QRELAY_ADMIN_KEY_FILE", value_name = "FILE")]
    pub(crate) admin_key_file: Option<String>,
}

impl SecretOrFile for AdminKeyArgs {
    const FILE: &'static str = "admin_key_file";

    fn forget_secret(&mut self) {
        self.admin_key = None;
    }
}
