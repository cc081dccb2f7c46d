//! What the role that a process logs in with must be granted, where the cluster asks who may do what.
//!
//! An edge reads no secret and no key, so it is granted table by table; the others need all tables. None of them makes or
//! changes a table once the keyspace has the schema of their release, so none needs more than these.

/// What a process does on a keyspace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Works {
    /// It answers scans.
    DataPlane,
    /// It serves the API.
    ControlPlane,
    /// It delivers.
    Dispatcher,
}

/// What an edge reads and writes: the log, and its own writer's row.
const EDGE_WRITES: [&str; 4] = ["log", "log_by_time", "log_hour", "writer"];
/// What it reads beside that: codes, and where hints are to go.
const EDGE_READS: [&str; 8] = [
    "install",
    "config_head",
    "config_log",
    "short_link",
    "code",
    "tenant",
    "lease",
    "own_partitions",
];

/// The statements that grant a role of the cluster what it needs on a keyspace. Both names go into them as they are.
pub fn grants(works: Works, keyspace: &str, role: &str) -> Vec<String> {
    let on_keyspace = |permission: &str| format!("GRANT {permission} ON KEYSPACE {keyspace} TO {role}");
    let on_table =
        |permission: &str, table: &&str| format!("GRANT {permission} ON {keyspace}.{table} TO {role}");
    match works {
        Works::DataPlane => {
            let reads = EDGE_READS.iter().chain(&EDGE_WRITES);
            let reads = reads.map(|table| on_table("SELECT", table));
            let writes = EDGE_WRITES.iter().map(|table| on_table("MODIFY", table));
            reads.chain(writes).collect()
        }
        // Both finish what a crash of any process left, wherever it stands.
        Works::ControlPlane | Works::Dispatcher => ["SELECT", "MODIFY"].map(on_keyspace).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scylla::schema::tables;

    #[test]
    fn an_edge_is_granted_tables_that_are_there_and_none_with_secrets_or_keys() {
        let tables = tables();
        for table in EDGE_READS.iter().chain(&EDGE_WRITES) {
            assert!(tables.iter().any(|known| known == table), "{table}");
        }
        let all = grants(Works::DataPlane, "q", "r").join("\n");
        assert!(all.contains("GRANT SELECT ON q.writer TO r") && all.contains("GRANT MODIFY ON q.log TO r"));
        assert!(!all.contains("MODIFY ON q.code") && !all.contains("secret") && !all.contains("api_key"));
    }
}
