//! What is refused and what is let through, row by row.

use std::net::IpAddr;
use std::sync::Arc;

use super::*;

fn policy(allow: &[&str], deny: &[&str]) -> TargetPolicy {
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
    TargetPolicy::new(nets(allow), nets(deny))
}

fn public() -> TargetPolicy {
    policy(&[], &[])
}

fn ips(list: &[&str]) -> Result<Vec<IpAddr>, ResolveError> {
    Ok(list.iter().map(|ip| ip.parse().unwrap()).collect())
}

async fn vet(policy: TargetPolicy, url: &str, answers: &[&str]) -> Result<Vec<String>, TargetError> {
    let resolver = ScriptedResolver::default().with("hook.example.com", ips(answers));
    let targets = Targets::new(policy, Arc::new(resolver));
    let url = targets.check_url(url)?;
    Ok(targets.vet(&url).await?.iter().map(ToString::to_string).collect())
}

#[track_caller]
fn refused(policy: &TargetPolicy, url: &str) -> TargetError {
    match policy.check_url(url) {
        Ok(url) => panic!("{url:?} was let through"),
        Err(error) => error,
    }
}

#[test]
fn a_public_https_url_is_let_through_with_its_path_and_query() {
    let url = public()
        .check_url("https://Hook.Example.com:8443/a/b?c=d%20e")
        .unwrap();
    assert_eq!(url.host(), &TargetHost::Name("hook.example.com".into()));
    assert_eq!((url.port(), url.path_and_query()), (8443, "/a/b?c=d%20e"));
    assert_eq!(url.authority(), "hook.example.com:8443");
    assert_eq!(url.origin(), "https://hook.example.com:8443");
    assert_eq!(
        public()
            .check_url("https://hook.example.com:443")
            .unwrap()
            .authority(),
        "hook.example.com"
    );
    assert_eq!(
        public()
            .check_url("https://hook.example.com")
            .unwrap()
            .path_and_query(),
        "/"
    );
}

#[test]
fn every_special_address_is_refused_by_its_rule() {
    use AddressRule::*;
    for (address, rule) in [
        ("0.0.0.0", Unspecified),
        ("0.1.2.3", Unspecified),
        ("10.0.0.1", Private),
        ("10.255.255.255", Private),
        ("100.64.0.1", Private),
        ("100.127.255.255", Private),
        ("127.0.0.1", Loopback),
        ("127.255.255.254", Loopback),
        ("169.254.1.1", LinkLocal),
        ("172.16.0.1", Private),
        ("172.31.255.255", Private),
        ("192.0.0.8", Reserved),
        ("192.0.2.1", Documentation),
        ("192.88.99.1", Reserved),
        ("192.168.1.1", Private),
        ("198.18.0.1", Documentation),
        ("198.19.255.255", Documentation),
        ("198.51.100.7", Documentation),
        ("203.0.113.7", Documentation),
        ("224.0.0.1", Multicast),
        ("239.255.255.255", Multicast),
        ("240.0.0.1", Reserved),
        ("255.255.255.255", Multicast),
        ("169.254.169.254", Platform),
        ("168.63.129.16", Platform),
        ("100.100.100.200", Platform),
        ("[fd00:ec2::254]", Platform),
        ("[::ffff:169.254.169.254]", Platform),
        ("[64:ff9b::168.63.129.16]", Platform),
        ("[::]", Unspecified),
        ("[::1]", Loopback),
        ("[::ffff:127.0.0.1]", Loopback),
        ("[::ffff:10.0.0.1]", Private),
        ("[::10.0.0.1]", Transition),
        ("[::8.8.8.8]", Transition),
        ("[64:ff9b::10.0.0.1]", Private),
        ("[64:ff9b:1::8.8.8.8]", Transition),
        ("[2002:0a00:0001::1]", Transition),
        ("[2001:0:4136:e378:8000:63bf:3fff:fdd2]", Transition),
        ("[2001:2::1]", Reserved),
        ("[2001:db8::1]", Documentation),
        ("[3fff::1]", Documentation),
        ("[fc00::1]", Private),
        ("[fe80::1]", LinkLocal),
        ("[fec0::1]", Private),
        ("[ff02::1]", Multicast),
        ("[100::1]", Reserved),
        ("[5f00::1]", Reserved),
        ("[4000::1]", Reserved),
    ] {
        let error = refused(&public(), &format!("https://{address}/"));
        assert_eq!(error, TargetError::Address { address_rule: rule }, "{address}");
    }
}

