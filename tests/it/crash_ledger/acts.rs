//! What a tenant does while servers are killed: each act is asked for until it is answered.

use std::{
    collections::HashSet,
    fmt,
    iter::{once, repeat_n},
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use data_encoding::BASE64;
use http::{Method, StatusCode};
use qrelay_tests::{api::Api, receiver::Receiver};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{THROTTLED, settled};

/// Before anything was recorded, by whatever clock.
const LONG_AGO: &str = "2000-01-01T00:00:00Z";
/// Who has not answered by then is asked again, or somebody else is: it may be stopped.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// An endpoint with its receiver.
pub(crate) struct Subscription {
    pub(crate) receiver: Receiver,
    pub(super) path: String,
    newest_secret: Mutex<String>,
}

impl Subscription {
    /// An endpoint that wants scans, with these further settings. Its answer may be lost: the secret is known before, and
    /// asked for twice, it is made once.
    pub(crate) async fn make(api: &Api, receiver: Receiver, settings: &Value) -> Self {
        let secret = format!("whsec_{}", BASE64.encode(&rand::random::<[u8; 32]>()));
        receiver.expect_secret(&secret);
        // Short pauses, so that a test ends; as many as the contract allows, so that faults do not use them up.
        let schedule: Vec<_> = once("0s").chain(repeat_n("1s", 19)).collect();
        let mut endpoint = json!({
            "url": receiver.url(), "events": ["scan.*"], "retry_schedule": schedule, "secret": secret,
        });
        let fields = endpoint.as_object_mut().unwrap();
        fields.extend(settings.as_object().unwrap().clone());
        let path = format!("/v1/endpoints?request_id=make-{}", rand::random::<u64>());
        let endpoint = api.persist(&path, &endpoint).await;
        Self {
            receiver,
            path: format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap()),
            newest_secret: Mutex::new(secret),
        }
    }

    /// Sets it active. Not heard, it changes nothing.
    pub(crate) async fn resume(&self, api: &Api) {
        let active = json!({"status": "active"});
        let call = api.call(Method::PATCH, &self.path, Some(&active));
        if let Ok(Ok((status, answer))) = timeout(ANSWER_WITHIN, call).await {
            assert!(
                status.is_success() || status.is_server_error(),
                "{status} {answer}"
            );
        }
    }

    pub(super) fn newest_secret(&self) -> String {
        self.newest_secret.lock().unwrap().clone()
    }
}

/// A retry that was answered.
struct Retry {
    subscription: usize,
    /// The delivery's.
    path: String,
    event: String,
    asked: Instant,
    /// The attempts that the answer told of: another one was asked for.
    attempts: u64,
}

impl Retry {
    /// The delivery while another attempt is due.
    ///
    /// It may have been under way when it was asked for: then it stands in the log as a later one. And when whoever made the
    /// last one was killed before it was saved, the next one has its number: then it came since.
    async fn due(&self, api: &Api, subscriptions: &[Subscription]) -> Option<Value> {
        let arrivals = subscriptions[self.subscription].receiver.arrivals();
        let came: Vec<_> = arrivals
            .iter()
            .filter(|arrival| arrival.id == self.event)
            .collect();
        if came.iter().any(|arrival| arrival.at >= self.asked) {
            return None;
        }
        let (status, delivery) = api.call(Method::GET, &self.path, None).await.unwrap();
        if status.is_server_error() {
            return Some(delivery);
        }
        assert_eq!(status, StatusCode::OK, "{delivery}");
        let made = delivery["attempts"].as_u64().unwrap();
        // Each of them had an answer of the receiver's, or was cut off with its process and is in no log.
        let is_later = made > self.attempts && came.len() as u64 >= made;
        (!is_later).then_some(delivery)
    }
}

/// A replay that was answered.
struct Replay {
    subscription: usize,
    path: String,
    asked: Instant,
}

impl Replay {
    /// What it is like while it is under way; at its end, every event that it found came since it was asked for.
    async fn under_way(&self, api: &Api, subscriptions: &[Subscription]) -> Option<Value> {
        let (status, replay) = api.call(Method::GET, &self.path, None).await.unwrap();
        if status.is_server_error() || replay["state"] == "running" {
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
pub(crate) struct Acted {
    pauses: usize,
    rotations: usize,
    retries: Vec<Retry>,
    replays: Vec<Replay>,
}

impl Acted {
    /// Waits until what was answered is done: as long as it changes within `stalled`.
    pub(crate) async fn settled(&self, stalled: Duration, api: &Api, subscriptions: &[Subscription]) {
        for retry in &self.retries {
            let what = "every retry that was answered is made";
            settled(stalled, what, async || retry.due(api, subscriptions).await).await;
        }
        for replay in &self.replays {
            let what = "every replay that was answered comes to its end";
            settled(stalled, what, async || replay.under_way(api, subscriptions).await).await;
        }
    }
}

impl fmt::Display for Acted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} pauses, {} rotations, {} retries by hand, {} replays",
            self.pauses,
            self.rotations,
            self.retries.len(),
            self.replays.len()
        )
    }
}

