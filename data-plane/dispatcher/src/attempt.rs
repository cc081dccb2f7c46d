//! One attempt: event, body, signature, exchange; and the row that the attempt log keeps of it.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, header};
use qrelay_store::{
    Timestamp,
    clock::SharedClock,
    event::{Event, EventType},
    id::{CodeId, DeliveryKey, EventAddress, IdCipher},
    model::{Code, Endpoint},
    signature::Message,
    store::{AttemptRow, DeliveryStatus},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    bodies::{Bodies, NoBody},
    exchange::{Aborted, Exchanger, Outcome, Permit, Phases, Request},
    identities::Identities,
    pace::{Count, Pace, SharedLimit},
    payloads::Payloads,
    permits::Room,
    secrets::Signers,
};

/// Why a delivery is given up whose attempt panicked: the panic's own text may hold what the event holds, and stands in
/// the log of the process.
const PANICKED: &str = "an error in the sender: the attempt panicked";

/// What every attempt needs.
#[derive(Clone)]
pub struct Sender {
    /// Wall time.
    pub clock: SharedClock,
    /// Makes ids.
    pub ids: IdCipher,
    /// Reads events.
    pub bodies: Bodies,
    /// Renders them.
    pub payloads: Payloads,
    /// Signs.
    pub signers: Signers,
    /// Says who we are to a TLS server that asks.
    pub identities: Identities,
    /// Sends.
    pub exchanger: Exchanger,
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// To whom, as it is now.
    pub endpoint: Arc<Endpoint>,
    /// Which event.
    pub event: EventAddress,
    /// The event itself and its code, if they are not in the log.
    pub sample: Option<Arc<(Event, Option<Code>)>>,
    /// What its first byte must pass.
    pub pace: Arc<Pace>,
    /// Its type.
    pub event_type: EventType,
    /// When the delivery's first attempt began, if this is not it.
    pub first_at: Option<Timestamp>,
    /// The limit of the replay that it is of.
    pub replay: Option<SharedLimit>,
}

/// How it went.
#[derive(Clone, Debug)]
pub enum Made {
    /// An exchange was made.
    Exchange(Box<Outcome>),
    /// None was made, through no fault of the receiver: try again soon.
    NotMade(String),
    /// None will ever be made: there is no body, or making it panics.
    Never(&'static str),
}

impl From<NoBody> for Made {
    fn from(error: NoBody) -> Self {
        match error {
            NoBody::Never(reason) => Self::Never(reason),
            NoBody::Store(source) => Self::NotMade(source.to_string()),
        }
    }
}

/// An attempt that is over.
#[derive(Clone, Debug)]
pub struct Over {
    /// When it began.
    pub began: Timestamp,
    /// How it went.
    pub made: Made,
    /// The code that its event is about, as far as the event could be read.
    pub code: Option<CodeId>,
}

impl Sender {
    /// Makes an attempt. No byte is sent after the instant that `until` holds. `room` is given back at the end.
    pub async fn attempt(&self, attempt: Attempt, until: watch::Receiver<Instant>, room: Room) -> Over {
        let began = self.clock.now();
        // A bug that one event brings out must cost this delivery, not the partition again and again.
        let mut code = None;
        let tried = AssertUnwindSafe(self.try_attempt(attempt, began, until, &mut code)).catch_unwind();
        let made = match tried.await {
            Ok(Ok(outcome)) => Made::Exchange(Box::new(outcome)),
            Ok(Err(made)) => made,
            Err(_) => Made::Never(PANICKED),
        };
        drop(room);
        Over { began, made, code }
    }

