//! Tests of answers: which code, which status, what is recorded, and that durability comes first.

use std::sync::atomic::Ordering;

use qrelay_store::id::EventId;
use qrelay_store::model::{CodeStatus, Durability};
use qrelay_store::record::Classification;

use super::fake_store::NOW_MS;
use super::fixture::{Fixture, IPHONE};
use crate::Config;

#[tokio::test]
async fn a_scan_is_redirected_to_the_stored_destination_under_the_id_of_its_record() {
    let edge = Fixture::start().await;
    let id = edge.add_code("aBc12dEf", "https://example.com/menus/spring-2026?a=b#c");
    let answer = edge.get("/aBc12dEf").await;
    assert_eq!(answer.status, 302);
    assert_eq!(
        answer.header("location").unwrap(),
        "https://example.com/menus/spring-2026?a=b#c"
    );
    assert_eq!(answer.header("cache-control").unwrap(), "no-store");
    let event: EventId = answer.header("x-qrelay-scan").unwrap().parse().unwrap();
    let (address, scan) = edge.store.scans().pop().unwrap();
    assert_eq!(
        qrelay_store::Store::install(&*edge.store)
            .ids
            .event_address(event),
        address
    );
    assert_eq!(scan["tenant"], edge.tenant.to_string());
    assert_eq!(scan["code"], id.to_string());
    assert_eq!(scan["code_version"], 1);
    assert_eq!(scan["at"], NOW_MS);
    assert_eq!(scan["classification"], "human");
    assert_eq!(scan["device_type"], "mobile");
    assert_eq!(scan["device_family"], "iPhone");
    assert_eq!(scan["os_family"], "iOS");
    assert_eq!(scan["browser_family"], "Mobile Safari");
    assert_eq!(scan["user_agent"], IPHONE);
    assert_eq!(scan["host"], "qr.example");
}

#[tokio::test]
async fn a_destination_is_sent_byte_for_byte() {
    let edge = Fixture::start().await;
    let destination = "https://example.com/caf\u{e9}?x=%20%C3%A9&y=\u{1F980}";
    edge.add_code("cafe", destination);
    let answer = edge.get("/cafe").await;
    let line = [b"location: ", destination.as_bytes(), b"\r\n"].concat();
    assert!(
        answer.head.windows(line.len()).any(|window| window == line),
        "{:?}",
        answer.head
    );
}

#[tokio::test]
async fn short_ids_are_found_exactly_first_and_then_in_lower_case() {
    let edge = Fixture::start().await;
    edge.add_code("abcdefgh", "https://lower.example/");
    edge.add_code("AbCd", "https://mixed.example/");
    edge.add_code("abcd", "https://four.example/");
    for (path, expected) in [
        ("/abcdefgh", Some("https://lower.example/")),
        ("/ABCDEFGH", Some("https://lower.example/")),
        ("/AbCdEfGh/", Some("https://lower.example/")),
        ("/%61bcdefgh", Some("https://lower.example/")),
        ("/AbCd", Some("https://mixed.example/")),
        ("/abcd", Some("https://four.example/")),
        ("/ABCD", Some("https://four.example/")),
        ("/abcdefgh?utm=1", Some("https://lower.example/")),
        ("/abcdefghi", None),
        ("/abc/defgh", None),
        ("/abcdefgh%2F", None),
        ("/", None),
    ] {
        let answer = edge.get(path).await;
        assert_eq!(answer.header("location").as_deref(), expected, "{path}");
        assert_eq!(
            answer.status,
            if expected.is_some() { 302 } else { 404 },
            "{path}"
        );
    }
}

