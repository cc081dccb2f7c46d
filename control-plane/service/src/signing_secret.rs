//! The text of signing secrets, which depends on the signature's scheme:
//! - `standard`: `whsec_` and base64 of 24 to 64 bytes (Standard Webhooks);
//! - `standard_ed25519`: `whsk_` and base64 of the 32-byte seed and the public key, as Standard Webhooks writes it; the
//!   public key may be left out;
//! - the schemes that are keyed by the text itself: any 16 to 256 visible ASCII characters.

use data_encoding::BASE64;
use ed25519_dalek::SigningKey;
use qrelay_store::{id::random, model::SignatureScheme};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use zeroize::Zeroizing;

const PREFIX: &str = "whsec_";
const ED25519_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const TEXT_CHARS: std::ops::RangeInclusive<usize> = 16..=256;

/// What is wrong with a given secret, to go on from the field's name. Never repeats it.
pub(crate) const fn rule(scheme: SignatureScheme) -> &'static str {
    match scheme {
        SignatureScheme::Standard => "must be whsec_ and base64 of 24 to 64 bytes",
        SignatureScheme::StandardEd25519 => {
            "must be whsk_ and base64 of an Ed25519 seed (32 bytes), its public key behind it or not"
        }
        SignatureScheme::Timestamped | SignatureScheme::Sha256Timestamp | SignatureScheme::HexBody => {
            "must be 16 to 256 visible ASCII characters"
        }
        SignatureScheme::None => "must be empty: the scheme none has no secret",
    }
}

/// A secret: made here, or a caller's own.
pub(crate) struct SigningSecret {
    scheme: SignatureScheme,
    sealed: SecretSlice<u8>,
}

impl SigningSecret {
    /// Makes one of 256 random bits; none for the scheme that has none.
    pub(crate) fn generate(scheme: SignatureScheme) -> Option<Self> {
        let bytes = Zeroizing::new(random::<32>());
        let sealed = match scheme {
            SignatureScheme::None => return None,
            SignatureScheme::Standard | SignatureScheme::StandardEd25519 => bytes.to_vec(),
            SignatureScheme::Timestamped | SignatureScheme::Sha256Timestamp | SignatureScheme::HexBody => {
                prefixed(PREFIX, &*bytes).into_bytes()
            }
        };
        Some(Self {
            scheme,
            sealed: sealed.into(),
        })
    }

    /// Takes a caller's own; none if it is not one of the scheme.
    pub(crate) fn parse(scheme: SignatureScheme, text: &str) -> Option<Self> {
        let sealed = match scheme {
            SignatureScheme::None => return None,
            SignatureScheme::Standard => {
                decoded(text, PREFIX).filter(|bytes| BYTES.contains(&bytes.len()))?
            }
            SignatureScheme::StandardEd25519 => seed(&decoded(text, ED25519_PREFIX)?)?,
            SignatureScheme::Timestamped | SignatureScheme::Sha256Timestamp | SignatureScheme::HexBody => {
                let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
                (visible && TEXT_CHARS.contains(&text.len())).then(|| text.as_bytes().to_vec().into())?
            }
        };
        // Without spare capacity the box takes the bytes over in place: no copy stays behind.
        let mut sealed = sealed;
        Some(Self {
            scheme,
            sealed: std::mem::take(&mut *sealed).into(),
        })
    }

    /// What is sealed, and signs.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.sealed.expose_secret()
    }

    /// What is shown once.
    pub(crate) fn text(&self) -> SecretString {
        let bytes = self.bytes();
        SecretString::from(match (self.scheme, self.signing_key()) {
            (_, Some(key)) => prefixed(ED25519_PREFIX, &*Zeroizing::new(key.to_keypair_bytes())),
            (SignatureScheme::Standard, None) => prefixed(PREFIX, bytes),
            (_, None) => String::from_utf8_lossy(bytes).into_owned(),
        })
    }

    /// What a receiver verifies with, for the scheme with a public key.
    pub(crate) fn public_key(&self) -> Option<String> {
        Some(prefixed(
            PUBLIC_PREFIX,
            self.signing_key()?.verifying_key().as_bytes(),
        ))
    }

    fn signing_key(&self) -> Option<SigningKey> {
        let seed = (self.scheme == SignatureScheme::StandardEd25519).then(|| self.bytes())?;
        seed.try_into().ok().map(SigningKey::from_bytes)
    }
}

