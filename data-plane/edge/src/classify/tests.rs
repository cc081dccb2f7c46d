//! Tests of classification as a whole: from a request's headers to the verdict.

use http::HeaderValue;

use super::*;
use Classification::{Crawler, Human, Preview, Scanner, Tool};

const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                      Version/18.5 Mobile/15E148 Safari/604.1";

fn classifier() -> Classifier {
    Classifier::new(1 << 20, Arc::new(Measures::register()))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

async fn verdict_of(method: Method, headers: &HeaderMap) -> Verdict {
    let classifier = classifier();
    let facts = classifier.facts(headers).await;
    classify(&method, headers, &facts)
}

/// User agents as they are met, and what they are.
const USER_AGENTS: &[(&str, Classification)] = &[
    (IPHONE, Human),
    (
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36",
        Human,
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/22F76 Instagram 390.0.0.28.85",
        Human,
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/22F76 [FBAN/FBIOS;FBAV/520.0.0.38.101]",
        Human,
    ),
    ("WhatsApp/2.23.20.0 A", Preview),
    (
        "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
        Preview,
    ),
    ("Twitterbot/1.0", Preview),
    (
        "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
        Preview,
    ),
    ("TelegramBot (like TwitterBot)", Preview),
    (
        "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
        Preview,
    ),
    (
        "LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)",
        Preview,
    ),
    (
        "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5",
        Preview,
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_1) AppleWebKit/601.2.4 (KHTML, like Gecko) Version/9.0.1 Safari/601.2.4 facebookexternalhit/1.1 Facebot Twitterbot/1.0",
        Preview,
    ),
    (
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        Crawler,
    ),
    (
        "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
        Crawler,
    ),
    (
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko); compatible; GPTBot/1.2; +https://openai.com/gptbot",
        Crawler,
    ),
    (
        "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
        Scanner,
    ),
    (
        "Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 5.1; Trident/4.0; Nessus)",
        Scanner,
    ),
    ("BarracudaCentral/1.0", Scanner),
    ("kube-probe/1.30", Scanner),
    ("curl/8.5.0", Tool),
    ("Wget/1.21.3", Tool),
    ("python-requests/2.32.3", Tool),
    ("Go-http-client/1.1", Tool),
    ("okhttp/4.12.0", Tool),
    ("Java/17.0.9", Tool),
    (
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/140.0.0.0 Safari/537.36",
        Tool,
    ),
    (
        "Dalvik/2.1.0 (Linux; U; Android 13; Pixel 7 Build/TQ3A.230805.001)",
        Tool,
    ),
];

async fn check(classifier: &Classifier, user_agent: &str, expected: Classification) {
    let headers = headers(&[("user-agent", user_agent)]);
    let facts = classifier.facts(&headers).await;
    let verdict = classify(&Method::GET, &headers, &facts);
    assert_eq!(verdict.classification, expected, "{user_agent}");
    assert!(!verdict.reason.is_empty());
    let is_bot = facts.device_type == Some(DeviceType::Bot);
    assert_eq!(is_bot, expected != Human, "{user_agent}");
}

#[tokio::test]
async fn a_user_agent_decides_between_person_and_machine() {
    let classifier = classifier();
    for (user_agent, expected) in USER_AGENTS {
        check(&classifier, user_agent, *expected).await;
    }
}

#[tokio::test]
async fn a_request_that_only_prefetches_is_no_visit() {
    for (name, value) in [
        ("sec-purpose", "prefetch"),
        ("sec-purpose", "prefetch;prerender"),
        ("sec-purpose", "prefetch; anonymous-client-ip"),
        ("purpose", "prefetch"),
        ("purpose", "Preview"),
        ("x-moz", "prefetch"),
    ] {
        let verdict = verdict_of(Method::GET, &headers(&[("user-agent", IPHONE), (name, value)])).await;
        assert_eq!(
            verdict.classification,
            Classification::Prefetch,
            "{name}: {value}"
        );
    }
    let verdict = verdict_of(
        Method::GET,
        &headers(&[("user-agent", IPHONE), ("purpose", "prefetching")]),
    )
    .await;
    assert_eq!(verdict.classification, Classification::Human);
}

#[tokio::test]
async fn a_head_is_a_head_whoever_sends_it() {
    let verdict = verdict_of(
        Method::HEAD,
        &headers(&[("user-agent", "curl/8"), ("x-moz", "prefetch")]),
    )
    .await;
    assert_eq!(verdict.classification, Classification::Head);
}

#[tokio::test]
async fn without_a_user_agent_it_is_a_tool() {
    for headers in [headers(&[]), headers(&[("user-agent", " ")])] {
        let verdict = verdict_of(Method::GET, &headers).await;
        assert_eq!(verdict.classification, Classification::Tool);
    }
}

#[tokio::test]
async fn a_long_user_agent_is_cut_between_characters() {
    let classifier = classifier();
    let mut value = b"Mozilla/5.0 ".to_vec();
    value.extend("\u{e9}".repeat(2_000).as_bytes());
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_bytes(&value).unwrap());
    let facts = classifier.facts(&headers).await;
    let text = facts.text.as_deref().unwrap();
    assert!(text.len() <= USER_AGENT_BYTES_MAX && text.len() > USER_AGENT_BYTES_MAX - 4);
    assert!(text.ends_with('\u{e9}'));
}

#[tokio::test]
async fn bytes_that_are_no_text_do_no_harm() {
    let classifier = classifier();
    let mut headers = HeaderMap::new();
    headers.insert(
        "user-agent",
        HeaderValue::from_bytes(&[0xff, 0xfe, b'x']).unwrap(),
    );
    let facts = classifier.facts(&headers).await;
    assert_eq!(facts.text.as_deref(), Some("\u{fffd}\u{fffd}x"));
}

#[tokio::test]
async fn the_same_text_is_parsed_once() {
    let classifier = classifier();
    let headers = headers(&[("user-agent", IPHONE)]);
    let first = classifier.facts(&headers).await;
    let second = classifier.facts(&headers).await;
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(first.families.device.as_deref(), Some("iPhone"));
    assert_eq!(first.families.os.as_deref(), Some("iOS"));
    assert_eq!(first.device_type, Some(DeviceType::Mobile));
}

#[tokio::test]
async fn when_too_many_new_texts_wait_a_scan_goes_without_names_but_is_classified() {
    let classifier = classifier();
    let all = u32::try_from(PARSE_QUEUE_MAX).unwrap();
    let held = classifier.queue.acquire_many(all).await.unwrap();
    let facts = classifier
        .facts(&headers(&[("user-agent", "Twitterbot/9.9")]))
        .await;
    assert_eq!(facts.machine.map(|(kind, _)| kind), Some(Classification::Preview));
    assert_eq!(facts.families, Families::default());
    drop(held);
    let facts = classifier
        .facts(&headers(&[("user-agent", "Twitterbot/9.9")]))
        .await;
    assert_ne!(
        facts.families,
        Families::default(),
        "the poor answer must not be cached"
    );
}
