//! Tests of the roles' own configurations, through clap as a caller meets it.

use clap::Parser;

use super::*;

#[derive(Parser)]
enum Line {
    DataPlane(DataPlaneFlags),
    ControlPlane(ControlPlaneFlags),
    Dispatcher(DispatcherRoleFlags),
}

fn plan(arguments: &[&str]) -> Result<Plan, Failure> {
    match Line::try_parse_from(["qrelay"].iter().chain(arguments)).expect("clap takes every text") {
        Line::DataPlane(flags) => Plan::data_plane(&flags),
        Line::ControlPlane(flags) => Plan::control_plane(&flags),
        Line::Dispatcher(flags) => Plan::dispatcher(&flags),
    }
}

fn printed(arguments: &[&str]) -> String {
    plan(arguments).unwrap().print("info")
}

const NODES: &str = "--scylla-nodes=db:9042";

#[test]
fn an_edge_is_given_no_key_and_a_role_prints_what_it_obeys() {
    insta::assert_snapshot!(printed(&["data-plane", NODES]), @r"
    QRELAY_SCYLLA_NODES=db:9042
    QRELAY_SCYLLA_KEYSPACE=qrelay
    QRELAY_SCYLLA_DATACENTER=
    QRELAY_SCYLLA_REPLICATION=3
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
    QRELAY_RETENTION=30days
    QRELAY_PEER_KEY_FILE=
    QRELAY_NODE_NAME=
    QRELAY_OPS_LISTEN=127.0.0.1:9090
    QRELAY_DRAIN_DEADLINE=25s
    QRELAY_LOG=info
    ");
}

#[test]
fn every_variable_of_a_role_is_printed() {
    use clap::CommandFactory;
    let master = data_encoding::BASE64.encode(&[3; 32]);
    let keys = ["--master-key", &master, "--public-url=https://qr.example"];
    let admin = ["--admin-key=an-admin-key-of-the-operator"];
    for (role, flags) in [
        ("data-plane", Vec::new()),
        ("control-plane", [&keys[..], &admin[..]].concat()),
        ("dispatcher", keys.to_vec()),
    ] {
        let text = printed(&[&[role, NODES], &flags[..]].concat());
        assert!(!text.contains(&master) && !text.contains("operator"), "{text}");
        let printed: Vec<_> = text.lines().filter_map(|line| line.split('=').next()).collect();
        let line = Line::command();
        let command = line.find_subcommand(role).unwrap();
        let variables = command.get_arguments().filter_map(|argument| argument.get_env());
        for variable in variables.filter_map(|name| name.to_str()) {
            // A file of a key is printed as the key.
            let is_printed = printed.contains(&variable) || variable == "QRELAY_ADMIN_KEY_FILE";
            assert!(is_printed, "{role}: {variable}\n{text}");
        }
    }
}

#[test]
fn a_dispatcher_is_told_where_it_can_be_reached_and_by_whom() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "peer".repeat(8)).unwrap();
    let master = data_encoding::BASE64.encode(&[3; 32]);
    let with = |more: &[&str]| {
        let key = ["--peer-key-file", key.path().to_str().unwrap()];
        let needed = [
            "dispatcher",
            NODES,
            "--master-key",
            &master,
            "--public-url=https://qr.example",
        ];
        plan(&[&needed[..], &key, more].concat())
    };
    let refused = |more: &[&str]| with(more).unwrap_err().details.join("\n");
    assert!(refused(&[]).contains("--peer-listen"));
    assert!(refused(&["--peer-listen=0.0.0.0:7400"]).contains("--peer-advertise"));
    assert!(
        refused(&["--peer-listen=10.0.0.1:7400", "--peer-advertise=shard-0"]).contains("--peer-advertise")
    );
    let peers = with(&["--peer-listen=0.0.0.0:7400", "--peer-advertise=shard-0:7400"])
        .unwrap()
        .peers
        .unwrap();
    assert_eq!(peers.advertise.as_deref(), Some("shard-0:7400"));
    std::fs::write(key.path(), "short").unwrap();
    assert!(refused(&["--peer-listen=10.0.0.1:7400"]).contains("--peer-key-file"));
}
