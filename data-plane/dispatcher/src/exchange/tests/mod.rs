//! Exchanges with receivers of every kind, over real sockets on loopback.

mod hostile;
mod identity;
mod permit;
mod proxy;
mod receiver;
mod reuse;
mod target;
mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use qrelay_store::target::{ScriptedResolver, SystemResolver, TargetPolicy, Targets};

use super::*;
use receiver::{Receiver, read_request};

/// Allows loopback, over plain http too.
fn loopback() -> TargetPolicy {
    TargetPolicy::new(vec!["127.0.0.0/8".parse().unwrap()], Vec::new())
}

fn exchanger() -> Exchanger {
    exchanger_with(Config::default())
}

fn exchanger_with(config: Config) -> Exchanger {
    let targets = Targets::new(loopback(), Arc::new(SystemResolver::from_system()));
    Exchanger::new(config, targets).unwrap()
}

/// One that gives a slow receiver little time, for tests of what happens then.
fn impatient() -> Exchanger {
    exchanger_with(Config {
        exchange_timeout: Duration::from_millis(300),
        ..Config::default()
    })
}

/// One that resolves `hook.test` by a script, each answer for one look-up.
fn scripted(policy: TargetPolicy, answers: &[&[&str]]) -> Exchanger {
    let mut resolver = ScriptedResolver::default();
    for answer in answers {
        let ips: Vec<IpAddr> = answer.iter().map(|ip| ip.parse().unwrap()).collect();
        resolver = resolver.with("hook.test", Ok(ips));
    }
    Exchanger::new(Config::default(), Targets::new(policy, Arc::new(resolver))).unwrap()
}

fn request(url: impl Into<String>) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    Request {
        endpoint: EndpointId::from_bytes([7; 10]),
        url: url.into(),
        headers,
        body: Bytes::from_static(b"{\"hello\":1}"),
        identity: None,
    }
}

async fn go() -> Permit {
    Permit::Go
}

async fn attempt(exchanger: &Exchanger, url: impl Into<String>) -> Outcome {
    exchanger.attempt(request(url), go()).await.unwrap()
}

fn url_of(receiver: &Receiver) -> String {
    format!("http://{}/hook?a=b", receiver.address)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: b\r\n\r\nok";

#[tokio::test]
async fn a_delivery_is_posted_and_its_response_noted() {
    let (heard, mut hear) = tokio::sync::mpsc::channel(1);
    let receiver = Receiver::start(move |mut tcp| {
        let heard = heard.clone();
        async move {
            heard.send(read_request(&mut tcp).await.unwrap()).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut tcp, OK.as_bytes())
                .await
                .unwrap();
        }
    })
    .await;
    let outcome = attempt(&exchanger(), url_of(&receiver)).await;
    assert!(outcome.is_success(), "{outcome:?}");
    assert_eq!(
        (outcome.status, outcome.class(), outcome.error()),
        (Some(200), ErrorClass::Ok, "")
    );
    assert_eq!(outcome.response_body, "ok");
    assert!(outcome.response_headers.contains(&("x-a".into(), "b".into())));
    assert!(outcome.phases.connect.is_some() && outcome.phases.first_byte.is_some() && !outcome.reused);
    let heard = hear.recv().await.unwrap();
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains(&format!("\r\nhost: {}", receiver.address)),
        "{head}"
    );
    assert!(
        head.contains(concat!("\r\nuser-agent: qrelay/", env!("CARGO_PKG_VERSION"))),
        "{head}"
    );
    assert!(
        head.contains("\r\ncontent-length: 11") && head.contains("\r\ncontent-type: application/json"),
        "{head}"
    );
    assert!(
        !head.contains("accept-encoding") && body == "{\"hello\":1}",
        "{heard}"
    );
}

#[tokio::test]
async fn a_callers_framing_headers_do_not_reach_the_wire() {
    let (heard, mut hear) = tokio::sync::mpsc::channel(1);
    let receiver = Receiver::start(move |mut tcp| {
        let heard = heard.clone();
        async move { heard.send(read_request(&mut tcp).await.unwrap()).await.unwrap() }
    })
    .await;
    let mut hostile = request(url_of(&receiver));
    for (name, value) in [
        ("host", "evil.test"),
        ("content-length", "3"),
        ("transfer-encoding", "chunked"),
        ("te", "x"),
    ] {
        hostile.headers.insert(name, HeaderValue::from_static(value));
    }
    hostile
        .headers
        .insert("user-agent", HeaderValue::from_static("mine"));
    exchanger().attempt(hostile, go()).await.unwrap();
    let heard = hear.recv().await.unwrap();
    assert!(
        !heard.contains("evil.test") && !heard.contains("chunked") && !heard.contains("\r\nte:"),
        "{heard}"
    );
    assert!(
        heard.contains("content-length: 11") && heard.contains("user-agent: mine"),
        "{heard}"
    );
}

#[tokio::test]
async fn every_status_but_2xx_is_a_failure_of_the_receiver() {
    for (line, status) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 299 Fine\r\ncontent-length: 0\r\n\r\n", 299),
        (
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            302,
        ),
        ("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", 410),
        (
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nbusy",
            503,
        ),
        ("HTTP/1.1 599 Odd\r\ncontent-length: 0\r\n\r\n", 599),
    ] {
        let receiver = Receiver::answering(line).await;
        let outcome = attempt(&exchanger(), url_of(&receiver)).await;
        assert_eq!(outcome.status, Some(status));
        assert_eq!(outcome.is_success(), status < 300, "{status}");
        if status >= 300 {
            assert_eq!(
                (outcome.class(), outcome.fault()),
                (ErrorClass::Http, Some(Fault::Receiver))
            );
        }
        if status == 503 {
            assert_eq!(
                outcome.retry_after,
                Some(RetryAfter::Delay(Duration::from_secs(7)))
            );
            assert_eq!(outcome.error(), "HTTP 503 Service Unavailable");
            assert_eq!(outcome.response_body, "busy");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_not_even_to_a_private_address() {
    let inner = Receiver::answering(OK).await;
    let location = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
        inner.address
    );
    let receiver = Receiver::answering(Box::leak(location.into_boxed_str())).await;
    let outcome = attempt(&exchanger(), url_of(&receiver)).await;
    assert_eq!((outcome.status, outcome.class()), (Some(307), ErrorClass::Http));
    assert_eq!(outcome.error(), "HTTP 307: redirects are not followed");
    assert_eq!(inner.connections(), 0);
}