/// A tenant at work, until it is told to stop.
pub(crate) struct Acts {
    stop: CancellationToken,
    tasks: JoinSet<Acted>,
}

/// How it works.
pub(crate) struct Work {
    /// Under its key; the next one is asked when one does not answer.
    pub(crate) apis: Vec<Api>,
    pub(crate) subscriptions: Arc<Vec<Subscription>>,
    pub(crate) seed: u64,
    /// Milliseconds between two acts.
    pub(crate) pauses: Range<u64>,
    /// Replays at most: each of them sends all that there was once more.
    pub(crate) replays_max: usize,
    /// How long it may take until an act is answered.
    pub(crate) patience: Duration,
}

impl Acts {
    pub(crate) fn start(work: Work) -> Self {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let tenant = Tenant {
            random: StdRng::seed_from_u64(work.seed),
            work,
            acted: Acted::default(),
        };
        tasks.spawn(tenant.act_until(stop.clone()));
        Self { stop, tasks }
    }

    /// Stops. Nothing is paused then.
    pub(crate) async fn finish(mut self) -> Acted {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap()
    }
}

struct Tenant {
    work: Work,
    random: StdRng,
    acted: Acted,
}

impl Tenant {
    async fn act_until(mut self, stop: CancellationToken) -> Acted {
        while !stop.is_cancelled() {
            // A random while between acts: that is the experiment, not a wait for something.
            let pause = self.random.random_range(self.work.pauses.clone());
            tokio::select! {
                () = sleep(Duration::from_millis(pause)) => {}
                () = stop.cancelled() => break,
            }
            let which = self.random.random_range(0..self.work.subscriptions.len());
            match self.random.random_range(0..20) {
                0..4 => self.pause(which).await,
                4..8 => self.resume(which).await,
                8..10 => self.rotate(which).await,
                10 | 11 if self.acted.replays.len() < self.work.replays_max && which != THROTTLED => {
                    self.replay(which).await
                }
                _ => self.retry(which).await,
            }
        }
        for which in 0..self.work.subscriptions.len() {
            self.resume(which).await;
        }
        self.acted
    }

    /// Asks until there is an answer of the server's own.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let deadline = Instant::now() + self.work.patience;
        for api in self.work.apis.iter().cycle() {
            match timeout(ANSWER_WITHIN, api.call(method.clone(), path, body)).await {
                Ok(Ok((status, answer))) if !status.is_server_error() => return (status, answer),
                outcome => assert!(Instant::now() < deadline, "{method} {path}: {outcome:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
        unreachable!("there is an API, and the cycle has no end")
    }

    async fn must(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method.clone(), path, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {answer}");
        answer
    }

    async fn pause(&mut self, which: usize) {
        let path = self.work.subscriptions[which].path.clone();
        self.must(Method::PATCH, &path, &json!({"status": "paused"}))
            .await;
        self.acted.pauses += 1;
    }

    async fn resume(&mut self, which: usize) {
        let path = self.work.subscriptions[which].path.clone();
        self.must(Method::PATCH, &path, &json!({"status": "active"}))
            .await;
    }

    /// The tenant chooses the secret, so that it is known although the answer may be lost.
    async fn rotate(&mut self, which: usize) {
        let secret = format!("whsec_{}", BASE64.encode(&self.random.random::<[u8; 32]>()));
        let subscription = &self.work.subscriptions[which];
        subscription.receiver.expect_secret(&secret);
        let path = format!("{}/rotate", subscription.path);
        self.must(
            Method::POST,
            &path,
            &json!({"secret": secret, "overlap": "3600s"}),
        )
        .await;
        *self.work.subscriptions[which].newest_secret.lock().unwrap() = secret;
        self.acted.rotations += 1;
    }

    /// All that there was so far.
    async fn replay(&mut self, which: usize) {
        let subscription = &self.work.subscriptions[which];
        let path = format!("{}/replay", subscription.path);
        // Its answer may be lost: asked again with the same id and body, it is the same replay.
        let id = format!("replay-{}", self.random.random::<u64>());
        let body = json!({"start_time": LONG_AGO, "request_id": id});
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
        let list = format!("{}/deliveries?page_size=50", self.work.subscriptions[which].path);
        let (status, page) = self.ask(Method::GET, &list, None).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let deliveries = page["deliveries"].as_array().cloned().unwrap_or_default();
        if deliveries.is_empty() {
            return;
        }
        let delivery = &deliveries[self.random.random_range(0..deliveries.len())];
        let path = format!("/v1/deliveries/{}/retry", delivery["id"].as_str().unwrap());
        let asked = Instant::now();
        let answered = self.must(Method::POST, &path, &json!({})).await;
        self.acted.retries.push(Retry {
            subscription: which,
            path: path.trim_end_matches("/retry").to_owned(),
            event: delivery["event_id"].as_str().unwrap().to_owned(),
            asked,
            attempts: answered["attempts"].as_u64().unwrap(),
        });
    }
}
