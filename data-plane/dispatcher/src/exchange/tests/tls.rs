//! TLS: the certificate must be good for the URL's name, whatever address it was reached at.

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::receiver::Certificate;
use super::*;

fn trusting(certificate: &Certificate, answers: &[&str]) -> Exchanger {
    let ips = answers.iter().map(|ip| ip.parse().unwrap()).collect();
    let resolver = ScriptedResolver::default().with("hook.test", Ok(ips));
    let config = Config {
        ca_bundle: Some(certificate.bundle.clone()),
        ..Config::default()
    };
    Exchanger::new(config, Targets::new(loopback(), Arc::new(resolver))).unwrap()
}

fn https(name: &str, receiver: &Receiver) -> String {
    format!("https://{name}:{}/", receiver.address.port())
}

#[tokio::test]
async fn a_trusted_certificate_for_the_name_is_accepted_and_the_session_kept() {
    let certificate = Certificate::of(&["hook.test"]);
    let receiver = Receiver::answering_tls(&certificate, OK).await;
    let exchanger = trusting(&certificate, &["127.0.0.1"]);
    for turn in 0..3 {
        let outcome = attempt(&exchanger, https("hook.test", &receiver)).await;
        assert!(outcome.is_success(), "{outcome:?}");
        assert_eq!(
            (outcome.reused, outcome.phases.tls.is_none()),
            (turn > 0, turn > 0)
        );
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let certificate = Certificate::of(&["other.test"]);
    let receiver = Receiver::answering_tls(&certificate, OK).await;
    let outcome = attempt(
        &trusting(&certificate, &["127.0.0.1"]),
        https("hook.test", &receiver),
    )
    .await;
    assert_eq!(
        (outcome.class(), outcome.fault()),
        (ErrorClass::Tls, Some(Fault::Receiver))
    );
    assert!(
        outcome.error().contains("not valid for name"),
        "{}",
        outcome.error()
    );
    assert!(outcome.begun_at.is_none());
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let trusted = Certificate::of(&["hook.test"]);
    let receiver = Receiver::answering_tls(&Certificate::of(&["hook.test"]), OK).await;
    let outcome = attempt(&trusting(&trusted, &["127.0.0.1"]), https("hook.test", &receiver)).await;
    assert_eq!(outcome.class(), ErrorClass::Tls);
    assert!(
        outcome.error().contains("invalid peer certificate"),
        "{}",
        outcome.error()
    );
}

#[tokio::test]
async fn a_certificate_for_an_address_is_accepted_for_that_address() {
    let certificate = Certificate::of(&["127.0.0.1"]);
    let receiver = Receiver::answering_tls(&certificate, OK).await;
    let outcome = attempt(&trusting(&certificate, &[]), https("127.0.0.1", &receiver)).await;
    assert!(outcome.is_success(), "{outcome:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_a_tls_failure() {
    let certificate = Certificate::of(&["hook.test"]);
    let plain = Receiver::start(|mut tcp| async move {
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    })
    .await;
    let exchanger = trusting(&certificate, &["127.0.0.1"]);
    let outcome = attempt(&exchanger, https("hook.test", &plain)).await;
    assert_eq!(outcome.class(), ErrorClass::Tls, "{outcome:?}");
    let hangs_up = Receiver::start(|tcp| async move { drop(tcp) }).await;
    assert_eq!(
        attempt(&exchanger, https("hook.test", &hangs_up)).await.class(),
        ErrorClass::Tls
    );
}

#[tokio::test]
async fn a_tls_session_that_ended_is_replaced_before_anything_is_sent() {
    for politely in [true, false] {
        let certificate = Certificate::of(&["hook.test"]);
        let acceptor = certificate.acceptor();
        let close = Arc::new(Notify::new());
        let (gone, mut left) = tokio::sync::mpsc::channel(1);
        let closed = Arc::clone(&close);
        let receiver = Receiver::start(move |tcp| {
            let (closed, gone, acceptor) = (Arc::clone(&closed), gone.clone(), acceptor.clone());
            async move {
                let mut tls = acceptor.accept(tcp).await.unwrap();
                read_request(&mut tls).await.unwrap();
                tls.write_all(OK.as_bytes()).await.unwrap();
                closed.notified().await;
                if politely {
                    tls.shutdown().await.unwrap();
                }
                drop(tls);
                gone.send(()).await.unwrap();
            }
        })
        .await;
        let exchanger = trusting(&certificate, &["127.0.0.1"]);
        assert!(
            attempt(&exchanger, https("hook.test", &receiver))
                .await
                .is_success()
        );
        close.notify_one();
        left.recv().await.unwrap();
        let outcome = attempt(&exchanger, https("hook.test", &receiver)).await;
        assert!(outcome.is_success() && !outcome.reused, "{outcome:?}");
        assert_eq!(receiver.connections(), 2);
    }
}

#[tokio::test]
async fn a_ca_bundle_that_cannot_be_used_refuses_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let start = |path: &std::path::Path| {
        let config = Config {
            ca_bundle: Some(path.to_owned()),
            ..Config::default()
        };
        let targets = Targets::new(loopback(), Arc::new(ScriptedResolver::default()));
        Exchanger::new(config, targets).map(|_| ())
    };
    assert!(matches!(start(&path), Err(TlsConfigError::Read { .. })));
    std::fs::write(&path, "no certificate here").unwrap();
    assert!(matches!(start(&path), Err(TlsConfigError::Empty { .. })));
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&path, junk).unwrap();
    assert!(matches!(start(&path), Err(TlsConfigError::Root { .. })));
}
