//! Who listens on a port, from `/proc`.
//!
//! A server left over from another run can share a port unseen (`SO_REUSEPORT`) and answer half of the load: a benchmark
//! checks that only the process it started listens.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::{Context, ensure};

use crate::cpu;

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// A loopback address with a port that nobody used a moment ago.
///
/// # Errors
/// When no port is free.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}

/// Fails when anybody listens on the port, on any address.
///
/// # Errors
/// When somebody does.
pub fn ensure_unused(port: u16) -> anyhow::Result<()> {
    ensure!(sockets(port)?.is_empty(), "somebody else listens on port {port}");
    Ok(())
}

/// Whether processes of the group listen on the port.
///
/// # Errors
/// When a process outside the group does, too.
pub fn is_served_by(port: u16, group: u32) -> anyhow::Result<bool> {
    let listening = sockets(port)?;
    let mut own = BTreeSet::new();
    for pid in cpu::group_members(group)? {
        // A process may end meanwhile.
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        let named = links.filter_map(|link| {
            Some(
                link.to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .to_owned(),
            )
        });
        own.extend(named);
    }
    let strangers: Vec<_> = listening.difference(&own).collect();
    ensure!(
        strangers.is_empty(),
        "another process listens on port {port}, too"
    );
    Ok(!listening.is_empty())
}

/// The inodes of the sockets that listen on the port.
fn sockets(port: u16) -> anyhow::Result<BTreeSet<String>> {
    let mut inodes = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // A machine without IPv6 has no second table.
        let Ok(text) = fs::read_to_string(table) else {
            continue;
        };
        inodes.extend(text.lines().skip(1).filter_map(|line| listening_on(line, port)));
    }
    Ok(inodes)
}

/// proc(5): slot, local `ADDRESS:PORT` in hexadecimal, remote, state, queues, timer, retransmits, uid, timeout, inode.
fn listening_on(line: &str, port: u16) -> Option<String> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let here = u16::from_str_radix(local, 16).ok()? == port && *fields.get(3)? == LISTENING;
    here.then(|| fields.get(9).map(|inode| (*inode).to_owned()))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_and_told_from_a_strangers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = rustix::process::getpgrp().as_raw_nonzero().get().cast_unsigned();
        assert!(is_served_by(port, own).unwrap());
        assert!(is_served_by(port, u32::MAX).is_err());
        assert!(ensure_unused(port).is_err());
    }

    #[test]
    fn a_connection_is_no_listener() {
        let line =
            "   0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 77 1";
        assert_eq!(listening_on(line, 8080), None);
        let line = line.replace(" 01 ", " 0A ");
        assert_eq!(listening_on(&line, 8080), Some("77".into()));
        assert_eq!(listening_on(&line, 8081), None);
    }
}
