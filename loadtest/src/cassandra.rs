//! A CQL cluster of one node: one that is there, or an Apache Cassandra that the repository's own script starts and stops.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::task::spawn_blocking;

/// The node's heap. Pauses of a smaller one are told as the product's.
const HEAP_MIB: &str = "1024";
/// What the script subtracts from the port to get the first of the two that nodes speak with each other on.
const BETWEEN_NODES: u16 = 2042;
/// How often a port is looked for.
const TRIES: usize = 100;
/// How long the script may take to stop the node: a second or so.
const STOP_LOOKS: usize = 3000;
const POLL: Duration = Duration::from_millis(10);

/// Where a node is to be had.
#[derive(Debug, Clone)]
pub struct Source {
    /// One that runs already, `host:port`.
    pub running: Option<String>,
    /// Else the script that starts one: `tests/tools/cassandra`.
    pub script: PathBuf,
}

/// A node. One that was started ends when this is dropped, with all that it kept.
#[derive(Debug)]
pub struct Node {
    /// Where it listens, `host:port`.
    pub address: String,
    /// Ends when its input does, and stops the node then.
    script: Option<Child>,
}

impl Node {
    /// The one that runs, or a new one with its data and logs below `folder`. On the cores that this thread may use.
    ///
    /// # Errors
    /// When it cannot be started: the script says why (it needs a JDK and Maven).
    pub async fn at(source: &Source, folder: &Path) -> anyhow::Result<Self> {
        if let Some(address) = &source.running {
            return Ok(Self {
                address: address.clone(),
                script: None,
            });
        }
        let (script, folder) = (source.script.clone(), folder.to_owned());
        spawn_blocking(move || Self::start(&script, &folder)).await?
    }

    fn start(script: &Path, folder: &Path) -> anyhow::Result<Self> {
        let script = script
            .canonicalize()
            .with_context(|| format!("no script at {}", script.display()))?;
        let log = folder.join("cassandra.log");
        let child = Command::new(script)
            .arg("serve")
            .arg(folder.join("cassandra"))
            .args(["--port", &free_port()?.to_string(), "--heap", HEAP_MIB])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            // A terminal's interrupt is for this process: the node ends with it.
            .process_group(0)
            .spawn()
            .context("cannot run the script of Cassandra")?;
        let mut node = Self {
            address: String::new(),
            script: Some(child),
        };
        let output = node.script.as_mut().and_then(|child| child.stdout.take());
        let mut address = String::new();
        // Nothing comes where the script gives up, which it does after some minutes.
        BufReader::new(output.context("invariant: it is piped")?).read_line(&mut address)?;
        if address.trim().is_empty() {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("{}", said.trim_end().lines().last().unwrap_or("it did not start"));
        }
        address.trim_end().clone_into(&mut node.address);
        Ok(node)
    }

    /// Whether it was there before, and stays.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.script.is_none()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(mut script) = self.script.take() else {
            return;
        };
        drop(script.stdin.take());
        // Bounded: half a minute.
        for _ in 0..STOP_LOOKS {
            if !matches!(script.try_wait(), Ok(None)) {
                return;
            }
            sleep(POLL);
        }
    }
}

/// A port that is free, with the two that the script derives from it.
fn free_port() -> anyhow::Result<u16> {
    let free =
        |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|bound| bound.local_addr());
    for _ in 0..TRIES {
        let port = free(0)?.port();
        let derived = [BETWEEN_NODES, BETWEEN_NODES - 1].map(|less| port.saturating_sub(less));
        if derived.iter().all(|port| *port > 1024 && free(*port).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no free ports for a node")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn source(folder: &Path, text: &str) -> Source {
        let script = folder.join("script");
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        Source {
            running: None,
            script,
        }
    }

    #[tokio::test]
    async fn a_node_that_is_started_ends_when_it_is_dropped_and_one_that_runs_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let ended = folder.path().join("ended");
        let text = format!(
            "#!/bin/sh\necho there:$4\ncat >/dev/null\n: >{}\n",
            ended.display()
        );
        let mut source = source(folder.path(), &text);
        let node = Node::at(&source, folder.path()).await.unwrap();
        assert!(node.address.starts_with("there:") && !node.stays(), "{node:?}");
        drop(node);
        assert!(ended.exists());
        source.running = Some("here:1".into());
        let node = Node::at(&source, folder.path()).await.unwrap();
        assert!(node.address == "here:1" && node.stays());
    }

    #[tokio::test]
    async fn what_the_script_says_is_told_where_no_node_can_be_had() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(
            folder.path(),
            "#!/bin/sh\necho error: java is missing >&2\nexit 1\n",
        );
        let error = Node::at(&source, folder.path()).await.unwrap_err();
        assert_eq!(error.to_string(), "error: java is missing");
    }
}
