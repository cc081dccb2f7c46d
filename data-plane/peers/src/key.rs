//! The peer key, and the tags that prove it.
//!
//! A tag covers the server's challenge and the message's number, so nothing that was heard can be said again; and the
//! install's fingerprint, so that two installs with one key do not mix. Tags are compared in constant time.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use qrelay_store::{
    id::{EventAddress, PartitionId, Seq, WriterId},
    store::Install,
};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

/// What a tag begins with, so that the key is used for nothing else.
const PURPOSE: &[u8] = b"qrelay peer 1\0";
/// Bytes of the shortest key: 32 random hexadecimal digits are as much as anybody can guess at.
const KEY_BYTES_MIN: usize = 32;
/// Bytes of the longest key: more is the wrong file.
const KEY_BYTES_MAX: usize = 1024;

/// Random bytes that the server makes for each stream.
pub(crate) type Challenge = [u8; 32];

/// What all processes of one install share.
#[derive(Clone)]
pub struct PeerKey(SecretSlice<u8>);

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerKey(..)")
    }
}

/// The key is too short to be one, or too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a peer key has {KEY_BYTES_MIN} to {KEY_BYTES_MAX} characters; `openssl rand -hex 32` makes one")]
pub struct WeakPeerKey;

impl PeerKey {
    /// The key in `text`, without the white space around it.
    ///
    /// # Errors
    /// When it is too short, or too long.
    pub fn new(text: &SecretString) -> Result<Self, WeakPeerKey> {
        let key = text.expose_secret().trim().as_bytes();
        match (KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()) {
            true => Ok(Self(key.to_vec().into())),
            false => Err(WeakPeerKey),
        }
    }

    /// The key as one install's processes use it.
    pub(crate) fn of(&self, install: &Install) -> InstallKey {
        let beyond = EventAddress {
            partition: PartitionId::new(u16::MAX),
            writer: WriterId::from_u64(u64::MAX),
            seq: Seq::new(u64::MAX),
            index: u16::MAX,
        };
        InstallKey {
            key: self.clone(),
            // An address that no event has, under the install's own key.
            fingerprint: install.ids.event_id(beyond).to_string(),
        }
    }
}

/// The peer key and the install.
#[derive(Clone, Debug)]
pub(crate) struct InstallKey {
    key: PeerKey,
    fingerprint: String,
}

impl InstallKey {
    /// The tag of a message.
    pub(crate) fn tag(&self, challenge: &Challenge, number: u64, hints: &[u8]) -> Vec<u8> {
        self.mac(challenge, number, hints)
            .finalize()
            .into_bytes()
            .to_vec()
    }

    /// Whether the message is from somebody who knows the key.
    pub(crate) fn proves(&self, tag: &[u8], challenge: &Challenge, number: u64, hints: &[u8]) -> bool {
        self.mac(challenge, number, hints).verify_slice(tag).is_ok()
    }

    fn mac(&self, challenge: &Challenge, number: u64, hints: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.0.expose_secret())
            .expect("invariant: HMAC takes keys of any length");
        for part in [
            PURPOSE,
            self.fingerprint.as_bytes(),
            challenge,
            &number.to_be_bytes(),
            hints,
        ] {
            mac.update(part);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<PeerKey, WeakPeerKey> {
        PeerKey::new(&SecretString::from(text.to_owned()))
    }

    fn install_key(fingerprint: &str) -> InstallKey {
        InstallKey {
            key: key(&"k".repeat(32)).unwrap(),
            fingerprint: fingerprint.to_owned(),
        }
    }

    #[test]
    fn a_key_that_can_be_guessed_is_refused_and_none_is_shown() {
        assert_eq!(key("secret").unwrap_err(), WeakPeerKey);
        assert_eq!(key(&format!(" {}\n", "x".repeat(31))).unwrap_err(), WeakPeerKey);
        assert_eq!(key(&"x".repeat(1025)).unwrap_err(), WeakPeerKey);
        assert!(!format!("{:?}", key(&"x".repeat(64)).unwrap()).contains('x'));
    }

    #[test]
    fn a_tag_is_good_for_one_message_of_one_stream_of_one_install() {
        let ours = install_key("one");
        let (challenge, other) = ([7; 32], [8; 32]);
        let tag = ours.tag(&challenge, 3, b"hints");
        assert!(ours.proves(&tag, &challenge, 3, b"hints"));
        assert!(!ours.proves(&tag, &other, 3, b"hints"));
        assert!(!ours.proves(&tag, &challenge, 4, b"hints"));
        assert!(!ours.proves(&tag, &challenge, 3, b"hintz"));
        assert!(!install_key("two").proves(&tag, &challenge, 3, b"hints"));
        assert!(!ours.proves(&tag[..16], &challenge, 3, b"hints"));
        assert!(!ours.proves(&[], &challenge, 3, b"hints"));
    }
}
