//! Attempts: what the turns say is sent, and what comes back is judged.

use std::{sync::Arc, time::Duration};

use qrelay_store::{
    checkpoint::LastFailure,
    event::EventType,
    id::{EndpointId, Seq},
    limits::ATTEMPT_ROWS_WAITING_MAX,
    model::Endpoint,
    store::DeliveryStatus,
};
use tokio::time::Instant;

use super::actor::{Actor, Done, Mode};
use crate::{
    attempt::{Attempt, Made, Over, RowOf},
    cursor::Stream,
    exchange::{Fault, Outcome, Wish},
    health::Sign,
    ledger::{
        feed::Moment,
        sending::{Finish, Job},
    },
    metrics, schedule,
    turns::Go,
};

/// Added to the error of a delivery that its receiver wants no more of.
const REFUSED: &str = "; the endpoint's settings ask for no further attempt after a client error";
const SKIPPED: &str = "; skipped: the endpoint was set active with resume: now meanwhile";
const ABORTED: &str = "; the receiver asked for no further attempt (webhook-delivery: abort-message)";

impl Actor {
    pub(super) fn take_turns(&mut self, now: Instant) {
        for endpoint in self.ledger.take_woken() {
            self.turns.stand_in(endpoint);
            self.look_at_own_run(endpoint);
        }
        self.turns.ripen(now);
        if now >= self.held.start_until() {
            return;
        }
        self.start_tests(now);
        let at = Moment {
            now,
            wall: self.wall(),
        };
        while self.rows.len() + self.held_rows.len() < ATTEMPT_ROWS_WAITING_MAX
            && let Some(go) = self.turns.next(&mut self.ledger, at)
        {
            self.go(go);
        }
    }

    fn go(&mut self, go: Go) {
        let Go {
            job,
            pace,
            room,
            replay,
        } = go;
        self.exchanges += 1;
        let attempt = Attempt {
            endpoint: Arc::clone(&job.endpoint),
            event: job.event,
            sample: None,
            pace,
            event_type: job.event_type,
            first_at: job.first_at,
            replay,
        };
        let (shard, until) = (Arc::clone(&self.shard), self.until.subscribe());
        self.work.spawn(async move {
            let over = shard.sender.attempt(attempt, until, room).await;
            Done::Attempt(Box::new((job, over)))
        });
    }

    pub(super) fn end_attempt(&mut self, job: Job, over: Over) {
        self.save_soon();
        let finish = match &over.made {
            Made::Exchange(outcome) => self.exchanged(&job, &over, outcome),
            Made::NotMade(reason) => {
                metrics::not_made();
                if self.mode == Mode::Running {
                    self.hold_for_own_trouble(&job, reason);
                }
                Finish::Unused(schedule::OWN_TROUBLE_PAUSE)
            }
            Made::Never(reason) => self.unsendable(&job, &over, reason),
        };
        let at = self.shard.moment();
        self.ledger
            .finish(job.endpoint.id, job.event, over.began, finish, at);
    }

    /// What kept one attempt from being made keeps the endpoint's others too, so that they are not tried one after the
    /// other. Told once for all that were under way.
    fn hold_for_own_trouble(&mut self, job: &Job, reason: &str) {
        let at = self.shard.moment();
        let subscriber = self.ledger.subscriber(job.endpoint.id);
        let held = subscriber.and_then(|subscriber| subscriber.held_until());
        if held.is_none_or(|until| until <= at.now) {
            tracing::warn!(event = %self.shard.sender.ids.event_id(job.event), endpoint = %job.endpoint.id, reason, "trouble of our own kept an attempt from being made; trying again");
        }
        self.ledger.hold(job.endpoint.id, schedule::OWN_TROUBLE_PAUSE, at);
    }

