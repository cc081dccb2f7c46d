//! Kept connections: used again, and never blindly.

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::*;

#[tokio::test]
async fn a_kept_connection_is_used_again() {
    let receiver = Receiver::answering(OK).await;
    let exchanger = exchanger();
    for turn in 0..5 {
        let outcome = attempt(&exchanger, url_of(&receiver)).await;
        assert!(outcome.is_success());
        assert_eq!(
            (outcome.reused, outcome.phases.connect.is_none()),
            (turn > 0, turn > 0)
        );
        assert_eq!(exchanger.idle_connections(), 1);
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn endpoints_and_origins_do_not_share_connections() {
    let receiver = Receiver::answering(OK).await;
    let exchanger = exchanger();
    attempt(&exchanger, url_of(&receiver)).await;
    let mut other = request(url_of(&receiver));
    other.endpoint = EndpointId::from_bytes([8; 10]);
    assert!(!exchanger.attempt(other, go()).await.unwrap().reused);
    let by_name = format!("http://localhost:{}/", receiver.address.port());
    assert!(!attempt(&exchanger, by_name).await.reused);
    assert_eq!(receiver.connections(), 3);
}

#[tokio::test]
async fn a_response_that_closes_is_not_kept() {
    let receiver =
        Receiver::answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    let exchanger = exchanger();
    for _ in 0..2 {
        assert!(attempt(&exchanger, url_of(&receiver)).await.is_success());
        assert_eq!(exchanger.idle_connections(), 0);
    }
    let short =
        Receiver::answering("HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 0\r\n\r\n").await;
    attempt(&exchanger, url_of(&short)).await;
    assert_eq!(exchanger.idle_connections(), 0);
}

#[tokio::test]
async fn a_kept_connection_that_died_is_replaced_before_anything_is_sent() {
    let close = Arc::new(Notify::new());
    let (gone, mut left) = tokio::sync::mpsc::channel(1);
    let closed = Arc::clone(&close);
    let receiver = Receiver::start(move |mut tcp| {
        let (closed, gone) = (Arc::clone(&closed), gone.clone());
        async move {
            read_request(&mut tcp).await.unwrap();
            tcp.write_all(OK.as_bytes()).await.unwrap();
            closed.notified().await;
            drop(tcp);
            gone.send(()).await.unwrap();
        }
    })
    .await;
    let exchanger = exchanger();
    assert!(attempt(&exchanger, url_of(&receiver)).await.is_success());
    assert_eq!(exchanger.idle_connections(), 1);
    close.notify_one();
    left.recv().await.unwrap();
    let outcome = attempt(&exchanger, url_of(&receiver)).await;
    assert!(outcome.is_success() && !outcome.reused, "{outcome:?}");
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn bytes_on_an_idle_connection_make_it_unusable() {
    let receiver = Receiver::start(move |mut tcp| async move {
        read_request(&mut tcp).await.unwrap();
        tcp.write_all(format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged").as_bytes())
            .await
            .unwrap();
        read_request(&mut tcp).await;
        tcp.write_all(OK.as_bytes()).await.ok();
        std::future::pending::<()>().await;
    })
    .await;
    let exchanger = exchanger();
    for _ in 0..3 {
        let outcome = attempt(&exchanger, url_of(&receiver)).await;
        assert!(outcome.is_success() && !outcome.reused, "{outcome:?}");
        assert_eq!(outcome.response_body, "ok");
    }
}

#[tokio::test]
async fn the_number_of_kept_connections_is_bounded() {
    let receiver = Receiver::answering(OK).await;
    let exchanger = exchanger_with(Config {
        idle_connections_max: 2,
        ..Config::default()
    });
    let attempts = (0..8).map(|_| attempt(&exchanger, url_of(&receiver)));
    let outcomes = futures::future::join_all(attempts).await;
    assert!(outcomes.iter().all(Outcome::is_success));
    assert_eq!(exchanger.idle_connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_its_time() {
    let receiver = Receiver::answering(OK).await;
    let exchanger = exchanger();
    attempt_in_real_time(&exchanger, &receiver).await;
    assert_eq!(exchanger.idle_connections(), 1);
    tokio::time::sleep(IDLE_CONNECTION_TIMEOUT + IDLE_SWEEP_PERIOD * 2).await;
    assert_eq!(exchanger.idle_connections(), 0);
}

/// The paused clock would jump over the sockets' time.
async fn attempt_in_real_time(exchanger: &Exchanger, receiver: &Receiver) {
    tokio::time::resume();
    assert!(attempt(exchanger, url_of(receiver)).await.is_success());
    tokio::time::pause();
}

#[tokio::test]
async fn closing_ends_every_connection() {
    let receiver = Receiver::answering(OK).await;
    let exchanger = exchanger();
    attempt(&exchanger, url_of(&receiver)).await;
    exchanger.close().await;
    assert_eq!(exchanger.idle_connections(), 0);
    assert!(attempt(&exchanger, url_of(&receiver)).await.is_success());
    assert_eq!(exchanger.idle_connections(), 0, "nothing is kept after the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_exchanges_at_once_share_few_connections_and_none_fails() {
    const AT_ONCE: usize = 16;
    let receiver = Receiver::answering(OK).await;
    let exchanger = exchanger();
    let worker = || async {
        for _ in 0..50 {
            let outcome = attempt(&exchanger, url_of(&receiver)).await;
            assert!(outcome.is_success(), "{outcome:?}");
        }
    };
    futures::future::join_all((0..AT_ONCE).map(|_| worker())).await;
    assert!(
        receiver.connections() <= 2 * AT_ONCE,
        "{} connections",
        receiver.connections()
    );
}
