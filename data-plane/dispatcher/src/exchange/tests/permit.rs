//! The gate: asked once, as the first byte goes out, and nothing goes out without it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::*;

/// A receiver that says how many bytes each connection brought before it ended.
async fn counting() -> (Receiver, mpsc::Receiver<usize>) {
    let (counted, count) = mpsc::channel(8);
    let receiver = Receiver::start(move |mut tcp| {
        let counted = counted.clone();
        async move {
            let mut bytes = Vec::new();
            tcp.read_to_end(&mut bytes).await.ok();
            counted.send(bytes.len()).await.unwrap();
        }
    })
    .await;
    (receiver, count)
}

#[tokio::test]
async fn an_aborted_request_sends_nothing_and_is_no_attempt() {
    let (receiver, mut count) = counting().await;
    let outcome = exchanger()
        .attempt(request(url_of(&receiver)), async { Permit::Abort })
        .await;
    assert_eq!(outcome, Err(Aborted));
    assert_eq!(count.recv().await, Some(0));
}

#[tokio::test]
async fn the_gate_is_asked_once_per_attempt_on_new_and_kept_connections() {
    let receiver = Receiver::answering(OK).await;
    let exchanger = exchanger();
    let asked = Arc::new(AtomicUsize::new(0));
    for turn in 1..=3 {
        let counted = Arc::clone(&asked);
        let gate = async move {
            counted.fetch_add(1, Ordering::SeqCst);
            Permit::Go
        };
        let outcome = exchanger.attempt(request(url_of(&receiver)), gate).await.unwrap();
        assert_eq!((outcome.is_success(), asked.load(Ordering::SeqCst)), (true, turn));
    }
    let refused = Arc::clone(&asked);
    let gate = async move {
        refused.fetch_add(1, Ordering::SeqCst);
        Permit::Abort
    };
    assert_eq!(
        exchanger.attempt(request(url_of(&receiver)), gate).await,
        Err(Aborted)
    );
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn the_gate_is_asked_only_when_connected_and_holds_back_every_byte() {
    let (connected, mut accepted) = mpsc::channel(1);
    let (permit, permitted) = oneshot::channel();
    let receiver = Receiver::start(move |mut tcp| {
        let connected = connected.clone();
        async move {
            let mut byte = [0; 1];
            let early = tcp.try_read(&mut byte).is_ok();
            connected.send(early).await.unwrap();
            read_request(&mut tcp).await.unwrap();
            tcp.write_all(OK.as_bytes()).await.unwrap();
        }
    })
    .await;
    let (asking, mut asked) = mpsc::channel(1);
    let gate = async move {
        asking.send(()).await.unwrap();
        permitted.await.unwrap()
    };
    let exchanger = exchanger();
    let mut attempt = std::pin::pin!(exchanger.attempt(request(url_of(&receiver)), gate));
    tokio::select! {
        _ = &mut attempt => panic!("ended before the permit"),
        Some(()) = asked.recv() => {}
    }
    tokio::select! {
        _ = &mut attempt => panic!("ended before the permit"),
        early = accepted.recv() => assert_eq!(early, Some(false)),
    }
    let before = Instant::now();
    permit.send(Permit::Go).unwrap();
    let outcome = attempt.await.unwrap();
    assert!(outcome.is_success());
    assert!(outcome.begun_at.unwrap() >= before);
}

#[tokio::test]
async fn waiting_for_the_permit_does_not_count_against_the_exchange() {
    let receiver = Receiver::answering(OK).await;
    let gate = async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        Permit::Go
    };
    let outcome = impatient()
        .attempt(request(url_of(&receiver)), gate)
        .await
        .unwrap();
    assert!(outcome.is_success(), "{outcome:?}");
}

#[tokio::test]
async fn a_gate_that_stays_silent_lets_nothing_out() {
    let (receiver, mut count) = counting().await;
    let exchanger = exchanger();
    let (asking, mut asked) = mpsc::channel::<()>(1);
    let gate = async move {
        asking.send(()).await.unwrap();
        std::future::pending().await
    };
    let mut attempt = std::pin::pin!(exchanger.attempt(request(url_of(&receiver)), gate));
    tokio::select! {
        _ = &mut attempt => panic!("ended before the permit"),
        Some(()) = asked.recv() => {}
    }
    tokio::time::pause();
    assert_eq!(attempt.await, Err(Aborted));
    tokio::time::resume();
    assert_eq!(count.recv().await, Some(0));
}

#[tokio::test]
async fn dropping_an_attempt_closes_its_connection() {
    let (receiver, mut count) = counting().await;
    let exchanger = exchanger();
    let (asking, mut asked) = mpsc::channel::<()>(1);
    let gate = async move {
        asking.send(()).await.unwrap();
        std::future::pending().await
    };
    {
        let mut attempt = std::pin::pin!(exchanger.attempt(request(url_of(&receiver)), gate));
        tokio::select! {
            _ = &mut attempt => panic!("ended before the permit"),
            Some(()) = asked.recv() => {}
        }
    }
    assert_eq!(count.recv().await, Some(0));
}

#[tokio::test]
async fn a_connection_lost_while_the_permit_is_awaited_was_not_an_attempt_begun() {
    let receiver = Receiver::start(|tcp| async move { drop(tcp) }).await;
    let gate = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Permit::Go
    };
    let outcome = exchanger()
        .attempt(request(url_of(&receiver)), gate)
        .await
        .unwrap();
    assert_eq!(
        (outcome.class(), outcome.fault()),
        (ErrorClass::Protocol, Some(Fault::Receiver)),
        "{outcome:?}"
    );
}
