//! Exchanges through egress proxies: each kind speaks its protocol, and is asked for vetted addresses only.

use std::sync::Mutex;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use super::receiver::Certificate;
use super::*;

/// What a proxy was asked for: its protocol's words, as text.
type Heard = Arc<Mutex<Vec<String>>>;

fn through(proxy: &str, ca: Option<&Certificate>, answers: &[&str]) -> Exchanger {
    let ips = answers.iter().map(|ip| ip.parse().unwrap()).collect();
    let resolver = ScriptedResolver::default().with("hook.test", Ok(ips));
    let config = Config {
        ca_bundle: ca.map(|ca| ca.bundle.clone()),
        egress_proxy: Some(EgressProxy::parse(proxy).unwrap()),
        ..Config::default()
    };
    Exchanger::new(config, Targets::new(loopback(), Arc::new(resolver))).unwrap()
}

/// Reads a CONNECT and opens the way it asks for, or answers with something else.
async fn http_proxy<S: AsyncRead + AsyncWrite + Unpin>(mut client: S, heard: Heard, answer: Option<&str>) {
    let Some(request) = read_request(&mut client).await else {
        return;
    };
    let target = request.split(' ').nth(1).unwrap().to_owned();
    heard.lock().unwrap().push(request);
    if let Some(answer) = answer {
        client.write_all(answer.as_bytes()).await.unwrap();
        return;
    }
    let mut upstream = TcpStream::connect(target).await.unwrap();
    client
        .write_all(b"HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\n")
        .await
        .unwrap();
    drop(copy_bidirectional(&mut client, &mut upstream).await);
}

/// A SOCKS5 proxy that wants this user and password, if any, and replies with this code.
async fn socks5_proxy(mut client: TcpStream, heard: Heard, login: Option<(&str, &str)>, reply: u8) {
    let mut greeting = [0; 2];
    client.read_exact(&mut greeting).await.unwrap();
    let mut methods = vec![0; usize::from(greeting[1])];
    client.read_exact(&mut methods).await.unwrap();
    let method = if login.is_some() { 2 } else { 0 };
    if !methods.contains(&method) {
        client.write_all(&[5, 0xff]).await.unwrap();
        return;
    }
    client.write_all(&[5, method]).await.unwrap();
    if let Some((user, password)) = login {
        assert_eq!(client.read_u8().await.unwrap(), 1);
        let mut given = Vec::new();
        for _ in 0..2 {
            let mut text = vec![0; usize::from(client.read_u8().await.unwrap())];
            client.read_exact(&mut text).await.unwrap();
            given.push(String::from_utf8(text).unwrap());
        }
        let good = given == [user, password];
        client.write_all(&[1, u8::from(!good)]).await.unwrap();
        if !good {
            return;
        }
    }
    let mut head = [0; 4];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(head, [5, 1, 0, 1], "an IPv4 address, not a name");
    let mut address = [0; 6];
    client.read_exact(&mut address).await.unwrap();
    let ip = IpAddr::from([address[0], address[1], address[2], address[3]]);
    let target = SocketAddr::new(ip, u16::from_be_bytes([address[4], address[5]]));
    heard.lock().unwrap().push(target.to_string());
    client
        .write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    if reply == 0 {
        let mut upstream = TcpStream::connect(target).await.unwrap();
        drop(copy_bidirectional(&mut client, &mut upstream).await);
    }
}

async fn http_proxy_on_loopback(heard: &Heard) -> Receiver {
    let heard = Arc::clone(heard);
    Receiver::start(move |tcp| http_proxy(tcp, Arc::clone(&heard), None)).await
}

