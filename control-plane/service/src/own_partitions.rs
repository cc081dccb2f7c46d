//! Partitions of tenants' own: claimed, given to a tenant, and opened to endpoints once all owners have heard of them.
//!
//! A number that was claimed costs an owner's attention for ever. So one that a refused change did not use is kept for
//! the next, and only a crash, or a change whose outcome is unknown, makes it nobody's.
//!
//! A tenant's limit is divided over all of its partitions. When a limited tenant gets more, owners of the others go on
//! with larger parts until they hear of it. So none of the new ones becomes a home before: the saved cursors of all others
//! must have passed the change in the configuration log. That asks no clock, and a crash in between leaves only what the
//! same request does when it is sent again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use qrelay_store::{
    checkpoint::{Follows, config_passed},
    id::{ConfigSeq, PartitionId, TenantId},
    limits,
    model::{Resource, Tenant},
    store::{ChangeError, Changed, SharedStore},
};
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::{
    api::{Api, Draft},
    caller::Caller,
    refusal::{self, Violations},
};

/// Pause between looks at what owners have heard.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// When to ask again whether they have.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Numbers that were claimed and that no tenant has.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Vec<PartitionId>>);

impl Spare {
    fn lock(&self) -> MutexGuard<'_, Vec<PartitionId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers claimed for a change. Those that it did not use go back when this is dropped.
#[derive(Debug)]
pub(crate) struct Claimed<'a> {
    spare: &'a Spare,
    numbers: Vec<PartitionId>,
    /// Whether a change with them is under way, or its outcome unknown.
    in_doubt: bool,
}

impl<'a> Claimed<'a> {
    pub(crate) fn new(spare: &'a Spare) -> Self {
        Self {
            spare,
            numbers: Vec::new(),
            in_doubt: false,
        }
    }

    /// Gives a tenant what it lacks to have so many of its own. Only in memory: the change is the caller's.
    pub(crate) async fn give(
        &mut self,
        store: &SharedStore,
        tenant: &mut Tenant,
        wanted: usize,
    ) -> Result<(), Status> {
        let shared = store.install().partitions;
        let missing = wanted.saturating_sub(tenant.own_partitions(shared));
        if self.numbers.len() < missing {
            self.claim(store, missing - self.numbers.len()).await?;
        }
        tenant.extend(&self.numbers[..missing], shared);
        Ok(())
    }

    async fn claim(&mut self, store: &SharedStore, count: usize) -> Result<(), Status> {
        {
            let mut spare = self.spare.lock();
            let left = spare.len().saturating_sub(count);
            self.numbers.extend(spare.drain(left..).rev());
        }
        let short = u16::try_from(count - self.numbers.len().min(count)).unwrap_or(u16::MAX);
        if short == 0 {
            return Ok(());
        }
        match store.claim_partitions(short).await.map_err(refusal::store)? {
            Some(claimed) => {
                self.numbers.extend(claimed.map(PartitionId::new));
                Ok(())
            }
            None => Err(refusal::limit_reached(
                "PARTITIONS_LIMIT_REACHED",
                "install",
                "partitions of tenants' own",
                limits::OWN_PARTITIONS_MAX.into(),
            )),
        }
    }

    /// A change with them begins: until it is known what became of it, they are nobody else's.
    pub(crate) fn begin(&mut self) {
        self.in_doubt = true;
    }

    /// What stands there now: what it does not name was not used.
    pub(crate) fn stands(&mut self, tenant: Option<&Tenant>) {
        let used = |number: &PartitionId| tenant.is_some_and(|tenant| tenant.partitions.contains(number));
        self.numbers.retain(|number| !used(number));
        self.in_doubt = false;
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if !self.in_doubt {
            self.spare.lock().append(&mut self.numbers);
        }
    }
}

