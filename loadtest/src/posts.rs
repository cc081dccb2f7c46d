//! Signed POSTs in a loop and nothing else: what HTTP and HMAC cost on this machine, and so the ceiling of any sender.
//!
//! Each request has an id of its own and is signed as Standard Webhooks say, so that it costs what a webhook must cost;
//! nothing is read, recorded, scheduled or checked.

use std::{cell::Cell, rc::Rc, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use data_encoding::BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::{
    net::TcpStream,
    task::{JoinSet, LocalSet},
    time::{Instant, timeout},
};

use crate::{cpu, target::Target};

/// Connections at most: as many as the receivers here take.
const CONNECTIONS_MAX: usize = 4096;
/// Requests at most.
const REQUESTS_MAX: u64 = 20_000_000;
/// One exchange at most.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// It guards nothing: the receiver does not look.
const KEY: [u8; 32] = [7; 32];

/// What to send.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where.
    pub target: Target,
    /// What, each time.
    pub body: Bytes,
    /// Over how many connections, one request at a time on each.
    pub connections: usize,
    /// How many.
    pub requests: u64,
}

/// A finished run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Report {
    /// Requests that were answered with a 2xx: all of them.
    pub requests: u64,
    /// From the first to the last answer.
    pub elapsed_s: f64,
    /// User and system time that this process used for them.
    pub cpu_s: f64,
}

/// Sends them on the calling thread.
///
/// # Errors
/// When the plan is out of bounds, a connection cannot be opened, or a request is not answered with a 2xx.
pub async fn run(plan: Plan) -> anyhow::Result<Report> {
    ensure!(
        (1..=CONNECTIONS_MAX).contains(&plan.connections) && plan.requests <= REQUESTS_MAX,
        "1 to {CONNECTIONS_MAX} connections and at most {REQUESTS_MAX} requests"
    );
    let (left, plan) = (Rc::new(Cell::new(plan.requests)), Rc::new(plan));
    let (began, cpu) = (Instant::now(), cpu::own_time()?);
    let mut senders = JoinSet::new();
    let all = async {
        for _ in 0..plan.connections {
            senders.spawn_local(send(Rc::clone(&plan), Rc::clone(&left)));
        }
        while let Some(ended) = senders.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    LocalSet::new().run_until(all).await?;
    Ok(Report {
        requests: plan.requests,
        elapsed_s: began.elapsed().as_secs_f64(),
        cpu_s: cpu::own_time()?.saturating_sub(cpu).as_secs_f64(),
    })
}

/// One connection's share.
async fn send(plan: Rc<Plan>, left: Rc<Cell<u64>>) -> anyhow::Result<()> {
    let stream = TcpStream::connect(plan.target.address).await.context("connect")?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let requests = async move {
        while let Some(number) = left.get().checked_sub(1) {
            left.set(number);
            let exchange = async {
                let answer = sender.send_request(request(&plan, number)?).await?;
                ensure!(answer.status().is_success(), "answered {}", answer.status());
                answer.into_body().collect().await?;
                anyhow::Ok(())
            };
            timeout(EXCHANGE_TIMEOUT, exchange).await.context("timed out")??;
        }
        anyhow::Ok(())
    };
    // Dropping the sender after the last answer ends the connection.
    let (sent, _) = tokio::join!(requests, connection);
    sent
}

fn request(plan: &Plan, number: u64) -> anyhow::Result<Request<Full<Bytes>>> {
    let id = format!("evt_{number:026}");
    let time = clock_gettime(ClockId::CLOCK_REALTIME)?.tv_sec().to_string();
    let mac = Hmac::<Sha256>::new_from_slice(&KEY)?
        .chain_update(&id)
        .chain_update(".")
        .chain_update(&time)
        .chain_update(".")
        .chain_update(&plan.body);
    let signature = format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes()));
    let mut request = Request::post(plan.target.path.as_str()).body(Full::new(plan.body.clone()))?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(&plan.target.host)?);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("qrelay-loadtest"));
    headers.insert("webhook-id", HeaderValue::from_str(&id)?);
    headers.insert("webhook-timestamp", HeaderValue::from_str(&time)?);
    headers.insert("webhook-signature", HeaderValue::from_str(&signature)?);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        receiver::{self, Counts, Manner},
        rest::Call,
    };

    #[tokio::test]
    async fn every_post_is_counted_once_by_its_id() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let manner = Manner {
            status: StatusCode::OK,
            delay: Duration::ZERO,
        };
        let plan = Plan {
            target: format!("http://{address}/ok/1").parse().unwrap(),
            body: Bytes::from_static(b"{}"),
            connections: 3,
            requests: 100,
        };
        let client = async {
            let report = run(plan).await.unwrap();
            let counts = Call::fetch(address, "/-/counts").json().await.unwrap();
            let last = Call::fetch(address, "/-/last").send().await.unwrap().1;
            stop.cancel();
            (report, serde_json::from_value::<Counts>(counts).unwrap(), last)
        };
        let server = receiver::serve(listener, manner, stop.clone());
        let (server, (report, counts, last)) = tokio::join!(server, client);
        server.unwrap();
        assert_eq!((counts.accepted, counts.distinct), (100, 100));
        assert_eq!((report.requests, &last[..]), (100, &b"{}"[..]));
    }
}
