//! Signing a delivery, so that a receiver knows who sent it and that nobody changed it.
//!
//! A [`Signer`] holds an endpoint's scheme and all its valid secrets (two while one is rotated out) and makes the
//! headers of one attempt. The event's id stays the same over all attempts; the timestamp is the attempt's own.
//! Unsealing secrets and dropping those whose hour has passed is left to the caller. Attempts and previews sign here.
//!
//! A secret is the bytes that were sealed: what `whsec_…` is the base64 of for Standard Webhooks, the 32 bytes of an
//! Ed25519 seed, the secret's text for the schemes that are keyed by it. HMAC keys live in `secrecy` boxes, Ed25519
//! keys zeroize themselves; neither prints anything in `Debug`.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;

use crate::{
    limits::SECRETS_PER_ENDPOINT_MAX,
    model::{Signature, SignatureScheme},
};

/// What a delivery's request says of its sender.
pub const USER_AGENT: &str = concat!("qrelay/", env!("CARGO_PKG_VERSION"));

/// Why no signer could be made. The text never holds the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A secret that the scheme cannot use as a key.
    #[error("a signing secret is not one of its scheme")]
    MalformedSecret,
    /// No secret, or more than [`SECRETS_PER_ENDPOINT_MAX`].
    #[error("an endpoint signs with 1 to {SECRETS_PER_ENDPOINT_MAX} secrets")]
    SecretCount,
    /// A header is called what no header can be called.
    #[error("a header name is malformed")]
    HeaderName,
}

/// What is signed: one attempt of one delivery.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The event's id, the same on every attempt. Must not hold a dot, which separates what is signed.
    pub id: &'a str,
    /// The delivery's id.
    pub delivery: &'a str,
    /// The event's type, as the receiver knows it: visible ASCII.
    pub event: &'a str,
    /// When the attempt is made: seconds since 1970-01-01T00:00:00Z.
    pub timestamp_s: i64,
    /// The request body, to the byte.
    pub body: &'a [u8],
}

/// Signs an endpoint's deliveries. Cheap to clone is not promised: make one per endpoint and change.
#[derive(Debug)]
pub struct Signer {
    scheme: SignatureScheme,
    keys: Vec<Key>,
    names: Names,
}

/// Under which names the headers go out.
#[derive(Debug)]
struct Names {
    signature: Option<HeaderName>,
    timestamp: Option<HeaderName>,
    id: Option<HeaderName>,
    event: Option<HeaderName>,
    delivery: Option<HeaderName>,
}

impl Names {
    fn of(signature: &Signature) -> Result<Self, SignatureError> {
        let name = |text: Option<&str>| {
            text.map(|text| HeaderName::from_bytes(text.as_bytes()))
                .transpose()
                .map_err(|_| SignatureError::HeaderName)
        };
        Ok(Names {
            signature: name(signature.header())?,
            timestamp: name(signature.timestamp_header())?,
            id: name(signature.id_header())?,
            event: name(signature.event_header.as_deref())?,
            delivery: name(signature.delivery_header.as_deref())?,
        })
    }
}

enum Key {
    Hmac(SecretSlice<u8>),
    Ed25519(Box<SigningKey>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

impl Key {
    fn new(scheme: SignatureScheme, secret: &SecretSlice<u8>) -> Result<Self, SignatureError> {
        let bytes = secret.expose_secret();
        if scheme == SignatureScheme::StandardEd25519 {
            let seed = bytes.try_into().map_err(|_| SignatureError::MalformedSecret)?;
            return Ok(Key::Ed25519(Box::new(SigningKey::from_bytes(seed))));
        }
        if bytes.is_empty() {
            return Err(SignatureError::MalformedSecret);
        }
        Ok(Key::Hmac(secret.clone()))
    }

    fn sign(&self, parts: &[&[u8]]) -> Vec<u8> {
        match self {
            Key::Hmac(key) => hmac_sha256(key.expose_secret(), parts).to_vec(),
            Key::Ed25519(key) => key.sign(&parts.concat()).to_bytes().to_vec(),
        }
    }
}

impl Signer {
    /// A signer with the endpoint's valid secrets, the newest first: its signature stands first, or alone where the
    /// scheme carries one only.
    pub fn new(signature: &Signature, secrets: &[SecretSlice<u8>]) -> Result<Self, SignatureError> {
        let scheme = signature.scheme;
        let names = Names::of(signature)?;
        if scheme == SignatureScheme::None {
            return Ok(Signer {
                scheme,
                keys: Vec::new(),
                names,
            });
        }
        if secrets.is_empty() || secrets.len() > SECRETS_PER_ENDPOINT_MAX {
            return Err(SignatureError::SecretCount);
        }
        let keys = secrets
            .iter()
            .map(|secret| Key::new(scheme, secret))
            .collect::<Result<_, _>>()?;
        Ok(Signer { scheme, keys, names })
    }

    /// The headers that identify and sign the message.
    pub fn headers(&self, message: Message<'_>) -> Vec<(HeaderName, HeaderValue)> {
        let timestamp = message.timestamp_s.to_string();
        let signature = self.signature(message, &timestamp);
        let named = [
            (&self.names.id, message.id),
            (&self.names.timestamp, timestamp.as_str()),
            (&self.names.signature, signature.as_str()),
            (&self.names.event, message.event),
            (&self.names.delivery, message.delivery),
        ];
        named
            .into_iter()
            .filter_map(|(name, value)| Some((name.clone()?, visible(value))))
            .collect()
    }

    /// The signature header's value; empty, and sent under no name, for the scheme without.
    fn signature(&self, message: Message<'_>, timestamp: &str) -> String {
        let (id, time, body) = (message.id.as_bytes(), timestamp.as_bytes(), message.body);
        let hex = |key: &Key, parts: &[&[u8]]| HEXLOWER.encode(&key.sign(parts));
        let all = |prefix: &str, written: &dyn Fn(&Key) -> String| -> Vec<String> {
            let one = |key| format!("{prefix}{}", written(key));
            self.keys.iter().map(one).collect()
        };
        let standard = |key: &Key| BASE64.encode(&key.sign(&[id, b".", time, b".", body]));
        let newest = self.keys.first();
        match self.scheme {
            SignatureScheme::Standard => all("v1,", &standard).join(" "),
            SignatureScheme::StandardEd25519 => all("v1a,", &standard).join(" "),
            SignatureScheme::Timestamped => {
                let signatures = all("v1=", &|key| hex(key, &[time, b".", body])).join(",");
                format!("t={timestamp},{signatures}")
            }
            SignatureScheme::Sha256Timestamp => newest.map_or_else(String::new, |key| {
                format!("sha256={}", hex(key, &[time, b".", body]))
            }),
            SignatureScheme::HexBody => newest.map_or_else(String::new, |key| hex(key, &[body])),
            SignatureScheme::None => String::new(),
        }
    }
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("invariant: HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// A header value; ids, event types and signatures are visible ASCII by construction.
fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("invariant: ids, event types, times and signatures are visible ASCII")
}

#[cfg(test)]
mod tests;
