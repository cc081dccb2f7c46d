//! Signing a delivery, so that a receiver knows who sent it and that nobody changed it.
//!
//! A [`Signer`] holds an endpoint's scheme and all its valid secrets (two while one is rotated out) and makes the
//! headers of one attempt. The event's id stays the same over all attempts; the timestamp is the attempt's own.
//! Unsealing secrets and dropping those whose hour has passed is left to the caller.
//!
//! Secrets live in `secrecy` boxes, which zeroize them when dropped and print nothing in `Debug`.

use std::str::FromStr;

use data_encoding::{BASE64, BASE64_NOPAD};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue};
use qrelay_store::limits::SECRETS_PER_ENDPOINT_MAX;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;
use zeroize::Zeroizing;

/// What a Standard Webhooks secret begins with.
const SECRET_PREFIX: &str = "whsec_";

/// How deliveries to an endpoint are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Standard Webhooks 1.0.0 with symmetric signatures: `webhook-id`, `webhook-timestamp` and
    /// `webhook-signature: v1,<base64>`, HMAC-SHA256 over `{id}.{timestamp}.{body}`; several signatures are
    /// separated by spaces.
    #[default]
    Standard,
}

impl Scheme {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Standard => "standard",
        }
    }
}

impl FromStr for Scheme {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "standard" => Ok(Scheme::Standard),
            _ => Err(SignatureError::UnknownScheme),
        }
    }
}

/// Why no signer could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No such scheme.
    #[error("unknown signature scheme")]
    UnknownScheme,
    /// The secret is not `whsec_` and base64 of at least one byte. The text never holds the secret.
    #[error("a signing secret is not whsec_ followed by base64")]
    MalformedSecret,
    /// No secret, or more than [`SECRETS_PER_ENDPOINT_MAX`].
    #[error("an endpoint signs with 1 to {SECRETS_PER_ENDPOINT_MAX} secrets")]
    SecretCount,
}

/// What is signed: one attempt of one delivery.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The event's id, the same on every attempt. Must not hold a dot, which separates what is signed.
    pub id: &'a str,
    /// When the attempt is made: seconds since 1970-01-01T00:00:00Z.
    pub timestamp_s: i64,
    /// The request body, to the byte.
    pub body: &'a [u8],
}

/// Signs an endpoint's deliveries. Cheap to clone is not promised: make one per endpoint and change.
#[derive(Debug)]
pub struct Signer {
    scheme: Scheme,
    keys: Vec<SecretSlice<u8>>,
}

impl Signer {
    /// A signer with the endpoint's valid secrets, the newest first: its signature stands first.
    pub fn new(scheme: Scheme, secrets: &[SecretString]) -> Result<Self, SignatureError> {
        if secrets.is_empty() || secrets.len() > SECRETS_PER_ENDPOINT_MAX {
            return Err(SignatureError::SecretCount);
        }
        let keys = secrets
            .iter()
            .map(|secret| scheme.key(secret))
            .collect::<Result<_, _>>()?;
        Ok(Signer { scheme, keys })
    }

    /// The headers that identify and sign the message.
    pub fn headers(&self, message: Message<'_>) -> Vec<(HeaderName, HeaderValue)> {
        match self.scheme {
            Scheme::Standard => self.standard(message),
        }
    }

    fn standard(&self, message: Message<'_>) -> Vec<(HeaderName, HeaderValue)> {
        let timestamp = message.timestamp_s.to_string();
        let mut signatures = String::new();
        for key in &self.keys {
            let parts = [
                message.id.as_bytes(),
                b".",
                timestamp.as_bytes(),
                b".",
                message.body,
            ];
            if !signatures.is_empty() {
                signatures.push(' ');
            }
            signatures.push_str("v1,");
            BASE64.encode_append(&hmac_sha256(key.expose_secret(), &parts), &mut signatures);
        }
        vec![
            (HeaderName::from_static("webhook-id"), visible(message.id)),
            (HeaderName::from_static("webhook-timestamp"), visible(&timestamp)),
            (HeaderName::from_static("webhook-signature"), visible(&signatures)),
        ]
    }
}

