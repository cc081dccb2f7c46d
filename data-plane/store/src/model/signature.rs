//! How an endpoint's deliveries are signed: the scheme, and the names of the headers that carry what is signed.
//!
//! A name that is not given is the scheme's own. Which names may be given at all is judged by [`refused_name`]: the
//! ones that frame a message, that proxies act on, or that the sender sets itself never.

use serde::{Deserialize, Serialize};

use crate::limits::HEADER_NAME_BYTES_MAX;

/// Over what a delivery is signed, and how it is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignatureScheme {
    /// Standard Webhooks: `v1,<base64>`, HMAC-SHA256 over `{id}.{timestamp}.{body}` with the decoded secret.
    #[default]
    Standard,
    /// Standard Webhooks: `v1a,<base64>`, Ed25519 over the same.
    StandardEd25519,
    /// `t=<unix seconds>,v1=<hex>`: HMAC-SHA256 over `{t}.{body}` with the secret's text.
    Timestamped,
    /// `sha256=<hex>`: HMAC-SHA256 over `{timestamp}.{body}` with the secret's text; the timestamp is in a header.
    Sha256Timestamp,
    /// `<hex>`: HMAC-SHA256 over the body with the secret's text.
    HexBody,
    /// Not signed.
    None,
}

impl SignatureScheme {
    /// Whether it is one of Standard Webhooks, whose header names are fixed.
    pub const fn is_standard(self) -> bool {
        matches!(self, Self::Standard | Self::StandardEd25519)
    }

    /// Whether the secret's text, prefix included, is the key: then any text may be a secret.
    pub const fn keyed_by_text(self) -> bool {
        matches!(self, Self::Timestamped | Self::Sha256Timestamp | Self::HexBody)
    }

    /// Whether one delivery can carry the signatures of several secrets.
    pub const fn carries_several(self) -> bool {
        matches!(self, Self::Standard | Self::StandardEd25519 | Self::Timestamped)
    }
}

/// A scheme and its headers. The default is Standard Webhooks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Signature {
    /// The scheme.
    pub scheme: SignatureScheme,
    /// The signature's header; the scheme's own if not given.
    pub header: Option<String>,
    /// The header of the attempt's time in unix seconds; the scheme's own, which may be none, if not given.
    pub timestamp_header: Option<String>,
    /// The header of the event's type; none if not given.
    pub event_header: Option<String>,
    /// The header of the delivery's id; none if not given.
    pub delivery_header: Option<String>,
}

impl Signature {
    /// The signature's header; none for an endpoint whose deliveries are not signed.
    pub fn header(&self) -> Option<&str> {
        match self.scheme {
            SignatureScheme::Standard | SignatureScheme::StandardEd25519 => Some("webhook-signature"),
            SignatureScheme::Timestamped | SignatureScheme::Sha256Timestamp | SignatureScheme::HexBody => {
                Some(self.header.as_deref().unwrap_or("X-Webhook-Signature"))
            }
            SignatureScheme::None => None,
        }
    }

    /// The header of the attempt's time. Standard Webhooks and `sha256_timestamp` cannot do without.
    pub fn timestamp_header(&self) -> Option<&str> {
        match self.scheme {
            SignatureScheme::Standard | SignatureScheme::StandardEd25519 => Some("webhook-timestamp"),
            SignatureScheme::Sha256Timestamp => {
                Some(self.timestamp_header.as_deref().unwrap_or("X-Webhook-Timestamp"))
            }
            SignatureScheme::Timestamped | SignatureScheme::HexBody | SignatureScheme::None => {
                self.timestamp_header.as_deref()
            }
        }
    }

    /// The header of the event's id: of Standard Webhooks alone.
    pub fn id_header(&self) -> Option<&str> {
        self.scheme.is_standard().then_some("webhook-id")
    }

    /// All header names that a delivery of this endpoint carries because of its signature.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        [
            self.id_header(),
            self.timestamp_header(),
            self.header(),
            self.event_header.as_deref(),
            self.delivery_header.as_deref(),
        ]
        .into_iter()
        .flatten()
    }
}

/// Names, and beginnings of names, that no endpoint may set: they frame the message or the connection, proxies act on
/// them, or the sender sets them.
const RESERVED: [&str; 15] = [
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "expect",
    "forwarded",
    "cookie",
    "set-cookie",
    "http2-settings",
    "user-agent",
    "accept",
    "date",
];
const RESERVED_PREFIXES: [&str; 4] = ["content-", "proxy-", "x-forwarded-", "accept-"];

/// Why no header of a delivery may be called so, to go on from the field's name; none if it may.
pub fn refused_name(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > HEADER_NAME_BYTES_MAX || !name.bytes().all(is_token) {
        return Some(format!(
            "must be a header name: 1 to {HEADER_NAME_BYTES_MAX} letters, digits or any of !#$%&'*+-.^_`|~"
        ));
    }
    let lower = name.to_ascii_lowercase();
    let reserved = RESERVED.contains(&lower.as_str())
        || RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    reserved.then(|| "must not be a header that HTTP, proxies or the sender use".to_owned())
}

/// RFC 9110's `tchar`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_http_proxies_and_the_sender_are_refused_in_any_case() {
        for name in [
            "Host",
            "content-type",
            "Content-Length",
            "Transfer-Encoding",
            "TE",
            "trailer",
            "Connection",
            "Upgrade",
            "Expect",
            "Proxy-Authorization",
            "Forwarded",
            "X-Forwarded-For",
            "Cookie",
            "User-Agent",
            "accept-encoding",
            "",
            "X Signature",
            "X-Sig:",
            "X-Sig\r\nHost",
            "X-Sïg",
            &"x".repeat(HEADER_NAME_BYTES_MAX + 1),
        ] {
            assert!(refused_name(name).is_some(), "{name:?}");
        }
        for name in ["X-Webhook-Signature", "x_sig", "Hosts", "Test", "X-Forwarded"] {
            assert_eq!(refused_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn what_is_not_stored_is_standard_webhooks() {
        let read: Signature = serde_json::from_str("{}").unwrap();
        assert_eq!(read, Signature::default());
        let names: Vec<&str> = read.header_names().collect();
        assert_eq!(names, ["webhook-id", "webhook-timestamp", "webhook-signature"]);
        let timestamped: Signature =
            serde_json::from_str(r#"{"scheme": "sha256_timestamp", "header": "X-Sig"}"#).unwrap();
        let names: Vec<&str> = timestamped.header_names().collect();
        assert_eq!(names, ["X-Webhook-Timestamp", "X-Sig"]);
    }
}
