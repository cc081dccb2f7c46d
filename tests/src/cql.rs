//! Where tests find a CQL cluster.
//!
//! The one that `QRELAY_TEST_CQL` (host:port) names, else a node of its own for this test binary, from
//! `tests/tools/cassandra`. That one is stopped by its script when its standard input ends: with this process, however
//! this process ends.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

/// The cluster's address, `host:port`.
///
/// # Panics
/// When a node cannot be started.
pub fn address() -> &'static str {
    static CLUSTER: OnceLock<(String, Option<Child>)> = OnceLock::new();
    #[allow(
        clippy::disallowed_methods,
        reason = "a setting of the tests, not of the product"
    )]
    let cluster = CLUSTER.get_or_init(|| match std::env::var("QRELAY_TEST_CQL") {
        Ok(address) => (address, None),
        Err(_) => {
            let (address, script) = start();
            (address, Some(script))
        }
    });
    &cluster.0
}

fn start() -> (String, Child) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/cassandra");
    let dir = std::env::temp_dir().join(format!("qrelay-cql-{}", std::process::id()));
    let mut script = Command::new(script)
        .arg("serve")
        .arg(dir)
        .args(["--port", &port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tests/tools/cassandra can be run");
    let output = script.stdout.take().expect("invariant: it is piped");
    let mut address = String::new();
    let read = BufReader::new(output).read_line(&mut address);
    assert!(
        read.is_ok() && !address.is_empty(),
        "tests/tools/cassandra did not start a node"
    );
    (address.trim_end().to_owned(), script)
}

/// A free port, with the two free that the script derives from it.
fn port() -> u16 {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr());
    loop {
        let port = free(0).expect("there is a free port").port();
        if port > 4000 && free(port - 2042).is_ok() && free(port - 2041).is_ok() {
            return port;
        }
    }
}
