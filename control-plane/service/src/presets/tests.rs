//! Each preset against the example that its service documents, to the byte, and the rest of its table.

use qrelay_store::{
    clock::Timestamp,
    event::Event,
    id::{CodeId, ConfigSeq, EventAddress, IdCipher, TenantId},
    model::{Code, CodeStatus, Host, ShortLink, SignatureScheme},
    payload::Renderer,
    record::{Classification, ScanRecord},
};
use serde_json::json;

use super::*;

const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X)";

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn tenant() -> TenantId {
    TenantId::from_bytes([1; 10])
}

fn code(short_id: &str, edit: impl FnOnce(&mut Code)) -> Code {
    let mut code = Code {
        id: CodeId::from_bytes([2; 10]),
        tenant: tenant(),
        link: ShortLink {
            host: Host::default(),
            short_id: short_id.to_owned(),
        },
        name: String::new(),
        destination_url: "https://example.com/".to_owned(),
        status: CodeStatus::Active,
        tags: vec!["menu".to_owned(), "spring".to_owned()],
        campaign_id: String::new(),
        owner_id: String::new(),
        external_id: String::new(),
        metadata: serde_json::Map::new(),
        recipient: serde_json::Map::new(),
        conversion_param: String::new(),
        created_at: time("2026-01-01T09:00:00.000Z"),
        updated_at: time("2026-01-01T09:00:00.000Z"),
        version: 1,
    };
    edit(&mut code);
    code
}

fn scan(
    at: &str,
    place: (&'static str, &'static str),
    edit: impl FnOnce(&mut ScanRecord<'static>),
) -> ScanRecord<'static> {
    let mut scan = ScanRecord {
        tenant: tenant(),
        code: CodeId::from_bytes([2; 10]),
        code_version: 1,
        at: time(at),
        classification: Classification::Human,
        classification_reason: "human".into(),
        device_type: Some("mobile".into()),
        device_family: Some("iPhone".into()),
        os_family: Some("iOS".into()),
        browser_family: Some("Mobile Safari".into()),
        country: Some(place.0.into()),
        region: Some("Quebec".into()),
        city: Some(place.1.into()),
        referer: None,
        user_agent: Some(IPHONE.into()),
        host: None,
        query: None,
        accept_language: None,
        network: None,
    };
    edit(&mut scan);
    scan
}

fn address() -> EventAddress {
    EventAddress::config(ConfigSeq::new(1), 0)
}

fn ids() -> IdCipher {
    IdCipher::new(&[7; 16])
}

fn scanned(scan: &ScanRecord<'_>, code: &Code) -> Event {
    Event::scan(&ids(), address(), scan, code)
}

fn made(name: &str) -> Endpoint {
    let mut endpoint = qrelay_store::conformance::samples::endpoint(tenant());
    named(name).unwrap().apply(&mut endpoint);
    endpoint
}

#[track_caller]
fn body(name: &str, event: &Event, code: Option<&Code>) -> String {
    let renderer = Renderer::new(&made(name).payload).unwrap_or_else(|error| panic!("{name}: {error}"));
    let rendered = renderer.render(event, code).unwrap();
    assert_eq!(rendered.content_type, "application/json");
    String::from_utf8(rendered.body).unwrap()
}

#[test]
fn qr_for_agents_scan_is_its_documented_example() {
    let code = code("abc123", |_| ());
    let scan = scan("2026-03-03T14:32:18.492Z", ("FR", "Paris"), |scan| {
        scan.referer = Some("https://instagram.com".into());
    });
    assert_eq!(
        body("qr-for-agent", &scanned(&scan, &code), Some(&code)),
        format!(
            r#"{{"event":"qr.scanned","data":{{"shortId":"abc123","timestamp":"2026-03-03T14:32:18.492Z","userAgent":"{IPHONE}","device_type":"mobile","browser":"Safari","os":"iOS","country":"FR","city":"Paris","referer":"https://instagram.com"}}}}"#
        )
    );
}

#[test]
fn qr_for_agents_conversion_names_its_code_and_scan() {
    let (event, code) = Event::sample_of(
        EventType::Conversion,
        &ids(),
        address(),
        time("2026-03-03T14:32:18.492Z"),
        tenant(),
    );
    assert_eq!(
        body("qr-for-agent", &event, code.as_ref()),
        format!(
            r#"{{"event":"qr.conversion","data":{{"shortId":"test","timestamp":"2026-03-03T14:32:18.492Z","externalId":"order_1042","value":"49.90","currency":"EUR","properties":{{"items":2}},"scan":{{"id":"{}","timestamp":"2026-03-03T14:32:18.492Z","device_type":"mobile","browser":"Safari","os":"iOS","country":"CA","city":"Montreal"}}}}}}"#,
            event.id
        )
    );
}

