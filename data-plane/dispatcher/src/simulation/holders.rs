//! Who holds each lease, by what was applied to it and not by what its row says: judges claims, saves and releases.

use std::collections::BTreeMap;

use qrelay_store::id::PartitionId;

use super::{
    book::Book,
    sim::{Millis, Who},
    tables::Tables,
};
use crate::lease::DEAD_AFTER;

/// A store that stands still for so long is seen to by every claimant: a look that is sent meanwhile fails.
const LONG_STALL: Millis = 5000;
/// A process whose calls fared well for so long could save all that it wanted to.
const CALM: Millis = 3000;

/// What was applied to leases.
#[derive(Default)]
pub(super) struct Holders {
    leases: BTreeMap<PartitionId, Holder>,
    /// When the store stood still for long: from, and until.
    stalls: Vec<(Millis, Millis)>,
    /// When processes that were frozen went on.
    thawed: BTreeMap<Who, Millis>,
    /// Until when a process's calls fared ill.
    troubled: BTreeMap<Who, Millis>,
}

struct Holder {
    /// None once it was given back.
    who: Option<Who>,
    /// When its beat last moved.
    moved: Millis,
}

impl Holders {
    pub(super) fn of(&self, partition: PartitionId) -> Option<Who> {
        self.leases.get(&partition).and_then(|holder| holder.who)
    }

    /// The store stands still.
    pub(super) fn stalled(&mut self, from: Millis, until: Millis) {
        if until - from >= LONG_STALL {
            self.stalls.push((from, until));
        }
    }

    /// It goes on.
    pub(super) fn healed(&mut self, now: Millis) {
        let lasting = self.stalls.iter_mut().filter(|(_, until)| *until > now);
        lasting.for_each(|(_, until)| *until = now);
    }

    /// A process's calls fare ill.
    pub(super) fn troubled(&mut self, who: Who, until: Millis) {
        let last = self.troubled.entry(who).or_default();
        *last = until.max(*last);
    }

    /// A process stands still.
    pub(super) fn froze(&mut self, who: Who, until: Millis) {
        self.troubled(who, until);
        self.thawed.insert(who, until);
    }

    /// Since when a process that claims can have seen a lease stand still that last moved then. Who was frozen itself has not
    /// seen that the store stood still.
    fn seen_still_since(&self, moved: Millis, (who, sent): (Who, Millis)) -> Millis {
        let thawed = self.thawed.get(&who).copied().unwrap_or_default();
        let seen = self
            .stalls
            .iter()
            .filter(|(from, until)| *until <= sent && thawed < *from);
        seen.map(|(_, until)| *until).fold(moved, Millis::max)
    }

    fn is_calm(&self, who: Who, now: Millis) -> bool {
        let last = self.troubled.get(&who).copied().unwrap_or_default();
        now >= last + CALM
    }
}

impl Book {
    /// A claim that was sent then was applied.
    pub(super) fn claimed(&mut self, partition: PartitionId, who: Who, sent: Millis) {
        self.counts.claims += 1;
        let now = self.now;
        let holder = Holder {
            who: Some(who),
            moved: now,
        };
        let Some(before) = self.holders.leases.insert(partition, holder) else {
            return;
        };
        let Some(from) = before.who.filter(|from| *from != who) else {
            return;
        };
        self.counts.taken_over += 1;
        let dead_after = Millis::try_from(DEAD_AFTER.as_millis()).expect("few");
        let since = self.holders.seen_still_since(before.moved, (who, sent));
        if sent < since + dead_after {
            self.violated(format!(
                "process {who} takes the lease from {from} at {now} by a claim of {sent}, and its beat stands still since {since}"
            ));
        }
        for (endpoint, event) in self.under_way_of(from, partition) {
            self.violated(format!(
                "process {who} takes the lease over while {from} has {event:?} to {endpoint} under way"
            ));
        }
    }

    /// A save was applied.
    pub(super) fn moved(&mut self, partition: PartitionId, who: Who) {
        let now = self.now;
        match self.holders.leases.get_mut(&partition) {
            Some(holder) if holder.who == Some(who) => holder.moved = now,
            holder => {
                let holder = holder.and_then(|holder| holder.who);
                self.violated(format!(
                    "a save of process {who} was applied while the lease is {holder:?}'s"
                ));
            }
        }
    }

    /// A lease was given back. What its holder has under way is its successor's to wait for, as far as the checkpoint says so.
    pub(super) fn released(&mut self, tables: &Tables, partition: PartitionId, who: Who) {
        self.counts.released += 1;
        let now = self.now;
        let holder = Holder {
            who: None,
            moved: now,
        };
        let before = self.holders.leases.insert(partition, holder);
        if before.and_then(|before| before.who) != Some(who) {
            self.violated(format!("process {who} gives back a lease that is not its own"));
        }
        let unsaved = self.excuse_unsaved(tables, partition, who);
        if self.holders.is_calm(who, now)
            && let Some((endpoint, event)) = unsaved.first()
        {
            self.violated(format!(
                "process {who} gives the lease back, and has {event:?} to {endpoint} under way, which is not saved as such"
            ));
        }
    }
}