/// Judges how many partitions of its own a tenant is to have, if that is given, and that each of its homes can have a part
/// of its limit's burst. How many it is to have, for who finds nothing wrong.
pub(crate) fn judge(
    tenant: &Tenant,
    given: Option<i32>,
    shared: u16,
    limit_given: bool,
    violations: &mut Violations,
) -> usize {
    let has = tenant.own_partitions(shared);
    let most = limits::PARTITIONS_PER_TENANT_MAX;
    let wanted = given.map_or(Some(has), |given| {
        let wanted = usize::try_from(given).ok()?;
        (has..=usize::from(most)).contains(&wanted).then_some(wanted)
    });
    let Some(wanted) = wanted else {
        let only_raised = if has > 0 { " (it is only raised)" } else { "" };
        violations.add("partitions", format!("must be {has} to {most}{only_raised}"));
        return has;
    };
    let homes = tenant.partitions.len() + wanted - has;
    if let Some(limit) = tenant.rate_limit
        && usize::try_from(limit.burst).is_ok_and(|burst| burst < homes)
    {
        if limit_given || given.is_none() {
            violations.add(
                "rate_limit.burst",
                format!("must be at least {homes}, the number of parts that the tenant's limit has"),
            );
        } else {
            violations.add(
                "partitions",
                format!(
                    "would divide the tenant's limit into {homes} parts: raise rate_limit.burst to that first"
                ),
            );
        }
    }
    wanted
}

/// Opens a tenant's new partitions to endpoints, once the owners of its others obey their smaller parts of its limit.
pub(crate) async fn settle(api: &Api, caller: &Caller, id: TenantId) -> Result<Tenant, Status> {
    let until = Instant::now() + limits::HOMES_SETTLE_WAIT;
    for _ in 0..limits::API_CHANGE_ATTEMPTS {
        let found = api.tenant_row(id).await?;
        if found.settling == 0 {
            return Ok((*found).clone());
        }
        // A change of nothing: once it is announced, so is whatever it found.
        let Some((announced, seq)) = step(api, caller, &found, found.settling).await? else {
            continue;
        };
        if !all_heard(&api.store, &announced, seq, until).await? {
            return Err(refusal::unavailable(
                "PARTITIONS_SETTLING",
                "the tenant has its partitions, and its events go there; not all deliverers have heard of it yet, so that \
                 no endpoint gets its home there: send the same request again",
                ASK_AGAIN,
            ));
        }
        if let Some((settled, _)) = step(api, caller, &announced, 0).await? {
            return Ok(settled);
        }
    }
    Err(refusal::conflict())
}

/// Changes how many of its partitions are no homes yet. None when somebody else was faster.
async fn step(
    api: &Api,
    caller: &Caller,
    from: &Tenant,
    settling: u16,
) -> Result<Option<(Tenant, ConfigSeq)>, Status> {
    let next = Tenant {
        settling,
        version: from.version + 1,
        updated_at: api.now(),
        ..from.clone()
    };
    match api
        .change(caller, Draft::update(Resource::Tenant(next.clone())))
        .await
    {
        Ok(Changed::Done(seq)) => Ok(Some((next, seq))),
        Ok(Changed::Replayed(_)) | Err(ChangeError::Conflict) => Ok(None),
        Err(error) => Err(refusal::change(error)),
    }
}

/// Whether all owners of the tenant's homes have taken in the configuration log up to `seq`, before `until`.
async fn all_heard(
    store: &SharedStore,
    tenant: &Tenant,
    seq: ConfigSeq,
    until: Instant,
) -> Result<bool, Status> {
    let mut homes = tenant.settled().iter();
    let Some(mut home) = homes.next() else {
        return Ok(true);
    };
    loop {
        let run = store.checkpoint_row(*home, &Follows::key()).await;
        let passed = run.map_err(refusal::store)?.and_then(|run| config_passed(&run));
        if passed.is_some_and(|passed| passed >= seq) {
            match homes.next() {
                Some(next) => home = next,
                None => return Ok(true),
            }
            continue;
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        sleep(LOOK_PERIOD).await;
    }
}
