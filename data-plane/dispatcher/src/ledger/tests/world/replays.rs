//! Replays of all of the log: what they owe, their wishes, their reads, and what their rows say at the end.

use std::collections::BTreeSet;

use qrelay_store::{
    Timestamp,
    checkpoint::{ReplayRange, ReplayRow, ReplayState, RowKey},
    id::{EndpointId, EventAddress, ReplayId, Seq},
};

use super::{Cursor, Delivery, Stream, World};
use crate::ledger::replay::{Begun, ReplayStep};

/// All of the log.
fn all_of_it() -> ReplayRange {
    ReplayRange {
        start: Timestamp::EPOCH,
        end: Timestamp::from_millis(i64::MAX),
        end_given: None,
        only_failed: false,
        per_second: None,
    }
}

impl World {
    pub(super) fn begin_replay(&mut self, endpoint: EndpointId) {
        let own = u8::try_from(self.replays.len() % 200).unwrap();
        let id = ReplayId::of(endpoint, [own; 10]);
        if !self.endpoints.contains_key(&endpoint) || self.replays.contains_key(&id) {
            return;
        }
        if self.ledger.begin_replay(id, all_of_it(), self.at().wall) == Begun::Taken {
            self.wished = true;
            let all = self.batches(&Cursor::default(), &self.end_of_the_log());
            let events: BTreeSet<EventAddress> = all.into_iter().flat_map(|(_, _, events)| events).collect();
            self.replays.insert(id, events);
            self.replay_wishes.insert(id);
        }
    }

    fn end_of_the_log(&self) -> Cursor {
        let ends = self.log.iter();
        ends.map(|(stream, batches)| (*stream, Seq::new(u64::try_from(batches.len()).unwrap())))
            .collect()
    }

    /// A wish that is not saved is pending, and found again after a crash.
    pub(super) fn repeat_replay_wishes(&mut self) {
        for id in self.replay_wishes.clone() {
            if self.endpoints.contains_key(&id.endpoint()) {
                self.ledger.begin_replay(id, all_of_it(), self.at().wall);
                if self.cancelled.contains(&id) {
                    self.ledger.cancel_replay(id, self.at().wall);
                }
            }
        }
    }

    pub(super) fn cancel_replay(&mut self, pick: usize) {
        let running: Vec<_> = self.ledger.replays_running().collect();
        if let Some(id) = running.get(pick % running.len().max(1)) {
            self.ledger.cancel_replay(*id, self.at().wall);
            self.cancelled.insert(*id);
            self.replay_wishes.insert(*id);
        }
    }

    /// Every replay reads its next batch, of one partition after the other. Their order in time: by writer, then by number.
    pub(super) fn read_replays(&mut self) {
        let at = self.at();
        for id in self.ledger.replays_running().collect::<Vec<_>>() {
            let Some(from) = self.ledger.replay_wants(id, at.now) else {
                continue;
            };
            let there = |stream: &Stream, seq: Seq| {
                self.log[stream][usize::try_from(seq.as_u64() - 1).unwrap()].is_some()
            };
            let all = self.batches(&Cursor::default(), &self.end_of_the_log());
            let partitions = self.ledger.partitions_of(crate::fixture::tenant());
            let partition = from.partition.unwrap_or(partitions[0]);
            let following = partitions.iter().skip_while(|it| **it != partition).nth(1);
            let next = all
                .into_iter()
                .filter(|(stream, seq, _)| stream.partition == partition && there(stream, *seq))
                .map(|(stream, seq, _)| ((Timestamp::EPOCH, stream.writer, seq), stream))
                .find(|(key, _)| Some(*key) > from.log);
            let mut upto = from;
            upto.config_read = true;
            upto.log_read = next.is_none() && following.is_none();
            upto.log = next.map_or(from.log, |(key, _)| Some(key));
            if let (None, Some(following)) = (next, following) {
                (upto.partition, upto.log) = (Some(*following), None);
            }
            let step = ReplayStep {
                seen: next.map(|((_, _, seq), stream)| self.batch(stream, seq).0),
                known: Vec::new(),
                upto,
            };
            self.ledger.feed_replay(id, vec![step], at);
        }
        self.ledger.end_replays(at.wall);
    }

    pub(super) fn start_replays(&mut self, endpoint: EndpointId) {
        self.ledger.ripen(endpoint, self.at().now);
        while let Some(id) = self.ledger.replays_ready(endpoint).first().copied() {
            let job = self.ledger.start_replay(id).unwrap();
            self.in_flight.push((endpoint, job.event));
            self.attempts += 1;
        }
    }

    /// A delivery was attempted and will not be again.
    pub(super) fn replays_sent(&mut self, (endpoint, event): Delivery) {
        let of_endpoint = self
            .replays
            .iter_mut()
            .filter(|(id, _)| id.endpoint() == endpoint);
        for (_, owed) in of_endpoint {
            owed.remove(&event);
        }
    }

    pub(super) fn check_replays(&self) {
        for (id, owed) in &self.replays {
            let Some(row) = self.rows.get(&RowKey::replay(*id)) else {
                continue;
            };
            let row: ReplayRow = serde_json::from_str(row).unwrap();
            if self.cancelled.contains(id) {
                assert_eq!(row.state, ReplayState::Cancelled);
                continue;
            }
            assert!(owed.is_empty(), "{id} did not send {owed:?}");
            assert_eq!(row.state, ReplayState::Done);
            assert_eq!(row.sent, row.position.found, "{row:?}");
            assert_eq!(row.succeeded + row.failed, row.position.found, "{row:?}");
        }
    }
}
