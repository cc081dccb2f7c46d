//! Receivers that misbehave: each costs one bounded exchange and is told apart in the attempt log.

use qrelay_store::limits::{RESPONSE_BYTES_MAX, RESPONSE_SNIPPET_BYTES};
use tokio::io::AsyncWriteExt;

use super::receiver::drain;
use super::*;

const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_black_hole_times_out() {
    let receiver = Receiver::start(|mut tcp| async move { drain(&mut tcp).await }).await;
    let outcome = attempt(&impatient(), url_of(&receiver)).await;
    assert_eq!(
        (outcome.class(), outcome.fault()),
        (ErrorClass::Timeout, Some(Fault::Receiver))
    );
    assert_eq!((outcome.status, outcome.error()), (None, "no response in time"));
    assert!(outcome.begun_at.is_some());
}

#[tokio::test]
async fn a_head_that_trickles_in_times_out() {
    let receiver = Receiver::start(|mut tcp| async move {
        for byte in OK.bytes() {
            if tcp.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    assert_eq!(
        attempt(&impatient(), url_of(&receiver)).await.class(),
        ErrorClass::Timeout
    );
}

#[tokio::test]
async fn a_body_that_trickles_in_is_a_success_by_its_status() {
    let receiver = Receiver::start(|mut tcp| async move {
        read_request(&mut tcp).await.unwrap();
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nx")
            .await
            .unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let exchanger = impatient();
    let outcome = attempt(&exchanger, url_of(&receiver)).await;
    assert!(outcome.is_success());
    assert_eq!(outcome.response_body, "x");
    assert_eq!(exchanger.idle_connections(), 0);
}

#[tokio::test]
async fn of_a_10_mb_body_only_a_bounded_part_is_read() {
    let (written, mut wrote) = tokio::sync::mpsc::channel(1);
    let receiver = Receiver::start(move |mut tcp| {
        let written = written.clone();
        async move {
            read_request(&mut tcp).await.unwrap();
            tcp.write_all(CHUNKED).await.unwrap();
            let chunk = [b"2000\r\n".as_slice(), &[b'x'; 0x2000], b"\r\n"].concat();
            let mut sent = 0;
            while sent < 10_000_000 && tcp.write_all(&chunk).await.is_ok() {
                sent += 0x2000;
            }
            written.send(sent).await.unwrap();
        }
    })
    .await;
    let exchanger = exchanger();
    let outcome = attempt(&exchanger, url_of(&receiver)).await;
    assert!(outcome.is_success());
    assert_eq!(outcome.response_body.len(), RESPONSE_SNIPPET_BYTES);
    assert_eq!(exchanger.idle_connections(), 0);
    // What the receiver got rid of: what we read, and what the kernel's buffers took.
    let sent = wrote.recv().await.unwrap();
    assert!((RESPONSE_BYTES_MAX..10_000_000).contains(&sent), "{sent}");
}

#[tokio::test]
async fn a_gzip_bomb_is_kept_as_it_came() {
    let receiver = Receiver::start(|mut tcp| async move {
        read_request(&mut tcp).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 10000000\r\n\r\n";
        tcp.write_all(head.as_bytes()).await.unwrap();
        let block = [b"\x1f\x8b\x08\x00".as_slice(), &[0; 16380]].concat();
        while tcp.write_all(&block).await.is_ok() {}
    })
    .await;
    let outcome = attempt(&exchanger(), url_of(&receiver)).await;
    assert!(outcome.is_success());
    assert_eq!(outcome.response_body.len(), RESPONSE_SNIPPET_BYTES);
    assert_eq!(&outcome.response_body[..4], b"\x1f\x8b\x08\x00");
}

#[tokio::test]
async fn a_reset_is_told_from_an_answer() {
    let receiver = Receiver::start(|mut tcp| async move {
        read_request(&mut tcp).await.unwrap();
        tcp.set_zero_linger().unwrap();
    })
    .await;
    let outcome = attempt(&exchanger(), url_of(&receiver)).await;
    assert_eq!(
        (outcome.class(), outcome.fault()),
        (ErrorClass::Protocol, Some(Fault::Receiver))
    );
    assert!(
        outcome.error().starts_with("the connection was"),
        "{}",
        outcome.error()
    );
    assert_eq!(receiver.connections(), 1, "nothing is sent twice");
}

#[tokio::test]
async fn a_connection_closed_after_the_request_is_a_failure_and_not_sent_again() {
    let receiver = Receiver::start(|mut tcp| async move { drop(read_request(&mut tcp).await) }).await;
    let outcome = attempt(&exchanger(), url_of(&receiver)).await;
    assert_eq!(outcome.class(), ErrorClass::Protocol);
    assert!(outcome.begun_at.is_some());
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_receiver_that_half_closes_without_answering_is_a_failure() {
    let receiver = Receiver::start(|mut tcp| async move {
        read_request(&mut tcp).await.unwrap();
        tcp.shutdown().await.unwrap();
        drain(&mut tcp).await;
    })
    .await;
    assert_eq!(
        attempt(&exchanger(), url_of(&receiver)).await.class(),
        ErrorClass::Protocol
    );
}

#[tokio::test]
async fn a_body_cut_off_after_a_2xx_head_is_a_success() {
    let receiver = Receiver::start(|mut tcp| async move {
        read_request(&mut tcp).await.unwrap();
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut")
            .await
            .unwrap();
    })
    .await;
    let exchanger = exchanger();
    let outcome = attempt(&exchanger, url_of(&receiver)).await;
    assert!(outcome.is_success());
    assert_eq!(
        (outcome.response_body, exchanger.idle_connections()),
        (Bytes::from_static(b"cut"), 0)
    );
}

#[tokio::test]
async fn garbage_is_a_protocol_failure() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "\r\n\r\n\r\n\0\0\0\0",
        "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    ] {
        let receiver = Receiver::start(move |mut tcp| async move {
            read_request(&mut tcp).await.unwrap();
            tcp.write_all(garbage.as_bytes()).await.unwrap();
        })
        .await;
        let outcome = attempt(&exchanger(), url_of(&receiver)).await;
        assert_eq!(
            (outcome.class(), outcome.status),
            (ErrorClass::Protocol, None),
            "{garbage:?}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_million_response_headers_are_not_read() {
    let receiver = Receiver::start(|mut tcp| async move {
        read_request(&mut tcp).await.unwrap();
        tcp.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        for _ in 0..1_000_000 {
            if tcp.write_all(b"x-header: value\r\n").await.is_err() {
                return;
            }
        }
    })
    .await;
    let outcome = attempt(&exchanger(), url_of(&receiver)).await;
    assert_eq!(
        (outcome.class(), outcome.status),
        (ErrorClass::Protocol, None),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn one_endless_header_is_not_read() {
    let receiver = Receiver::start(|mut tcp| async move {
        read_request(&mut tcp).await.unwrap();
        tcp.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
        while tcp.write_all(&[b'a'; 4096]).await.is_ok() {}
    })
    .await;
    let outcome = attempt(&exchanger(), url_of(&receiver)).await;
    assert_eq!(outcome.class(), ErrorClass::Protocol);
    assert_eq!(outcome.error(), "the response's head is too large");
}

#[tokio::test]
async fn endless_interim_responses_time_out() {
    let receiver = Receiver::start(|mut tcp| async move {
        read_request(&mut tcp).await.unwrap();
        while tcp.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        attempt(&impatient(), url_of(&receiver)).await.class(),
        ErrorClass::Timeout
    );
}

#[tokio::test]
async fn an_upgrade_is_a_failure() {
    let receiver =
        Receiver::answering("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n");
    let outcome = attempt(&exchanger(), url_of(&receiver.await)).await;
    assert!(!outcome.is_success(), "{outcome:?}");
}

#[tokio::test]
async fn an_answer_before_the_body_was_read_is_an_answer() {
    let receiver = Receiver::start(|mut tcp| async move {
        tcp.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let exchanger = exchanger();
    let mut large = request(url_of(&receiver));
    large.body = Bytes::from(vec![b'x'; 16 * 1024 * 1024]);
    let outcome = exchanger.attempt(large, go()).await.unwrap();
    assert!(
        matches!(outcome.class(), ErrorClass::Http | ErrorClass::Protocol),
        "{outcome:?}"
    );
    assert_eq!(exchanger.idle_connections(), 0);
}

#[tokio::test]
async fn a_refused_connection_is_the_receivers_fault() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let outcome = attempt(&exchanger(), format!("http://{closed}/")).await;
    assert_eq!(
        (outcome.class(), outcome.fault()),
        (ErrorClass::Refused, Some(Fault::Receiver))
    );
    assert_eq!(
        (outcome.begun_at, outcome.error()),
        (None, "the connection was refused")
    );
}
