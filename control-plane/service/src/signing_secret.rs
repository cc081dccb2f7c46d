//! The text of signing secrets: `whsec_` and base64 of 24 to 64 bytes (Standard Webhooks).

use data_encoding::BASE64;
use qrelay_store::id::random;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use zeroize::Zeroizing;

const PREFIX: &str = "whsec_";
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// What is wrong with a given secret, to go on from the field's name. Never repeats it.
pub(crate) const RULE: &str = "must be whsec_ and base64 of 24 to 64 bytes";

/// A secret's bytes: made here, or a caller's own.
pub(crate) struct SigningSecret(SecretSlice<u8>);

impl SigningSecret {
    /// Makes one of 256 random bits.
    pub(crate) fn generate() -> Self {
        let bytes = Zeroizing::new(random::<32>());
        Self(bytes.to_vec().into())
    }

    /// Takes a caller's own; none if it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(PREFIX)?;
        // Longer texts hold more than 64 bytes.
        let bytes = (encoded.len() <= 88)
            .then(|| BASE64.decode(encoded.as_bytes()).ok())
            .flatten()?;
        let secret = Self(bytes.into());
        BYTES.contains(&secret.bytes().len()).then_some(secret)
    }

    /// What signs.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// What is shown once.
    pub(crate) fn text(&self) -> SecretString {
        SecretString::from(format!("{PREFIX}{}", BASE64.encode(self.bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_secret_reads_back() {
        let made = SigningSecret::generate();
        let read = SigningSecret::parse(made.text().expose_secret()).unwrap();
        assert_eq!(made.bytes(), read.bytes());
        assert_eq!(made.bytes().len(), 32);
    }

    #[test]
    fn only_24_to_64_bytes_of_canonical_base64_are_taken() {
        let text = |bytes: usize| format!("whsec_{}", BASE64.encode(&vec![7; bytes]));
        for (bytes, fits) in [
            (0, false),
            (23, false),
            (24, true),
            (64, true),
            (65, false),
            (1000, false),
        ] {
            assert_eq!(SigningSecret::parse(&text(bytes)).is_some(), fits, "{bytes}");
        }
        for bad in [
            "",
            "whsec_",
            "WHSEC_",
            "whsec_!!!!",
            &text(32)[6..],
            text(32).trim_end_matches('='),
        ] {
            assert!(SigningSecret::parse(bad).is_none(), "{bad}");
        }
    }
}
