//! The counting receiver: takes webhooks, counts them distinct by `webhook-id`, and answers questions over HTTP.
//!
//! | request | answer |
//! |---|---|
//! | `POST` any other path | a webhook: counted, answered with the status that was set |
//! | `POST /status/NNN/…` | a webhook: counted, answered with that status |
//! | `POST /third/…` | a webhook: counted, every third one answered with 500 |
//! | `POST /hole/…` | a webhook: counted, never answered |
//! | `GET /-/counts` | `{"requests", "accepted", "distinct", "duplicates", "unnamed", "refused"}` |
//! | `GET /-/last` | the body of the last webhook that was accepted |
//! | `POST /-/missing`, a body of ids, one a line | `{"asked", "missing": [at most 1,000 ids], "missing_count"}` |
//! | `POST /-/reset` | forgets everything |
//!
//! Keeps 16 bytes of hash for an id, not the id: a million webhooks take some 40 MB.

use std::{
    collections::HashSet,
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    rc::Rc,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::serving;

/// A webhook's body at most; qrelay's are below 64 KiB.
const WEBHOOK_BYTES_MAX: usize = 1024 * 1024;
/// A question's body at most: some three million ids.
const QUESTION_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Ids named in an answer at most.
const MISSING_NAMED_MAX: usize = 1000;
/// Ids remembered at most; beyond it a webhook counts as `unnamed`.
const IDS_MAX: usize = 20_000_000;

/// How webhooks are answered.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// With this status.
    pub status: StatusCode,
    /// After this time.
    pub delay: Duration,
}

/// What was received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Webhooks in all.
    pub requests: u64,
    /// Those that are answered with a 2xx.
    pub accepted: u64,
    /// Different ids among them.
    pub distinct: u64,
    /// Webhooks whose id had come before.
    pub duplicates: u64,
    /// Webhooks without an id, or with one more than can be remembered.
    pub unnamed: u64,
    /// Requests with a body that was too large or broke off: not counted as webhooks.
    pub refused: u64,
}

#[derive(Default)]
struct Seen {
    counts: Counts,
    ids: HashSet<u128>,
    last: Bytes,
    hashers: [RandomState; 2],
}

/// Serves on the calling thread until `stop`.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, manner: Manner, stop: CancellationToken) -> anyhow::Result<()> {
    serve_telling(listener, manner, stop, |_| ()).await
}

/// The same, telling the id of each webhook once its whole body is there, before it is answered.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve_telling(
    listener: TcpListener,
    manner: Manner,
    stop: CancellationToken,
    tell: impl Fn(&str) + 'static,
) -> anyhow::Result<()> {
    let seen = Rc::new(Mutex::new(Seen::default()));
    let tell = Rc::new(tell);
    let service = service_fn(move |request: Request<Incoming>| {
        let (seen, tell) = (Rc::clone(&seen), Rc::clone(&tell));
        async move { Ok::<_, Infallible>(answer(&seen, manner, &*tell, request).await) }
    });
    serving::serve(listener, service, stop).await
}

async fn answer(
    seen: &Mutex<Seen>,
    manner: Manner,
    tell: &impl Fn(&str),
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let question = path.starts_with("/-/");
    let bytes_max = if question {
        QUESTION_BYTES_MAX
    } else {
        WEBHOOK_BYTES_MAX
    };
    let Ok(body) = Limited::new(body, bytes_max).collect().await else {
        lock(seen).counts.refused += 1;
        return plain(StatusCode::PAYLOAD_TOO_LARGE);
    };
    match (&head.method, path) {
        (&Method::GET, "/-/counts") => json(&json!(lock(seen).counts)),
        (&Method::GET, "/-/last") => Response::new(Full::new(lock(seen).last.clone())),
        (&Method::POST, "/-/missing") => json(&lock(seen).missing(&body.to_bytes())),
        (&Method::POST, "/-/reset") => {
            *lock(seen) = Seen::default();
            json(&json!({}))
        }
        (&Method::POST, _) if !question => {
            let Some(status) = lock(seen).status_of(path, manner) else {
                lock(seen).count(&head.headers, None);
                std::future::pending::<()>().await;
                return plain(manner.status);
            };
            lock(seen).count(&head.headers, status.is_success().then(|| body.to_bytes()));
            let id = head.headers.get("webhook-id");
            tell(id.and_then(|id| id.to_str().ok()).unwrap_or_default());
            if !manner.delay.is_zero() {
                sleep(manner.delay).await;
            }
            plain(status)
        }
        _ => plain(StatusCode::NOT_FOUND),
    }
}