    /// Judges an exchange: health, schedule, row.
    fn exchanged(&mut self, job: &Job, over: &Over, outcome: &Outcome) -> Finish {
        let at = self.shard.moment();
        metrics::attempted(outcome.class().as_str());
        // The schedule is the endpoint's as it is now, if it still is.
        let config = self
            .ledger
            .subscriber(job.endpoint.id)
            .map(|subscriber| Arc::clone(&subscriber.config));
        let config = config.unwrap_or_else(|| Arc::clone(&job.endpoint));
        self.observe(job, outcome);
        let retry_after = self.pause_asked(&config, outcome, at);
        let ours = outcome.fault() == Some(Fault::Ours);
        if ours {
            self.hold_for_own_trouble(job, outcome.error());
        }
        let pause = schedule::pause_after(&config, job.event, job.number, retry_after);
        let stop = no_further(&config, outcome);
        let is_skipped = !outcome.is_success() && self.ledger.is_skipped(config.id, job.event, at.wall);
        let stop = stop.or(is_skipped.then_some(SKIPPED));
        let pause = pause.filter(|_| stop.is_none());
        let (status, finish) = match (outcome.is_success(), pause) {
            (true, _) => (DeliveryStatus::Succeeded, Finish::Delivered),
            // Our own trouble uses up nothing of the schedule: the next attempt has the same number, and its row
            // replaces this one.
            (false, _) if ours => (
                DeliveryStatus::Retrying,
                Finish::Again(schedule::OWN_TROUBLE_PAUSE),
            ),
            (false, Some(pause)) => (DeliveryStatus::Retrying, Finish::Retry(pause)),
            (false, None) => (DeliveryStatus::GivenUp, Finish::GivenUp),
        };
        let id = self.shard.sender.ids.event_id(job.event);
        match finish {
            Finish::Delivered => metrics::delivered(at.wall.since(job.recorded_at)),
            Finish::GivenUp => {
                metrics::given_up();
                let reason = stop.map_or("its retry schedule is used up", |stop| {
                    stop.trim_start_matches("; ")
                });
                tracing::warn!(event = %id, endpoint = %config.id, attempts = job.number, error = outcome.error(), reason, "gave a delivery up");
            }
            Finish::Retry(_) | Finish::Again(_) | Finish::Unused(_) => {}
        }
        tracing::debug!(event = %id, endpoint = %config.id, attempt = job.number, status = outcome.status, error = outcome.error(), "attempt");
        let next = match finish {
            Finish::Retry(pause) | Finish::Again(pause) => Some(at.wall.after(pause)),
            Finish::Delivered | Finish::GivenUp | Finish::Unused(_) => None,
        };
        let row = RowOf {
            endpoint: &job.endpoint,
            event: job.event,
            event_type: job.event_type,
            number: job.number,
            first_at: job.first_at.unwrap_or(over.began),
            began: over.began,
            status,
            next_attempt_at: next,
            code: over.code,
        };
        let mut row = row.exchange(outcome);
        row.error.push_str(stop.unwrap_or_default());
        self.add_row(row);
        finish
    }

    /// The pause that a response asks of the whole endpoint, which is paused for it; what is left to the schedule is not
    /// returned.
    fn pause_asked(&mut self, config: &Endpoint, outcome: &Outcome, at: Moment) -> Option<Duration> {
        let asked = outcome
            .retry_after
            .filter(|_| matches!(outcome.status, Some(429 | 503)));
        let longest = Duration::from_millis(config.failure.retry_after_max_ms);
        let pause = asked
            .map(|after| schedule::capped(after.from(at.wall)).min(longest))
            .filter(|pause| !pause.is_zero());
        let overloaded = matches!(outcome.status, Some(429 | 502 | 503 | 504));
        match pause {
            Some(pause) => self.ledger.hold(config.id, pause, at),
            None if overloaded && config.failure.overload_slows => self.ledger.slow(config.id, at),
            None => {}
        }
        pause
    }

