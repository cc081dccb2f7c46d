//! `qrelay schema`: the tables of a keyspace, made and migrated before the roles that share it start.
//!
//! Roles do this themselves where they may. Where the cluster asks who may do what, one login does it, and the roles' logins
//! are granted no more than this command prints.

use clap::Subcommand;
use qrelay_store::scylla::{ScyllaStore, Works, grants};
use serde_json::json;

use crate::{
    failure::Failure,
    output::{Output, Wants},
    up::{ClusterFlags, StartError, cannot},
};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Make the keyspace and its tables, or bring them to this release's version, and print what the login of each role must
    /// be granted; harmless when repeated
    Apply(Box<Apply>),
}

#[derive(clap::Args, Debug)]
struct Apply {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Print JSON, also on a terminal
    #[arg(long)]
    json: bool,
}

/// Each role, and what its login is called in the statements.
const ROLES: [(Works, &str); 3] = [
    (Works::DataPlane, "data_plane"),
    (Works::ControlPlane, "control_plane"),
    (Works::Dispatcher, "dispatcher"),
];

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Action::Apply(apply) = args.action;
    let cluster = apply.cluster.needed_by("schema apply")?.scylla;
    let applied = ScyllaStore::apply_schema(&cluster).await;
    let version = applied.map_err(|error| cannot("apply the schema", &StartError::from(error)))?;
    let mut out = Output::stdout(if apply.json { Wants::Json } else { Wants::Default });
    let of = |works, login: &str| grants(works, &cluster.keyspace, &format!("qrelay_{login}"));
    if !out.is_text() {
        let grants: serde_json::Map<_, _> = ROLES
            .into_iter()
            .map(|(works, login)| (login.to_owned(), json!(of(works, login))))
            .collect();
        let applied = json!({"keyspace": cluster.keyspace, "schema_version": version, "grants": grants});
        return Ok(out.object(&applied)?);
    }
    out.say(&format!(
        "keyspace {} has schema version {version}",
        cluster.keyspace
    ))?;
    out.say("\nWhat logins need, where the cluster asks who may do what:")?;
    for (works, login) in ROLES {
        out.say("")?;
        for statement in of(works, login) {
            out.say(&format!("{statement};"))?;
        }
    }
    Ok(())
}