#[tokio::test]
async fn an_http_proxy_is_asked_for_the_vetted_address_and_checks_nothing_of_the_receivers_tls() {
    let certificate = Certificate::of(&["hook.test"]);
    let receiver = Receiver::answering_tls(&certificate, OK).await;
    let heard = Heard::default();
    let proxy = http_proxy_on_loopback(&heard).await;
    let url = format!("http://user:hunter2@{}", proxy.address);
    let exchanger = through(&url, Some(&certificate), &["127.0.0.1"]);
    for turn in 0..3 {
        let url = format!("https://hook.test:{}/", receiver.address.port());
        let outcome = attempt(&exchanger, url).await;
        assert!(outcome.is_success(), "{outcome:?}");
        assert_eq!(outcome.reused, turn > 0, "the way is kept");
    }
    let asked = heard.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    let target = receiver.address;
    assert!(
        asked[0].starts_with(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n")),
        "{asked:?}"
    );
    assert!(
        asked[0].contains("\r\nProxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_proxy_over_tls_carries_plain_and_tls_receivers() {
    let (ours, theirs) = (Certificate::of(&["127.0.0.1"]), Certificate::of(&["hook.test"]));
    let both =
        std::fs::read_to_string(&ours.bundle).unwrap() + &std::fs::read_to_string(&theirs.bundle).unwrap();
    std::fs::write(&ours.bundle, both).unwrap();
    let (plain, tls) = (
        Receiver::answering(OK).await,
        Receiver::answering_tls(&theirs, OK).await,
    );
    let (heard, acceptor) = (Heard::default(), ours.acceptor());
    let noted = Arc::clone(&heard);
    let proxy = Receiver::start(move |tcp| {
        let (acceptor, heard) = (acceptor.clone(), Arc::clone(&noted));
        async move { http_proxy(acceptor.accept(tcp).await.unwrap(), heard, None).await }
    })
    .await;
    let exchanger = through(&format!("https://{}", proxy.address), Some(&ours), &["127.0.0.1"]);
    for url in [
        format!("http://hook.test:{}/", plain.address.port()),
        format!("https://hook.test:{}/", tls.address.port()),
    ] {
        for reused in [false, true] {
            let outcome = attempt(&exchanger, url.clone()).await;
            assert!(
                outcome.is_success() && outcome.reused == reused,
                "{url}: {outcome:?}"
            );
        }
    }
    let asked = heard.lock().unwrap().clone();
    assert!(!asked.concat().contains("Proxy-Authorization"), "{asked:?}");
    assert_eq!(asked.len(), 2);
}

#[tokio::test]
async fn a_socks5_proxy_is_asked_for_the_vetted_address_with_and_without_a_login() {
    for (login, user) in [(None, ""), (Some(("user", "hunter2")), "user:hunter2@")] {
        let receiver = Receiver::answering(OK).await;
        let heard = Heard::default();
        let noted = Arc::clone(&heard);
        let proxy = Receiver::start(move |tcp| socks5_proxy(tcp, Arc::clone(&noted), login, 0)).await;
        let exchanger = through(&format!("socks5://{user}{}", proxy.address), None, &["127.0.0.1"]);
        let outcome = attempt(
            &exchanger,
            format!("http://hook.test:{}/", receiver.address.port()),
        )
        .await;
        assert!(outcome.is_success(), "{outcome:?}");
        assert_eq!(*heard.lock().unwrap(), [receiver.address.to_string()]);
    }
}

#[tokio::test]
async fn a_private_target_is_refused_before_any_proxy_is_asked() {
    let heard = Heard::default();
    let proxy = http_proxy_on_loopback(&heard).await;
    let exchanger = through(
        &format!("http://{}", proxy.address),
        None,
        &["127.0.0.1", "10.0.0.7"],
    );
    for url in ["https://hook.test/", "https://10.0.0.7/", "https://127.0.0.1:22/"] {
        let outcome = attempt(&exchanger, url).await;
        assert_eq!(outcome.class(), ErrorClass::Blocked, "{url}: {outcome:?}");
    }
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn a_proxy_that_fails_is_never_gone_around_and_is_not_the_receivers_fault() {
    let receiver = Receiver::answering(OK).await;
    let url = format!("http://hook.test:{}/", receiver.address.port());
    for (answer, class, fault) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            ErrorClass::Connect,
            Fault::Ours,
        ),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", ErrorClass::Connect, Fault::Ours),
        (
            "HTTP/1.1 502 Bad Gateway\r\n\r\n",
            ErrorClass::Connect,
            Fault::Network,
        ),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n", ErrorClass::Connect, Fault::Ours),
        ("", ErrorClass::Connect, Fault::Ours),
    ] {
        let proxy = Receiver::start(move |tcp| http_proxy(tcp, Heard::default(), Some(answer))).await;
        let exchanger = through(
            &format!("http://u:hunter2@{}", proxy.address),
            None,
            &["127.0.0.1"],
        );
        let outcome = attempt(&exchanger, url.clone()).await;
        assert_eq!(
            (outcome.class(), outcome.fault()),
            (class, Some(fault)),
            "{answer}: {outcome:?}"
        );
        let told = outcome.error();
        assert!(!told.contains("hunter2") && !told.contains("127.0.0.1"), "{told}");
    }
    let endless =
        Receiver::start(|mut tcp| async move { while tcp.write_all(&[b'x'; 4096]).await.is_ok() {} }).await;
    let outcome = attempt(
        &through(&format!("http://{}", endless.address), None, &["127.0.0.1"]),
        url.clone(),
    )
    .await;
    assert_eq!(
        (outcome.class(), outcome.fault()),
        (ErrorClass::Connect, Some(Fault::Ours))
    );
    let gone = Receiver::answering(OK).await.address;
    let outcome = attempt(
        &through(&format!("http://{gone}"), None, &["127.0.0.1"]),
        url.clone(),
    )
    .await;
    assert_eq!(
        (outcome.class(), outcome.fault()),
        (ErrorClass::Connect, Some(Fault::Ours))
    );
    assert_eq!(receiver.connections(), 0, "nothing went past a proxy");
}

#[tokio::test]
async fn a_socks5_proxys_refusal_is_told_by_its_reason() {
    let receiver = Receiver::answering(OK).await;
    let url = format!("http://hook.test:{}/", receiver.address.port());
    for (reply, class, fault) in [
        (1, ErrorClass::Connect, Fault::Network),
        (2, ErrorClass::Connect, Fault::Ours),
        (5, ErrorClass::Refused, Fault::Receiver),
    ] {
        let proxy = Receiver::start(move |tcp| socks5_proxy(tcp, Heard::default(), None, reply)).await;
        let exchanger = through(&format!("socks5://{}", proxy.address), None, &["127.0.0.1"]);
        let outcome = attempt(&exchanger, url.clone()).await;
        assert_eq!(
            (outcome.class(), outcome.fault()),
            (class, Some(fault)),
            "{reply}: {outcome:?}"
        );
    }
    let wants = Receiver::start(|tcp| socks5_proxy(tcp, Heard::default(), Some(("user", "other")), 0)).await;
    for login in ["", "user:hunter2@"] {
        let exchanger = through(
            &format!("socks5://{login}{}", wants.address),
            None,
            &["127.0.0.1"],
        );
        let outcome = attempt(&exchanger, url.clone()).await;
        assert_eq!(outcome.fault(), Some(Fault::Ours), "{outcome:?}");
    }
    assert_eq!(receiver.connections(), 0, "nothing went past a proxy");
}
