//! What a tenant does while the server is killed: each act is asked for until it is answered.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use data_encoding::BASE64;
use http::{Method, StatusCode};
use qrelay_tests::{
    PATIENCE,
    api::Api,
    receiver::{Arrival, Receiver},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::THROTTLED;

/// Each of them sends all that there was once more.
const REPLAYS_MAX: usize = 3;

/// An endpoint with its receiver.
pub(super) struct Subscription {
    pub(super) receiver: Receiver,
    pub(super) path: String,
    created_at: Value,
    newest_secret: Mutex<String>,
}

impl Subscription {
    pub(super) fn new(receiver: Receiver, endpoint: &Value) -> Self {
        let secret = endpoint["secret"].as_str().unwrap();
        receiver.expect_secret(secret);
        Self {
            receiver,
            path: format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap()),
            created_at: endpoint["created_at"].clone(),
            newest_secret: Mutex::new(secret.to_owned()),
        }
    }

    pub(super) fn newest_secret(&self) -> String {
        self.newest_secret.lock().unwrap().clone()
    }
}

/// A retry that was answered.
pub(super) struct Retry {
    subscription: usize,
    event: String,
    asked: Instant,
}

impl Retry {
    /// Whether the event came after it was asked for, among what each subscription's receiver got.
    pub(super) fn is_made(&self, arrivals: &[Vec<Arrival>]) -> bool {
        let mut later = arrivals[self.subscription]
            .iter()
            .rev()
            .take_while(|arrival| arrival.at >= self.asked);
        later.any(|arrival| arrival.id == self.event)
    }
}

/// A replay that was answered.
pub(super) struct Replay {
    subscription: usize,
    path: String,
    asked: Instant,
}

impl Replay {
    /// What it is like while it is under way; at its end, every event that it found came since it was asked for.
    pub(super) async fn under_way(&self, api: &Api, subscriptions: &[Subscription]) -> Option<Value> {
        let replay = api.get(&self.path).await;
        if replay["state"] == "running" {
            return Some(replay);
        }
        assert_eq!(replay["state"], "done", "{replay}");
        let arrivals = subscriptions[self.subscription].receiver.arrivals();
        let later = arrivals.iter().filter(|arrival| arrival.at >= self.asked);
        let came: HashSet<_> = later.map(|arrival| &arrival.id).collect();
        let found = usize::try_from(replay["found"].as_u64().unwrap()).unwrap();
        assert!(came.len() >= found, "{} came: {replay}", came.len());
        None
    }
}

/// What was done.
#[derive(Default)]
pub(super) struct Acted {
    pub(super) pauses: usize,
    pub(super) rotations: usize,
    pub(super) retries: Vec<Retry>,
    pub(super) replays: Vec<Replay>,
}

/// A tenant at work, until it is told to stop.
pub(super) struct Acts {
    stop: CancellationToken,
    tasks: JoinSet<Acted>,
}

impl Acts {
    pub(super) fn start(api: Api, subscriptions: Arc<Vec<Subscription>>, seed: u64) -> Self {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let tenant = Tenant {
            api,
            subscriptions,
            random: StdRng::seed_from_u64(seed),
            acted: Acted::default(),
        };
        tasks.spawn(tenant.act_until(stop.clone()));
        Self { stop, tasks }
    }

    /// Stops. Nothing is paused then.
    pub(super) async fn finish(mut self) -> Acted {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap()
    }
}

struct Tenant {
    api: Api,
    subscriptions: Arc<Vec<Subscription>>,
    random: StdRng,
    acted: Acted,
}

impl Tenant {
    async fn act_until(mut self, stop: CancellationToken) -> Acted {
        while !stop.is_cancelled() {
            // A random while between acts: that is the experiment, not a wait for something.
            sleep(Duration::from_millis(self.random.random_range(10..150))).await;
            let which = self.random.random_range(0..self.subscriptions.len());
            match self.random.random_range(0..20) {
                0..4 => self.pause(which).await,
                4..8 => self.resume(which).await,
                8..10 => self.rotate(which).await,
                10 | 11 if self.acted.replays.len() < REPLAYS_MAX && which != THROTTLED => {
                    self.replay(which).await
                }
                _ => self.retry(which).await,
            }
        }
        for which in 0..self.subscriptions.len() {
            self.resume(which).await;
        }
        self.acted
    }

    /// Asks until there is an answer of the server's own.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.api.call(method.clone(), path, body).await {
                Ok((status, answer)) if !status.is_server_error() => return (status, answer),
                outcome => assert!(Instant::now() < deadline, "{method} {path}: {outcome:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn must(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method.clone(), path, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {answer}");
        answer
    }

    async fn pause(&mut self, which: usize) {
        let path = self.subscriptions[which].path.clone();
        self.must(Method::PATCH, &path, &json!({"status": "paused"}))
            .await;
        self.acted.pauses += 1;
    }

    async fn resume(&mut self, which: usize) {
        let path = self.subscriptions[which].path.clone();
        self.must(Method::PATCH, &path, &json!({"status": "active"}))
            .await;
    }

    /// The tenant chooses the secret, so that it is known although the answer may be lost.
    async fn rotate(&mut self, which: usize) {
        let secret = format!("whsec_{}", BASE64.encode(&self.random.random::<[u8; 32]>()));
        let subscription = &self.subscriptions[which];
        subscription.receiver.expect_secret(&secret);
        let path = format!("{}/rotate", subscription.path);
        self.must(
            Method::POST,
            &path,
            &json!({"secret": secret, "overlap": "3600s"}),
        )
        .await;
        *self.subscriptions[which].newest_secret.lock().unwrap() = secret;
        self.acted.rotations += 1;
    }

    /// All that there was so far.
    async fn replay(&mut self, which: usize) {
        let subscription = &self.subscriptions[which];
        let path = format!("{}/replay", subscription.path);
        // Its answer may be lost: asked again with the same id, it is the same replay.
        let id = format!("replay-{}", self.random.random::<u64>());
        let body = json!({"start_time": subscription.created_at, "request_id": id});
        let asked = Instant::now();
        let replay = self.must(Method::POST, &path, &body).await;
        self.acted.replays.push(Replay {
            subscription: which,
            path: format!("/v1/replays/{}", replay["id"].as_str().unwrap()),
            asked,
        });
    }

    /// Any of the last deliveries, whatever became of it.
    async fn retry(&mut self, which: usize) {
        let list = format!("{}/deliveries?page_size=50", self.subscriptions[which].path);
        let (status, page) = self.ask(Method::GET, &list, None).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let deliveries = page["deliveries"].as_array().cloned().unwrap_or_default();
        if deliveries.is_empty() {
            return;
        }
        let delivery = &deliveries[self.random.random_range(0..deliveries.len())];
        let path = format!("/v1/deliveries/{}/retry", delivery["id"].as_str().unwrap());
        let asked = Instant::now();
        self.must(Method::POST, &path, &json!({})).await;
        self.acted.retries.push(Retry {
            subscription: which,
            event: delivery["event_id"].as_str().unwrap().to_owned(),
            asked,
        });
    }
}
