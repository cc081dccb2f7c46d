//! Which process owns which partition, as the leases say: looked up anew now and then, and at once where it was wrong.
//!
//! May be behind the truth. A hint that went to the wrong process is lost, and its reader finds the batch by looking.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, stream};
use qrelay_store::{
    id::PartitionId,
    limits::PEERS_MAX,
    store::{Result, SharedStore},
};

/// Leases read at once.
const READS: usize = 8;

/// Where other processes are reached.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Roster {
    owners: BTreeMap<PartitionId, Arc<str>>,
}

impl Roster {
    /// Where a partition's owner is.
    pub(crate) fn owner(&self, partition: PartitionId) -> Option<&str> {
        self.owners.get(&partition).map(AsRef::as_ref)
    }

    /// Everybody but `me`.
    pub(crate) fn others(&self, me: &str) -> BTreeSet<Arc<str>> {
        let others = self.owners.values().filter(|address| ***address != *me);
        let all: BTreeSet<_> = others.cloned().collect();
        all.into_iter().take(PEERS_MAX).collect()
    }

    /// The partitions of `all` that nobody is known to own.
    pub(crate) fn unowned(&self, all: impl Iterator<Item = PartitionId>) -> BTreeSet<PartitionId> {
        all.filter(|partition| !self.owners.contains_key(partition))
            .collect()
    }

    /// Looks up the owners of `partitions`.
    ///
    /// # Errors
    /// When the store fails; what was known stays.
    pub(crate) async fn look_up(
        &mut self,
        store: &SharedStore,
        partitions: impl IntoIterator<Item = PartitionId>,
    ) -> Result<()> {
        let mut leases = stream::iter(partitions)
            .map(|partition| async move { (partition, store.lease(partition).await) })
            .buffer_unordered(READS);
        while let Some((partition, lease)) = leases.next().await {
            let lease = lease?.filter(|lease| lease.owner.is_some() && is_address(&lease.addr));
            match lease {
                Some(lease) => self.owners.insert(partition, lease.addr.into()),
                None => self.owners.remove(&partition),
            };
        }
        Ok(())
    }
}

/// A host and a port, and nothing that would make another URL of it.
fn is_address(text: &str) -> bool {
    let host_and_port = text
        .parse::<http::uri::Authority>()
        .is_ok_and(|authority| authority.port_u16().is_some());
    host_and_port && !text.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_with_a_port_is_called() {
        for good in ["10.0.0.1:7400", "[::1]:7400", "shard-0.qrelay:7400"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "host",
            "user@host:1",
            "host:1/path",
            "http://host:1",
            "host:99999",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
