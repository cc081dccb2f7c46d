//! What is sent to receivers, and what they get: judges who sends, how often, in which order and how fast.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use qrelay_store::id::{EndpointId, EventAddress, PartitionId, Seq};

use super::{
    book::{Book, Created},
    sim::{Link, Millis, Who},
    tables::Tables,
};

/// A limit is judged over a second less what the clocks of two processes differ by within one step.
const LIMIT_WINDOW: Millis = 850;

/// A request between its first byte and its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    who: Who,
    endpoint: EndpointId,
    event: EventAddress,
    /// Nobody else can know of it: its process froze, or left before it could save it.
    is_excused: bool,
}

/// While this lives a request is under way.
pub(super) struct UnderWay {
    link: Link,
    number: u64,
}

impl UnderWay {
    /// A request's first byte goes out.
    pub(super) fn begin(link: &Link, endpoint: EndpointId, event: EventAddress) -> Self {
        let now = link.now();
        let inner = &mut *link.sim.lock();
        let number = inner.book.begun(&inner.tables, (link.who, now), endpoint, event);
        Self {
            link: link.clone(),
            number,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.link.sim.lock().book.under_way.remove(&self.number);
    }
}

impl Book {
    fn begun(
        &mut self,
        tables: &Tables,
        (who, now): (Who, Millis),
        endpoint: EndpointId,
        event: EventAddress,
    ) -> u64 {
        let number = self.next();
        let Some(created) = self.endpoints.get(&endpoint).copied() else {
            self.violated("a request goes to nobody's endpoint");
            return number;
        };
        let holder = self.holders.of(created.home);
        if holder != Some(who) {
            self.violated(format!(
                "process {who} begins a request while the lease is {holder:?}'s"
            ));
        }
        self.judge_alone(who, endpoint, event, created);
        self.judge_order(tables, endpoint, event, created);
        self.judge_limit(endpoint, created, now);
        let sent = Sent {
            who,
            endpoint,
            event,
            is_excused: false,
        };
        self.under_way.insert(number, sent);
        number
    }

    /// No other attempt of the delivery is under way, and from here no more to the endpoint than it wants.
    fn judge_alone(&mut self, who: Who, endpoint: EndpointId, event: EventAddress, created: Created) {
        let all = self.under_way.values();
        let others: Vec<_> = all
            .filter(|sent| sent.endpoint == endpoint && !sent.is_excused)
            .collect();
        let other = others
            .iter()
            .find(|sent| sent.event == event)
            .map(|sent| sent.who);
        let many = others.iter().filter(|sent| sent.who == who).count();
        if let Some(other) = other {
            self.violated(format!(
                "process {who} sends {event:?} to {endpoint} while {other} has it under way"
            ));
        }
        if many >= created.concurrency {
            self.violated(format!(
                "process {who} begins a request to {endpoint} beside {many} others"
            ));
        }
    }

    /// Where an order is wanted, all that a writer recorded of the code before has come.
    fn judge_order(&mut self, tables: &Tables, endpoint: EndpointId, event: EventAddress, created: Created) {
        if !created.in_order {
            return;
        }
        let first = EventAddress {
            seq: Seq::ZERO,
            index: 0,
            ..event
        };
        let before = self.taken.range(first..event);
        let wanted = before.filter(|(_, taken)| created.wants(taken));
        let skipped = wanted
            .map(|(before, _)| *before)
            .find(|before| !self.received.contains_key(&(endpoint, *before)));
        if let Some(before) = skipped {
            let at = tables.attempts_of(endpoint, before).count();
            self.violated(format!(
                "{event:?} is sent to {endpoint} before {before:?} came, of which {at} attempts are recorded"
            ));
        }
    }

    /// No second has more requests than the limit and its burst.
    fn judge_limit(&mut self, endpoint: EndpointId, created: Created, now: Millis) {
        let Some(most) = created.a_second else { return };
        let times = self.begun_at.entry(endpoint).or_default();
        let at = times.partition_point(|time| *time <= now);
        times.insert(at, now);
        let is_over = times
            .windows(most + 1)
            .any(|window| window[most] - window[0] < LIMIT_WINDOW);
        if times.len() > 4 * most {
            times.remove(0);
        }
        if is_over {
            self.violated(format!("{endpoint} gets more than {most} requests in a second"));
        }
    }

    /// What a process has under way to endpoints of a partition, and others could know of.
    pub(super) fn under_way_of(&self, who: Who, home: PartitionId) -> Vec<(EndpointId, EventAddress)> {
        let all = self.under_way.values();
        let sent = all.filter(|sent| sent.who == who && !sent.is_excused);
        sent.filter(|sent| {
            let created = self.endpoints.get(&sent.endpoint);
            created.is_some_and(|created| created.home == home)
        })
        .map(|sent| (sent.endpoint, sent.event))
        .collect()
    }

    /// Time stands still for a process: what it has under way takes as long as that lasts.
    pub(super) fn froze(&mut self, who: Who, until: Millis) {
        self.counts.freezes += 1;
        self.holders.froze(who, until);
        let all = self.under_way.values_mut();
        all.filter(|sent| sent.who == who)
            .for_each(|sent| sent.is_excused = true);
    }

    /// What of a leaving process's requests the checkpoint does not say to be under way abroad.
    pub(super) fn excuse_unsaved(
        &mut self,
        tables: &Tables,
        home: PartitionId,
        who: Who,
    ) -> Vec<(EndpointId, EventAddress)> {
        let saved: BTreeSet<_> = self
            .outstanding(tables, home)
            .into_iter()
            .filter(|(_, _, is_abroad)| *is_abroad)
            .map(|(endpoint, event, _)| (endpoint, event))
            .collect();
        let under_way = self.under_way_of(who, home);
        let unsaved: Vec<_> = under_way
            .into_iter()
            .filter(|sent| !saved.contains(sent))
            .collect();
        for sent in self.under_way.values_mut().filter(|sent| sent.who == who) {
            sent.is_excused |= unsaved.contains(&(sent.endpoint, sent.event));
        }
        unsaved
    }

    /// A receiver took a webhook.
    pub(super) fn received(&mut self, endpoint: EndpointId, event: EventAddress, body: &[u8]) {
        self.is_one(event);
        let mut hash = DefaultHasher::new();
        body.hash(&mut hash);
        let hash = hash.finish();
        let (first, times) = self.received.entry((endpoint, event)).or_insert((hash, 0));
        *times += 1;
        let (is_same, is_repeated) = (*first == hash, *times > 1);
        self.counts.repeated += usize::from(is_repeated);
        if !is_same {
            self.violated(format!("{event:?} came with other bytes"));
        }
    }

    /// What was promised and did not come.
    pub(super) fn undelivered(&self) -> Vec<(EndpointId, EventAddress)> {
        let mut all = Vec::new();
        for (event, taken) in self.taken.iter().filter(|(_, taken)| taken.is_acknowledged) {
            let wanted = self.endpoints.iter().filter(|(_, created)| created.wants(taken));
            let missing = wanted.filter(|(endpoint, _)| !self.received.contains_key(&(**endpoint, *event)));
            all.extend(missing.map(|(endpoint, _)| (*endpoint, *event)));
        }
        all
    }
}
