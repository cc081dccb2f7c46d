//! A cluster that encrypts, asks who logs in, and lets nobody do more than was granted.
//!
//! A node of its own, which all tests here share.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use qrelay_tests::{
    PATIENCE,
    cql::{self, Guarded, SUPERUSER},
    server::{Server, Setup},
    wait_within,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    errors::{DbError, ExecutionError, RequestAttemptError},
};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{
    cluster::Keyspace,
    up::{Stage, delivered, scan},
};

/// How long something may take that a busy node is asked again for.
const LONG: std::time::Duration = PATIENCE.saturating_mul(3);
/// What no role is ever granted: a table of the product's secrets.
const SECRETS: &str = "secret";

/// The node, and where files for it are put.
struct Place {
    node: &'static Guarded,
    dir: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        // It may have to be started.
        let node = spawn_blocking(cql::guarded).await.unwrap();
        let place = Self {
            node,
            dir: tempfile::tempdir().unwrap(),
        };
        // The first login is made after the port is open.
        drop(place.session(SUPERUSER).await);
        place
    }

    /// A session with the node, as somebody who may log in.
    async fn session(&self, (user, password): (&str, &str)) -> Session {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(&self.node.authority).unwrap();
        roots.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = Arc::new(tls);
        wait_within(LONG, "somebody is let in", async || {
            let builder = SessionBuilder::new()
                .known_node(&self.node.address)
                .user(user, password)
                .tls_context(Some(Arc::clone(&tls)))
                .fetch_schema_metadata(false);
            builder.build().await.ok()
        })
        .await
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// The flags of who logs in.
    fn login(&self, (user, password): (&str, &str)) -> [String; 4] {
        let file = self.file(&format!("{user}.password"), password);
        let file = file.display().to_string();
        ["--scylla-user", user, "--scylla-password-file", &file].map(str::to_owned)
    }

    fn trusts(authority: &Path) -> [String; 2] {
        ["--scylla-tls-ca".to_owned(), authority.display().to_string()]
    }

    /// `qrelay schema apply` with these flags: its exit code, what it printed, and all that it said beside that.
    async fn apply(&self, keyspace: &str, flags: &[String]) -> (Option<i32>, Value, String) {
        let mut command = Command::new(crate::BINARY);
        command
            .args(["schema", "apply", "--json", "--scylla-replication=1"])
            .args([
                "--scylla-nodes",
                &self.node.address,
                "--scylla-keyspace",
                keyspace,
            ])
            .args(flags)
            .stdin(Stdio::null());
        let output = spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (
            output.status.code(),
            serde_json::from_slice(&output.stdout).unwrap_or_default(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// Waits until it is refused, with all of these words and without that one: a node that is busy may not answer at all at
    /// first.
    async fn refused(&self, flags: &[String], words: &[&str], without: &str) {
        wait_within(LONG, "it is refused with its reason", async || {
            let (code, _, said) = self.apply("qrelay", flags).await;
            assert_eq!(code, Some(1), "{said}");
            assert!(!said.contains(without), "{said}");
            words.iter().all(|word| said.contains(word)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn a_login_that_is_missing_or_wrong_is_refused_with_its_flag_and_without_its_password() {
    let place = Place::new().await;
    let trusts = Place::trusts(&place.node.authority);
    let nobody = ["--scylla-user (QRELAY_SCYLLA_USER)", "asks for a login"];
    place.refused(&trusts, &nobody, "never").await;
    for user in [SUPERUSER.0, "somebody_else"] {
        let login = place.login((user, "open-sesame"));
        let named = format!("the login of \"{user}\"");
        let words = ["--scylla-password-file (QRELAY_SCYLLA_PASSWORD_FILE)", &*named];
        place
            .refused(&[&trusts[..], &login[..]].concat(), &words, "open-sesame")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn a_node_of_another_authority_and_one_that_takes_no_plain_text_are_told() {
    let place = Place::new().await;
    let login = place.login(SUPERUSER);
    let another = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let another = Place::trusts(&place.file("another.pem", &another.cert.pem()));
    let words = ["--scylla-tls-ca (QRELAY_SCYLLA_TLS_CA)", "certificate"];
    place
        .refused(&[&login[..], &another[..]].concat(), &words, "never")
        .await;
    let words = [
        "--scylla-nodes (QRELAY_SCYLLA_NODES)",
        "hint:",
        "--scylla-tls-ca is set",
    ];
    place.refused(&login, &words, "never").await;
}

/// The tables of a keyspace.
async fn tables(session: &Session, keyspace: &str) -> BTreeSet<String> {
    let select = format!("SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}'");
    let rows = session.query_unpaged(select, ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    rows.rows::<(String,)>()
        .unwrap()
        .map(|row| row.unwrap().0)
        .collect()
}

/// Whether a statement is refused for want of a permission. What fails otherwise is tried again.
async fn is_refused(session: &Session, statement: &str) -> bool {
    wait_within(LONG, "a statement is decided on", async || {
        match session.query_unpaged(statement, ()).await {
            Ok(_) => Some(false),
            Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _))) => match error {
                DbError::Unauthorized => Some(true),
                // It was looked at after it was allowed.
                DbError::Invalid | DbError::SyntaxError => panic!("{statement}: {error}"),
                _ => None,
            },
            Err(_) => None,
        }
    })
    .await
}

/// Runs it until the node has done it.
async fn done(session: &Session, statement: &str) {
    wait_within(LONG, "the node does as it is told", async || {
        session.query_unpaged(statement, ()).await.ok()
    })
    .await;
}

/// The roles as processes, each with a login of its own that was granted what `schema apply` prints.
struct Roles {
    plane: Server,
    edge: Server,
    dispatcher: Server,
}

impl Roles {
    async fn start(place: &Place, keyspace: &str) -> Self {
        let key = place.file("peer.key", &"peer".repeat(8)).display().to_string();
        let setup = |role: &'static str, login: &str| {
            let mut flags = Place::trusts(&place.node.authority).to_vec();
            flags.extend(place.login((login, PASSWORD)));
            flags.extend(["--peer-key-file".to_owned(), key.clone()]);
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            Setup::new(crate::BINARY, &place.dir.path().join(role))
                .on_cluster(&place.node.address, keyspace)
                .role(role)
                .with(&flags)
        };
        let plane = setup("control-plane", "qrelay_control_plane");
        let edge = setup("data-plane", "qrelay_data_plane");
        let dispatcher = setup("dispatcher", "qrelay_dispatcher").with(&["--peer-listen", "127.0.0.1:0"]);
        let (plane, edge, dispatcher) = tokio::join!(plane.start(), edge.start(), dispatcher.start());
        Self {
            plane,
            edge,
            dispatcher,
        }
    }
}

/// Of each role's login.
const PASSWORD: &str = "between-qrelay-and-its-cluster";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn each_role_works_with_no_more_than_the_grants_that_are_printed() {
    let place = Place::new().await;
    let keyspace = Keyspace::unmade().name.clone();
    let superuser = place.session(SUPERUSER).await;
    let flags = [
        &Place::trusts(&place.node.authority)[..],
        &place.login(SUPERUSER)[..],
    ]
    .concat();
    let told = wait_within(LONG, "the schema is applied", async || {
        let (code, told, _) = place.apply(&keyspace, &flags).await;
        (code == Some(0)).then_some(told)
    })
    .await;
    let mut granted = BTreeSet::new();
    for (role, statements) in told["grants"].as_object().unwrap() {
        let create =
            format!("CREATE ROLE IF NOT EXISTS qrelay_{role} WITH PASSWORD = '{PASSWORD}' AND LOGIN = true");
        done(&superuser, &create).await;
        for statement in statements.as_array().unwrap() {
            done(&superuser, statement.as_str().unwrap()).await;
            granted.insert(statement.as_str().unwrap().to_owned());
        }
    }

    let roles = Roles::start(&place, &keyspace).await;
    let stage = Stage::set(&roles.plane.admin()).await;
    let answered = scan(&roles.edge, &stage.path, 5).await;
    delivered(&stage.receiver, &answered).await;

    let edge = place.session(("qrelay_data_plane", PASSWORD)).await;
    let all = tables(&superuser, &keyspace).await;
    assert!(all.iter().any(|table| table.contains(SECRETS)), "{all:?}");
    for table in &all {
        let grant = |permission| format!("GRANT {permission} ON {keyspace}.{table} TO qrelay_data_plane");
        let select = format!("SELECT * FROM {keyspace}.{table} LIMIT 1");
        let may = !is_refused(&edge, &select).await;
        assert_eq!(may, granted.contains(&grant("SELECT")), "{select}");
        assert!(!(may && table.contains(SECRETS)), "{table}");
        if !granted.contains(&grant("MODIFY")) {
            let truncate = format!("TRUNCATE {keyspace}.{table}");
            assert!(is_refused(&edge, &truncate).await, "{truncate}");
        }
    }
    for login in ["qrelay_control_plane", "qrelay_dispatcher"] {
        let session = place.session((login, PASSWORD)).await;
        let alter = format!("ALTER TABLE {keyspace}.install ADD another int");
        assert!(is_refused(&session, &alter).await, "{login}");
    }
    // What was tried harmed nobody.
    delivered(&stage.receiver, &scan(&roles.edge, &stage.path, 2).await).await;
    for server in [roles.edge, roles.dispatcher, roles.plane] {
        assert!(!server.log().contains(PASSWORD));
        server.stop().await;
    }
}