#[test]
fn public_addresses_are_let_through_also_when_written_as_ipv6() {
    for address in [
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.1",
        "172.32.0.1",
        "223.255.255.255",
        "[2606:4700::1111]",
    ] {
        public().check_url(&format!("https://{address}/")).unwrap();
    }
    let mapped = public().check_url("https://[::ffff:8.8.8.8]/").unwrap();
    assert_eq!(mapped.host(), &TargetHost::Ip("8.8.8.8".parse().unwrap()));
    public().check_url("https://[64:ff9b::8.8.8.8]/").unwrap();
}

#[test]
fn hosts_in_decimal_octal_and_hex_are_the_address_they_mean() {
    for host in [
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0x7f.1",
        "127.1",
        "127.0.0.1.",
        "①②⑦.0.0.1",
        "%31%32%37.1",
    ] {
        let error = refused(&public(), &format!("https://{host}/"));
        assert_eq!(
            error,
            TargetError::Address {
                address_rule: AddressRule::Loopback
            },
            "{host}"
        );
    }
}

#[test]
fn user_info_is_refused_in_every_form() {
    for url in [
        "https://a@b.example/",
        "https://a:b@b.example/",
        "https://:b@b.example/",
        "https://@b.example/",
    ] {
        assert_eq!(refused(&public(), url), TargetError::UserInfo, "{url}");
    }
    public().check_url("https://b.example/@a?x=@y").unwrap();
}

#[test]
fn ports_of_other_services_are_refused() {
    for port in [22, 25, 80, 442, 444, 1023] {
        assert_eq!(
            refused(&public(), &format!("https://b.example:{port}/")),
            TargetError::Port { port }
        );
    }
    assert_eq!(
        refused(&public(), "https://b.example:0/"),
        TargetError::Port { port: 0 }
    );
    for port in [443, 1024, 65535] {
        public().check_url(&format!("https://b.example:{port}/")).unwrap();
    }
    assert_eq!(
        refused(&policy(&["127.0.0.0/8"], &[]), "http://127.0.0.1:443/"),
        TargetError::Port { port: 443 }
    );
}

#[test]
fn malformed_urls_are_refused() {
    for url in [
        "",
        "hook.example.com",
        "https://",
        "https:///",
        "https://.",
        "https://a..b/",
        "https://a../",
        "https://[::1",
        "https://a b/",
        "https://a.example/\n",
        " https://a.example/",
        "https://a.example/\u{0}",
        "https://a.example:99999/",
    ] {
        assert!(
            matches!(refused(&public(), url), TargetError::Malformed { .. }),
            "{url:?}"
        );
    }
    assert_eq!(refused(&public(), "https://a.example/#x"), TargetError::Fragment);
    let long = format!("https://a.example/{}", "a".repeat(2048));
    assert!(matches!(refused(&public(), &long), TargetError::TooLong { .. }));
    for url in [
        "ftp://a.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://a.example/",
    ] {
        assert_eq!(refused(&public(), url), TargetError::Scheme, "{url}");
    }
}

#[test]
fn a_trailing_dot_and_an_idna_name_have_one_spelling() {
    let dotted = public().check_url("https://hook.example.com./").unwrap();
    assert_eq!(dotted.host(), &TargetHost::Name("hook.example.com".into()));
    assert_eq!(dotted.authority(), "hook.example.com");
    let idna = public().check_url("https://BÜCHER.example/").unwrap();
    assert_eq!(idna.host(), &TargetHost::Name("xn--bcher-kva.example".into()));
}