    async fn try_attempt(
        &self,
        attempt: Attempt,
        began: Timestamp,
        until: watch::Receiver<Instant>,
        code_of: &mut Option<CodeId>,
    ) -> Result<Outcome, Made> {
        let rendered = match attempt.sample {
            Some(sample) => {
                let (event, code) = &*sample;
                self.payloads
                    .render(&attempt.endpoint, event, code.as_ref())
                    .await?
            }
            None => {
                let (event, code) = self.bodies.event(attempt.event).await?;
                *code_of = code.as_deref().map(|code| code.id);
                let rendered = self.payloads.render(&attempt.endpoint, &event, code.as_deref());
                rendered.await?
            }
        };
        let content_type = HeaderValue::from_str(&rendered.content_type)
            .map_err(|_| Made::Never("the endpoint's content type is no header value"))?;
        let body = Bytes::from(rendered.body);
        let signer = self.signers.signer(&attempt.endpoint, began).await;
        let signer = signer.map_err(|error| Made::NotMade(error.to_string()))?;
        let id = self.ids.event_id(attempt.event).to_string();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type);
        let delivery = self.ids.delivery_id(&DeliveryKey {
            endpoint: attempt.endpoint.id,
            first_at: attempt.first_at.unwrap_or(began),
            event: attempt.event,
        });
        headers.extend(signer.headers(Message {
            id: &id,
            delivery: &delivery.to_string(),
            event: attempt.endpoint.payload.name_of(attempt.event_type),
            timestamp_s: began.as_secs(),
            body: &body,
        }));
        let identity = self.identities.of(&attempt.endpoint, &self.exchanger).await;
        let identity = identity.map_err(|error| Made::NotMade(error.to_string()))?;
        let request = Request {
            endpoint: attempt.endpoint.id,
            url: attempt.endpoint.url.clone(),
            headers,
            body,
            identity,
        };
        let permit = gate(attempt.pace, attempt.replay, until);
        let outcome = self.exchanger.attempt(request, permit).await;
        outcome.map_err(|Aborted| {
            let why = "the lease was about to end, or no permit came in time";
            Made::NotMade(why.to_owned())
        })
    }
}

/// Asked as the first byte goes out. The lease is looked at before each permit is asked for, so that a permit that was
/// given is used.
async fn gate(pace: Arc<Pace>, replay: Option<SharedLimit>, until: watch::Receiver<Instant>) -> Permit {
    loop {
        if Instant::now() >= *until.borrow() {
            return Permit::Abort;
        }
        match pace.take_within(replay.as_ref(), Count::Gate) {
            None => return Permit::Go,
            Some(at) => sleep_until(at).await,
        }
    }
}

/// What a row says beside the outcome.
#[derive(Clone, Copy, Debug)]
pub struct RowOf<'a> {
    /// For whom.
    pub endpoint: &'a Endpoint,
    /// Which event.
    pub event: EventAddress,
    /// Its type.
    pub event_type: EventType,
    /// Which attempt.
    pub number: u32,
    /// When the first one began.
    pub first_at: Timestamp,
    /// When this one began.
    pub began: Timestamp,
    /// How the delivery stands after it.
    pub status: DeliveryStatus,
    /// When the next one is due.
    pub next_attempt_at: Option<Timestamp>,
    /// The code that the event is about.
    pub code: Option<CodeId>,
}

impl RowOf<'_> {
    /// The row of an exchange.
    pub fn exchange(&self, outcome: &Outcome) -> AttemptRow {
        let fault = outcome.fault().map_or("", |fault| fault.as_str());
        AttemptRow {
            duration_ms: millis(outcome.phases.total),
            response_status: outcome.status,
            error_class: outcome.class().as_str().to_owned(),
            fault: fault.to_owned(),
            error: outcome.error().to_owned(),
            detail: detail(outcome),
            response_body: outcome.response_body.clone(),
            ..self.bare()
        }
    }

    /// The row of a delivery that was given up because its event cannot be sent.
    pub fn unsendable(&self, reason: &str) -> AttemptRow {
        AttemptRow {
            fault: "ours".to_owned(),
            error: reason.to_owned(),
            ..self.bare()
        }
    }

    /// The row of a delivery that was given up because its endpoint's tenant wants it so.
    pub fn skipped(&self, reason: &str) -> AttemptRow {
        AttemptRow {
            error: reason.to_owned(),
            ..self.bare()
        }
    }

    fn bare(&self) -> AttemptRow {
        AttemptRow {
            endpoint: self.endpoint.id,
            first_at: self.first_at,
            event: self.event,
            event_type: self.event_type,
            number: self.number,
            started_at: self.began,
            duration_ms: 0,
            status: self.status,
            response_status: None,
            error_class: String::new(),
            fault: String::new(),
            error: String::new(),
            next_attempt_at: self.next_attempt_at,
            detail: Value::Null,
            response_body: Bytes::new(),
            code: self.code,
        }
    }
}

fn detail(outcome: &Outcome) -> Value {
    let Phases {
        dns,
        connect,
        tls,
        first_byte,
        total,
    } = outcome.phases;
    json!({
        "phases_ms": {
            "dns": dns.map(millis_exact),
            "connect": connect.map(millis_exact),
            "tls": tls.map(millis_exact),
            "first_byte": first_byte.map(millis_exact),
            "total": millis_exact(total),
        },
        "connection_reused": outcome.reused,
        "request_headers": outcome.request_headers,
        "response_headers": outcome.response_headers,
    })
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// With microseconds, for people who look where the time went.
fn millis_exact(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
