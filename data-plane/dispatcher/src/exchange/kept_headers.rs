//! Headers as the attempt log keeps them: in order, bounded, credentials masked, bytes that are not UTF-8 replaced.
//!
//! Of a response what may be a credential is masked by name. Of a request only what is known to tell nothing keeps its
//! value: which header carries a signature or a token is an endpoint's setting.

use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, PROXY_AUTHENTICATE, SET_COOKIE,
    USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue};
use qrelay_store::limits::HEADERS_KEPT_BYTES;

/// What stands in the attempt log for a value that may be a credential.
const MASK: &str = "***";
const MASKED_OF_RESPONSE: [HeaderName; 4] = [SET_COOKIE, AUTHORIZATION, WWW_AUTHENTICATE, PROXY_AUTHENTICATE];
const SHOWN_OF_REQUEST: [HeaderName; 7] = [
    HOST,
    USER_AGENT,
    ACCEPT,
    CONTENT_TYPE,
    CONTENT_LENGTH,
    HeaderName::from_static("webhook-id"),
    HeaderName::from_static("webhook-timestamp"),
];
/// Names that end so carry ids, times and event types, whatever stands before.
const SHOWN_ENDINGS: [&str; 5] = ["-timestamp", "-event", "-delivery", "-id", "-event-type"];

/// A response's headers.
pub(super) fn of_response(headers: &HeaderMap) -> Vec<(String, String)> {
    kept(headers, |name, _| !MASKED_OF_RESPONSE.contains(name))
}

/// A request's headers.
pub(super) fn of_request(headers: &HeaderMap) -> Vec<(String, String)> {
    kept(headers, |name, value| {
        !value.is_sensitive()
            && !looks_signed(value)
            && (SHOWN_OF_REQUEST.contains(name)
                || SHOWN_ENDINGS.iter().any(|end| name.as_str().ends_with(end)))
    })
}

/// Whether the value looks like a signature, whatever its name: a long run of hex or base64.
fn looks_signed(value: &HeaderValue) -> bool {
    let mut runs = value
        .as_bytes()
        .split(|byte| !byte.is_ascii_alphanumeric() && !b"+/".contains(byte));
    runs.any(|run| run.len() >= 40)
}

fn kept(headers: &HeaderMap, shown: impl Fn(&HeaderName, &HeaderValue) -> bool) -> Vec<(String, String)> {
    let mut room = HEADERS_KEPT_BYTES;
    let mut kept = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let value = if shown(name, value) {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        } else {
            MASK.to_owned()
        };
        let Some(left) = room.checked_sub(name.as_str().len() + value.len()) else {
            break;
        };
        room = left;
        kept.push((name.as_str().to_owned(), value));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static [u8])]) -> HeaderMap {
        let value = |bytes| HeaderValue::from_bytes(bytes).unwrap();
        let pairs = pairs.iter();
        pairs
            .map(|(name, bytes)| (HeaderName::from_static(name), value(*bytes)))
            .collect()
    }

    #[test]
    fn kept_response_headers_are_bounded_and_hold_no_credentials() {
        let mut map = headers(&[("set-cookie", b"session=secret"), ("x-note", b"caf\xc3\xa9 \xff")]);
        let kept = of_response(&map);
        assert_eq!(kept[0], ("set-cookie".to_owned(), MASK.to_owned()));
        assert_eq!(kept[1].1, "café \u{fffd}");
        let long = HeaderValue::from_str(&"x".repeat(HEADERS_KEPT_BYTES)).unwrap();
        map.append("x-long", long);
        assert_eq!(of_response(&map).len(), 2);
    }

    #[test]
    fn kept_request_headers_show_no_signature_whatever_its_header_is_called() {
        let digest: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let kept = of_request(&headers(&[
            ("webhook-id", b"evt_1"),
            ("webhook-timestamp", b"1700000000"),
            ("webhook-signature", b"v1,c2lnbmF0dXJl"),
            ("x-shop-timestamp", b"1700000001"),
            ("x-shop-event", digest),
            ("x-shop-hmac", digest),
            ("authorization", b"Bearer x"),
            ("content-type", b"application/json"),
        ]));
        let value = |name: &str| {
            let found = kept.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str()).unwrap()
        };
        for masked in [
            "webhook-signature",
            "x-shop-event",
            "x-shop-hmac",
            "authorization",
        ] {
            assert_eq!(value(masked), MASK, "{masked}");
        }
        assert_eq!(
            (value("webhook-id"), value("webhook-timestamp")),
            ("evt_1", "1700000000")
        );
        assert_eq!(
            (value("x-shop-timestamp"), value("content-type")),
            ("1700000001", "application/json")
        );
    }
}