#[test]
fn our_own_authority_is_refused_however_it_is_spelled() {
    let own = public()
        .with_own_url(&"https://qr.example.com".parse().unwrap())
        .with_own_url(&"https://bücher.example:8443".parse().unwrap());
    for url in [
        "https://qr.example.com/",
        "https://QR.EXAMPLE.COM.:443/x",
        "https://xn--bcher-kva.example:8443/",
    ] {
        assert_eq!(refused(&own, url), TargetError::OwnAuthority, "{url}");
    }
    own.check_url("https://qr.example.com:8443/").unwrap();
}

#[tokio::test]
async fn an_address_we_listen_on_is_refused_by_any_name() {
    for own in ["127.0.0.1:7070", "0.0.0.0:7070"] {
        let policy = || policy(&["127.0.0.0/8"], &[]).with_own_address(own.parse().unwrap());
        assert_eq!(
            refused(&policy(), "http://127.0.0.1:7070/"),
            TargetError::OwnAuthority
        );
        let error = vet(policy(), "http://hook.example.com:7070/", &["127.0.0.1"])
            .await
            .unwrap_err();
        assert_eq!(error, TargetError::OwnAuthority);
        vet(policy(), "http://hook.example.com:7071/", &["127.0.0.1"])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn one_bad_answer_among_many_refuses_the_name() {
    for bad in [
        "10.0.0.1",
        "::1",
        "::ffff:192.168.0.1",
        "64:ff9b::a00:1",
        "169.254.169.254",
        "168.63.129.16",
    ] {
        let error = vet(
            public(),
            "https://hook.example.com/",
            &["8.8.8.8", bad, "2606:4700::1"],
        )
        .await
        .unwrap_err();
        assert!(matches!(error, TargetError::Answer { .. }), "{bad}: {error:?}");
    }
}

#[tokio::test]
async fn an_ipv4_mapped_answer_is_judged_as_the_address_it_carries() {
    let mapped = |v4: &str| format!("::ffff:{v4}");
    for private in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1"] {
        let refused = vet(public(), "https://hook.example.com/", &[&mapped(private)]).await;
        assert!(
            matches!(refused, Err(TargetError::Answer { .. })),
            "{private}: {refused:?}"
        );
    }
    let vetted = vet(public(), "https://hook.example.com/", &[&mapped("93.184.216.34")]).await;
    assert_eq!(vetted.unwrap(), ["93.184.216.34:443"], "and connected to as that");
}

#[tokio::test]
async fn a_nat64_answer_is_judged_as_the_address_it_carries() {
    for private in [
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b::127.0.0.1",
    ] {
        let refused = vet(public(), "https://hook.example.com/", &[private]).await;
        assert!(
            matches!(refused, Err(TargetError::Answer { .. })),
            "{private}: {refused:?}"
        );
    }
    let vetted = vet(public(), "https://hook.example.com/", &["64:ff9b::93.184.216.34"]).await;
    assert_eq!(vetted.unwrap(), ["[64:ff9b::5db8:d822]:443"]);
}

#[tokio::test]
async fn a_refused_answer_is_not_shown_to_the_tenant() {
    let error = vet(public(), "https://hook.example.com/", &["10.11.12.13"])
        .await
        .unwrap_err();
    assert_eq!(
        error,
        TargetError::Answer {
            address_rule: AddressRule::Private
        }
    );
    let text = error.to_string();
    assert!(!text.contains("10.11") && !text.contains("private"), "{text}");
}

#[tokio::test]
async fn good_answers_are_what_is_connected_to_each_once() {
    let vetted = vet(
        public(),
        "https://hook.example.com/",
        &["8.8.8.8", "::ffff:8.8.8.8", "2606:4700::1"],
    )
    .await
    .unwrap();
    assert_eq!(vetted, ["8.8.8.8:443", "[2606:4700::1]:443"]);
}

#[tokio::test]
async fn a_name_that_turns_private_is_refused_the_second_time() {
    let resolver = ScriptedResolver::default()
        .with("hook.example.com", ips(&["8.8.8.8"]))
        .with("hook.example.com", ips(&["192.168.0.1"]));
    let targets = Targets::new(public(), Arc::new(resolver));
    let url = targets.check_url("https://hook.example.com/").unwrap();
    targets.vet(&url).await.unwrap();
    assert!(matches!(targets.vet(&url).await, Err(TargetError::Answer { .. })));
}

#[tokio::test]
async fn plain_http_needs_all_answers_inside_the_allowed_networks() {
    let allow = || policy(&["10.0.0.0/8"], &[]);
    vet(
        allow(),
        "http://hook.example.com:8080/",
        &["10.0.0.1", "10.0.0.2"],
    )
    .await
    .unwrap();
    vet(allow(), "http://hook.example.com/", &["10.0.0.1"])
        .await
        .unwrap();
    let mixed = vet(allow(), "http://hook.example.com/", &["10.0.0.1", "8.8.8.8"])
        .await
        .unwrap_err();
    assert_eq!(mixed, TargetError::Plaintext);
    vet(allow(), "https://hook.example.com/", &["10.0.0.1", "8.8.8.8"])
        .await
        .unwrap();
    assert_eq!(refused(&allow(), "http://8.8.8.8/"), TargetError::Plaintext);
}

#[tokio::test]
async fn deny_and_platform_addresses_win_over_allow() {
    let policy = || policy(&["0.0.0.0/0", "::/0"], &["10.0.0.0/8", "8.8.8.0/24"]);
    for (url, rule) in [
        ("https://10.0.0.1/", AddressRule::Denied),
        ("https://[::ffff:10.0.0.1]/", AddressRule::Denied),
        ("https://[64:ff9b::8.8.8.8]/", AddressRule::Denied),
        ("https://8.8.8.8/", AddressRule::Denied),
        ("https://169.254.169.254/", AddressRule::Platform),
    ] {
        assert_eq!(
            refused(&policy(), url),
            TargetError::Address { address_rule: rule },
            "{url}"
        );
    }
    policy().check_url("http://192.168.0.1/").unwrap();
}

#[tokio::test]
async fn localhost_is_loopback_without_a_name_server() {
    let targets = Targets::new(
        policy(&["127.0.0.0/8"], &[]),
        Arc::new(SystemResolver::from_system()),
    );
    for host in ["localhost", "LOCALHOST.", "app.localhost"] {
        let url = targets.check_url(&format!("http://{host}:8080/")).unwrap();
        let vetted = targets.vet(&url).await.unwrap();
        assert_eq!(
            vetted,
            ["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()]
        );
    }
    let refused = Targets::new(public(), Arc::new(SystemResolver::from_system()));
    let url = refused.check_url("https://localhost/").unwrap();
    assert!(matches!(refused.vet(&url).await, Err(TargetError::Answer { .. })));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_check_panic(text in "\\PC{0,64}", tail in "[a-z0-9.:@/\\[\\]%#?-]{0,48}") {
        let everything = policy(&["0.0.0.0/0", "::/0"], &[]);
        drop(everything.check_url(&text));
        drop(everything.check_url(&format!("https://{tail}")));
    }

    #[test]
    fn a_mapped_address_is_judged_as_the_address_it_carries(bits in proptest::num::u32::ANY) {
        let v4 = std::net::Ipv4Addr::from_bits(bits);
        let plain = public().check_url(&format!("https://{v4}/")).is_ok();
        let mapped = public().check_url(&format!("https://[{}]/", v4.to_ipv6_mapped())).is_ok();
        let nat64 = public().check_url(&format!("https://[64:ff9b::{v4}]/")).is_ok();
        proptest::prop_assert_eq!((plain, plain), (mapped, nat64));
    }
}