#[tokio::test]
async fn codes_that_do_not_redirect_say_so_and_make_no_scan() {
    let edge = Fixture::start().await;
    for (short_id, status, expected) in [
        ("paused", CodeStatus::Paused, 404),
        ("deleted", CodeStatus::Deleted, 410),
        ("blocked", CodeStatus::Blocked, 410),
    ] {
        let id = edge.add_code(short_id, "https://example.com/");
        edge.store.edit_code(id, |code| code.status = status);
        let answer = edge
            .answer_when(&format!("/{short_id}"), |answer| answer.status != 302)
            .await;
        assert_eq!(answer.status, expected, "{short_id}");
        assert!(answer.header("location").is_none() && answer.header("x-qrelay-scan").is_none());
        assert!(answer.body.contains("<h1>"));
        assert_eq!(answer.header("content-type").unwrap(), "text/html; charset=utf-8");
    }
    let before = edge.store.scans().len();
    for path in [
        "/paused",
        "/deleted",
        "/blocked",
        "/unknown",
        "/",
        "/robots.txt",
        "/favicon.ico",
    ] {
        edge.get(path).await;
    }
    assert_eq!(edge.store.scans().len(), before);
}

#[tokio::test]
async fn robots_are_asked_to_stay_away() {
    let edge = Fixture::start().await;
    let answer = edge.get("/robots.txt").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "User-agent: *\nDisallow: /\n")
    );
    assert_eq!(edge.get("/favicon.ico").await.status, 404);
}

