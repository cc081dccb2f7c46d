//! The text of API keys: `qrk_<key id's body>_<256 random bits>`, and the admin key.
//!
//! The id in the text finds the row; only the SHA-256 of the whole text is stored. 256 random bits need no slow
//! hash: nobody guesses them, and the hash is compared in constant time.

use std::fmt;

use data_encoding::HEXLOWER;
use qrelay_store::id::{KeyId, base32, random};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const PREFIX: &str = "qrk_";
/// The longest text that is looked at: keys have 73 characters, admin keys are the operator's.
const TEXT_BYTES_MAX: usize = 512;
/// The shortest admin key: 128 bits as base64.
const ADMIN_KEY_BYTES_MIN: usize = 22;

/// SHA-256 of a key's text. Compares in constant time only; prints nothing.
#[derive(Clone, Copy)]
pub(crate) struct Fingerprint([u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(..)")
    }
}

impl Fingerprint {
    /// Of this text; none for a text that is too long to be a key.
    pub(crate) fn of(text: &str) -> Option<Self> {
        (text.len() <= TEXT_BYTES_MAX).then(|| Self(Sha256::digest(text.as_bytes()).into()))
    }

    /// Whether both are of the same text.
    pub(crate) fn matches(&self, other: &Fingerprint) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// Whether it is what a stored row's `hash` says.
    pub(crate) fn matches_stored(&self, hash: &str) -> bool {
        let mut stored = [0; 32];
        let read = hash.len() == 64 && HEXLOWER.decode_mut(hash.as_bytes(), &mut stored).is_ok();
        read & bool::from(self.0.ct_eq(&stored))
    }

    /// As stored.
    pub(crate) fn to_stored(self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// For a cache's key.
    pub(crate) fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

/// Makes a key: its id, its text (to be shown once), and its fingerprint.
pub(crate) fn generate() -> (KeyId, SecretString, Fingerprint) {
    let id = KeyId::random();
    let secret = Zeroizing::new(random::<32>());
    let text = SecretString::from(format!("{PREFIX}{}_{}", body(id), base32(&*secret)));
    let fingerprint = Fingerprint::of(text.expose_secret()).expect("invariant: keys are short");
    (id, text, fingerprint)
}

/// The id in a key's text, if it looks like one.
pub(crate) fn id_in(text: &str) -> Option<KeyId> {
    let (body, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    if secret.is_empty() || body.len() > 32 {
        return None;
    }
    format!("{}{body}", KeyId::PREFIX).parse().ok()
}

fn body(id: KeyId) -> String {
    id.to_string()[KeyId::PREFIX.len()..].to_owned()
}

/// The operator's key: everything, everywhere. Kept as a fingerprint only.
#[derive(Clone, Debug)]
pub struct AdminKey(Fingerprint);

/// An admin key that is too short, too long, or not visible ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the admin key must be {ADMIN_KEY_BYTES_MIN} to {TEXT_BYTES_MAX} visible ASCII characters and not begin with {PREFIX}"
)]
pub struct InvalidAdminKey;

impl AdminKey {
    /// Takes the operator's own.
    ///
    /// # Errors
    /// When it is too short to be safe, or cannot stand in a header.
    pub fn new(text: &SecretString) -> Result<Self, InvalidAdminKey> {
        let text = text.expose_secret();
        let fits = text.len() >= ADMIN_KEY_BYTES_MIN
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && !text.starts_with(PREFIX);
        let fingerprint = fits.then(|| Fingerprint::of(text)).flatten();
        fingerprint.map(Self).ok_or(InvalidAdminKey)
    }

    /// Makes one: `qra_<256 random bits>`.
    pub fn generate() -> SecretString {
        let secret = Zeroizing::new(random::<32>());
        SecretString::from(format!("qra_{}", base32(&*secret)))
    }

    /// From what [`AdminKey::hash`] gave, so that the key itself need not be kept.
    pub fn from_hash(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let read = hex.len() == 64 && HEXLOWER.decode_mut(hex.as_bytes(), &mut bytes).is_ok();
        read.then_some(Self(Fingerprint(bytes)))
    }

    /// SHA-256 of the key, 64 lower-case hex digits. Not a secret: a key has at least 128 bits.
    pub fn hash(&self) -> String {
        self.0.to_stored()
    }

    pub(crate) fn matches(&self, presented: &Fingerprint) -> bool {
        self.0.matches(presented)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_names_its_row_and_matches_only_itself() {
        let (id, text, fingerprint) = generate();
        let text = text.expose_secret();
        assert_eq!(id_in(text), Some(id));
        assert!(
            text.len() == 73 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
            "{text}"
        );
        assert!(fingerprint.matches_stored(&fingerprint.to_stored()));
        let other = Fingerprint::of(&format!("{text}0")).unwrap();
        assert!(!other.matches_stored(&fingerprint.to_stored()));
        assert!(!other.matches(&fingerprint));
        assert!(!fingerprint.matches_stored("") && !fingerprint.matches_stored(&"z".repeat(64)));
    }

    #[test]
    fn admin_keys_are_long_visible_ascii() {
        for (text, fits) in [
            ("", false),
            ("short", false),
            ("qrk_0123456789012345678901234", false),
        ] {
            assert_eq!(AdminKey::new(&SecretString::from(text)).is_ok(), fits, "{text}");
        }
        assert!(AdminKey::new(&SecretString::from("with a space 0123456789012345")).is_err());
        assert!(AdminKey::new(&SecretString::from("a".repeat(513))).is_err());
        let made = AdminKey::generate();
        let key = AdminKey::new(&made).unwrap();
        assert!(key.matches(&Fingerprint::of(made.expose_secret()).unwrap()));
        assert!(!format!("{key:?}{made:?}").contains(made.expose_secret()));
        let kept = AdminKey::from_hash(&key.hash()).unwrap();
        assert!(kept.matches(&Fingerprint::of(made.expose_secret()).unwrap()));
        assert!(AdminKey::from_hash("").is_none() && AdminKey::from_hash(&"G".repeat(64)).is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_an_id_or_none_without_panic(text in "(qrk_)?[0-9a-z_]{0,90}|\\PC{0,40}") {
            let _found = id_in(&text).is_some();
            let _fingerprint = Fingerprint::of(&text).is_some();
        }
    }
}
