//! Sealing: how secrets rest in the store.
//!
//! A sealed value is `version (1) | length of the key's id (1) | key id | nonce (12) | ciphertext and tag`, made
//! with AES-256-GCM-SIV (RFC 8452: a repeated nonce shows only that two plaintexts are equal). Everything in front
//! of the ciphertext, the purpose, and the tenant, endpoint and secret that the value belongs to are associated
//! data: a value that was moved to another row does not open.
//!
//! Invariants: the first master key seals and every key opens; nothing here prints key or plaintext, neither
//! in `Debug` nor in an error. Where master keys come from is [`MasterKeys`]' business.

mod master_keys;

use std::sync::Arc;

use aes_gcm_siv::{
    Aes256GcmSiv,
    aead::{Aead, KeyInit, Payload},
};
use secrecy::SecretSlice;

pub use master_keys::{Derived, MasterKeyError, MasterKeys};

use crate::{
    id::{EndpointId, SecretId, TenantId, random},
    store::{Registry, StoreError},
};

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;

/// What a sealed value is for. A value sealed for one purpose does not open for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// An endpoint's signing secret: the raw bytes that `whsec_…` is the base64 of.
    SigningSecret,
    /// The private key of an endpoint's client certificate: PEM.
    TlsClientKey,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::SigningSecret => "signing-secret",
            Self::TlsClientKey => "tls-client-key",
        }
    }
}

/// Why a sealed value did not open. Never says anything about its content.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The bytes are not a sealed value.
    #[error("the sealed value is malformed")]
    Malformed,
    /// Written by a newer release.
    #[error("sealed values of version {0} are not known to this release")]
    Version(u8),
    /// Its key is not among the master keys.
    #[error("it is sealed with master key `{0}`, which the key file does not hold")]
    MissingKey(String),
    /// The key of that name did not seal this, or the value was changed or moved.
    #[error("master key `{0}` does not open it: another key has that name, or the value was changed")]
    Refused(String),
}

/// Why the master keys do not fit the store.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A stored secret does not open.
    #[error("the master keys do not fit this store: stored secret {secret} does not open")]
    WrongKeys {
        /// Which one.
        secret: SecretId,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Seals and opens with an install's master keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sealer {
    keys: Arc<MasterKeys>,
}

impl Sealer {
    /// With these keys.
    pub fn new(keys: Arc<MasterKeys>) -> Self {
        Self { keys }
    }

    /// Seals `plaintext` for one secret's row.
    pub fn seal(
        &self,
        purpose: Purpose,
        tenant: TenantId,
        endpoint: EndpointId,
        secret: SecretId,
        plaintext: &[u8],
    ) -> Vec<u8> {
        let (id, key) = self.keys.sealing();
        let id_length = u8::try_from(id.len()).expect("invariant: key ids are at most 32 bytes");
        let mut sealed = vec![VERSION, id_length];
        sealed.extend_from_slice(id.as_bytes());
        sealed.extend_from_slice(&random::<NONCE_BYTES>());
        let aad = associated_data(&sealed, purpose, tenant, endpoint, secret);
        let nonce: [u8; NONCE_BYTES] = sealed[sealed.len() - NONCE_BYTES..]
            .try_into()
            .expect("invariant: the nonce was appended above");
        let payload = Payload {
            msg: plaintext,
            aad: &aad,
        };
        let ciphertext = Aes256GcmSiv::new(&(**key).into())
            .encrypt(&nonce.into(), payload)
            .expect("invariant: secrets are shorter than RFC 8452's 64 GiB");
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    /// Opens what [`Sealer::seal`] made for the same row.
    ///
    /// # Errors
    /// When it was made for another row, with a key that is not here, or is not what was sealed.
    pub fn open(
        &self,
        purpose: Purpose,
        tenant: TenantId,
        endpoint: EndpointId,
        secret: SecretId,
        sealed: &[u8],
    ) -> Result<SecretSlice<u8>, OpenError> {
        let frame = Frame::parse(sealed)?;
        let key = self
            .keys
            .opening(frame.key_id)
            .ok_or_else(|| OpenError::MissingKey(frame.key_id.to_owned()))?;
        let aad = associated_data(frame.head, purpose, tenant, endpoint, secret);
        let payload = Payload {
            msg: frame.ciphertext,
            aad: &aad,
        };
        let plaintext = Aes256GcmSiv::new(&(**key).into())
            .decrypt(&frame.nonce.into(), payload)
            .map_err(|_| OpenError::Refused(frame.key_id.to_owned()))?;
        Ok(plaintext.into())
    }

    /// Checks at the start that these keys open what the store holds; a store without secrets fits any keys.
    ///
    /// # Errors
    /// When a stored secret does not open: the start MUST be refused then, or new secrets would be sealed with
    /// a key that does not belong to this install.
    pub async fn check(&self, registry: &dyn Registry) -> Result<(), CheckError> {
        let Some((tenant, endpoint, secret, sealed)) = registry.any_secret().await? else {
            return Ok(());
        };
        match self.open(Purpose::SigningSecret, tenant, endpoint, secret, &sealed) {
            Ok(_opened) => Ok(()),
            Err(source) => Err(CheckError::WrongKeys { secret, source }),
        }
    }

    /// Keys for another use, such as page tokens, that are not the sealing keys but as secret.
    pub fn derive(&self, label: &str) -> Derived {
        self.keys.derive(label)
    }
}

/// A sealed value's parts.
struct Frame<'a> {
    head: &'a [u8],
    key_id: &'a str,
    nonce: [u8; NONCE_BYTES],
    ciphertext: &'a [u8],
}