fn prefixed(prefix: &str, bytes: &[u8]) -> String {
    let mut text = String::with_capacity(prefix.len() + BASE64.encode_len(bytes.len()));
    text.push_str(prefix);
    BASE64.encode_append(bytes, &mut text);
    text
}

fn decoded(text: &str, prefix: &str) -> Option<Zeroizing<Vec<u8>>> {
    let encoded = text.strip_prefix(prefix)?;
    // Longer texts hold more than 64 bytes.
    let bytes = (encoded.len() <= 88)
        .then(|| BASE64.decode(encoded.as_bytes()).ok())
        .flatten()?;
    Some(Zeroizing::new(bytes))
}

/// The seed alone; a public key behind it must be its own.
fn seed(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (seed, public) = bytes.split_first_chunk::<32>()?;
    let own = SigningKey::from_bytes(seed).verifying_key();
    (public.is_empty() || public == own.as_bytes()).then(|| Zeroizing::new(seed.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDARD: SignatureScheme = SignatureScheme::Standard;
    const ED25519: SignatureScheme = SignatureScheme::StandardEd25519;

    #[test]
    fn a_made_secret_reads_back() {
        for (scheme, prefix) in [
            (STANDARD, "whsec_"),
            (ED25519, "whsk_"),
            (SignatureScheme::Timestamped, "whsec_"),
            (SignatureScheme::Sha256Timestamp, "whsec_"),
            (SignatureScheme::HexBody, "whsec_"),
        ] {
            let made = SigningSecret::generate(scheme).unwrap();
            let text = made.text().expose_secret().to_owned();
            assert!(text.starts_with(prefix), "{scheme:?}");
            let read = SigningSecret::parse(scheme, &text).unwrap();
            assert_eq!(made.bytes(), read.bytes());
            assert_eq!(made.public_key(), read.public_key());
            assert_eq!(made.public_key().is_some(), scheme == ED25519);
            if scheme.keyed_by_text() {
                assert_eq!(
                    made.bytes(),
                    text.as_bytes(),
                    "the text is the key, prefix included"
                );
            } else {
                assert_eq!(made.bytes().len(), 32);
            }
        }
        assert!(SigningSecret::generate(SignatureScheme::None).is_none());
    }

    #[test]
    fn only_24_to_64_bytes_of_canonical_base64_are_taken() {
        let text = |bytes: usize| prefixed("whsec_", &vec![7; bytes]);
        for (bytes, fits) in [
            (0, false),
            (23, false),
            (24, true),
            (64, true),
            (65, false),
            (1000, false),
        ] {
            let read = SigningSecret::parse(STANDARD, &text(bytes));
            assert_eq!(read.is_some(), fits, "{bytes}");
        }
        for bad in [
            "",
            "whsec_",
            "WHSEC_",
            "whsec_!!!!",
            &text(32)[6..],
            text(32).trim_end_matches('='),
        ] {
            assert!(SigningSecret::parse(STANDARD, bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_ed25519_secret_is_a_seed_with_or_without_its_own_public_key() {
        let whole =
            "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
        let read = SigningSecret::parse(ED25519, whole).unwrap();
        assert_eq!(read.text().expose_secret(), whole);
        assert_eq!(
            read.public_key().unwrap(),
            "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
        );
        let alone = prefixed("whsk_", read.bytes());
        let alone = SigningSecret::parse(ED25519, &alone).unwrap();
        assert_eq!(alone.text().expose_secret(), whole);
        let of_another = [read.bytes(), &[9; 32]].concat();
        for bad in [
            prefixed("whsk_", &of_another),
            prefixed("whsk_", &[7; 31]),
            prefixed("whsec_", &[7; 32]),
        ] {
            assert!(SigningSecret::parse(ED25519, &bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_secret_that_is_its_own_key_is_any_visible_text_of_16_to_256_characters() {
        let longest = "x".repeat(256);
        for (text, fits) in [
            ("not-base64!~customer", true),
            ("0123456789abcdef", true),
            ("0123456789abcde", false),
            (&*longest, true),
            (&*"x".repeat(257), false),
            ("with a space inside", false),
            ("with-ümlaut-inside", false),
        ] {
            let read = SigningSecret::parse(SignatureScheme::HexBody, text);
            assert_eq!(
                read.map(|read| read.bytes() == text.as_bytes()),
                fits.then_some(true),
                "{text}"
            );
        }
        assert!(SigningSecret::parse(SignatureScheme::None, "0123456789abcdef").is_none());
    }
}