#[tokio::test]
async fn a_head_is_a_scan_of_its_own_kind() {
    let edge = Fixture::start().await;
    edge.add_code("abc", "https://example.com/");
    let mut client = edge.client().await;
    client.send(b"HEAD /abc HTTP/1.1\r\nHost: a\r\n\r\nHEAD /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let answer = client.head_answer().await;
    assert_eq!(
        (answer.status, answer.header("location").as_deref()),
        (302, Some("https://example.com/"))
    );
    let answer = client.head_answer().await;
    assert_eq!(answer.status, 404);
    assert_ne!(answer.header("content-length").unwrap(), "0");
    assert_eq!(client.end().await, 0, "an answer to HEAD has no body");
    let (_, scan) = edge.store.scans().pop().unwrap();
    assert_eq!(scan["classification"], Classification::Head.as_str());
    assert!(!scan["classification_reason"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn other_methods_are_refused_and_a_body_ends_the_connection() {
    let edge = Fixture::start().await;
    edge.add_code("abc", "https://example.com/");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
        let answer = edge
            .request(&format!("{method} /abc HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        assert_eq!(
            (answer.status, answer.header("allow").as_deref()),
            (405, Some("GET, HEAD")),
            "{method}"
        );
    }
    let mut client = edge.client().await;
    client
        .send(b"POST /abc HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        .await;
    client.send(&[b'x'; 50_000]).await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.header("connection").as_deref()),
        (405, Some("close"))
    );
    assert_eq!(client.end().await, 0);
    let mut client = edge.client().await;
    client
        .send(b"GET /abc HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.header("connection").as_deref()),
        (302, Some("close"))
    );
    assert_eq!(client.end().await, 0);
}

#[tokio::test]
async fn no_answer_leaves_before_the_scan_is_durable() {
    let edge = Fixture::start().await;
    edge.add_code("abc", "https://example.com/");
    edge.store.append_gate.send_replace(false);
    let mut client = edge.client().await;
    client.send(b"GET /abc HTTP/1.1\r\nHost: a\r\n\r\n").await;
    edge.store
        .appends_begun
        .subscribe()
        .wait_for(|begun| *begun == 1)
        .await
        .unwrap();
    let mut byte = [0];
    let read = client.tcp.try_read(&mut byte);
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert!(edge.store.batches().is_empty());
    edge.store.append_gate.send_replace(true);
    assert_eq!(client.answer().await.status, 302);
}

#[tokio::test]
async fn a_relaxed_tenant_is_answered_first() {
    let edge = Fixture::start_with(Config::default(), |tenant| {
        tenant.durability = Durability::Relaxed
    })
    .await;
    edge.add_code("abc", "https://example.com/");
    edge.store.append_gate.send_replace(false);
    let answer = edge.get("/abc").await;
    assert_eq!(answer.status, 302);
    assert!(answer.header("x-qrelay-scan").is_some());
    assert!(edge.store.batches().is_empty());
}

#[tokio::test]
async fn a_scan_that_cannot_be_made_durable_is_refused_until_the_store_is_back() {
    let edge = Fixture::start().await;
    edge.add_code("abc", "https://example.com/");
    edge.store.append_fails.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let answer = edge.get("/abc").await;
        assert_eq!(
            (answer.status, answer.header("retry-after").as_deref()),
            (503, Some("1"))
        );
        assert!(answer.header("location").is_none() && answer.header("x-qrelay-scan").is_none());
    }
    edge.store.append_fails.store(false, Ordering::SeqCst);
    edge.answer_when("/abc", |answer| answer.status == 302).await;
}

#[tokio::test]
async fn a_relaxed_tenant_is_redirected_even_when_the_log_takes_nothing() {
    let edge = Fixture::start_with(Config::default(), |tenant| {
        tenant.durability = Durability::Relaxed
    })
    .await;
    edge.add_code("abc", "https://example.com/");
    edge.store.append_fails.store(true, Ordering::SeqCst);
    let answer = edge
        .answer_when("/abc", |answer| answer.header("x-qrelay-scan").is_none())
        .await;
    assert_eq!(
        (answer.status, answer.header("location").as_deref()),
        (302, Some("https://example.com/"))
    );
}

#[tokio::test]
async fn a_record_is_kept_though_the_client_goes_away_before_its_answer() {
    let edge = Fixture::start().await;
    edge.add_code("abc", "https://example.com/");
    edge.store.append_gate.send_replace(false);
    let mut begun = edge.store.appends_begun.subscribe();
    let mut first = edge.client().await;
    first.send(b"GET /abc?1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    begun.wait_for(|begun| *begun == 1).await.unwrap();
    drop(first);
    edge.store.append_gate.send_replace(true);
    edge.get("/abc?2").await;
    let mut queries: Vec<_> = edge
        .store
        .scans()
        .iter()
        .map(|(_, scan)| scan["query"].to_string())
        .collect();
    queries.sort();
    assert_eq!(queries, ["\"1\"", "\"2\""]);
}

#[tokio::test]
async fn a_destination_carries_the_id_of_its_scan_where_the_code_asks_for_it() {
    let edge = Fixture::start().await;
    let id = edge.add_code("menu", "https://shop.example/?a=b#top");
    edge.store
        .edit_code(id, |code| code.conversion_param = "qr_eid".to_owned());
    let answer = edge
        .answer_when("/menu", |answer| {
            answer.header("location").unwrap().contains("qr_eid")
        })
        .await;
    let event = answer.header("x-qrelay-scan").unwrap();
    let location = answer.header("location").unwrap();
    assert_eq!(location, format!("https://shop.example/?a=b&qr_eid={event}#top"));
}

#[tokio::test]
async fn a_carried_id_is_durable_also_when_the_tenants_durability_is_relaxed() {
    let edge = Fixture::start().await;
    edge.store
        .edit_tenant(edge.tenant, |tenant| tenant.durability = Durability::Relaxed);
    let id = edge.add_code("menu", "https://shop.example/");
    edge.add_code("plain", "https://shop.example/");
    edge.store
        .edit_code(id, |code| code.conversion_param = "qr_eid".to_owned());
    edge.answer_when("/menu", |answer| {
        answer.header("location").unwrap().contains("qr_eid")
    })
    .await;
    edge.store.append_gate.send_replace(false);
    assert_eq!(edge.get("/plain").await.status, 302, "it does not wait");
    let late = edge.get("/menu").await;
    assert_eq!(
        (late.status, late.header("location").as_deref()),
        (302, Some("https://shop.example/")),
        "not in time, so not carried"
    );
    edge.store.append_gate.send_replace(true);
    edge.answer_when("/menu", |answer| {
        answer.header("location").unwrap().contains("?qr_eid=evt_")
    })
    .await;

    edge.store.append_fails.store(true, Ordering::SeqCst);
    let answer = edge.get("/menu").await;
    assert_eq!(
        (answer.status, answer.header("location").as_deref()),
        (302, Some("https://shop.example/"))
    );
}
