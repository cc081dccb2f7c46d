//! The way out, end to end: through an egress proxy, and to receivers that ask for a client certificate.

use std::sync::{Arc, Mutex};

use qrelay_tests::{
    api::Api,
    http,
    receiver::{Behaviour, Receiver},
    server::{Setup, code_and_endpoint},
    wait_until,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// A proxy on loopback: what it was asked to connect to.
async fn proxy(tasks: &mut JoinSet<()>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    tasks.spawn(async move {
        let mut ways = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let asked = Arc::clone(&noted);
            ways.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = client.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap().to_owned();
                asked.lock().unwrap().push(target.clone());
                let mut upstream = TcpStream::connect(target).await.unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                drop(copy_bidirectional(&mut client, &mut upstream).await);
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn webhooks_go_through_the_egress_proxy() {
    let (dir, mut tasks) = (tempfile::tempdir().unwrap(), JoinSet::new());
    let (address, asked) = proxy(&mut tasks).await;
    let flag = format!("--egress-proxy=http://{address}");
    let server = Setup::new(super::BINARY, &dir.path().join("data"))
        .with(&[&flag])
        .start()
        .await;
    let (_, api) = server.admin().tenant("proxied").await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    code_and_endpoint(&api, "menu", &receiver.url()).await;
    http::get(server.edge(), "/menu").await.unwrap();
    wait_until("the webhook", async || receiver.arrivals().into_iter().next()).await;
    let target = receiver.url().replace("http://", "").replace("/hook", "");
    assert_eq!(*asked.lock().unwrap(), [target]);

    let (status, refused) = api
        .call(
            ::http::Method::POST,
            "/v1/endpoints",
            Some(&json!({"url": format!("http://{address}/"), "events": ["*"]})),
        )
        .await
        .unwrap();
    assert_eq!(status, 400, "the proxy itself is no receiver: {refused}");
    server.stop().await;
}

/// A server on loopback that asks for certificates of `issuer`: whose came.
async fn asking(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    tasks: &mut JoinSet<()>,
) -> (String, Arc<Mutex<Vec<CertificateDer<'static>>>>) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, issuer)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issuer.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![cert.der().clone()],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://127.0.0.1:{}/hook", listener.local_addr().unwrap().port());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    tasks.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else {
                continue;
            };
            let peer = tls.get_ref().1.peer_certificates().unwrap()[0]
                .clone()
                .into_owned();
            let mut some = [0; 1024];
            if tls.read(&mut some).await.is_ok_and(|read| read > 0) {
                noted.lock().unwrap().push(peer);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                tls.write_all(answer).await.ok();
                tls.shutdown().await.ok();
            }
        }
    });
    (url, seen)
}

async fn tested(api: &Api, endpoint: &Value) -> Value {
    let path = format!("/v1/endpoints/{}/test", endpoint["id"].as_str().unwrap());
    api.post(&path, json!({})).await
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_certificate_gets_the_endpoints_also_after_a_restart() {
    let (dir, mut tasks) = (tempfile::tempdir().unwrap(), JoinSet::new());
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let bundle = dir.path().join("ca.pem");
    std::fs::write(&bundle, issuer.pem()).unwrap();
    let (url, seen) = asking(&issuer, &mut tasks).await;
    let setup =
        Setup::new(super::BINARY, &dir.path().join("data")).with(&["--ca-bundle", bundle.to_str().unwrap()]);
    let server = setup.start().await;
    let (_, api) = server.admin().tenant("mutual").await;

    let endpoint = json!({"url": url, "events": ["*"]});
    let endpoint = api.post("/v1/endpoints", endpoint).await;
    let refused = tested(&api, &endpoint).await;
    assert_eq!(
        (&refused["status"], &refused["response_status"]),
        (&json!("given_up"), &Value::Null),
        "{refused}"
    );
    assert!(
        refused["error"].as_str().unwrap().starts_with("TLS: "),
        "{refused}"
    );

    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["sender.test".to_owned()]).unwrap();
    let cert = cert.signed_by(&key, &issuer).unwrap();
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());
    let client = json!({"tls_client": {"cert": cert.pem(), "key": key.serialize_pem()}});
    api.patch(&path, client).await;
    wait_until("its owner knows the certificate", async || {
        (tested(&api, &endpoint).await["status"] == "succeeded").then_some(())
    })
    .await;
    server.stop().await;

    let server = setup.start().await;
    assert_eq!(tested(&api, &endpoint).await["status"], "succeeded");
    assert!(seen.lock().unwrap().iter().all(|peer| peer == cert.der()));
    let inner = key.serialize_pem().lines().nth(1).unwrap().to_owned();
    assert!(!server.log().contains(&inner), "the key is in no log");
    server.stop().await;
}
