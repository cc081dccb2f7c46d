//! Hints between processes: their flags, and what they mean.
//!
//! All processes of a cluster that are given the peer key tell each other what happens; those that deliver listen, too.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use http::uri::Authority;
use qrelay_peers::PeerKey;

use super::{
    check::{Check, given},
    config::{Lines, path},
};

/// The flag of every process that tells others what happens.
#[derive(Args, Clone, Debug)]
pub(crate) struct PeerKeyFlags {
    /// A file with the key that the processes of a cluster prove themselves with when they tell each other what happens;
    /// without it they find out by looking, up to a second later
    #[arg(long, env = "QRELAY_PEER_KEY_FILE", value_name = "FILE")]
    pub(crate) peer_key_file: Option<String>,
}

/// Flags of a process that is told, too: one that delivers.
#[derive(Args, Clone, Debug)]
pub(crate) struct PeerFlags {
    #[command(flatten)]
    pub(crate) key: PeerKeyFlags,
    /// Where other processes tell this one what happens; needs --peer-key-file
    #[arg(long, env = "QRELAY_PEER_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) peer_listen: Option<String>,
    /// Where other processes reach --peer-listen [default: its own address]
    #[arg(long, env = "QRELAY_PEER_ADVERTISE", value_name = "HOST:PORT")]
    pub(crate) peer_advertise: Option<String>,
}

/// How a process tells others what happens.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// What proves it.
    pub key: PeerKey,
    /// Where the key was read from.
    pub key_file: PathBuf,
    /// Where it is told itself, if it delivers. Port 0 takes any free one.
    pub listen: Option<SocketAddr>,
    /// Where others reach that; the bound address, if none.
    pub advertise: Option<String>,
}

impl PeerConfig {
    /// Of a process that only tells.
    pub(super) fn telling(check: &mut Check, flags: &PeerKeyFlags) -> Option<Self> {
        let key_file = PathBuf::from(given(flags.peer_key_file.as_deref())?);
        let text = check.secret("peer-key-file", &key_file, "the peer key")?;
        match PeerKey::new(&text) {
            Ok(key) => Some(Self {
                key,
                key_file,
                listen: None,
                advertise: None,
            }),
            Err(error) => {
                check.add("peer-key-file", format_args!("{}: {error}", key_file.display()));
                None
            }
        }
    }

    /// Of a process that is told, too.
    pub(super) fn told(check: &mut Check, flags: &PeerFlags) -> Option<Self> {
        let (listen, advertise) = (
            given(flags.peer_listen.as_deref()),
            given(flags.peer_advertise.as_deref()),
        );
        let has_key = given(flags.key.peer_key_file.as_deref()).is_some();
        if listen.is_some() && !has_key {
            check.add("peer-listen", "needs --peer-key-file");
        }
        if listen.is_none() && has_key {
            check.add(
                "peer-listen",
                "is missing: with --peer-key-file other processes tell this one what happens",
            );
        }
        if advertise.is_some() && listen.is_none() {
            check.add("peer-advertise", "needs --peer-listen");
        }
        if let Some(text) = advertise
            && !is_reachable(text)
        {
            check.add(
                "peer-advertise",
                format_args!("{text:?} is no host with a port, such as shard-0:7400"),
            );
        }
        let listen = listen.map(|text| check.listen("peer-listen", text));
        if let Some(address) = listen
            && address.ip().is_unspecified()
            && advertise.is_none()
        {
            check.add(
                "peer-advertise",
                format_args!("is missing: other processes cannot reach {address}"),
            );
        }
        Some(Self {
            listen,
            advertise: advertise.map(str::to_owned),
            ..Self::telling(check, &flags.key)?
        })
    }

    /// Names and values of the variables that give the same.
    pub(super) fn lines(peers: Option<&Self>) -> Lines {
        let listen = peers.and_then(|peers| peers.listen);
        let mut lines = Self::key_lines(peers);
        lines.extend([
            ("PEER_LISTEN", listen.map(|address| address.to_string())),
            ("PEER_ADVERTISE", peers.and_then(|peers| peers.advertise.clone())),
        ]);
        lines
    }

    /// The same of a process that only tells.
    pub(super) fn key_lines(peers: Option<&Self>) -> Lines {
        vec![("PEER_KEY_FILE", path(peers.map(|peers| &peers.key_file)))]
    }
}

/// A host and a port, and nothing else of a URL.
fn is_reachable(text: &str) -> bool {
    let authority = text.parse::<Authority>();
    authority.is_ok_and(|authority| !authority.host().is_empty() && authority.port_u16().is_some())
        && !text.contains('@')
}