impl Scheme {
    /// The HMAC key that a secret's text stands for.
    fn key(self, secret: &SecretString) -> Result<SecretSlice<u8>, SignatureError> {
        match self {
            Scheme::Standard => {
                let text = secret.expose_secret();
                let encoded = text
                    .strip_prefix(SECRET_PREFIX)
                    .ok_or(SignatureError::MalformedSecret)?;
                let unpadded = encoded.trim_end_matches('=').as_bytes();
                let key = BASE64_NOPAD
                    .decode(unpadded)
                    .map_err(|_| SignatureError::MalformedSecret)?;
                // Without spare capacity the box takes the bytes over in place: no copy stays behind.
                let mut key = Zeroizing::new(key);
                if key.is_empty() {
                    return Err(SignatureError::MalformedSecret);
                }
                Ok(SecretSlice::from(std::mem::take(&mut *key)))
            }
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

/// A header value; ids and signatures are visible ASCII by construction.
fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("invariant: ids, times and signatures are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's example, which its reference libraries test with too.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const MESSAGE: Message<'static> = Message {
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp_s: 1_614_265_330,
        body: br#"{"test": 2432232314}"#,
    };

    fn signer(secrets: &[&str]) -> Result<Signer, SignatureError> {
        let secrets: Vec<SecretString> = secrets.iter().map(|secret| SecretString::from(*secret)).collect();
        Signer::new(Scheme::Standard, &secrets)
    }

    fn value(headers: &[(HeaderName, HeaderValue)], name: &str) -> String {
        let (_, value) = headers.iter().find(|(header, _)| header == name).unwrap();
        value.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_specifications_example_is_signed_as_it_says() {
        let headers = signer(&[SECRET]).unwrap().headers(MESSAGE);
        assert_eq!(
            value(&headers, "webhook-signature"),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        assert_eq!(value(&headers, "webhook-id"), "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(value(&headers, "webhook-timestamp"), "1614265330");
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn hmac_sha256_matches_rfc_4231() {
        let digest = hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&digest),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn every_valid_secret_signs_the_newest_first() {
        let other = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
        let both = value(
            &signer(&[other, SECRET]).unwrap().headers(MESSAGE),
            "webhook-signature",
        );
        let alone = value(&signer(&[other]).unwrap().headers(MESSAGE), "webhook-signature");
        assert_eq!(
            both,
            format!("{alone} v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        );
    }

    #[test]
    fn padding_of_the_secret_does_not_matter() {
        let padded = signer(&["whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGA=="])
            .unwrap()
            .headers(MESSAGE);
        let bare = signer(&["whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGA"])
            .unwrap()
            .headers(MESSAGE);
        assert_eq!(padded, bare);
    }

    #[test]
    fn any_change_of_id_time_or_body_changes_the_signature() {
        let signer = signer(&[SECRET]).unwrap();
        let signature = |message| value(&signer.headers(message), "webhook-signature");
        let original = signature(MESSAGE);
        assert_ne!(
            original,
            signature(Message {
                id: "msg_q",
                ..MESSAGE
            })
        );
        assert_ne!(
            original,
            signature(Message {
                timestamp_s: 1_614_265_331,
                ..MESSAGE
            })
        );
        assert_ne!(original, signature(Message { body: b"", ..MESSAGE }));
    }

    #[test]
    fn what_is_no_secret_makes_no_signer_and_is_not_repeated_in_the_error() {
        for secret in [
            "",
            "whsec_",
            "whsec_===",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_not base64!",
            "whsec_é",
        ] {
            assert_eq!(
                signer(&[secret]).unwrap_err(),
                SignatureError::MalformedSecret,
                "{secret:?}"
            );
        }
        assert_eq!(signer(&[]).unwrap_err(), SignatureError::SecretCount);
        assert_eq!(
            signer(&[SECRET; SECRETS_PER_ENDPOINT_MAX + 1]).unwrap_err(),
            SignatureError::SecretCount
        );
    }

    #[test]
    fn debug_output_holds_no_key() {
        let text = format!("{:?}", signer(&[SECRET]).unwrap());
        assert!(text.contains("REDACTED"), "{text}");
        assert!(!text.contains("49, 242, 144"), "{text}");
    }
}
