//! The operations listener: `/metrics` for Prometheus, `/healthz` (the process lives) and `/readyz` (it can do its
//! work; otherwise 503 with the reasons).
//!
//! It answers strangers inside the machine's network, so it has limits of its own: few connections, small heads,
//! no bodies.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{metric_help, process};

/// Prometheus, a load balancer's probes and a person: more is a mistake.
const CONNECTIONS_MAX: usize = 64;
/// A head's time, and how long a silent connection stays.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection's whole life: scrapers open a new one when it ends.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// Pause after a failed accept: out of file descriptors, most often.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often old samples of histograms are folded.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);
/// Upper bounds for everything measured in seconds: from a commit on a fast disk to a long wait for a retry.
const SECONDS_BUCKETS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0,
];

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Our own settings are wrong.
    #[error("cannot set up metrics")]
    Build(#[from] BuildError),
    /// The process has a recorder already.
    #[error("the process has metrics already")]
    Installed,
}

impl Metrics {
    /// Makes this the process's recorder. Once per process, before any role is built.
    ///
    /// # Errors
    /// When there is one already.
    pub fn install() -> Result<Self, MetricsError> {
        let recorder = recorder()?;
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Installed)?;
        process::describe();
        metric_help::describe();
        qrelay_dispatcher::metrics::describe();
        qrelay_peers::describe();
        Ok(Self(handle))
    }

    /// Metrics that nothing is counted in: for tests that start roles many times in one process.
    ///
    /// # Errors
    /// As [`Metrics::install`], but for the recorder.
    pub fn detached() -> Result<Self, MetricsError> {
        Ok(Self(recorder()?.handle()))
    }

    fn render(&self) -> String {
        process::measure();
        self.0.render()
    }
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let builder = PrometheusBuilder::new();
    let builder = builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?;
    Ok(builder.build_recorder())
}

/// Says why the process cannot do its work just now; nothing when it can.
pub(crate) trait Readiness: Send + Sync + 'static {
    /// The reasons, for people.
    fn obstacles(&self) -> Vec<String>;
}

/// Serves until `stop` is cancelled, and then ends the open connections. When dropped, nothing new is answered.
pub(crate) async fn serve(
    listener: Arc<TcpListener>,
    metrics: Metrics,
    readiness: Arc<dyn Readiness>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    connections.spawn(stop.clone().run_until_cancelled_owned(keep_up(metrics.clone())));
    let service = Arc::new(Service { metrics, readiness });
    loop {
        let place = Arc::clone(&places)
            .acquire_owned()
            .await
            .expect("invariant: never closed");
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = Arc::clone(&service).serve(TokioIo::new(stream), stop.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the operations listener cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn keep_up(metrics: Metrics) {
    loop {
        tokio::time::sleep(UPKEEP_PERIOD).await;
        metrics.0.run_upkeep();
    }
}

struct Service {
    metrics: Metrics,
    readiness: Arc<dyn Readiness>,
}

impl Service {
    async fn serve(self: Arc<Self>, stream: TokioIo<tokio::net::TcpStream>, stop: CancellationToken) {
        let answering = service_fn(|request| {
            let answer = self.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(16 * 1024)
                .serve_connection(stream, answering)
        );
        let ended = tokio::select! {
            ended = timeout(CONNECTION_LIFE, connection.as_mut()) => ended.ok(),
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                timeout(HEAD_TIMEOUT, connection).await.ok()
            }
        };
        if let Some(Err(error)) = ended {
            tracing::debug!(%error, "a connection to the operations listener ended with an error");
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain",
                "only GET\n".to_owned(),
            );
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => text(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.metrics.render(),
            ),
            "/healthz" => json_answer(StatusCode::OK, &json!({ "status": "alive" })),
            "/readyz" => match self.readiness.obstacles() {
                obstacles if obstacles.is_empty() => {
                    json_answer(StatusCode::OK, &json!({ "status": "ready" }))
                }
                obstacles => json_answer(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &json!({ "status": "not_ready", "reasons": obstacles }),
                ),
            },
            _ => text(
                StatusCode::NOT_FOUND,
                "text/plain",
                "/metrics, /healthz or /readyz\n".to_owned(),
            ),
        }
    }
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    text(status, "application/json", format!("{body}\n"))
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[derive(Default)]
    struct Obstacles(Mutex<Vec<String>>);

    impl Readiness for Obstacles {
        fn obstacles(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    async fn asked(port: u16, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_follows_its_reasons_and_health_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (obstacles, stop) = (Arc::new(Obstacles::default()), CancellationToken::new());
        let tasks = TaskTracker::new();
        let readiness: Arc<dyn Readiness> = obstacles.clone();
        tasks.spawn(serve(
            Arc::new(listener),
            Metrics::detached().unwrap(),
            readiness,
            stop.clone(),
        ));
        assert!(asked(port, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        obstacles
            .0
            .lock()
            .unwrap()
            .push("the store takes no events".to_owned());
        let answer = asked(port, "GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.ends_with("{\"status\":\"not_ready\",\"reasons\":[\"the store takes no events\"]}\n"),
            "{answer}"
        );
        assert!(asked(port, "GET /healthz").await.starts_with("HTTP/1.1 200"));
        assert!(
            asked(port, "GET /metrics")
                .await
                .contains("content-type: text/plain; version=0.0.4")
        );
        assert!(asked(port, "GET /").await.starts_with("HTTP/1.1 404"));
        assert!(asked(port, "POST /readyz").await.contains("allow: GET, HEAD"));
        stop.cancel();
        tasks.close();
        timeout(Duration::from_secs(10), tasks.wait()).await.unwrap();
    }
}
