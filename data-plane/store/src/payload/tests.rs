//! Formats, templates, their bounds, and that nothing hostile hurts.

use serde_json::json;

use super::*;
use crate::{
    clock::Timestamp,
    id::{ConfigSeq, EventAddress, IdCipher, TenantId},
    limits::{TEMPLATE_DEPTH_MAX, TEMPLATE_EXPRESSIONS_MAX, TEMPLATE_OUTPUT_BYTES_MAX},
    model::EventPayload,
};

fn sample(kind: EventType) -> (Event, Code) {
    let ids = IdCipher::new(&[7; 16]);
    let address = EventAddress::config(ConfigSeq::new(1), 0);
    let at = Timestamp::from_millis(1_772_548_338_492);
    let (event, code) = Event::sample_of(kind, &ids, address, at, TenantId::from_bytes([1; 10]));
    (event, code.unwrap())
}

fn template(text: &str) -> Payload {
    Payload {
        format: PayloadFormat::Template,
        template: text.to_owned(),
        ..Payload::default()
    }
}

#[track_caller]
fn body(payload: &Payload) -> String {
    let (event, mut code) = sample(EventType::ScanCreated);
    code.owner_id = "42".into();
    code.metadata = json!({"shop": "12", "big": "x".repeat(4000)})
        .as_object()
        .unwrap()
        .clone();
    let renderer = Renderer::new(payload).unwrap_or_else(|error| panic!("{error}"));
    let rendered = renderer.render(&event, Some(&code)).unwrap();
    assert_eq!(rendered, renderer.render(&event, Some(&code)).unwrap());
    String::from_utf8(rendered.body).unwrap()
}

#[track_caller]
fn refusal(text: &str) -> String {
    Renderer::new(&template(text)).unwrap_err().to_string()
}

#[test]
fn the_native_form_is_what_the_api_shows() {
    let (event, code) = sample(EventType::ScanCreated);
    let rendered = Renderer::new(&Payload::default())
        .unwrap()
        .render(&event, Some(&code))
        .unwrap();
    assert_eq!(rendered.body, event.to_bytes());
    assert_eq!(rendered.content_type, "application/json");
}

#[test]
fn a_cloudevent_has_the_specifications_attributes() {
    let payload = Payload {
        format: PayloadFormat::Cloudevents,
        ..Payload::default()
    };
    let (event, code) = sample(EventType::CodeUpdated);
    let rendered = Renderer::new(&payload)
        .unwrap()
        .render(&event, Some(&code))
        .unwrap();
    assert_eq!(rendered.content_type, "application/cloudevents+json");
    let body: Value = serde_json::from_slice(&rendered.body).unwrap();
    assert_eq!(
        body,
        json!({
            "specversion": "1.0", "id": event.id, "source": format!("/tenants/{}", code.tenant),
            "type": "code.updated", "time": "2026-03-03T14:32:18.492Z", "datacontenttype": "application/json",
            "subject": code.id, "data": event.data,
        })
    );
}

#[test]
fn a_template_keeps_its_order_and_its_values_their_type() {
    let text = r#"{"z": "${data.is_bot}", "a": ["${type}", 1, null], "m": {"text": "from ${data.city}, ${data.country}!",
        "nothing": "${data.referer}", "absent": "${data.absent.deeper}", "sum": "${1 + 2}", "tags": "${code.tags}",
        "plain": "$${not} $5", "map": "${ {\"}\": '}'} }"}}"#;
    assert_eq!(
        body(&template(text)),
        r#"{"z":false,"a":["scan.created",1,null],"m":{"text":"from Montreal, CA!","nothing":null,"absent":null,"sum":3,"tags":["test"],"plain":"${not} $5","map":{"}":"}"}}}"#
    );
    assert_eq!(
        body(&template(r#""[${data.referer}|${data.tags}]""#)),
        r#""[|[\"test\"]]""#
    );
}

#[test]
fn times_and_numbers_can_be_written_as_receivers_document_them() {
    let text = r#"["${created_at}", "${time_s(created_at)}", "${time_us(data.scanned_at)}", "${unix(created_at)}",
        "${number_or_text(code.owner_id)}", "${number_or_text('042')}", "${number_or_text('a')}",
        "${number_or_text(data.referer)}", "${number_or_text('-0')}", "${time_s(data.city)}"]"#;
    assert_eq!(
        body(&template(text)),
        r#"["2026-03-03T14:32:18.492Z","2026-03-03T14:32:18Z","2026-03-03T14:32:18.492000+00:00",1772548338,42,"042","a",null,"-0",null]"#
    );
}

#[test]
fn names_and_lists_can_be_written_as_receivers_document_them() {
    let text = r#"["${browser('Mobile Safari')}", "${browser('Chrome Mobile iOS')}", "${browser('Samsung Internet')}",
        "${browser('Mobile')}", "${browser(data.referer)}", "${bare('evt_a_b')}", "${bare('plain')}", "${joined(data.tags)}",
        "${joined(['a', 'b'])}", "${joined([1])}", "${joined('a')}", "${slack('a<b>&c')}", "${discord('_a_')}"]"#;
    assert_eq!(
        body(&template(text)),
        r#"["Safari","Chrome","Samsung Internet","Mobile",null,"a_b","plain","test","a, b",null,null,"a&lt;b&gt;&amp;c","\\_a\\_"]"#
    );
}

#[test]
fn an_object_with_a_condition_is_null_unless_it_is_true() {
    let text = r#"[{"$if": "${has(code.metadata.shop)}", "shop": "${code.metadata.shop}"},
        {"$if": "${has(code.recipient.nope)}", "id": 1}, {"$if": "true", "id": 1}]"#;
    assert_eq!(body(&template(text)), r#"[{"shop":"12"},null,null]"#);
}

