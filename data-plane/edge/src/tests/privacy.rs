//! Tests of what is not kept: addresses, referers' queries, and all but a little of those who ask for privacy.

use qrelay_store::model::IpPrivacy;
use serde_json::{Value, json};

use super::fixture::Fixture;
use crate::{Config, PeerSource, TrustedProxies};

/// Every client of these tests comes from here, said by a trusted proxy.
const CLIENT: &str = "203.0.113.77";

fn behind_proxy() -> Config {
    let loopback = "127.0.0.0/8".parse().unwrap();
    Config {
        trusted_proxies: TrustedProxies::new([loopback]),
        ..Config::default()
    }
}

async fn scan_of(ip_privacy: IpPrivacy, headers: &str) -> (Value, Vec<u8>) {
    let edge = Fixture::start_with(behind_proxy(), |tenant| tenant.ip_privacy = ip_privacy).await;
    edge.add_code("abc", "https://example.com/");
    let answer = edge
        .request(&format!(
            "GET /abc?utm_source=x HTTP/1.1\r\nHost: QR.example\r\nX-Forwarded-For: {CLIENT}\r\n{headers}\r\n"
        ))
        .await;
    assert_eq!(answer.status, 302);
    let (_, scan) = edge.store.scans().pop().unwrap();
    (scan, edge.store.batches().pop().unwrap().body.to_vec())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn the_address_is_not_written_in_any_form_unless_the_tenant_wants_its_network() {
    let (scan, bytes) = scan_of(IpPrivacy::Drop, "").await;
    assert_eq!(scan["network"], Value::Null);
    assert!(!contains(&bytes, b"203.0.113"));
    assert!(!contains(&bytes, &[203, 0, 113, 77]) && !contains(&bytes, &[77, 113, 0, 203]));
    assert!(!contains(&bytes, b"127.0.0.1"));
    let (scan, bytes) = scan_of(IpPrivacy::Truncate, "").await;
    assert_eq!(scan["network"], "203.0.113.0/24");
    assert!(!contains(&bytes, CLIENT.as_bytes()));
}

#[tokio::test]
async fn a_scan_keeps_what_was_said_of_it_and_no_secrets_of_the_referer() {
    let (scan, bytes) = scan_of(
        IpPrivacy::Drop,
        "Referer: https://user:hunter2@example.org/page?token=hunter3#hunter4\r\nAccept-Language: fr-CA,fr;q=0.8\r\n\
         User-Agent: curl/8.5.0\r\nCookie: hunter5\r\nAuthorization: Basic hunter6\r\n",
    )
    .await;
    assert_eq!(scan["referer"], "https://example.org/page");
    assert_eq!(scan["accept_language"], "fr-CA,fr;q=0.8");
    assert_eq!(scan["query"], "utm_source=x");
    assert_eq!(scan["host"], "qr.example");
    assert_eq!(scan["user_agent"], "curl/8.5.0");
    assert_eq!(scan["classification"], "tool");
    assert!(!contains(&bytes, b"hunter"));
}

#[tokio::test]
async fn global_privacy_control_keeps_country_and_device_type_only() {
    let headers = "Sec-GPC: 1\r\nReferer: https://example.org/\r\nAccept-Language: fr\r\n\
                   User-Agent: Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) Mobile/15E148 Safari/604.1\r\n";
    let (scan, _) = scan_of(IpPrivacy::Truncate, headers).await;
    let kept: Vec<_> = scan
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, _)| key.as_str())
        .collect();
    let always = [
        "tenant",
        "code",
        "code_version",
        "at",
        "classification",
        "classification_reason",
    ];
    assert_eq!(
        kept,
        [&always[..], &["device_type"]].concat(),
        "no database gives a country here"
    );
    assert_eq!(scan["device_type"], "mobile");
    let (scan, _) = scan_of(IpPrivacy::Drop, "Sec-GPC: 0\r\nReferer: https://example.org/\r\n").await;
    assert_eq!(scan["referer"], "https://example.org/");
}

#[tokio::test]
async fn a_database_gives_the_place_of_which_global_privacy_control_keeps_the_country() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), crate::geo::tests::sample_bytes()).unwrap();
    let config = Config {
        geoip_db: Some(file.path().to_owned()),
        ..behind_proxy()
    };
    let edge = Fixture::start_with(config, |_| {}).await;
    edge.add_code("abc", "https://example.com/");
    for (headers, expected) in [
        ("", json!(["CA", "Quebec", "Montreal"])),
        ("Sec-GPC: 1\r\n", json!(["CA", null, null])),
    ] {
        let request = format!("GET /abc HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {CLIENT}\r\n{headers}\r\n");
        assert_eq!(edge.request(&request).await.status, 302);
        let (_, scan) = edge.store.scans().pop().unwrap();
        assert_eq!(json!([scan["country"], scan["region"], scan["city"]]), expected);
    }
}

#[tokio::test]
async fn long_texts_are_cut() {
    let headers = format!(
        "Referer: https://example.org/{}\r\nAccept-Language: {}\r\nUser-Agent: {}\r\n",
        "r".repeat(3_000),
        "l".repeat(3_000),
        "u".repeat(3_000)
    );
    let (scan, _) = scan_of(IpPrivacy::Drop, &headers).await;
    let lengths =
        ["referer", "accept_language", "user_agent"].map(|field| scan[field].as_str().unwrap().len());
    assert_eq!(json!(lengths), json!([1024, 128, 512]));
}

#[tokio::test]
async fn with_the_proxy_protocol_the_header_is_required_and_believed() {
    let config = Config {
        peer_source: PeerSource::ProxyProtocol,
        ..Config::default()
    };
    let edge = Fixture::start_with(config, |tenant| tenant.ip_privacy = IpPrivacy::Truncate).await;
    edge.add_code("abc", "https://example.com/");
    let request = "GET /abc HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = edge.client().await;
    client
        .send(format!("PROXY TCP4 198.51.100.7 127.0.0.1 1234 80\r\n{request}{request}").as_bytes())
        .await;
    assert_eq!(client.answer().await.status, 302);
    assert_eq!(client.answer().await.status, 302);
    let (_, scan) = edge.store.scans().pop().unwrap();
    assert_eq!(scan["network"], "198.51.100.0/24");
    let mut bare = edge.client().await;
    bare.send(request.as_bytes()).await;
    assert_eq!(bare.end().await, 0, "no answer without the header");
    assert_eq!(edge.store.scans().len(), 2);
}