impl<'a> Frame<'a> {
    fn parse(sealed: &'a [u8]) -> Result<Self, OpenError> {
        let (&version, rest) = sealed.split_first().ok_or(OpenError::Malformed)?;
        if version != VERSION {
            return Err(OpenError::Version(version));
        }
        let (&id_length, rest) = rest.split_first().ok_or(OpenError::Malformed)?;
        let (key_id, rest) = rest
            .split_at_checked(usize::from(id_length))
            .ok_or(OpenError::Malformed)?;
        let (nonce, ciphertext) = rest.split_first_chunk().ok_or(OpenError::Malformed)?;
        let key_id = std::str::from_utf8(key_id).map_err(|_| OpenError::Malformed)?;
        if !master_keys::is_key_id(key_id) {
            return Err(OpenError::Malformed);
        }
        Ok(Self {
            head: &sealed[..sealed.len() - ciphertext.len()],
            key_id,
            nonce: *nonce,
            ciphertext,
        })
    }
}

/// What a sealed value is bound to. All parts but the first two have a fixed length, and those two carry theirs.
fn associated_data(
    head: &[u8],
    purpose: Purpose,
    tenant: TenantId,
    endpoint: EndpointId,
    secret: SecretId,
) -> Vec<u8> {
    let mut aad = Vec::with_capacity(128);
    for part in [b"qrelay seal".as_slice(), head, purpose.as_str().as_bytes()] {
        let length = u16::try_from(part.len()).expect("invariant: heads and purposes are short");
        aad.extend_from_slice(&length.to_be_bytes());
        aad.extend_from_slice(part);
    }
    aad.extend_from_slice(tenant.as_bytes());
    aad.extend_from_slice(endpoint.as_bytes());
    aad.extend_from_slice(secret.as_bytes());
    aad
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    const PURPOSE: Purpose = Purpose::SigningSecret;

    fn sealer(ids: &[&str]) -> Sealer {
        let lines: Vec<String> = ids
            .iter()
            .map(|id| {
                let mut key = [9; 32];
                key[..id.len()].copy_from_slice(id.as_bytes());
                format!("{id}:{}", data_encoding::BASE64.encode(&key))
            })
            .collect();
        Sealer::new(Arc::new(MasterKeys::parse(&lines.join("\n")).unwrap()))
    }

    fn ids(seed: u8) -> (TenantId, EndpointId, SecretId) {
        (
            TenantId::from_bytes([seed; 10]),
            EndpointId::from_bytes([seed + 1; 10]),
            SecretId::from_bytes([seed + 2; 10]),
        )
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_for_the_same_row_and_hides_its_content(plain: Vec<u8>, tenant: [u8; 10], endpoint: [u8; 10], secret: [u8; 10]) {
            let (t, e, s) = (TenantId::from_bytes(tenant), EndpointId::from_bytes(endpoint), SecretId::from_bytes(secret));
            let sealer = sealer(&["a"]);
            let sealed = sealer.seal(PURPOSE, t, e, s, &plain);
            let opened = sealer.open(PURPOSE, t, e, s, &sealed).unwrap();
            prop_assert_eq!(opened.expose_secret(), &plain[..]);
            if plain.len() >= 8 {
                prop_assert!(!sealed.windows(plain.len()).any(|window| window == plain));
            }
        }

        #[test]
        fn any_changed_bit_and_any_cut_is_noticed(plain in proptest::collection::vec(any::<u8>(), 1..64), at: prop::sample::Index, bit in 0_u8..8, cut: prop::sample::Index) {
            let (t, e, s) = ids(1);
            let sealer = sealer(&["a", "b"]);
            let sealed = sealer.seal(PURPOSE, t, e, s, &plain);
            let mut changed = sealed.clone();
            changed[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(sealer.open(PURPOSE, t, e, s, &changed).is_err());
            prop_assert!(sealer.open(PURPOSE, t, e, s, &sealed[..cut.index(sealed.len())]).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes: Vec<u8>) {
            let (t, e, s) = ids(1);
            prop_assert!(sealer(&["a"]).open(PURPOSE, t, e, s, &bytes).is_err());
        }
    }

    #[test]
    fn a_value_moved_to_another_row_does_not_open() {
        let sealer = sealer(&["a"]);
        let ((t, e, s), (t2, e2, s2)) = (ids(1), ids(101));
        let sealed = sealer.seal(PURPOSE, t, e, s, b"secret");
        for (t, e, s) in [(t2, e, s), (t, e2, s), (t, e, s2)] {
            let refused = sealer.open(PURPOSE, t, e, s, &sealed).err();
            assert_eq!(refused, Some(OpenError::Refused("a".into())));
        }
    }

    #[test]
    fn two_seals_of_one_plaintext_differ() {
        let sealer = sealer(&["a"]);
        let (t, e, s) = ids(1);
        assert_ne!(
            sealer.seal(PURPOSE, t, e, s, b"x"),
            sealer.seal(PURPOSE, t, e, s, b"x")
        );
    }

    #[test]
    fn the_first_key_seals_and_older_keys_still_open() {
        let (t, e, s) = ids(1);
        let before = sealer(&["old"]).seal(PURPOSE, t, e, s, b"secret");
        let rotated = sealer(&["new", "old"]);
        assert_eq!(
            rotated.open(PURPOSE, t, e, s, &before).unwrap().expose_secret(),
            b"secret"
        );
        let after = rotated.seal(PURPOSE, t, e, s, b"secret");
        assert_eq!(
            sealer(&["old"]).open(PURPOSE, t, e, s, &after).err(),
            Some(OpenError::MissingKey("new".into()))
        );
    }

    #[test]
    fn a_newer_version_is_named_as_such() {
        let (t, e, s) = ids(1);
        let sealer = sealer(&["a"]);
        let mut sealed = sealer.seal(PURPOSE, t, e, s, b"secret");
        sealed[0] = 2;
        assert_eq!(
            sealer.open(PURPOSE, t, e, s, &sealed).err(),
            Some(OpenError::Version(2))
        );
    }

    #[test]
    fn debug_shows_neither_keys_nor_plaintext() {
        let (t, e, s) = ids(1);
        let sealer = sealer(&["a"]);
        let opened = sealer
            .open(PURPOSE, t, e, s, &sealer.seal(PURPOSE, t, e, s, b"secret"))
            .unwrap();
        let shown = format!("{sealer:?} {opened:?} {:?}", sealer.derive("x"));
        assert!(!shown.contains("secret") && !shown.contains("115"), "{shown}");
        assert!(
            !shown.contains(&data_encoding::BASE64.encode(&[9; 8])[..8]),
            "{shown}"
        );
        assert!(!shown.contains("9, 9"), "{shown}");
    }
}
