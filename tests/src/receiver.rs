//! Webhook receivers: they verify, note what came, and answer as they are told.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use data_encoding::BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sha2::Sha256;
use tokio::{net::TcpListener, task::JoinSet};

/// How a receiver answers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Behaviour {
    /// 200.
    Accept,
    /// This status, always.
    Answer(u16),
    /// 500 with this probability, but at most so many times for one event.
    Fail {
        /// 0 to 1.
        probability: f64,
        /// Then it is accepted.
        times_max: u32,
        /// Makes it repeatable.
        seed: u64,
    },
    /// 429 with `Retry-After: 1` with this probability.
    Busy {
        /// 0 to 1.
        probability: f64,
        /// Makes it repeatable.
        seed: u64,
    },
}

/// One webhook as it came.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// `webhook-id`.
    pub id: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The raw body.
    pub body: Bytes,
    /// Whether it was answered with a 2xx.
    pub accepted: bool,
    /// Whether the signature was right; none when the receiver has no secret.
    pub verified: Option<bool>,
    /// When.
    pub at: tokio::time::Instant,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    secrets: Vec<String>,
    arrivals: Vec<Arrival>,
    failures: HashMap<String, u32>,
    random: StdRng,
}

/// A receiver on loopback. Ends when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    /// Starts one.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seed = match behaviour {
            Behaviour::Fail { seed, .. } | Behaviour::Busy { seed, .. } => seed,
            Behaviour::Accept | Behaviour::Answer(_) => 0,
        };
        let state = State {
            behaviour,
            secrets: Vec::new(),
            arrivals: Vec::new(),
            failures: HashMap::new(),
            random: StdRng::seed_from_u64(seed),
        };
        let state = Arc::new(Mutex::new(state));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            _tasks: tasks,
        }
    }

    /// What to register.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Verifies from now on, with this secret or any that it was told before.
    ///
    /// # Panics
    /// Never.
    pub fn expect_secret(&self, secret: &str) {
        self.state.lock().unwrap().secrets.push(secret.to_owned());
    }

    /// Answers otherwise from now on.
    ///
    /// # Panics
    /// Never.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state.lock().unwrap().behaviour = behaviour;
    }

    /// All that came, in order.
    ///
    /// # Panics
    /// Never.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.state.lock().unwrap().arrivals.clone()
    }

    /// How often each event was accepted.
    ///
    /// # Panics
    /// Never.
    pub fn accepted(&self) -> HashMap<String, u32> {
        let mut counts = HashMap::new();
        for arrival in self
            .state
            .lock()
            .unwrap()
            .arrivals
            .iter()
            .filter(|arrival| arrival.accepted)
        {
            *counts.entry(arrival.id.clone()).or_insert(0) += 1;
        }
        counts
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(|request| receive(request, Arc::clone(&state)));
            // A connection that the sender cuts is the sender's business.
            http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

async fn receive(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let text = |name: &str| {
        head.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
            .to_owned()
    };
    let id = text("webhook-id");
    let mut state = state.lock().unwrap();
    let (timestamp, signatures) = (text("webhook-timestamp"), text("webhook-signature"));
    let by = |secret: &String| verify(secret, &id, &timestamp, &body, &signatures);
    // The newest first: most are signed with it.
    let verified = (!state.secrets.is_empty()).then(|| state.secrets.iter().rev().any(by));
    let status = state.answer(&id);
    let accepted = status.is_success();
    let at = tokio::time::Instant::now();
    state.arrivals.push(Arrival {
        id,
        headers: head.headers,
        body,
        accepted,
        verified,
        at,
    });
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    if status == StatusCode::TOO_MANY_REQUESTS {
        let pause = http::HeaderValue::from_static("1");
        answer.headers_mut().insert(http::header::RETRY_AFTER, pause);
    }
    Ok(answer)
}

impl State {
    fn answer(&mut self, id: &str) -> StatusCode {
        match self.behaviour {
            Behaviour::Accept => StatusCode::OK,
            Behaviour::Answer(status) => StatusCode::from_u16(status).unwrap(),
            Behaviour::Busy { probability, .. } if self.random.random_bool(probability) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Behaviour::Busy { .. } => StatusCode::OK,
            Behaviour::Fail {
                probability,
                times_max,
                ..
            } => {
                let failures = self.failures.entry(id.to_owned()).or_default();
                if *failures < times_max && self.random.random_bool(probability) {
                    *failures += 1;
                    StatusCode::INTERNAL_SERVER_ERROR
                } else {
                    StatusCode::OK
                }
            }
        }
    }
}

/// Standard Webhooks, written from the specification: HMAC-SHA256 over `id.timestamp.body`, key = the decoded
/// secret, any of the space-separated `v1,` signatures.
pub fn verify(secret: &str, id: &str, timestamp: &str, body: &[u8], signatures: &str) -> bool {
    let Some(Ok(key)) = secret
        .strip_prefix("whsec_")
        .map(|text| BASE64.decode(text.as_bytes()))
    else {
        return false;
    };
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(&key) else {
        return false;
    };
    let mac = mac
        .chain_update(id)
        .chain_update(".")
        .chain_update(timestamp)
        .chain_update(".")
        .chain_update(body);
    let matches = |signature: &str| {
        let bytes = signature
            .strip_prefix("v1,")
            .and_then(|text| BASE64.decode(text.as_bytes()).ok());
        bytes.is_some_and(|bytes| mac.clone().verify_slice(&bytes).is_ok())
    };
    signatures.split(' ').any(matches)
}