#[test]
fn qrstudios_events_are_its_documented_examples() {
    let code = code("aBc12dEf", |code| {
        code.name = "Spring 2026 menu".to_owned();
        code.owner_id = "42".to_owned();
        code.destination_url = "https://example.com/menus/spring-2026".to_owned();
    });
    let scan = scan("2026-05-09T14:01:23.451Z", ("CA", "Montreal"), |scan| {
        scan.referer = Some("https://google.com/".into());
    });
    let event = scanned(&scan, &code);
    assert_eq!(
        body("qrstudio", &event, Some(&code)),
        format!(
            r#"{{"type":"scan.created","id":"{}","created_at":"2026-05-09T14:01:23Z","data":{{"short_id":"aBc12dEf","name":"Spring 2026 menu","owner_id":42,"destination_url":"https://example.com/menus/spring-2026","scanned_at":"2026-05-09T14:01:23.451Z","country":"CA","city":"Montreal","device_family":"iPhone","os_family":"iOS","browser_family":"Safari","referer":"https://google.com/","user_agent":"{IPHONE}","is_bot":false,"variant_label":"(default)"}}}}"#,
            event.id
        )
    );
    for (kind, name) in [
        (EventType::CodeCreated, "dynamic_qr.created"),
        (EventType::CodeUpdated, "dynamic_qr.updated"),
    ] {
        let at = time("2026-05-09T13:00:00.125Z");
        let event = Event::code_changed(&ids(), address(), kind, at, &code);
        assert_eq!(
            body("qrstudio", &event, Some(&code)),
            format!(
                r#"{{"type":"{name}","id":"{}","created_at":"2026-05-09T13:00:00Z","data":{{"short_id":"aBc12dEf","name":"Spring 2026 menu","destination_url":"https://example.com/menus/spring-2026","owner_id":42}}}}"#,
                event.id
            )
        );
    }
    for (kind, share, used) in [(EventType::Quota75, 75, 7500), (EventType::Quota100, 100, 10_000)] {
        let at = time("2026-05-09T13:00:00.125Z");
        let (event, none) = Event::sample_of(kind, &ids(), address(), at, tenant());
        assert_eq!(
            body("qrstudio", &event, none.as_ref()),
            format!(
                r#"{{"type":"quota.threshold_{share}","id":"{}","created_at":"2026-05-09T13:00:00Z","data":{{"threshold":{share},"used":{used},"limit":10000}}}}"#,
                event.id
            )
        );
    }
}

#[test]
fn scanforges_scan_has_the_documented_parts() {
    let code = code("abc123", |_| ());
    let scan = scan("2026-05-09T14:01:23.451Z", ("CA", "Montreal"), |scan| {
        scan.classification = Classification::Crawler;
    });
    let event = scanned(&scan, &code);
    assert_eq!(
        body("scanforge", &event, Some(&code)),
        format!(
            r#"{{"event":"scan","id":"{}","code_id":"{}","timestamp":"2026-05-09T14:01:23.451Z","geo":{{"country":"CA","region":"Quebec","city":"Montreal"}},"device":{{"type":"mobile","browser":"Safari","os":"iOS"}},"referrer":null,"user_agent":"{IPHONE}","destination_url":"https://example.com/","is_bot":true}}"#,
            event.id, code.id
        )
    );
}

