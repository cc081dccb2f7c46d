//! Whole requests: where each part goes, and what is refused.

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::{Value as Json, json};

use crate::{Config, Transcoder, testing};

use super::*;

struct Case<'a> {
    method: &'a str,
    uri: &'a str,
    headers: &'a [(&'static str, &'static str)],
    body: &'a str,
}

impl Case<'_> {
    fn parse(&self, transcoder: &Transcoder) -> Result<Json, RequestError> {
        let mut headers = HeaderMap::new();
        if !self.body.is_empty() && !self.headers.iter().any(|(name, _)| *name == "content-type") {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in self.headers {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let method = self.method.parse().expect("a method");
        let uri: Uri = self.uri.parse().expect("a URI");
        let parsed = transcoder.parse_request(&method, &uri, &headers, self.body.as_bytes())?;
        let mut json = transcoder.message_to_json(&parsed.message).expect("it has JSON");
        remove_defaults(&mut json);
        Ok(json)
    }

    fn violations(&self, transcoder: &Transcoder) -> Vec<String> {
        match self.parse(transcoder) {
            Err(RequestError::Invalid(violations, 0)) => violations.iter().map(ToString::to_string).collect(),
            other => panic!("{} {}: {other:?}", self.method, self.uri),
        }
    }
}

fn remove_defaults(json: &mut Json) {
    let Some(object) = json.as_object_mut() else {
        return;
    };
    object.values_mut().for_each(remove_defaults);
    object.retain(|_, value| {
        let defaults = [
            json!(""),
            json!(0),
            json!(false),
            json!([]),
            json!({}),
            json!(null),
            json!("unspecified"),
        ];
        !defaults.contains(value)
    });
}

fn qrelay() -> Transcoder {
    Transcoder::new(qrelay_proto::FILE_DESCRIPTOR_SET, Config::default()).expect("the contract is supported")
}

#[test]
fn body_url_query_and_headers_go_to_their_fields() {
    let case = Case {
        method: "POST",
        uri: "/v1/codes?tenant_id=ten_1",
        headers: &[
            ("idempotency-key", "k1"),
            ("content-type", "Application/JSON; charset=UTF-8"),
        ],
        body: r#"{"destination_url": "https://e.com", "metadata": {"n": 1}, "id": "mine", "status": "paused"}"#,
    };
    let code = json!({"destination_url": "https://e.com", "metadata": {"n": 1}, "status": "paused"});
    let expected = json!({"code": code, "request_id": "k1", "tenant_id": "ten_1"});
    assert_eq!(case.parse(&qrelay()), Ok(expected));
    let case = Case {
        method: "GET",
        uri: "/v1/events?type=scan.%2A&start_time=2026-05-01T12:00:00%2B02:00&page_size=7",
        headers: &[],
        body: "",
    };
    let expected = json!({"page_size": 7, "type": "scan.*", "start_time": "2026-05-01T10:00:00.000Z"});
    assert_eq!(case.parse(&qrelay()), Ok(expected));
}

#[test]
fn a_patch_changes_the_fields_present_unless_the_query_names_them() {
    let patch = |uri, body| {
        Case {
            method: "PATCH",
            uri,
            headers: &[],
            body,
        }
        .parse(&qrelay())
    };
    assert_eq!(
        patch(
            "/v1/tenants/t",
            r#"{"name": "", "privacy": {"ip": "truncate"}, "etag": "e", "created_at": "x"}"#
        ),
        Ok(json!({
            "id": "t",
            "tenant": {"privacy": {"ip": "truncate"}, "etag": "e"},
            "update_mask": "name,privacy.ip",
        }))
    );
    assert_eq!(
        patch("/v1/tenants/t?update_mask=name,status", r#"{"name": "x"}"#),
        Ok(json!({"id": "t", "tenant": {"name": "x"}, "update_mask": "name,status"}))
    );
    assert_eq!(patch("/v1/tenants/t", ""), Ok(json!({"id": "t"})));
}

#[test]
fn a_put_makes_no_mask() {
    let put = |method| Case {
        method,
        uri: "/v1/things/i",
        headers: &[],
        body: r#"{"a_bool": true}"#,
    };
    let expected = json!({"id": "i", "kinds": {"a_bool": true}});
    assert_eq!(put("PUT").parse(&testing::kinds()), Ok(expected));
    let expected = json!({"id": "i", "kinds": {"a_bool": true}, "update_mask": "a_bool"});
    assert_eq!(put("PATCH").parse(&testing::kinds()), Ok(expected));
}

#[test]
fn queries_reach_nested_and_repeated_fields() {
    let get = |uri| Case {
        method: "GET",
        uri,
        headers: &[],
        body: "",
    };
    let uri = "/v1/things/x?leaf_alone.size=3&names=a&names=b&color=red&wrapped=5&mask=a,b&a_bool=true&a_double=1.5";
    let expected = json!({
        "text": "x", "leaf_alone": {"size": 3}, "names": ["a", "b"], "color": "red", "wrapped": 5,
        "mask": "a,b", "a_bool": true, "a_double": 1.5,
    });
    assert_eq!(get(uri).parse(&testing::kinds()), Ok(expected));
    let expected = json!({"leaf_alone": {"size": 7, "name": "a/b"}});
    assert_eq!(get("/v1/sizes/7/of/a%2Fb").parse(&testing::kinds()), Ok(expected));
}

#[test]
fn bad_and_unknown_query_parameters_are_named() {
    let get = |uri| {
        Case {
            method: "GET",
            uri,
            headers: &[],
            body: "",
        }
        .violations(&testing::kinds())
    };
    assert_eq!(
        get(
            "/v1/things/x?nope=1&leaf_alone=x&leaf_alone.nope=1&a_bool=1&aBool=true&by_name.x=1&struct=x&text=y"
        ),
        [
            "nope: unknown query parameter",
            "leaf_alone: unknown query parameter",
            "leaf_alone.nope: unknown query parameter",
            "a_bool: must be true or false",
            "aBool: unknown query parameter",
            "by_name.x: unknown query parameter",
            "struct: unknown query parameter",
            "text: unknown query parameter: it is given in the URL or the body",
        ]
    );
    assert_eq!(
        get("/v1/things/x?maybe=a&maybe=a"),
        ["maybe: the query parameter is given twice"]
    );
    assert_eq!(
        get("/v1/sizes/-1/of/x"),
        ["leaf_alone.size: must be a whole number from 0 to 4294967295"]
    );
    let post = Case {
        method: "POST",
        uri: "/v1/codes?code.name=x",
        headers: &[],
        body: "{}",
    };
    assert_eq!(
        post.violations(&qrelay()),
        ["code.name: unknown query parameter: it is given in the URL or the body"]
    );
}

#[test]
fn a_field_in_two_places_must_agree() {
    let post = |uri, body| Case {
        method: "POST",
        uri,
        headers: &[],
        body,
    };
    let rotate = "/v1/endpoints/ep_1/rotate?tenant_id=t";
    let expected = json!({"id": "ep_1", "tenant_id": "t"});
    assert_eq!(
        post(rotate, r#"{"id": "ep_1", "tenant_id": "t"}"#).parse(&qrelay()),
        Ok(expected.clone())
    );
    assert_eq!(post(rotate, "").parse(&qrelay()), Ok(expected));
    assert_eq!(
        post(rotate, r#"{"id": "ep_2", "tenant_id": "u"}"#).violations(&qrelay()),
        [
            "id: is given twice with different values",
            "tenant_id: is given twice with different values"
        ]
    );
}

#[test]
fn a_secret_cannot_be_given_in_the_url() {
    let post = |uri| Case {
        method: "POST",
        uri,
        headers: &[],
        body: "",
    };
    assert_eq!(
        post("/v1/endpoints/ep_1/rotate?secret=whsec_1").violations(&qrelay()),
        ["secret: unknown query parameter: it is given in the URL or the body"]
    );
}

#[test]
fn the_work_and_depth_of_a_query_are_bounded() {
    let transcoder = testing::transcoder(
        "message M { M m = 1; string s = 2; }
         service S { rpc R(M) returns (M) { option (google.api.http) = { get: \"/v1\" }; } }",
    );
    let transcoder = transcoder.expect("supported");
    let get = |uri: &str| {
        Case {
            method: "GET",
            uri,
            headers: &[],
            body: "",
        }
        .parse(&transcoder)
    };
    assert_eq!(get("/v1?m.m.m.s=x"), Ok(json!({"m": {"m": {"m": {"s": "x"}}}})));
    let deep = format!("/v1?{}s=x", "m.".repeat(30_000));
    assert!(matches!(get(&deep), Err(RequestError::Invalid(..))));
    let many: Vec<String> = (0..9_000).map(|number| format!("p{number}")).collect();
    let Err(RequestError::Invalid(listed, more)) = get(&format!("/v1?{}", many.join("&"))) else {
        panic!("unknown parameters pass");
    };
    assert_eq!((listed.len(), more), (32, 8_968));
}

#[test]
fn an_idempotency_key_must_be_one_and_the_same_everywhere() {
    let create = |uri, headers| Case {
        method: "POST",
        uri,
        headers,
        body: "{}",
    };
    let same = create("/v1/codes?request_id=k", &[("idempotency-key", "k")]);
    assert_eq!(same.parse(&qrelay()), Ok(json!({"request_id": "k"})));
    for (uri, headers, violation) in [
        (
            "/v1/codes?request_id=x",
            &[("idempotency-key", "k")][..],
            "request_id: is given twice with different values",
        ),
        (
            "/v1/codes",
            &[("idempotency-key", "")],
            "idempotency-key: must not be empty",
        ),
        ("/v1/codes?request_id=", &[], "request_id: must not be empty"),
        (
            "/v1/codes",
            &[("idempotency-key", "a"), ("idempotency-key", "b")],
            "idempotency-key: must be one header of visible ASCII",
        ),
    ] {
        assert_eq!(create(uri, headers).violations(&qrelay()), [violation]);
    }
}

#[test]
fn a_browser_that_reconnects_goes_on_from_its_last_event() {
    let stream = |headers| Case {
        method: "GET",
        uri: "/v1/events:stream?resume_token=old",
        headers,
        body: "",
    };
    assert_eq!(
        stream(&[("last-event-id", "new")]).parse(&qrelay()),
        Ok(json!({"resume_token": "new"}))
    );
    assert_eq!(
        stream(&[("last-event-id", "")]).parse(&qrelay()),
        Ok(json!({"resume_token": "old"}))
    );
}

#[test]
fn a_body_must_be_a_json_object_in_utf8_where_one_is_taken() {
    fn post(headers: &[(&'static str, &'static str)], body: &str) -> Result<Json, RequestError> {
        Case {
            method: "POST",
            uri: "/v1/codes",
            headers,
            body,
        }
        .parse(&qrelay())
    }
    for media_type in [
        "text/plain",
        "application/jsonx",
        "application/json; charset=latin1",
        "",
    ] {
        let refused = post(&[("content-type", media_type)], "{}");
        assert!(matches!(refused, Err(RequestError::MediaType(_))), "{media_type}");
    }
    let compressed = post(&[("content-encoding", "gzip")], "{}");
    assert!(matches!(compressed, Err(RequestError::MediaType(_))));
    assert_eq!(post(&[("content-type", "text/plain")], ""), Ok(json!({})));
    for (body, given) in [
        ("[]", "a list"),
        ("null", "null"),
        ("1", "a number"),
        ("\"{}\"", "a string"),
        ("true", "true or false"),
    ] {
        let Err(refused) = post(&[], body) else {
            panic!("{body}")
        };
        assert_eq!(
            refused.to_string(),
            format!("body: must be a JSON object, not {given}")
        );
    }
    for body in ["{", "{} {}", " "] {
        assert!(matches!(post(&[], body), Err(RequestError::Syntax(_))), "{body}");
    }
    let get = Case {
        method: "DELETE",
        uri: "/v1/codes/c",
        headers: &[],
        body: "{}",
    };
    assert_eq!(get.violations(&qrelay()), ["body: this method takes no body"]);
    let large = "x".repeat(Config::default().body_bytes_max + 1);
    assert!(matches!(
        post(&[], &large),
        Err(RequestError::BodyTooLarge { .. })
    ));
}

#[test]
fn the_deepest_body_allowed_passes_the_wire_format() {
    let depth = Config::default().depth_max;
    let nested = |levels: usize| format!("{}1{}", "{\"metadata\":".repeat(levels), "}".repeat(levels));
    let case = |body| Case {
        method: "POST",
        uri: "/v1/codes",
        headers: &[],
        body,
    };
    assert!(matches!(
        case(&nested(depth + 1)).parse(&qrelay()),
        Err(RequestError::Syntax(_))
    ));
    let body = nested(depth);
    let transcoder = qrelay();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let uri = Uri::from_static("/v1/codes");
    let parsed = transcoder
        .parse_request(&Method::POST, &uri, &headers, body.as_bytes())
        .expect("accepted");
    let wire = prost::Message::encode_to_vec(&parsed.message);
    let typed: qrelay_proto::v1::CreateCodeRequest =
        prost::Message::decode(wire.as_slice()).expect("not too deep");
    assert!(typed.code.is_some_and(|code| code.metadata.is_some()));
}
