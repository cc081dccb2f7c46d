//! What an endpoint that was set active with `resume: now` is not sent stands in its delivery log.
//!
//! Each delivery that waited has a row. What an own run passes over in the log is told in one row for each stream, under an
//! address that is no event's, so that sending one of them later does not take back what is told of all: the row grows with each read, and the run's position follows once
//! the row is acknowledged. So a crash repeats a row, and leaves nothing untold.

use std::sync::Arc;

use qrelay_store::{
    Timestamp,
    event::EventType,
    id::{CodeId, EndpointId, EventAddress, Seq},
    limits::SKIP_ROWS_WAITING_MAX,
    model::Endpoint,
    store::DeliveryStatus,
};

use super::actor::Actor;
use crate::{
    attempt::RowOf,
    cursor::Stream,
    ledger::feed::{Seen, SeenBatch},
    metrics,
};

/// Why a delivery is given up without a further attempt.
pub(super) const SKIPPED: &str = "skipped: the endpoint was set active with resume: now";

/// Batches at the beginning of an own run's read that hold nothing for the endpoint but what it skips.
pub(super) struct PassedOver {
    first: EventAddress,
    event_type: EventType,
    code: Option<CodeId>,
    through: Seq,
    events: usize,
}

/// What the delivery log says of a stream so far.
pub(super) struct Told {
    wish: Timestamp,
    first: EventAddress,
    event_type: EventType,
    code: Option<CodeId>,
}

/// Those batches; none when they hold nothing for the endpoint, or begin with something that it wants. Filters that ask
/// for codes are not judged: of what is not sent it matters little whether it would have been.
pub(super) fn passed_over(endpoint: &Endpoint, batches: &[SeenBatch], now: Timestamp) -> Option<PassedOver> {
    let is_wanted = |event: &Seen| event.tenant == endpoint.tenant && !endpoint.skips(event.recorded_at, now);
    let wanted = batches
        .iter()
        .position(|batch| batch.events.iter().any(is_wanted));
    let batches = &batches[..wanted.unwrap_or(batches.len())];
    let events = batches.iter().flat_map(|batch| {
        let events = batch.events.iter();
        let for_it = events.filter(|event| event.tenant == endpoint.tenant && event.is_for(endpoint));
        for_it.map(|event| (batch.stream.address(batch.seq, event.index), event))
    });
    let events: Vec<_> = events.collect();
    let (first, event) = events.first()?;
    Some(PassedOver {
        first: first.range_from(),
        event_type: event.event_type,
        code: event.code,
        through: batches.last()?.seq,
        events: events.len(),
    })
}

impl Actor {
    /// Gives up what endpoints skip, as far as the attempt log takes it.
    pub(super) fn give_up_skipped(&mut self) {
        if !self.ledger.has_skipped() {
            return;
        }
        let at = self.shard.moment();
        self.ledger.sweep_skipped(at);
        while self.rows.len() < SKIP_ROWS_WAITING_MAX
            && let Some(skipped) = self.ledger.next_skipped()
        {
            metrics::skipped(1);
            let row = RowOf {
                endpoint: &skipped.endpoint,
                event: skipped.event,
                event_type: skipped.event_type,
                number: skipped.number,
                first_at: skipped.first_at,
                began: at.wall,
                status: DeliveryStatus::GivenUp,
                next_attempt_at: None,
                code: skipped.code,
            };
            self.add_row(row.skipped(SKIPPED));
        }
    }

    /// An own run's read brought what it passes over: it is told first. `version`: of the endpoint that it was read for.
    /// Says whether something is told; if not, it is to be read again.
    pub(super) fn pass_over(
        &mut self,
        endpoint: EndpointId,
        stream: Stream,
        version: u64,
        passed: PassedOver,
    ) -> bool {
        let config = self
            .ledger
            .subscriber(endpoint)
            .map(|known| Arc::clone(&known.config));
        let Some(config) = config.filter(|config| config.version == version) else {
            return false;
        };
        let Some(wish) = config.skip_before else {
            return false;
        };
        let ledger = &self.ledger;
        self.told.retain(|(endpoint, _), _| ledger.has_own_run(*endpoint));
        let told = self.told.entry((endpoint, stream)).or_insert(Told {
            wish,
            first: passed.first,
            event_type: passed.event_type,
            code: passed.code,
        });
        if told.wish != wish {
            (told.wish, told.first) = (wish, passed.first);
            (told.event_type, told.code) = (passed.event_type, passed.code);
        }
        let (first, through) = (told.first, passed.through);
        tracing::info!(%endpoint, %stream, events = passed.events, %through, "an endpoint that was set active with resume: now passes over what was recorded before");
        metrics::skipped(passed.events);
        let row = RowOf {
            endpoint: &config,
            event: first,
            event_type: told.event_type,
            number: 0,
            first_at: wish,
            began: self.shard.sender.clock.now(),
            status: DeliveryStatus::GivenUp,
            next_attempt_at: None,
            code: told.code,
        };
        let row = row.skipped(&format!(
            "{SKIPPED}; so were all events of batches {} to {through}, recorded before {wish}: a replay sends them",
            first.seq
        ));
        self.passing.insert((endpoint, first), (stream, through));
        self.add_row(row);
        true
    }

    /// A row was acknowledged. If it tells what an own run passes over, the run goes on behind that. Says whether it does.
    pub(super) fn passed(&mut self, endpoint: EndpointId, event: EventAddress) -> bool {
        let Some((stream, through)) = self.passing.remove(&(endpoint, event)) else {
            return false;
        };
        self.ledger.skip_own(endpoint, stream, through);
        self.own_read_over(endpoint);
        true
    }
}