#[test]
fn scribelesss_scan_is_its_documented_example_with_recipient_and_options_of_the_code() {
    let code = code("abc123", |code| {
        code.destination_url = "https://example.com/offers/SPRING-25".to_owned();
        let map = |value: Value| value.as_object().unwrap().clone();
        code.metadata = map(json!({
            "template_id": "TEMPLATE_ID", "block_id": "spring-offer", "size": "24mm",
            "options": {"dotsColor": "#000000", "dotsType": "square", "ecl": "Q"},
        }));
        code.recipient = map(json!({
            "id": "RECIPIENT_ID", "first_name": "Ada", "last_name": "Lovelace", "campaign_id": "CAMPAIGN_ID",
            "status": "pending", "variables": {"externalId": "order_12345"},
        }));
    });
    let scan = scan("2026-01-01T10:00:00.000Z", ("GB", "London"), |_| ());
    let event = scanned(&scan, &code);
    let id = event.id.to_string();
    let (scan_id, code_id, team) = (id.strip_prefix("evt_").unwrap(), code.id, tenant());
    assert_eq!(
        body("scribeless", &event, Some(&code)),
        format!(
            r##"{{"id":"evt_qr_scan_{scan_id}","type":"qr_code.scanned","created_at":"2026-01-01T10:00:00.000000+00:00","team_id":"{team}","scan":{{"id":"{scan_id}","smart_qr_code_id":"{code_id}","team_id":"{team}","created_at":"2026-01-01T10:00:00.000000+00:00"}},"qr_code":{{"id":"{code_id}","key":"abc123","destination_url":"https://example.com/offers/SPRING-25","recipient_id":"RECIPIENT_ID","template_id":"TEMPLATE_ID","block_id":"spring-offer","size":"24mm","options":{{"dotsColor":"#000000","dotsType":"square","ecl":"Q"}},"team_id":"{team}","created_at":"2026-01-01T09:00:00.000000+00:00","updated_at":"2026-01-01T09:00:00.000000+00:00"}},"recipient":{{"id":"RECIPIENT_ID","first_name":"Ada","last_name":"Lovelace","campaign_id":"CAMPAIGN_ID","status":"pending","variables":{{"externalId":"order_12345"}}}}}}"##
        )
    );
    let mut nobodys = code;
    nobodys.recipient.clear();
    let text = body("scribeless", &scanned(&scan, &nobodys), Some(&nobodys));
    assert!(
        text.contains(r#""recipient_id":null"#) && text.ends_with(r#""recipient":null}"#),
        "{text}"
    );
}

#[test]
fn chats_show_a_sentence_in_which_a_strangers_words_do_nothing() {
    let hostile = code("x", |code| {
        code.name = "<!channel> & *all* @everyone <@1> [a](http://b)\u{7}".to_owned();
    });
    let scan = scan("2026-01-01T10:00:00.000Z", ("CA", "Montreal"), |scan| {
        scan.os_family = Some("<!here>".into());
    });
    let event = scanned(&scan, &hostile);
    assert_eq!(
        body("slack", &event, Some(&hostile)),
        r#"{"text":"&lt;!channel&gt; &amp; *all* @everyone &lt;@1&gt; [a](http://b)  was scanned in Montreal, CA on &lt;!here&gt;","mrkdwn":false,"unfurl_links":false,"unfurl_media":false}"#
    );
    let discord: Value = serde_json::from_str(&body("discord", &event, Some(&hostile))).unwrap();
    assert_eq!(discord["allowed_mentions"], json!({"parse": []}));
    assert_eq!(
        discord["content"],
        r"**\<!channel\> & \*all\* \@everyone \<\@1\> \[a\]\(http\://b\) ** was scanned in Montreal, CA on \<!here\>"
    );
    let nameless = code("menu", |code| {
        code.destination_url = format!("https://example.com/{}", "x".repeat(2000))
    });
    let at = time("2026-01-01T10:00:00.000Z");
    for (kind, expected) in [
        (EventType::CodeDeleted, "The code menu was deleted"),
        (
            EventType::CodeCreated,
            "The code menu was created and leads to https://example.com/xx",
        ),
    ] {
        let event = Event::code_changed(&ids(), address(), kind, at, &nameless);
        let shown: Value = serde_json::from_str(&body("slack", &event, Some(&nameless))).unwrap();
        let text = shown["text"].as_str().unwrap();
        assert!(text.starts_with(expected) && text.chars().count() < 260, "{text}");
    }
}

#[test]
fn zapiers_bodies_are_flat() {
    for kind in EventType::ALL {
        let (event, code) = Event::sample_of(*kind, &ids(), address(), Timestamp::EPOCH, tenant());
        let body: Value = serde_json::from_str(&body("zapier", &event, code.as_ref())).unwrap();
        let members = body.as_object().unwrap();
        assert!(
            members
                .values()
                .all(|value| !value.is_array() && !value.is_object()),
            "{body}"
        );
        assert_eq!((&body["type"], &body["id"]), (&json!(kind), &json!(event.id)));
    }
    let code = code("menu", |_| ());
    let scan = scan("2026-01-01T10:00:00.000Z", ("CA", "Montreal"), |_| ());
    assert!(body("zapier", &scanned(&scan, &code), Some(&code)).contains(r#""tags":"menu, spring""#));
}

#[test]
fn every_chat_and_zapier_takes_every_event_type() {
    for name in ["slack", "discord", "zapier"] {
        for kind in EventType::ALL {
            let (event, code) = Event::sample_of(*kind, &ids(), address(), Timestamp::EPOCH, tenant());
            let text = body(name, &event, code.as_ref());
            assert!(!text.contains("${"), "{text}");
            let shown: Value = serde_json::from_str(&text).unwrap();
            let words = shown.get("text").or(shown.get("content"));
            if let Some(words) = words.and_then(Value::as_str) {
                assert!(
                    words != kind.as_str() && words.len() > 20,
                    "{kind} has no words of its own: {words}"
                );
                // What an expression without a value leaves.
                assert!(
                    !words.contains("is :") && !words.ends_with(": "),
                    "{kind}: {words}"
                );
            }
        }
    }
}

#[test]
fn schedules_failure_rules_and_rotation_are_the_services() {
    let minute = 60_000;
    let services = [
        ("qr-for-agent", vec![0, minute, 5 * minute, 30 * minute], 0, 0),
        (
            "qrstudio",
            vec![0, minute, 5 * minute, 30 * minute, 120 * minute],
            5,
            24 * 60 * minute,
        ),
        (
            "scribeless",
            vec![0, minute, 5 * minute, 30 * minute, 120 * minute],
            0,
            0,
        ),
    ];
    for (name, schedule, degrade_after, disable_after_ms) in services {
        let endpoint = made(name);
        assert_eq!(endpoint.retry_schedule_ms, schedule, "{name}");
        assert_eq!(
            endpoint.failure,
            FailureRules {
                retry_after_max_ms: 0,
                gone_disables: false,
                overload_slows: false,
                degrade_after,
                disable_after_ms,
                client_errors_retried: true,
            },
            "{name}"
        );
        assert!(named(name).unwrap().rotates_at_once);
    }
    let scanforge = made("scanforge");
    let pauses = &scanforge.retry_schedule_ms;
    assert!(
        pauses.windows(2).skip(1).all(|pair| pair[0] <= pair[1]),
        "backs off"
    );
    // Jitter lengthens by up to a tenth, and each exchange takes up to 5 s.
    let longest = pauses.iter().sum::<u64>() * 11 / 10 + 5_000 * pauses.len() as u64;
    assert!(
        (20 * 60 * minute..=24 * 60 * minute).contains(&longest),
        "{longest}"
    );
    assert_eq!(
        (
            scanforge.failure.degrade_after,
            scanforge.failure.disable_after_ms
        ),
        (0, 0)
    );
    assert!(
        !scanforge.failure.client_errors_retried,
        "retried are 5xx and time-outs"
    );
    for name in ["slack", "discord", "zapier"] {
        assert_eq!(made(name).failure, FailureRules::default());
        assert_eq!(made(name).signature.scheme, SignatureScheme::None);
    }
}

#[test]
fn events_are_known_and_shown_by_the_services_names() {
    for (preset, name, event) in [
        ("qr-for-agent", "qr.scanned", EventType::ScanCreated),
        ("qr-for-agent", "qr.conversion", EventType::Conversion),
        ("qrstudio", "scan.created", EventType::ScanCreated),
        ("qrstudio", "dynamic_qr.created", EventType::CodeCreated),
        ("qrstudio", "dynamic_qr.updated", EventType::CodeUpdated),
        ("qrstudio", "quota.threshold_75", EventType::Quota75),
        ("qrstudio", "quota.threshold_100", EventType::Quota100),
        ("scanforge", "scan", EventType::ScanCreated),
        ("scribeless", "qr_code.scanned", EventType::ScanCreated),
    ] {
        assert_eq!(named(preset).unwrap().event(name), Some(event));
        let mut endpoint = made(preset);
        endpoint.events = vec![EventPattern::Exact(event)];
        assert_eq!(show_events(&endpoint), [name]);
        assert_eq!(endpoint.payload.name_of(event), name);
    }
    let mut slack = made("slack");
    slack.events = vec![EventPattern::Any, EventPattern::Exact(EventType::CodeUpdated)];
    assert_eq!(show_events(&slack), ["*", "code.updated"]);
    assert_eq!(named("slack").unwrap().event(""), None);
}
