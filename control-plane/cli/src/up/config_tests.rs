//! Tests of the configuration, through clap as a caller meets it.

use clap::Parser;

use secrecy::ExposeSecret;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

fn flags(arguments: &[&str]) -> Flags {
    Line::try_parse_from(["up"].iter().chain(arguments))
        .expect("clap takes every text")
        .flags
}

fn refused(arguments: &[&str]) -> String {
    let mut text = Vec::new();
    let failure = Config::from_flags(&flags(arguments)).expect_err("refused");
    assert_eq!(failure.exit, crate::failure::Exit::Usage);
    failure.write(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn without_flags_everything_listens_on_loopback() {
    let config = Config::from_flags(&flags(&[])).unwrap();
    insta::assert_snapshot!(config.print("info"), @r"
    QRELAY_DATA_DIR=qrelay-data
    QRELAY_SCYLLA_NODES=
    QRELAY_SCYLLA_KEYSPACE=
    QRELAY_SCYLLA_DATACENTER=
    QRELAY_SCYLLA_REPLICATION=
    QRELAY_SCYLLA_USER=
    QRELAY_SCYLLA_PASSWORD_FILE=
    QRELAY_SCYLLA_TLS_CA=
    QRELAY_EDGE_LISTEN=127.0.0.1:8080
    QRELAY_TRUSTED_PROXIES=
    QRELAY_PROXY_PROTOCOL=false
    QRELAY_GEOIP_DB=
    QRELAY_JOURNAL_DIR=
    QRELAY_APPEND_BUDGET=
    QRELAY_JOURNAL_BYTES_MAX=
    QRELAY_API_LISTEN=127.0.0.1:7070
    QRELAY_API_TLS_CERT=
    QRELAY_API_TLS_KEY=
    QRELAY_ADMIN_KEY=
    QRELAY_MASTER_KEY=
    QRELAY_MASTER_KEY_FILE=qrelay-data/master.key
    QRELAY_CA_BUNDLE=
    QRELAY_EGRESS_PROXY=
    QRELAY_PUBLIC_URL=
    QRELAY_DANGEROUS_ALLOW_TARGET=
    QRELAY_DENY_TARGET=
    QRELAY_RETENTION=30days
    QRELAY_PEER_KEY_FILE=
    QRELAY_PEER_LISTEN=
    QRELAY_PEER_ADVERTISE=
    QRELAY_NODE_NAME=
    QRELAY_OPS_LISTEN=127.0.0.1:9090
    QRELAY_DRAIN_DEADLINE=25s
    QRELAY_LOG=info
    ");
}

#[test]
fn all_violations_are_reported_at_once() {
    let text = refused(&[
        "--data-dir=",
        "--edge-listen=localhost:80",
        "--api-listen=127.0.0.1",
        "--public-url=https://qr.example/path",
        "--trusted-proxies=10.0.0.0/8,ten",
        "--proxy-protocol=maybe",
        "--geoip-db=/nowhere/at/all.mmdb",
        "--retention=30x",
        "--api-tls-cert=/nowhere/cert.pem",
        "--deny-target=10.0.0.0/33",
        "--drain-deadline=0s",
        "--log=qrelay=loud",
    ]);
    insta::assert_snapshot!(text, @r#"
    error: the configuration has 13 errors
      - --retention (QRELAY_RETENTION): "30x" is no duration, such as 30d or 12h
      - --data-dir (QRELAY_DATA_DIR): is empty
      - --edge-listen (QRELAY_EDGE_LISTEN): "localhost:80" is no address with a port, such as 127.0.0.1:8080 or [::]:8080
      - --trusted-proxies (QRELAY_TRUSTED_PROXIES): "ten" is no network, such as 10.0.0.0/8 or ::1
      - --proxy-protocol (QRELAY_PROXY_PROTOCOL): "maybe" is neither true nor false
      - --geoip-db (QRELAY_GEOIP_DB): cannot read /nowhere/at/all.mmdb: No such file or directory (os error 2); name a GeoIP database in MaxMind's format (.mmdb)
      - --api-listen (QRELAY_API_LISTEN): "127.0.0.1" is no address with a port, such as 127.0.0.1:8080 or [::]:8080
      - --api-tls-cert (QRELAY_API_TLS_CERT): cannot read /nowhere/cert.pem: No such file or directory (os error 2); name a PEM file with the certificate chain, the API's own certificate first
      - --api-tls-key (QRELAY_API_TLS_KEY): is missing: TLS needs both certificate and key
      - --public-url (QRELAY_PUBLIC_URL): "https://qr.example/path" must be http:// or https://, a host, and nothing after it
      - --deny-target (QRELAY_DENY_TARGET): "10.0.0.0/33" is no network, such as 10.0.0.0/8 or ::1
      - --drain-deadline (QRELAY_DRAIN_DEADLINE): "0s" is not between 1s and 10m
      - --log (QRELAY_LOG): "qrelay=loud" is no filter: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
    hint: `qrelay up --help` explains each flag
    "#);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let config = Config::from_flags(&flags(&[
        "--geoip-db=",
        "--public-url= ",
        "--trusted-proxies=",
        "--proxy-protocol=",
    ]));
    let config = config.unwrap();
    let (edge, targets) = (&config.edge, &config.targets);
    assert!(edge.geoip_db.is_none() && targets.public_url.is_none() && edge.trusted_proxies.is_empty());
    assert!(!edge.proxy_protocol);
}

#[test]
fn repeatable_flags_take_commas_too_and_a_bare_address_is_a_network_of_one() {
    let config = Config::from_flags(&flags(&[
        "--deny-target=10.0.0.0/8, 192.0.2.7",
        "--deny-target=::1",
    ]))
    .unwrap();
    let texts: Vec<_> = config.targets.deny.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]);
}

