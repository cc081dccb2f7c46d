//! The configuration of `qrelay up`: read from its flags, checked as a whole, and printed.
//!
//! All violations are reported at once. Files are checked to be there, so that a wrong path is a wrong
//! configuration (64) and not a failed start; what they hold is judged by those who use them.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use qrelay_control::AdminKey;
use qrelay_dispatcher::exchange::EgressProxy;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;
use url::Url;

use super::flags::{AdminKeyArgs, Flags};
use crate::{failure::Failure, session::secret_file};

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

/// How all roles run in one process.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where scans come in. Port 0 takes any free one.
    pub edge_listen: SocketAddr,
    /// Where the API is.
    pub api_listen: SocketAddr,
    /// Where metrics and health are.
    pub ops_listen: SocketAddr,
    /// What short links begin with, an origin; `http://` and the edge's bound address, if none.
    pub public_url: Option<Url>,
    /// The master keys; `master.key` in the data directory, if none.
    pub master_key_file: Option<PathBuf>,
    /// The admin key. If none, the one that an earlier start was given or made; else one is made.
    pub admin_key: Option<SecretString>,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections to the edge begin with a PROXY header.
    pub proxy_protocol: bool,
    /// A GeoIP database.
    pub geoip_db: Option<PathBuf>,
    /// How long what was recorded is kept.
    pub retention: Duration,
    /// Authorities beside the system's, PEM.
    pub ca_bundle: Option<PathBuf>,
    /// What all webhooks go through.
    pub egress_proxy: Option<EgressProxy>,
    /// TLS for the API.
    pub api_tls: Option<ApiTls>,
    /// Networks that webhooks may go to although they are not public.
    pub dangerous_allow_target: Vec<IpNet>,
    /// Networks that webhooks must not go to.
    pub deny_target: Vec<IpNet>,
    /// How long a stop may take.
    pub drain_deadline: Duration,
}

/// PEM files of the API's certificate and key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiTls {
    /// The chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Config {
    /// All roles on loopback, on any free ports, with the defaults of the flags.
    pub fn on_loopback(data_dir: PathBuf) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data_dir,
            edge_listen: any,
            api_listen: any,
            ops_listen: any,
            public_url: None,
            master_key_file: None,
            admin_key: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            geoip_db: None,
            retention: Duration::from_secs(30 * 24 * 3600),
            ca_bundle: None,
            egress_proxy: None,
            api_tls: None,
            dangerous_allow_target: Vec::new(),
            deny_target: Vec::new(),
            drain_deadline: Duration::from_secs(25),
        }
    }

    /// Where the master keys are.
    pub(crate) fn master_key_path(&self) -> PathBuf {
        self.master_key_file
            .clone()
            .unwrap_or_else(|| self.data_dir.join("master.key"))
    }

    /// Reads the flags.
    pub(crate) fn from_flags(flags: &Flags) -> Result<Self, Failure> {
        let mut check = Check::default();
        let config = Self {
            data_dir: check.path("data-dir", &flags.data_dir),
            edge_listen: check.listen("edge-listen", &flags.edge_listen),
            api_listen: check.listen("api-listen", &flags.api_listen),
            ops_listen: check.listen("ops-listen", &flags.ops_listen),
            public_url: check.public_url(given(flags.public_url.as_deref())),
            master_key_file: check.master_key_file(flags.master_key_file.as_deref()),
            admin_key: check.admin_key(&flags.admin.0),
            trusted_proxies: check.networks("trusted-proxies", &flags.trusted_proxies),
            proxy_protocol: check.switch("proxy-protocol", &flags.proxy_protocol),
            geoip_db: check.file("geoip-db", flags.geoip_db.as_deref(), GEOIP_DB),
            retention: check.duration("retention", &flags.retention, RETENTION_MIN, RETENTION_MAX),
            ca_bundle: check.file("ca-bundle", flags.ca_bundle.as_deref(), CA_BUNDLE),
            egress_proxy: check.egress_proxy(flags.egress_proxy.as_ref()),
            api_tls: check.api_tls(flags),
            dangerous_allow_target: check.networks("dangerous-allow-target", &flags.dangerous_allow_target),
            deny_target: check.networks("deny-target", &flags.deny_target),
            drain_deadline: check.duration(
                "drain-deadline",
                &flags.drain_deadline,
                Duration::from_secs(1),
                DRAIN_DEADLINE_MAX,
            ),
        };
        check.distinct_listens(&config);
        check.log(&flags.log);
        check.finish().map(|()| config)
    }

    /// The configuration as an environment file that gives the same one. Secrets are masked.
    pub(crate) fn print(&self, log: &str) -> String {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let networks = |networks: &[IpNet]| {
            let texts: Vec<_> = networks.iter().map(ToString::to_string).collect();
            (!texts.is_empty()).then(|| texts.join(","))
        };
        let lines = [
            ("DATA_DIR", Some(self.data_dir.display().to_string())),
            ("EDGE_LISTEN", Some(self.edge_listen.to_string())),
            ("API_LISTEN", Some(self.api_listen.to_string())),
            ("OPS_LISTEN", Some(self.ops_listen.to_string())),
            ("PUBLIC_URL", self.public_url.as_ref().map(origin)),
            (
                "MASTER_KEY_FILE",
                Some(self.master_key_path().display().to_string()),
            ),
            (
                "ADMIN_KEY",
                self.admin_key.as_ref().map(|_| "********".to_owned()),
            ),
            ("TRUSTED_PROXIES", networks(&self.trusted_proxies)),
            ("PROXY_PROTOCOL", Some(self.proxy_protocol.to_string())),
            ("GEOIP_DB", path(&self.geoip_db)),
            (
                "RETENTION",
                Some(humantime::format_duration(self.retention).to_string()),
            ),
            ("CA_BUNDLE", path(&self.ca_bundle)),
            (
                "EGRESS_PROXY",
                self.egress_proxy.as_ref().map(ToString::to_string),
            ),
            (
                "API_TLS_CERT",
                self.api_tls.as_ref().map(|tls| tls.cert.display().to_string()),
            ),
            (
                "API_TLS_KEY",
                self.api_tls.as_ref().map(|tls| tls.key.display().to_string()),
            ),
            ("DANGEROUS_ALLOW_TARGET", networks(&self.dangerous_allow_target)),
            ("DENY_TARGET", networks(&self.deny_target)),
            (
                "DRAIN_DEADLINE",
                Some(humantime::format_duration(self.drain_deadline).to_string()),
            ),
            ("LOG", Some(log.to_owned())),
        ];
        let mut text = String::new();
        for (name, value) in lines {
            writeln!(text, "QRELAY_{name}={}", value.unwrap_or_default())
                .expect("invariant: a String takes text");
        }
        text
    }
}

