//! Which of its tenant's partitions is an endpoint's home: the owner of that one delivers to it, from all of them.
//!
//! By the endpoint's hash, among those that may be one ([`Tenant::homes`]): an owner that has not come to the end of the
//! tenant's other partitions yet, because they were there before it, would send a new endpoint what they have held so far.
//! So a partition that a tenant has just got is nobody's home for a moment; the tenant's first one always may be.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use qrelay_store::{
    Timestamp,
    checkpoint::Follows,
    id::{EndpointId, PartitionId, Seq, WriterId},
    model::Tenant,
};
use tonic::Status;

use crate::{api::Api, refusal};

/// Reads at once.
const READS: usize = 8;

/// The home of an endpoint that is being created.
pub(crate) async fn choose(api: &Api, tenant: &Tenant, id: EndpointId) -> Result<PartitionId, Status> {
    let all = &tenant.partitions;
    let homes = tenant.homes(id);
    if all.len() < 2 {
        return Ok(homes[0]);
    }
    let follows: Vec<_> = stream::iter(all.iter().copied())
        .map(|partition| async move { Ok::<_, Status>((partition, follows(api, partition).await?)) })
        .buffered(READS)
        .try_collect()
        .await?;
    // What has held nothing yet has no past either: so it is with the partitions of a new tenant.
    let mut past = all.clone();
    if follows.iter().any(|(home, known)| !known.may_be_home(*home, all)) {
        let held: Vec<_> = stream::iter(all.iter().copied())
            .map(|partition| async move { Ok::<_, Status>((partition, has_held(api, partition).await?)) })
            .buffered(READS)
            .try_collect()
            .await?;
        past = held
            .into_iter()
            .filter(|(_, held)| *held)
            .map(|(it, _)| it)
            .collect();
    }
    let may_be: BTreeSet<_> = follows
        .into_iter()
        .filter(|(home, known)| *home == all[0] || known.may_be_home(*home, &past))
        .map(|(home, _)| home)
        .collect();
    let home = homes.into_iter().find(|home| may_be.contains(home));
    Ok(home.unwrap_or(all[0]))
}

/// The owner's word, as far as it is saved.
async fn follows(api: &Api, partition: PartitionId) -> Result<Follows, Status> {
    let row = api.store.checkpoint_row(partition, &Follows::key()).await;
    let row = row.map_err(refusal::store)?;
    Ok(Follows::from_row(row.as_deref()).unwrap_or_else(|error| {
        tracing::error!(%error, %partition, "a partition's shared run cannot be read");
        Follows::default()
    }))
}

async fn has_held(api: &Api, partition: PartitionId) -> Result<bool, Status> {
    let begin = (Timestamp::EPOCH, WriterId::from_u64(0), Seq::ZERO);
    let first = api.store.batches_after(partition, begin, 1).await;
    Ok(!first.map_err(refusal::store)?.is_empty())
}