#[test]
fn proxy_protocol_is_a_switch_with_an_optional_value() {
    let on = |arguments: &[&str]| Config::from_flags(&flags(arguments)).unwrap().edge.proxy_protocol;
    assert!(on(&["--proxy-protocol"]) && on(&["--proxy-protocol=true"]) && on(&["--proxy-protocol=1"]));
    assert!(!on(&["--proxy-protocol=false"]) && !on(&[]));
}

#[test]
fn two_listeners_share_no_port_unless_any_free_one_is_asked_for() {
    assert!(refused(&["--edge-listen=127.0.0.1:7070"]).contains("is also --edge-listen"));
    let free = [
        "--edge-listen=127.0.0.1:0",
        "--api-listen=127.0.0.1:0",
        "--ops-listen=127.0.0.1:0",
    ];
    assert!(Config::from_flags(&flags(&free)).is_ok());
}

#[test]
fn the_public_url_is_an_origin() {
    for good in [
        "https://qr.example",
        "https://qr.example/",
        "http://127.0.0.1:8080",
    ] {
        let config = Config::from_flags(&flags(&["--public-url", good])).unwrap();
        assert_eq!(
            config.targets.public_url.as_ref().map(origin).as_deref(),
            Some(good.trim_end_matches('/'))
        );
    }
    for bad in [
        "qr.example",
        "ftp://qr.example",
        "https://u:p@qr.example",
        "https://qr.example/?a",
        "https://",
        "http:///",
    ] {
        assert!(
            refused(&["--public-url", bad]).contains("QRELAY_PUBLIC_URL"),
            "{bad}"
        );
    }
}