impl Seen {
    /// What a webhook at this path is answered with; none at all for a hole.
    fn status_of(&self, path: &str, manner: Manner) -> Option<StatusCode> {
        if path.starts_with("/hole/") {
            return None;
        }
        if path.starts_with("/third/") && self.counts.requests % 3 == 2 {
            return Some(StatusCode::INTERNAL_SERVER_ERROR);
        }
        let named = path.strip_prefix("/status/").and_then(|rest| rest.get(..3));
        Some(
            named
                .and_then(|status| status.parse().ok())
                .unwrap_or(manner.status),
        )
    }

    /// `accepted`: its body, if it is.
    fn count(&mut self, headers: &HeaderMap, accepted: Option<Bytes>) {
        self.counts.requests += 1;
        if let Some(body) = accepted {
            self.counts.accepted += 1;
            self.last = body;
        }
        match headers.get("webhook-id") {
            Some(id) if self.ids.len() < IDS_MAX => {
                if self.ids.insert(self.hash(id.as_bytes())) {
                    self.counts.distinct += 1;
                } else {
                    self.counts.duplicates += 1;
                }
            }
            _ => self.counts.unnamed += 1,
        }
    }

    /// 128 bits, seeded at the start: two of a million ids meet with a chance of 1 in 10^27.
    fn hash(&self, id: &[u8]) -> u128 {
        let [high, low] = &self.hashers;
        u128::from(high.hash_one(id)) << 64 | u128::from(low.hash_one(id))
    }

    fn missing(&self, ids: &[u8]) -> serde_json::Value {
        let asked = || {
            ids.split(|byte| *byte == b'\n')
                .map(<[u8]>::trim_ascii)
                .filter(|id| !id.is_empty())
        };
        let missing = || asked().filter(|id| !self.ids.contains(&self.hash(id)));
        let named: Vec<_> = missing()
            .take(MISSING_NAMED_MAX)
            .map(String::from_utf8_lossy)
            .collect();
        json!({ "asked": asked().count(), "missing_count": missing().count(), "missing": named })
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().expect("invariant: nothing panics while it counts")
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest;

    #[tokio::test]
    async fn webhooks_are_counted_distinct_and_missing_ones_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let manner = Manner {
            status: StatusCode::OK,
            delay: Duration::ZERO,
        };
        let client = async {
            let failing = rest::Call::post(address, "/status/500/x").body("{}");
            assert_eq!(failing.send().await.unwrap().0, StatusCode::INTERNAL_SERVER_ERROR);
            for id in ["evt_a", "evt_b", "evt_a", ""] {
                let mut webhook = rest::Call::post(address, "/hook").body("{}");
                if !id.is_empty() {
                    webhook = webhook.header("webhook-id", id);
                }
                assert_eq!(webhook.send().await.unwrap().0, StatusCode::OK);
            }
            let counts = rest::Call::fetch(address, "/-/counts").json().await.unwrap();
            let missing = rest::Call::post(address, "/-/missing")
                .body("evt_b\nevt_c\r\n\n")
                .json()
                .await
                .unwrap();
            rest::Call::post(address, "/-/reset").json().await.unwrap();
            let empty = rest::Call::fetch(address, "/-/counts").json().await.unwrap();
            stop.cancel();
            (counts, missing, empty)
        };
        let server = serve(listener, manner, stop.clone());
        let (server, (counts, missing, empty)) = tokio::join!(server, client);
        server.unwrap();
        let counts: Counts = serde_json::from_value(counts).unwrap();
        assert_eq!(
            counts,
            Counts {
                requests: 5,
                accepted: 4,
                distinct: 2,
                duplicates: 1,
                unnamed: 2,
                refused: 0
            }
        );
        assert_eq!(
            missing,
            json!({"asked": 2, "missing_count": 1, "missing": ["evt_c"]})
        );
        assert_eq!(
            serde_json::from_value::<Counts>(empty).unwrap(),
            Counts::default()
        );
    }
}
