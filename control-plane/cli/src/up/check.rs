//! Checks the texts of flags, and collects what is wrong with them, so that all of it is told at once.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use qrelay_control::AdminKey;
use qrelay_dispatcher::exchange::EgressProxy;
use qrelay_store::{journal::JournalConfig, seal::MasterKeys};
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;
use url::Url;

use super::{
    config::{API_TLS_CERT, API_TLS_KEY, ApiTls, MASTER_KEY_FILE, MasterKeyConfig},
    flags::{AdminKeyArgs, ApiFlags, MasterKeyArgs},
    journal_flags::JournalFlags,
};
use crate::{failure::Failure, session::secret_file};

/// A text that says something.
pub(crate) fn given(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

/// Collects what is wrong.
pub(crate) struct Check {
    command: &'static str,
    violations: Vec<String>,
}

impl Check {
    /// For the flags of `qrelay command`.
    pub(crate) fn new(command: &'static str) -> Self {
        Self {
            command,
            violations: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, flag: &str, what: impl std::fmt::Display) {
        let variable = flag.replace('-', "_").to_ascii_uppercase();
        self.violations
            .push(format!("--{flag} (QRELAY_{variable}): {what}"));
    }

    /// The command whose flags these are.
    pub(crate) fn command(&self) -> &'static str {
        self.command
    }

    pub(crate) fn finish(self) -> Result<(), Failure> {
        let message = match self.violations.len() {
            0 => return Ok(()),
            1 => "the configuration has an error".to_owned(),
            many => format!("the configuration has {many} errors"),
        };
        Err(Failure::usage(message)
            .details(self.violations)
            .hint(format!("`qrelay {} --help` explains each flag", self.command)))
    }

    pub(crate) fn journal(&mut self, flags: &JournalFlags) -> Option<JournalConfig> {
        flags.read().unwrap_or_else(|violations| {
            violations
                .into_iter()
                .for_each(|(flag, what)| self.add(flag, what));
            None
        })
    }

    /// Each of the two has a lock of its own.
    pub(crate) fn journal_apart(&mut self, journal: Option<&JournalConfig>, data_dir: Option<&Path>) {
        if journal.is_some_and(|journal| Some(&*journal.dir) == data_dir) {
            self.add("journal-dir", "is also --data-dir");
        }
    }

    pub(crate) fn path(&mut self, flag: &str, text: &str) -> PathBuf {
        if given(Some(text)).is_none() {
            self.add(flag, "is empty");
        }
        PathBuf::from(text)
    }

    pub(crate) fn listen(&mut self, flag: &str, text: &str) -> SocketAddr {
        text.trim().parse().unwrap_or_else(|_| {
            self.add(
                flag,
                format_args!("{text:?} is no address with a port, such as 127.0.0.1:8080 or [::]:8080"),
            );
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    /// A short name of visible characters.
    pub(crate) fn name(&mut self, flag: &str, text: Option<&str>, chars_max: usize) -> Option<String> {
        let text = given(text)?;
        if text.chars().count() > chars_max || text.chars().any(char::is_control) {
            self.add(
                flag,
                format_args!("{text:?} is no name of at most {chars_max} visible characters"),
            );
        }
        Some(text.to_owned())
    }

    /// Two listeners share no port, unless any free one is asked for.
    pub(crate) fn distinct(&mut self, listens: &[(&str, SocketAddr)]) {
        for (at, (flag, address)) in listens.iter().enumerate() {
            if let Some((other, _)) = listens[..at]
                .iter()
                .find(|(_, known)| known == address && address.port() != 0)
            {
                self.add(flag, format_args!("{address} is also --{other}"));
            }
        }
    }

    pub(crate) fn public_url(&mut self, text: Option<&str>) -> Option<Url> {
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

    pub(crate) fn duration(&mut self, flag: &str, text: &str, min: Duration, max: Duration) -> Duration {
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

    pub(crate) fn switch(&mut self, flag: &str, text: &str) -> bool {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => true,
            "" | "false" | "no" | "off" | "0" => false,
            _ => {
                self.add(flag, format_args!("{text:?} is neither true nor false"));
                false
            }
        }
    }

    pub(crate) fn networks(&mut self, flag: &str, texts: &[String]) -> Vec<IpNet> {
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

    pub(crate) fn file(&mut self, flag: &str, text: Option<&str>, expected: &str) -> Option<PathBuf> {
        let path = PathBuf::from(given(text)?);
        if let Err(error) = readable(&path) {
            self.add(
                flag,
                format_args!("cannot read {}: {error}; name {expected}", path.display()),
            );
        }
        Some(path)
    }

    /// The one line of a file.
    pub(crate) fn secret(&mut self, flag: &str, path: &Path, expected: &str) -> Option<SecretString> {
        secret_file(path)
            .map_err(|why| {
                self.add(
                    flag,
                    format_args!("{why}; name a file whose only line is {expected}"),
                )
            })
            .ok()
    }

    /// Processes that share a cluster share its keys: none of them makes one.
    pub(crate) fn admin_key_is_given(&mut self, args: &AdminKeyArgs) {
        let key = given(args.admin_key.as_ref().map(ExposeSecret::expose_secret));
        if key.is_none() && given(args.admin_key_file.as_deref()).is_none() {
            self.add(
                "admin-key-file",
                "is missing, and QRELAY_ADMIN_KEY too: all control planes of a cluster are given one admin key, which `openssl rand -hex 32` makes",
            );
        }
    }

    /// As [`Self::admin_key_is_given`]; where a file is named, it is there.
    pub(crate) fn master_key_is_given(&mut self, args: &MasterKeyArgs) {
        let key = given(args.master_key.as_ref().map(ExposeSecret::expose_secret));
        let path = given(args.master_key_file.as_deref()).map(Path::new);
        match path {
            None if key.is_none() => self.add(
                "master-key-file",
                "is missing, and QRELAY_MASTER_KEY too: all control planes and dispatchers of a cluster are given the same master keys; `openssl rand -base64 32` makes one for the variable",
            ),
            Some(path) if matches!(path.try_exists(), Ok(false)) => self.add(
                "master-key-file",
                format_args!(
                    "there is no {}: on a cluster it is not made, because all control planes and dispatchers must have the same",
                    path.display()
                ),
            ),
            _ => {}
        }
    }

    /// The variable's key, or the path of a file. That need not exist: the first start makes it, perhaps in a data
    /// directory that is not there yet either.
    pub(crate) fn master_key(&mut self, args: &MasterKeyArgs) -> MasterKeyConfig {
        let key = args
            .master_key
            .clone()
            .filter(|key| !key.expose_secret().trim().is_empty());
        let path = given(args.master_key_file.as_deref()).map(PathBuf::from);
        if let Some(key) = &key
            && let Err(error) = MasterKeys::from_env_text(key.expose_secret())
        {
            self.violations.push(format!("QRELAY_MASTER_KEY: {error}"));
        }
        if key.is_some() && path.is_some() {
            self.add(
                "master-key-file",
                "QRELAY_MASTER_KEY is set too: unset one of the variables",
            );
        }
        if let Some(path) = &path
            && let Err(error) = readable(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            self.add(
                "master-key-file",
                format_args!("cannot read {}: {error}; name {MASTER_KEY_FILE}", path.display()),
            );
        }
        MasterKeyConfig {
            text: key,
            file: path,
        }
    }

    /// What was given is not repeated: a password may stand in it.
    pub(crate) fn egress_proxy(&mut self, text: Option<&SecretString>) -> Option<EgressProxy> {
        let text = given(text.map(ExposeSecret::expose_secret))?;
        EgressProxy::parse(text)
            .map_err(|error| self.add("egress-proxy", error))
            .ok()
    }

    pub(crate) fn api_tls(&mut self, flags: &ApiFlags) -> Option<ApiTls> {
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

    pub(crate) fn admin_key(&mut self, args: &AdminKeyArgs) -> Option<SecretString> {
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
            (None, Some(path)) => self.secret("admin-key-file", Path::new(path), "the admin key")?,
            (None, None) => return None,
        };
        if let Err(error) = AdminKey::new(&key) {
            let place = path.map(|path| format!("{path}: ")).unwrap_or_default();
            self.violations
                .push(format!("--admin-key-file (or QRELAY_ADMIN_KEY): {place}{error}"));
        }
        Some(key)
    }

    pub(crate) fn log(&mut self, filter: &str) {
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