/// A URL's origin, without the slash that [`Url`] ends it with.
pub(crate) fn origin(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

fn given(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

/// Collects what is wrong.
#[derive(Default)]
struct Check {
    violations: Vec<String>,
}

impl Check {
    fn add(&mut self, flag: &str, what: impl std::fmt::Display) {
        let variable = flag.replace('-', "_").to_ascii_uppercase();
        self.violations
            .push(format!("--{flag} (QRELAY_{variable}): {what}"));
    }

    fn finish(self) -> Result<(), Failure> {
        let message = match self.violations.len() {
            0 => return Ok(()),
            1 => "the configuration has an error".to_owned(),
            many => format!("the configuration has {many} errors"),
        };
        Err(Failure::usage(message)
            .details(self.violations)
            .hint("`qrelay up --help` explains each flag"))
    }

    fn path(&mut self, flag: &str, text: &str) -> PathBuf {
        if given(Some(text)).is_none() {
            self.add(flag, "is empty");
        }
        PathBuf::from(text)
    }

    fn listen(&mut self, flag: &str, text: &str) -> SocketAddr {
        text.trim().parse().unwrap_or_else(|_| {
            self.add(
                flag,
                format_args!("{text:?} is no address with a port, such as 127.0.0.1:8080 or [::]:8080"),
            );
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    fn distinct_listens(&mut self, config: &Config) {
        let listens = [
            ("edge-listen", config.edge_listen),
            ("api-listen", config.api_listen),
            ("ops-listen", config.ops_listen),
        ];
        for (at, (flag, address)) in listens.iter().enumerate() {
            if let Some((other, _)) = listens[..at]
                .iter()
                .find(|(_, known)| known == address && address.port() != 0)
            {
                self.add(flag, format_args!("{address} is also --{other}"));
            }
        }
    }

    fn public_url(&mut self, text: Option<&str>) -> Option<Url> {
        let text = text?;
        match Url::parse(text) {
            Ok(url) if is_origin(&url) => return Some(url),
            // Not repeated: a password may stand in it, in a form that the parser did not take for one, too.
            _ if text.contains('@') => self.add(
                "public-url",
                "holds an @; it must be http:// or https:// and a host, without user name and password",
            ),
            Ok(_) => self.add(
                "public-url",
                format_args!("{text:?} must be http:// or https://, a host, and nothing after it"),
            ),
            Err(error) => self.add("public-url", format_args!("{text:?} is no URL: {error}")),
        }
        None
    }

    fn duration(&mut self, flag: &str, text: &str, min: Duration, max: Duration) -> Duration {
        match humantime::parse_duration(text) {
            Ok(duration) if (min..=max).contains(&duration) => return duration,
            Ok(_) => self.add(
                flag,
                format_args!(
                    "{text:?} is not between {} and {}",
                    humantime::format_duration(min),
                    humantime::format_duration(max)
                ),
            ),
            Err(_) => self.add(flag, format_args!("{text:?} is no duration, such as 30d or 12h")),
        }
        min
    }

    fn switch(&mut self, flag: &str, text: &str) -> bool {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => true,
            "" | "false" | "no" | "off" | "0" => false,
            _ => {
                self.add(flag, format_args!("{text:?} is neither true nor false"));
                false
            }
        }
    }

    fn networks(&mut self, flag: &str, texts: &[String]) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for text in texts
            .iter()
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
        {
            let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
            match IpNet::from_str(text).ok().or_else(single) {
                Some(network) => networks.push(network),
                None => self.add(
                    flag,
                    format_args!("{text:?} is no network, such as 10.0.0.0/8 or ::1"),
                ),
            }
        }
        networks
    }

    fn file(&mut self, flag: &str, text: Option<&str>, expected: &str) -> Option<PathBuf> {
        let path = PathBuf::from(given(text)?);
        if let Err(error) = readable(&path) {
            self.add(
                flag,
                format_args!("cannot read {}: {error}; name {expected}", path.display()),
            );
        }
        Some(path)
    }

    /// It need not exist: the first start makes it, perhaps in a data directory that is not there yet either.
    fn master_key_file(&mut self, text: Option<&str>) -> Option<PathBuf> {
        let path = PathBuf::from(given(text)?);
        if let Err(error) = readable(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            self.add(
                "master-key-file",
                format_args!("cannot read {}: {error}; name {MASTER_KEY_FILE}", path.display()),
            );
        }
        Some(path)
    }

    /// What was given is not repeated: a password may stand in it.
    fn egress_proxy(&mut self, text: Option<&SecretString>) -> Option<EgressProxy> {
        let text = given(text.map(ExposeSecret::expose_secret))?;
        EgressProxy::parse(text)
            .map_err(|error| self.add("egress-proxy", error))
            .ok()
    }

    fn api_tls(&mut self, flags: &Flags) -> Option<ApiTls> {
        let cert = self.file("api-tls-cert", flags.api_tls_cert.as_deref(), API_TLS_CERT);
        let key = self.file("api-tls-key", flags.api_tls_key.as_deref(), API_TLS_KEY);
        match (cert, key) {
            (Some(cert), Some(key)) => Some(ApiTls { cert, key }),
            (None, None) => None,
            (Some(_), None) => {
                self.add("api-tls-key", "is missing: TLS needs both certificate and key");
                None
            }
            (None, Some(_)) => {
                self.add("api-tls-cert", "is missing: TLS needs both certificate and key");
                None
            }
        }
    }

    fn admin_key(&mut self, args: &AdminKeyArgs) -> Option<SecretString> {
        let key = args
            .admin_key
            .as_ref()
            .map(|key| key.expose_secret().trim())
            .filter(|key| !key.is_empty());
        let path = given(args.admin_key_file.as_deref());
        let key = match (key, path) {
            (Some(_), Some(_)) => {
                self.add(
                    "admin-key-file",
                    "QRELAY_ADMIN_KEY is set too: unset one of the variables",
                );
                return None;
            }
            (Some(key), None) => SecretString::from(key.to_owned()),
            (None, Some(path)) => match secret_file(Path::new(path)) {
                Ok(key) => key,
                Err(why) => {
                    self.add(
                        "admin-key-file",
                        format_args!("{why}; name a file whose only line is the admin key"),
                    );
                    return None;
                }
            },
            (None, None) => return None,
        };
        if let Err(error) = AdminKey::new(&key) {
            let place = path.map(|path| format!("{path}: ")).unwrap_or_default();
            self.violations
                .push(format!("--admin-key-file (or QRELAY_ADMIN_KEY): {place}{error}"));
        }
        Some(key)
    }

    fn log(&mut self, filter: &str) {
        if let Err(error) = EnvFilter::try_new(filter) {
            self.add("log", format_args!("{filter:?} is no filter: {error}"));
        }
    }
}

fn is_origin(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
}

fn readable(path: &Path) -> std::io::Result<()> {
    let file = std::fs::File::open(path)?;
    match file.metadata()?.is_dir() {
        true => Err(std::io::Error::from(std::io::ErrorKind::IsADirectory)),
        false => Ok(()),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
