//! Tests of the cache behind the answers: changes show, and a store that is away does not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use qrelay_store::model::{CodeStatus, TenantStatus};
use tokio::time::Instant;

use super::fixture::Fixture;

#[tokio::test]
async fn a_change_shows_within_a_second_even_without_a_hint() {
    let edge = Fixture::start().await;
    let id = edge.add_code("abc", "https://one.example/");
    assert_eq!(
        edge.get("/abc").await.header("location").unwrap(),
        "https://one.example/"
    );
    edge.store.hinting.store(false, Ordering::SeqCst);
    edge.store.edit_code(id, |code| {
        code.destination_url = "https://two.example/".to_owned()
    });
    edge.answer_when("/abc", |answer| {
        answer.header("location").as_deref() == Some("https://two.example/")
    })
    .await;
    let (_, scan) = edge.store.scans().pop().unwrap();
    assert_eq!(scan["code_version"], 2);
}

#[tokio::test]
async fn a_code_created_after_its_id_was_asked_for_is_found() {
    let edge = Fixture::start().await;
    assert_eq!(edge.get("/later").await.status, 404);
    assert_eq!(edge.get("/later").await.status, 404);
    assert_eq!(
        edge.store.lookups.load(Ordering::SeqCst),
        1,
        "the second answer comes from the cache"
    );
    edge.add_code("later", "https://example.com/");
    edge.answer_when("/later", |answer| answer.status == 302).await;
    edge.answer_when("/LATER", |answer| answer.status == 302).await;
}

#[tokio::test]
async fn suspension_deletion_and_blocking_show_and_can_be_undone() {
    let edge = Fixture::start().await;
    let id = edge.add_code("abc", "https://example.com/");
    edge.answer_when("/abc", |answer| answer.status == 302).await;
    edge.store
        .edit_tenant(edge.tenant, |tenant| tenant.status = TenantStatus::Suspended);
    edge.answer_when("/abc", |answer| answer.status == 404).await;
    edge.store
        .edit_tenant(edge.tenant, |tenant| tenant.status = TenantStatus::Active);
    edge.answer_when("/abc", |answer| answer.status == 302).await;
    edge.store.edit_code(id, |code| code.status = CodeStatus::Blocked);
    edge.answer_when("/abc", |answer| answer.status == 410).await;
    edge.store.edit_code(id, |code| code.status = CodeStatus::Active);
    edge.answer_when("/abc", |answer| answer.status == 302).await;
    edge.store
        .edit_tenant(edge.tenant, |tenant| tenant.status = TenantStatus::Deleted);
    edge.answer_when("/abc", |answer| answer.status == 410).await;
}

#[tokio::test]
async fn while_the_registry_is_away_cached_codes_redirect_and_others_are_refused() {
    let edge = Fixture::start().await;
    let id = edge.add_code("abc", "https://one.example/");
    edge.add_code("other", "https://other.example/");
    assert_eq!(edge.get("/abc").await.status, 302);
    edge.store.unreachable.store(true, Ordering::SeqCst);
    edge.store.edit_code(id, |code| {
        code.destination_url = "https://two.example/".to_owned()
    });
    let answer = edge.get("/abc").await;
    assert_eq!(
        answer.header("location").as_deref(),
        Some("https://one.example/"),
        "stale"
    );
    let answer = edge.get("/other").await;
    assert_eq!(
        (answer.status, answer.header("retry-after").as_deref()),
        (503, Some("1"))
    );
    edge.store.unreachable.store(false, Ordering::SeqCst);
    edge.answer_when("/abc", |answer| {
        answer.header("location").as_deref() == Some("https://two.example/")
    })
    .await;
    assert_eq!(edge.get("/other").await.status, 302, "a failure is not cached");
}

#[tokio::test]
async fn a_stop_answers_what_is_being_answered_and_takes_nothing_new() {
    let mut edge = Fixture::start().await;
    edge.add_code("abc", "https://example.com/");
    let mut idle = edge.client().await;
    idle.send(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 404);
    edge.store.append_gate.send_replace(false);
    let mut busy = edge.client().await;
    busy.send(b"GET /abc HTTP/1.1\r\nHost: a\r\n\r\n").await;
    edge.store
        .appends_begun
        .subscribe()
        .wait_for(|begun| *begun == 1)
        .await
        .unwrap();
    edge.shutdown.cancel();
    assert_eq!(idle.end().await, 0);
    assert!(edge.serving.try_join_next().is_none(), "an answer is owed");
    edge.store.append_gate.send_replace(true);
    assert_eq!(busy.answer().await.status, 302);
    assert_eq!(busy.end().await, 0);
    edge.serving.join_next().await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(edge.addr).await.is_err());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_client_that_sends_nothing_beyond_its_deadline() {
    let config = crate::Config {
        drain_deadline: Duration::from_millis(50),
        ..crate::Config::default()
    };
    let mut edge = Fixture::start_with(config, |_| {}).await;
    let mut slow = edge.client().await;
    slow.send(b"GET /abc HTTP/1.1\r\nHo").await;
    edge.get("/none").await;
    let stopped = Instant::now();
    edge.shutdown.cancel();
    edge.serving.join_next().await.unwrap().unwrap();
    assert!(
        stopped.elapsed() < Duration::from_secs(4),
        "the head's own time-out is 5 s"
    );
}