    fn observe(&mut self, job: &Job, outcome: &Outcome) {
        let Some(subscriber) = self.ledger.subscriber(job.endpoint.id) else {
            return;
        };
        let gone_disables = subscriber.config.failure.gone_disables;
        let unwanted = outcome.wish == Some(Wish::Disable);
        let signs = match (outcome.status, outcome.fault()) {
            _ if outcome.is_success() && unwanted => [Some(Sign::Success), Some(Sign::Unwanted)],
            _ if outcome.is_success() => [Some(Sign::Success), None],
            // Our own trouble says nothing about the endpoint.
            (_, Some(Fault::Ours)) => return,
            (Some(410), _) if gone_disables => [Some(Sign::Gone), None],
            _ if unwanted => [Some(Sign::Unwanted), None],
            _ => [Some(Sign::Failure), None],
        };
        for sign in signs.into_iter().flatten() {
            self.observe_sign(job, sign, outcome);
        }
    }

    fn observe_sign(&mut self, job: &Job, sign: Sign, outcome: &Outcome) {
        let wall = self.wall();
        let answer = LastFailure {
            error_class: outcome.class().as_str().to_owned(),
            response_status: outcome.status,
        };
        if self.ledger.observe(job.endpoint.id, sign, answer, wall)
            && let Some(subscriber) = self.ledger.subscriber(job.endpoint.id)
        {
            tracing::warn!(endpoint = %job.endpoint.id, state = ?subscriber.health.state, failures = subscriber.health.consecutive_failures, "an endpoint's health changed");
        }
    }

    /// An event that will never have a body: given up, with a row that says why.
    fn unsendable(&mut self, job: &Job, over: &Over, reason: &'static str) -> Finish {
        metrics::given_up();
        tracing::error!(event = %self.shard.sender.ids.event_id(job.event), endpoint = %job.endpoint.id, reason, "gave a delivery up: its event cannot be sent");
        let row = RowOf {
            endpoint: &job.endpoint,
            event: job.event,
            event_type: job.event_type,
            number: if job.number == 1 { 0 } else { job.number },
            first_at: job.first_at.unwrap_or(over.began),
            began: over.began,
            status: DeliveryStatus::GivenUp,
            next_attempt_at: None,
            code: over.code,
        };
        self.add_row(row.unsendable(reason));
        Finish::GivenUp
    }

    /// Batches left the log before a lagging endpoint read them. Nobody can tell any more which of their events were
    /// its own, so one row in its delivery log stands for all of them, under the first batch's first event.
    pub(super) fn give_up_gone(&mut self, endpoint: EndpointId, stream: Stream, first: Seq, through: Seq) {
        let Some(subscriber) = self.ledger.subscriber(endpoint) else {
            return;
        };
        let config = Arc::clone(&subscriber.config);
        // The log has scans, the configuration stream the rest.
        let carried = |kind: &&EventType| kind.as_str().starts_with("scan.") == (stream != Stream::CONFIG);
        let wanted = EventType::ALL
            .iter()
            .filter(carried)
            .find(|kind| config.subscribes(**kind));
        let (Some(event_type), true) = (wanted, subscriber.own().is_some_and(|own| own.behind > 0)) else {
            tracing::debug!(%endpoint, %stream, %first, %through, "batches are gone that had nothing for a lagging endpoint");
            return;
        };
        metrics::gone();
        tracing::warn!(%endpoint, %stream, %first, %through, "retention took batches before a lagging endpoint was sent their events");
        let now = self.wall();
        let row = RowOf {
            endpoint: &config,
            event: stream.address(first, 0),
            event_type: *event_type,
            number: 0,
            first_at: now,
            began: now,
            status: DeliveryStatus::GivenUp,
            next_attempt_at: None,
            code: None,
        };
        let reason = format!(
            "retention: events of batches {first} to {through} were removed before they could be sent"
        );
        self.add_row(row.unsendable(&reason));
    }
}

/// Why a failed attempt is the delivery's last, whatever its schedule says.
fn no_further(config: &Endpoint, outcome: &Outcome) -> Option<&'static str> {
    let is_client_error = matches!(outcome.status, Some(400..=407 | 409..=428 | 430..=499));
    match outcome.wish {
        _ if outcome.is_success() => None,
        Some(Wish::Abort) => Some(ABORTED),
        _ if is_client_error && !config.failure.client_errors_retried => Some(REFUSED),
        _ => None,
    }
}
