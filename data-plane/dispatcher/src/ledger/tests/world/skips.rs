//! Endpoints that skip what was recorded before: none of it is sent after the wish, and all of it is told.

use qrelay_store::id::EndpointId;

use super::{Delivery, SeenBatch, World};

impl World {
    /// A tenant sets its endpoint active, and wants nothing of what waits.
    pub(super) fn skip(&mut self, number: u8) {
        let wish = self.at().wall;
        self.edit(number, |endpoint| endpoint.skip_before = Some(wish));
        let id = EndpointId::from_bytes([number; 10]);
        let replays = self.replays.keys().filter(|replay| replay.endpoint() == id);
        self.begun_before.extend(replays);
    }

    /// As the owner does before it sends.
    pub(super) fn give_up_skipped(&mut self) {
        self.ledger.sweep_skipped(self.at());
        while let Some(skipped) = self.ledger.next_skipped() {
            let delivery = (skipped.endpoint.id, skipped.event);
            self.given_up_skipped(delivery);
            self.recording.push((delivery, false));
        }
        assert!(!self.ledger.has_skipped());
    }

    /// What a replay left to the live run before the wish is not sent.
    fn given_up_skipped(&mut self, delivery @ (endpoint, event): Delivery) {
        self.over.insert(delivery);
        self.skipped += 1;
        let replays = self.replays.iter_mut();
        for (id, owed) in replays.filter(|(id, _)| id.endpoint() == endpoint) {
            if self.begun_before.contains(id) {
                owed.remove(&event);
            }
        }
    }

    /// A read that holds nothing but what the endpoint skips: told, and then passed over. Every other one is fed.
    pub(super) fn pass_over(&mut self, id: EndpointId, batch: &SeenBatch) -> bool {
        let at = self.at();
        let Some(endpoint) = self.endpoints.get(&id) else {
            return false;
        };
        let skips = batch
            .events
            .iter()
            .all(|event| endpoint.skips(event.recorded_at, at.wall));
        let own = self.ledger.subscriber(id).and_then(|subscriber| subscriber.own());
        let next = own.map(|own| own.run.read.at(batch.stream).next());
        if !skips || next != Some(batch.seq) || batch.seq.as_u64().is_multiple_of(2) {
            return false;
        }
        for event in &batch.events {
            let delivery = (id, batch.stream.address(batch.seq, event.index));
            self.given_up_skipped(delivery);
            self.recorded.insert(delivery);
            self.ended.entry(delivery).or_insert(false);
        }
        self.ledger.skip_own(id, batch.stream, batch.seq);
        true
    }

    /// Nothing is begun that its endpoint skips.
    pub(super) fn check_wanted(&self, delivery @ (id, event): Delivery) {
        let recorded_at = self.recorded_at(event);
        let skips = self.endpoints[&id].skips(recorded_at, self.at().wall);
        // What a replay had begun goes on like any other when that is cancelled.
        let of_replay = self.cancelled.iter().any(|replay| replay.endpoint() == id);
        assert!(
            !skips || of_replay || self.came_back.contains(&delivery),
            "{event:?} of {recorded_at} is sent although {id} skips it"
        );
    }
}