#[test]
fn a_password_in_the_public_url_is_refused_and_not_repeated() {
    for url in [
        "https://u:hunter2@qr.example",
        "u:hunter2@qr.example",
        "https://u:hunter2@/",
    ] {
        let text = refused(&["--public-url", url]);
        assert!(text.contains("password") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn the_printed_configuration_shows_no_secret() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a-very-secret-admin-key-indeed\n").unwrap();
    let path = file.path().to_str().unwrap();
    let config = Config::from_flags(&flags(&["--admin-key-file", path])).unwrap();
    assert_eq!(
        config.api.admin_key.as_ref().unwrap().expose_secret(),
        "a-very-secret-admin-key-indeed"
    );
    let printed = config.print("info");
    assert!(
        printed.contains("QRELAY_ADMIN_KEY=********\n") && !printed.contains("secret"),
        "{printed}"
    );
    assert!(!format!("{config:?}").contains("very-secret"));
}

#[test]
fn an_egress_proxys_password_is_shown_nowhere() {
    let given = flags(&["--egress-proxy=socks5://user:hunter2@proxy.internal:1080"]);
    assert!(!format!("{given:?}").contains("hunter2"));
    let config = Config::from_flags(&given).unwrap();
    let printed = config.print("info");
    assert!(
        printed.contains("QRELAY_EGRESS_PROXY=socks5://********@proxy.internal:1080\n"),
        "{printed}"
    );
    assert!(!format!("{config:?}").contains("hunter2"));
    let text = refused(&["--egress-proxy=ftp://user:hunter2@proxy.internal"]);
    assert!(
        text.contains("QRELAY_EGRESS_PROXY") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn a_weak_admin_key_is_a_wrong_configuration_and_is_not_shown() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hunter2").unwrap();
    let text = refused(&["--admin-key-file", file.path().to_str().unwrap()]);
    assert!(
        text.contains("QRELAY_ADMIN_KEY") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn every_flag_has_the_variable_of_its_name() {
    use clap::CommandFactory;
    let mut seen = 0;
    for argument in Line::command().get_arguments() {
        let id = argument.get_id().as_str();
        if matches!(id, "help" | "print_config") {
            continue;
        }
        let variable = argument
            .get_env()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        assert_eq!(variable, format!("QRELAY_{}", id.to_ascii_uppercase()));
        seen += 1;
    }
    assert!(seen > 15);
}

#[test]
fn the_master_key_of_the_variable_is_checked_and_shown_nowhere() {
    let good = data_encoding::BASE64.encode(&[3; 32]);
    let config = Config::from_flags(&flags(&["--master-key", &good])).unwrap();
    let printed = config.print("info");
    assert!(
        printed.contains("QRELAY_MASTER_KEY=********\nQRELAY_MASTER_KEY_FILE=\n") && !printed.contains(&good),
        "{printed}"
    );
    assert!(!format!("{config:?}").contains(&good));
    let text = refused(&["--master-key=hunter2"]);
    assert!(
        text.contains("QRELAY_MASTER_KEY") && !text.contains("hunter2"),
        "{text}"
    );
    // A file that is named on the command line beats the variable.
    let config = Config::from_flags(&flags(&["--master-key", &good, "--master-key-file=my.key"])).unwrap();
    let file = config.master_key.path(&config.store).unwrap();
    assert!(config.master_key.text.is_none() && file.ends_with("my.key"));
}

#[test]
fn a_nodes_name_is_short_and_visible() {
    let long = "x".repeat(65);
    for bad in [long.as_str(), "shard\u{1b}[31m"] {
        assert!(
            refused(&["--node-name", bad]).contains("QRELAY_NODE_NAME"),
            "{bad}"
        );
    }
    let config = Config::from_flags(&flags(&["--node-name", "shard-0"])).unwrap();
    assert_eq!(config.process.node_name.as_deref(), Some("shard-0"));
}

#[test]
fn nodes_take_the_place_of_a_data_directory() {
    let (password, ca) = (
        tempfile::NamedTempFile::new().unwrap(),
        tempfile::NamedTempFile::new().unwrap(),
    );
    std::fs::write(password.path(), "hunter2\n").unwrap();
    let key = data_encoding::BASE64.encode(&[3; 32]);
    let (password_path, ca_path) = (password.path().to_str().unwrap(), ca.path().to_str().unwrap());
    let config = Config::from_flags(&flags(&[
        "--scylla-nodes=db-1:9042,[::1]:9042",
        "--scylla-nodes=db-3",
        "--scylla-datacenter=eu",
        "--scylla-replication=5",
        "--scylla-user=qrelay",
        "--scylla-password-file",
        password_path,
        "--scylla-tls-ca",
        ca_path,
        "--admin-key=an-admin-key-of-the-operator",
        "--master-key",
        &key,
    ]))
    .unwrap();
    let printed = config.print("info");
    let files = format!("QRELAY_SCYLLA_PASSWORD_FILE={password_path}\nQRELAY_SCYLLA_TLS_CA={ca_path}\n");
    let lines = "QRELAY_DATA_DIR=\nQRELAY_SCYLLA_NODES=db-1:9042,[::1]:9042,db-3\nQRELAY_SCYLLA_KEYSPACE=qrelay\n\
                 QRELAY_SCYLLA_DATACENTER=eu\nQRELAY_SCYLLA_REPLICATION=5\nQRELAY_SCYLLA_USER=qrelay\n";
    assert!(printed.contains(&(lines.to_owned() + &files)), "{printed}");
    assert!(
        !printed.contains("hunter2") && !format!("{config:?}").contains("hunter2"),
        "{printed}"
    );
    let StoreConfig::Cluster(cluster) = config.store else {
        panic!("no cluster")
    };
    assert_eq!(cluster.scylla.keep, config.retention);
    let login = cluster.scylla.credentials.unwrap();
    assert_eq!(
        (login.user.as_str(), login.password.expose_secret()),
        ("qrelay", "hunter2")
    );
}

#[test]
fn what_a_cluster_needs_is_said_at_once_and_by_flag() {
    let text = refused(&[
        "--scylla-nodes=db:99999",
        "--scylla-keyspace=My Keyspace",
        "--scylla-replication=0",
        "--scylla-user=qrelay",
        "--data-dir=here",
        "--master-key-file=/nowhere/master.key",
    ]);
    insta::assert_snapshot!(text, @r#"
    error: the configuration has 7 errors
      - --scylla-nodes (QRELAY_SCYLLA_NODES): "db:99999" is no host with a port, such as db-1:9042 or [::1]:9042
      - --scylla-keyspace (QRELAY_SCYLLA_KEYSPACE): "My Keyspace" cannot be the keyspace's name: it takes lower-case letters, digits and _, a letter first, 48 at most
      - --scylla-replication (QRELAY_SCYLLA_REPLICATION): "0" is no number of nodes, such as 3
      - --scylla-password-file (QRELAY_SCYLLA_PASSWORD_FILE): is missing: a login needs both user and password
      - --data-dir (QRELAY_DATA_DIR): --scylla-nodes is set too, and everything is kept in one of them: leave the other out
      - --admin-key-file (QRELAY_ADMIN_KEY_FILE): is missing, and QRELAY_ADMIN_KEY too: all control planes of a cluster are given one admin key, which `openssl rand -hex 32` makes
      - --master-key-file (QRELAY_MASTER_KEY_FILE): there is no /nowhere/master.key: on a cluster it is not made, because all control planes and dispatchers must have the same
    hint: `qrelay up --help` explains each flag
    "#);
}

#[test]
fn without_nodes_nothing_else_of_a_cluster_is_taken() {
    let text = refused(&["--scylla-keyspace=qrelay", "--scylla-replication=3"]);
    for flag in ["--scylla-keyspace", "--scylla-replication"] {
        assert!(text.contains(&format!("- {flag} ")), "{text}");
    }
    assert!(text.contains("needs --scylla-nodes"), "{text}");
    let empty = ["--scylla-nodes=", "--scylla-keyspace=", "--scylla-tls-ca="];
    let config = Config::from_flags(&flags(&empty)).unwrap();
    assert!(matches!(config.store, StoreConfig::Embedded(_)));
}
