//! Client certificates: shown to receivers that ask, one endpoint's never over another's connection.

use std::sync::Mutex;

use qrelay_store::id::SecretId;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;

use super::*;

/// An authority that both sides trust.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    bundle: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join("ca.pem");
        std::fs::write(&bundle, issuer.pem()).unwrap();
        Self {
            issuer,
            bundle,
            _directory: directory,
        }
    }

    /// A certificate for a name and its key, in PEM.
    fn issue(&self, name: &str) -> (String, String, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem(), cert.der().clone())
    }

    /// A server that asks for a certificate of this authority.
    fn acceptor(&self) -> TlsAcceptor {
        let (_, key, cert) = self.issue("hook.test");
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let key = rustls::pki_types::pem::PemObject::from_pem_slice(key.as_bytes());
        let key: PrivateKeyDer<'static> = key.unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![cert], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    fn exchanger(&self) -> Exchanger {
        let resolver = ScriptedResolver::default().with("hook.test", Ok(vec!["127.0.0.1".parse().unwrap()]));
        let config = Config {
            ca_bundle: Some(self.bundle.clone()),
            ..Config::default()
        };
        Exchanger::new(config, Targets::new(loopback(), Arc::new(resolver))).unwrap()
    }
}

/// Who came, request by request.
type Seen = Arc<Mutex<Vec<CertificateDer<'static>>>>;

async fn asking(authority: &Authority, seen: &Seen) -> Receiver {
    let (acceptor, seen) = (authority.acceptor(), Arc::clone(seen));
    Receiver::start(move |tcp| {
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        async move {
            let Ok(mut tls) = acceptor.accept(tcp).await else {
                return;
            };
            let peer = tls.get_ref().1.peer_certificates().unwrap()[0]
                .clone()
                .into_owned();
            while read_request(&mut tls).await.is_some() {
                seen.lock().unwrap().push(peer.clone());
                if tls.write_all(OK.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

async fn as_client(exchanger: &Exchanger, url: &str, identity: Option<&Identity>) -> Outcome {
    let request = Request {
        identity: identity.cloned(),
        ..request(url)
    };
    exchanger.attempt(request, go()).await.unwrap()
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_certificate_is_shown_the_endpoints() {
    let (authority, seen) = (Authority::new(), Seen::default());
    let receiver = asking(&authority, &seen).await;
    let url = format!("https://hook.test:{}/", receiver.address.port());
    let exchanger = authority.exchanger();
    let (cert, key, der) = authority.issue("sender.test");
    let identity = exchanger
        .identity(SecretId::random(), &cert, key.as_bytes())
        .unwrap();
    for reused in [false, true] {
        let outcome = as_client(&exchanger, &url, Some(&identity)).await;
        assert!(outcome.is_success() && outcome.reused == reused, "{outcome:?}");
    }
    assert_eq!(*seen.lock().unwrap(), [der.clone(), der]);
    assert!(!format!("{identity:?}").contains("PRIVATE"));
}

#[tokio::test]
async fn a_connection_of_one_identity_is_used_by_no_other() {
    let (authority, seen) = (Authority::new(), Seen::default());
    let receiver = asking(&authority, &seen).await;
    let url = format!("https://hook.test:{}/", receiver.address.port());
    let exchanger = authority.exchanger();
    let mut expected = Vec::new();
    for name in ["before.test", "after.test"] {
        let (cert, key, der) = authority.issue(name);
        let identity = exchanger
            .identity(SecretId::random(), &cert, key.as_bytes())
            .unwrap();
        let outcome = as_client(&exchanger, &url, Some(&identity)).await;
        assert!(outcome.is_success() && !outcome.reused, "{outcome:?}");
        expected.push(der);
    }
    assert_eq!(
        *seen.lock().unwrap(),
        expected,
        "the endpoint is the same, its certificate is not"
    );
    let nobody = as_client(&exchanger, &url, None).await;
    assert!(!nobody.is_success() && !nobody.reused, "{nobody:?}");
}

#[tokio::test]
async fn without_its_certificate_or_with_a_strangers_a_receiver_lets_nobody_in() {
    let (authority, stranger, seen) = (Authority::new(), Authority::new(), Seen::default());
    let receiver = asking(&authority, &seen).await;
    let url = format!("https://hook.test:{}/", receiver.address.port());
    let exchanger = authority.exchanger();
    let (cert, key, _) = stranger.issue("sender.test");
    let foreign = exchanger
        .identity(SecretId::random(), &cert, key.as_bytes())
        .unwrap();
    for identity in [None, Some(&foreign)] {
        let outcome = as_client(&exchanger, &url, identity).await;
        assert_eq!(outcome.fault(), Some(Fault::Receiver), "{outcome:?}");
        assert_eq!(outcome.class(), ErrorClass::Tls, "{outcome:?}");
        assert!(outcome.error().starts_with("TLS: "), "{}", outcome.error());
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_receiver_that_refuses_before_the_request_goes_out_is_understood() {
    let authority = Authority::new();
    let (gone, mut refused) = tokio::sync::mpsc::channel(1);
    let acceptor = authority.acceptor();
    let receiver = Receiver::start(move |tcp| {
        let (acceptor, gone) = (acceptor.clone(), gone.clone());
        async move {
            assert!(acceptor.accept(tcp).await.is_err());
            gone.send(()).await.unwrap();
        }
    })
    .await;
    let exchanger = authority.exchanger();
    let request = request(format!("https://hook.test:{}/", receiver.address.port()));
    let (deadline, mut phases) = (Instant::now() + Duration::from_secs(5), Phases::default());
    let shared = exchanger.network();
    let (url, addresses) = shared.vet(&request.url, deadline, &mut phases).await.unwrap();
    let open = shared.open(&url, &addresses, None, deadline, &mut phases);
    let connection = open.await.unwrap();
    refused.recv().await.unwrap();
    // What the receiver said on its way out was read, and forgotten, by the connection's task.
    while !connection.sender.is_closed() {
        tokio::task::yield_now().await;
    }
    let key = PoolKey {
        endpoint: request.endpoint,
        origin: url.origin(),
        identity: None,
    };
    let message = send::message(&url, &request).unwrap();
    let sent = shared.send(connection, &key, message, Box::pin(go()), deadline, false);
    let Ok(Err(unsent)) = sent.await else {
        panic!("nothing can be sent over a connection that is gone");
    };
    assert_eq!(unsent.failure.class, ErrorClass::Tls, "{}", unsent.failure.text);
    assert!(
        unsent.failure.text.starts_with("TLS: "),
        "{}",
        unsent.failure.text
    );
}

#[tokio::test]
async fn a_certificate_and_a_key_that_do_not_fit_make_no_identity() {
    let authority = Authority::new();
    let exchanger = authority.exchanger();
    let ((cert, key, _), (_, other, _)) = (authority.issue("a.test"), authority.issue("b.test"));
    for (cert, key) in [(&cert, &other), (&cert, &cert), (&key, &key)] {
        assert!(
            exchanger
                .identity(SecretId::random(), cert, key.as_bytes())
                .is_err()
        );
    }
}
