//! Where tests find a CQL cluster.
//!
//! The one that `QRELAY_TEST_CQL` (host:port) names, else a node of its own for this test binary, from
//! `tests/tools/cassandra`. That one is stopped by its script when its standard input ends: with this process, however
//! this process ends.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

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
            let dir = std::env::temp_dir().join(format!("qrelay-cql-{}", std::process::id()));
            let port = free_port(&[Ipv4Addr::LOCALHOST]);
            let (address, script) = serve(&dir, &["--port", &port.to_string()]);
            (address, Some(script))
        }
    });
    &cluster.0
}

/// A cluster of one node that encrypts, asks who logs in, and lets logins do what they were granted.
#[derive(Debug)]
pub struct Guarded {
    /// Its address, `host:port`.
    pub address: String,
    /// The PEM file with the authority of its certificate.
    pub authority: PathBuf,
    /// Ends with this process, and stops the node then.
    _script: Child,
}

/// Who may do everything there, with the password.
pub const SUPERUSER: (&str, &str) = ("cassandra", "cassandra");

/// The one of this test binary, started for the first test that wants it.
///
/// # Panics
/// When it cannot be started.
pub fn guarded() -> &'static Guarded {
    static GUARDED: OnceLock<Guarded> = OnceLock::new();
    GUARDED.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("qrelay-guarded-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![Ipv4Addr::LOCALHOST.to_string()]).unwrap();
        let certificate = certificate.signed_by(&key, &issuer).unwrap();
        let (authority, own) = (dir.join("authority.pem"), dir.join("node.pem"));
        fs::write(&authority, issuer.pem()).unwrap();
        fs::write(&own, format!("{}{}", key.serialize_pem(), certificate.pem())).unwrap();
        let port = free_port(&[Ipv4Addr::LOCALHOST]).to_string();
        let own = own.to_str().expect("temporary folders have plain names");
        let (address, script) = serve(&dir, &["--port", &port, "--guarded", own]);
        Guarded {
            address,
            authority,
            _script: script,
        }
    })
}

/// The script.
pub(crate) fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/cassandra"))
}

/// Starts nodes in `dir`, which goes with them: what the first one listens on, and the script, which stops them when its
/// standard input ends.
///
/// # Panics
/// When they cannot be started.
pub(crate) fn serve(dir: &Path, options: &[&str]) -> (String, Child) {
    let mut script = script()
        .arg("serve")
        .arg(dir)
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tests/tools/cassandra can be run");
    let output = script.stdout.take().expect("invariant: it is piped");
    let mut address = String::new();
    let read = BufReader::new(output).read_line(&mut address);
    assert!(
        read.is_ok() && !address.is_empty(),
        "tests/tools/cassandra did not start its nodes"
    );
    (address.trim_end().to_owned(), script)
}

/// What the script subtracts from the port to get the one that nodes speak with each other on; the next one is theirs, too.
pub(crate) const BETWEEN_NODES: u16 = 2042;

/// A port that is free on all these addresses, with the two that the script derives from it.
pub(crate) fn free_port(on: &[Ipv4Addr]) -> u16 {
    let free = |ip, port| TcpListener::bind((ip, port)).and_then(|listener| listener.local_addr());
    loop {
        let port = free(Ipv4Addr::LOCALHOST, 0).expect("there is a free port").port();
        let derived = [
            port,
            port.saturating_sub(BETWEEN_NODES),
            port.saturating_sub(BETWEEN_NODES - 1),
        ];
        if port > 4000
            && on
                .iter()
                .all(|ip| derived.iter().all(|port| free(*ip, *port).is_ok()))
        {
            return port;
        }
    }
}
