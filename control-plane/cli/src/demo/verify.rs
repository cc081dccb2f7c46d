//! Verifies a webhook as its receiver would: the Standard Webhooks scheme, from its specification.
//!
//! Written apart from the sender's code on purpose: a mistake in one would otherwise be repeated in the other.

use std::time::Duration;

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use qrelay_store::Timestamp;
use sha2::Sha256;
use zeroize::Zeroizing;

/// How far a webhook's time may be from ours: what the specification's libraries allow.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// A signing secret.
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

/// A text that is no signing secret.
#[derive(Debug, thiserror::Error)]
#[error("a signing secret is whsec_ and base64")]
pub(crate) struct InvalidSecret;

/// Why a webhook is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Rejected {
    #[error("the header {0} is missing or unreadable")]
    Header(&'static str),
    #[error("it was signed more than five minutes ago, or in the future")]
    Time,
    #[error("no signature fits")]
    Signature,
}

impl Secret {
    /// Reads `whsec_…`.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix("whsec_").ok_or(InvalidSecret)?;
        let key = BASE64.decode(encoded.as_bytes()).map_err(|_| InvalidSecret)?;
        Ok(Self(Zeroizing::new(key)))
    }

    /// Checks one request: the `webhook-id` that its signature vouches for.
    pub(crate) fn verify<'a>(
        &self,
        headers: &'a HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Result<&'a str, Rejected> {
        let header = |name: &'static str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value
                .filter(|text| !text.is_empty())
                .ok_or(Rejected::Header(name))
        };
        let (id, time, signatures) = (
            header("webhook-id")?,
            header("webhook-timestamp")?,
            header("webhook-signature")?,
        );
        let seconds: i64 = time.parse().map_err(|_| Rejected::Header("webhook-timestamp"))?;
        if now.as_secs().abs_diff(seconds) > TOLERANCE.as_secs() {
            return Err(Rejected::Time);
        }
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("invariant: HMAC takes keys of any length");
        for part in [id.as_bytes(), b".", time.as_bytes(), b".", body] {
            mac.update(part);
        }
        let fits = |signature: &str| {
            let encoded = signature.strip_prefix("v1,")?;
            let tag = BASE64.decode(encoded.as_bytes()).ok()?;
            mac.clone().verify_slice(&tag).ok()
        };
        signatures
            .split(' ')
            .find_map(fits)
            .map(|()| id)
            .ok_or(Rejected::Signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of the Standard Webhooks specification.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const AT: i64 = 1_614_265_330;

    fn headers(signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", signature),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    fn verify(signature: &str, body: &[u8], at: i64) -> Result<String, Rejected> {
        let secret = Secret::parse(SECRET).unwrap();
        secret
            .verify(&headers(signature), body, Timestamp::from_millis(at * 1000))
            .map(str::to_owned)
    }

    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn the_specifications_example_verifies_also_among_others() {
        assert_eq!(
            verify(SIGNATURE, BODY, AT).unwrap(),
            "msg_p5jXN8AQM9LWM0D4loKWxJek"
        );
        let several = format!("v1a,abc v1,AAAA {SIGNATURE}");
        assert!(verify(&several, BODY, AT).is_ok());
    }

    #[test]
    fn another_body_time_or_signature_is_rejected() {
        assert_eq!(verify(SIGNATURE, b"{}", AT), Err(Rejected::Signature));
        assert_eq!(verify(SIGNATURE, BODY, AT + 301), Err(Rejected::Time));
        assert_eq!(verify(SIGNATURE, BODY, AT - 301), Err(Rejected::Time));
        for bad in [
            "v1,",
            "v1,AAAA",
            "",
            "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ] {
            assert!(verify(bad, BODY, AT).is_err(), "{bad}");
        }
        assert!(Secret::parse("MfKQ").is_err() && Secret::parse("whsec_???").is_err());
    }
}
