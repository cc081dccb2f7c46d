//! The benchmark of a cluster: from a scan to its webhook across processes, an edge, a dispatcher and a control plane, that
//! share nothing but a keyspace on one CQL node.
//!
//! As [`crate::latency`] measures it of one process: the roles share a core, generator and receiver have another. The node is
//! on any of them; elsewhere it has a machine of its own.

use std::path::PathBuf;

use anyhow::ensure;

use crate::{
    cassandra::{self, Node},
    cpu,
    figure::Figures,
    latency::{self, Pace},
    product::{Keyspace, Product},
};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The binary of qrelay.
    pub qrelay: PathBuf,
    /// Where its node is to be had.
    pub cassandra: cassandra::Source,
    /// Where data and logs go; must exist.
    pub folder: PathBuf,
    /// How many turns, how long, how many scans.
    pub pace: Pace,
    /// The core of the roles.
    pub server_core: usize,
    /// The core of the generator and the receiver.
    pub load_core: usize,
}

/// Runs it; `say` is told what is going on.
///
/// # Errors
/// When the plan is out of bounds, there is no node to be had, a process does not start or refuses, a scan is not answered with
/// 302, or a webhook does not come.
pub async fn run(plan: &Plan, mut say: impl FnMut(&str)) -> anyhow::Result<Figures> {
    ensure!(plan.server_core != plan.load_core, "two different cores");
    let work = tempfile::Builder::new()
        .prefix("cluster-")
        .tempdir_in(&plan.folder)?;
    say("starting the node");
    // Before this thread stays on a core: what it starts would, too.
    let node = Node::at(&plan.cassandra, work.path()).await?;
    let keyspace = Keyspace {
        node: node.address.clone(),
        name: format!("qrelay_bench_{:016x}", rand::random::<u64>()),
    };
    if node.stays() {
        say(&format!(
            "keyspace {} is left behind at {}, to be dropped",
            keyspace.name, keyspace.node
        ));
    }
    say("starting the roles");
    let core = Some(plan.server_core);
    let product = Product::start_roles(&plan.qrelay, work.path(), &keyspace, core).await?;
    let _here = cpu::stay_on(plan.load_core)?;
    let rows = latency::measured(product, &plan.pace, &mut say).await?;
    let method = format!(
        "{}; an edge, a dispatcher and a control plane, a process each, on one core; generator and receiver on another; one node, \
         {}, on any",
        plan.pace,
        if node.stays() {
            "which was there"
        } else {
            "Apache Cassandra, commit log synced every 10 s"
        }
    );
    Figures::new(rows, &plan.folder, method)
}