#[test]
fn a_form_is_flat_and_encoded() {
    let form = |text: &str| Payload {
        content_type: FORM.to_owned(),
        ..template(text)
    };
    assert_eq!(
        body(&form(
            r#"{"to where": "${data.city} & co", "n": 1, "none": "${data.referer}", "b": "${data.is_bot}"}"#
        )),
        "to+where=Montreal+%26+co&n=1&none=&b=false"
    );
    for text in [
        r#"{"a": {}}"#,
        r#"{"a": []}"#,
        r#""text""#,
        r#"{"$if": "${true}", "a": 1}"#,
    ] {
        let error = Renderer::new(&form(text)).unwrap_err();
        assert!(
            error.reason.starts_with("must be a flat object"),
            "{text}: {error}"
        );
    }
    let (event, code) = sample(EventType::ScanCreated);
    let list = Renderer::new(&form(r#"{"a": "${data.tags}"}"#)).unwrap();
    assert_eq!(list.render(&event, Some(&code)), Err(RenderError::NotFlat));
}

#[test]
fn an_event_type_can_have_its_own_template() {
    let payload = Payload {
        by_event: vec![EventPayload {
            event: EventType::CodeCreated,
            template: r#""own""#.into(),
            name: String::new(),
        }],
        ..template("")
    };
    let renderer = Renderer::new(&payload).unwrap();
    let (event, code) = sample(EventType::CodeCreated);
    assert_eq!(renderer.render(&event, Some(&code)).unwrap().body, br#""own""#);
    let (event, code) = sample(EventType::CodeDeleted);
    assert_eq!(renderer.render(&event, Some(&code)), Err(RenderError::NoTemplate));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    assert!(refusal("{").starts_with("template is not a JSON document"));
    assert_eq!(
        refusal(r#"{"a": {"b": ["x", "${nope}"]}}"#),
        "template at a.b[1]: line 1, column 1: unknown name `nope`: an event has type, id, created_at, data, code"
    );
    assert_eq!(refusal(r#"{"a": "x ${data"}"#), "template at a: `${` without `}`");
    assert!(refusal(r#""${data.tags.map(x, x)}""#).contains("no loops"));
    assert!(refusal(r#""${time_s()}""#).contains("takes 1 argument"));
}

#[test]
fn a_template_cannot_be_larger_than_its_bounds() {
    let many = vec!["${1}"; TEMPLATE_EXPRESSIONS_MAX + 1];
    assert!(refusal(&json!(many).to_string()).contains("more than 64 expressions"));
    let deep = format!(
        "{}1{}",
        "[".repeat(TEMPLATE_DEPTH_MAX),
        "]".repeat(TEMPLATE_DEPTH_MAX)
    );
    assert!(refusal(&deep).contains("more than 16 levels"));
    assert!(refusal(&format!("\"{}\"", "x".repeat(17 * 1024))).contains("longer than 16384 bytes"));
    let sum = format!("${{{}1}}", "1+".repeat(30));
    assert!(refusal(&json!(vec![sum; 20]).to_string()).contains("more than 1000 parts"));
    let patterns = vec!["${type.matches('a')}"; 5];
    assert!(refusal(&json!(patterns).to_string()).contains("more than 4 patterns"));
}

#[test]
fn output_is_cut_off_while_it_is_made() {
    let (event, mut code) = sample(EventType::ScanCreated);
    code.metadata = json!({"big": "x".repeat(8000), "quotes": "\"".repeat(8000)})
        .as_object()
        .unwrap()
        .clone();
    for text in [
        json!(vec!["${code.metadata.big}"; 9]).to_string(),
        json!("${code.metadata.big}".repeat(9)).to_string(),
        json!(vec!["${code.metadata.quotes}"; 5]).to_string(),
        json!(format!("${{{}''}}", "code.metadata.big + ".repeat(9))).to_string(),
    ] {
        let renderer = Renderer::new(&template(&text)).unwrap();
        assert_eq!(
            renderer.render(&event, Some(&code)),
            Err(RenderError::TooLarge),
            "{text}"
        );
    }
    let fits = Renderer::new(&template(&json!(vec!["${code.metadata.big}"; 8]).to_string())).unwrap();
    assert!(fits.render(&event, Some(&code)).unwrap().body.len() < TEMPLATE_OUTPUT_BYTES_MAX);
}

#[test]
fn nothing_of_a_document_is_lost_without_a_word() {
    for kept in [
        r#"[0,-0.0,1,-7,1.5,9223372036854775807,18446744073709551615,-9223372036854775808]"#,
        r#"{"a":{"a":1},"b":[{"a":"12345678901234567890123"}],"c":"\"1.00000000000000000001"}"#,
    ] {
        assert_eq!(body(&template(kept)), kept);
    }
    assert_eq!(body(&template("[1.10, 2E1, 100e-2, 0.0]")), "[1.1,20.0,1.0,0.0]");
    assert!(refusal(r#"{"a": 1, "b": {"c": 1, "c": 2}}"#).contains("the member `c` is there twice"));
    for number in [
        "12345678901234567890123",
        "0.1000000000000000055",
        "-9223372036854775809",
        "1e-400",
        "9007199254740993.0",
    ] {
        let refusal = refusal(&format!(r#"{{"a": ["1.5", {number}]}}"#));
        assert!(
            refusal.contains(&format!("has the number {number},")),
            "{refusal}"
        );
    }
}

#[test]
fn what_cannot_be_seen_in_a_chat_is_not_sent_there() {
    let text = "[\"${slack('a\u{202e}b\u{200b}\u{2066}c\u{feff}')}\", \"${discord('a\u{202a}b\u{200d}\u{2069}c')}\"]";
    assert_eq!(body(&template(text)), r#"["abc","abc"]"#);
}
