//! Master keys: the text format, the file, and keys derived from them.
//!
//! One key per line, `id:base64(32 bytes)`; the first seals, all open; empty lines and lines that begin with `#`
//! are skipped. To rotate, put a new line in front and keep the old ones for as long as something sealed with
//! them exists. From an environment variable the same text is taken, or one bare base64 of 32 bytes.
//!
//! Invariants: a key file appears whole or not at all, readable by its owner only; nothing here shows a key.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aes_gcm_siv::{
    Aes256GcmSiv,
    aead::{Aead, Payload},
};
use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::id::{base32, random};

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// Key ids are short names such as `k-2026-11`.
const KEY_ID_BYTES_MAX: usize = 32;
/// Years of rotation, and a bound.
const KEYS_MAX: usize = 64;
/// 64 keys with room for comments.
const FILE_BYTES_MAX: u64 = 64 * 1024;

type Key = Zeroizing<[u8; KEY_BYTES]>;

/// Why there are no usable master keys. Never shows a key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file could not be read, created or made durable.
    #[error("cannot {doing} the master key file {path}")]
    File {
        /// `read` or `create`.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Everybody on the machine may read or write it.
    #[error("the master key file {path} is open to everybody (mode {mode:04o}); run: chmod 600 {path}")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What is in the file is no set of keys.
    #[error("the master key file {path} cannot be used")]
    Content {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<MasterKeyError>,
    },
    /// There is no key in it.
    #[error("there is no master key: expected lines of the form id:base64 of 32 bytes")]
    Empty,
    /// A line is not a key.
    #[error("line {line} of the master keys is not id:base64 of 32 bytes, with an id of a-z, 0-9, - and _")]
    Malformed {
        /// From 1.
        line: usize,
    },
    /// Two keys have one id.
    #[error("line {line} of the master keys repeats the id of an earlier one")]
    Repeated {
        /// From 1.
        line: usize,
    },
    /// More than can be of use.
    #[error("more than {KEYS_MAX} master keys, or more than {FILE_BYTES_MAX} bytes")]
    TooMany,
}

/// An install's master keys: at least one.
pub struct MasterKeys {
    keys: Vec<MasterKey>,
}

struct MasterKey {
    id: String,
    master: Key,
    seal: Key,
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| key.id.as_str());
        f.debug_list().entries(ids).finish()
    }
}

impl MasterKeys {
    /// From the file's text.
    ///
    /// # Errors
    /// When there is no key, or a line is not one.
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let mut keys: Vec<MasterKey> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let (number, line) = (at + 1, line.trim());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (id, encoded) = line
                .split_once(':')
                .filter(|(id, _)| is_key_id(id))
                .ok_or(MasterKeyError::Malformed { line: number })?;
            let key = decode(encoded).ok_or(MasterKeyError::Malformed { line: number })?;
            if keys.iter().any(|known| known.id == id) {
                return Err(MasterKeyError::Repeated { line: number });
            }
            if keys.len() == KEYS_MAX {
                return Err(MasterKeyError::TooMany);
            }
            keys.push(MasterKey::new(id.to_owned(), key));
        }
        if keys.is_empty() {
            return Err(MasterKeyError::Empty);
        }
        Ok(Self { keys })
    }

    /// From an environment variable's text: as in the file, or one bare base64 of 32 bytes, whose id is then made
    /// of its hash, so that another key is noticed as another.
    ///
    /// # Errors
    /// As [`MasterKeys::parse`].
    pub fn from_env_text(text: &str) -> Result<Self, MasterKeyError> {
        match decode(text.trim()) {
            Some(key) => {
                let fingerprint = base32(&Sha256::digest(*key)[..5]);
                let keys = vec![MasterKey::new(format!("env-{fingerprint}"), key)];
                Ok(Self { keys })
            }
            None => Self::parse(text),
        }
    }

    /// From a file. Warns when the file's group may read it (as mounted secrets often are).
    ///
    /// # Errors
    /// When it cannot be read, others than owner and group may open it, or it does not hold keys.
    pub fn load(path: &Path) -> Result<Self, MasterKeyError> {
        let failed = |source| MasterKeyError::File {
            doing: "read",
            path: path.to_owned(),
            source,
        };
        let file = fs::File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            // Its permissions would be judged otherwise, and tell nobody what is wrong.
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Err(MasterKeyError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        if mode & 0o070 != 0 {
            tracing::warn!(path = %path.display(), mode = format_args!("{mode:04o}"), "the master key file is open to its group");
        }
        let mut text = Zeroizing::new(String::new());
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        let parsed = if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
            Err(MasterKeyError::TooMany)
        } else {
            Self::parse(&text)
        };
        parsed.map_err(|source| MasterKeyError::Content {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Makes a new key and a file (mode 0600) that holds it. The file appears whole, durable, or not at all.
    ///
    /// # Errors
    /// When the file exists already (of kind [`io::ErrorKind::AlreadyExists`]) or cannot be made durable.
    pub fn create(path: &Path) -> Result<Self, MasterKeyError> {
        let failed = |source| MasterKeyError::File {
            doing: "create",
            path: path.to_owned(),
            source,
        };
        let key = Zeroizing::new(random::<KEY_BYTES>());
        let id = format!("k-{}", base32(&random::<5>()));
        let mut encoded = BASE64.encode(&*key);
        let text = Zeroizing::new(format!(
            "# qrelay master keys, id:base64(32 bytes). The first one seals, all of them open. Without this file\n\
             # the stored secrets are lost: keep a copy in a safe place.\n{id}:{encoded}\n"
        ));
        encoded.zeroize();
        write_whole(path, text.as_bytes()).map_err(failed)?;
        Ok(Self {
            keys: vec![MasterKey::new(id, key)],
        })
    }

    /// Loads the file, or makes it if there is none. Says which: true when it was made.
    ///
    /// # Errors
    /// As [`MasterKeys::load`] and [`MasterKeys::create`].
    pub fn load_or_create(path: &Path) -> Result<(Self, bool), MasterKeyError> {
        match Self::create(path) {
            Ok(keys) => Ok((keys, true)),
            Err(MasterKeyError::File { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                Self::load(path).map(|keys| (keys, false))
            }
            Err(error) => Err(error),
        }
    }

    /// Keys for another use, one per master key, in the same order: the first encrypts, all decrypt.
    pub fn derive(&self, label: &str) -> Derived {
        let keys = self.keys.iter();
        Derived {
            keys: keys.map(|key| subkey(&key.master, label)).collect(),
        }
    }

    /// The key that seals.
    pub(super) fn sealing(&self) -> (&str, &Key) {
        let key = self
            .keys
            .first()
            .expect("invariant: there is at least one master key");
        (&key.id, &key.seal)
    }

    /// The key of that id.
    pub(super) fn opening(&self, id: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id).map(|key| &key.seal)
    }
}

impl MasterKey {
    fn new(id: String, master: Key) -> Self {
        let seal = subkey(&master, "seal");
        Self { id, master, seal }
    }
}

/// Keys derived for one use.
pub struct Derived {
    keys: Vec<Key>,
}

impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Derived(..)")
    }
}

impl Derived {
    /// Encrypts `plaintext` under the first key, bound to `context`: `nonce (12) | ciphertext and tag`.
    pub fn encrypt(&self, context: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let key = self
            .keys
            .first()
            .expect("invariant: there is at least one master key");
        let nonce = random::<NONCE_BYTES>();
        let payload = Payload {
            msg: plaintext,
            aad: context,
        };
        let ciphertext = Aes256GcmSiv::new(&(**key).into())
            .encrypt(&nonce.into(), payload)
            .expect("invariant: what is encrypted is shorter than RFC 8452's 64 GiB");
        [&nonce, ciphertext.as_slice()].concat()
    }

    /// Decrypts what [`Derived::encrypt`] made under one of the keys, for the same context. None for anything else.
    pub fn decrypt(&self, context: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
        let (nonce, ciphertext) = bytes.split_first_chunk::<NONCE_BYTES>()?;
        let open = |key: &Key| {
            let payload = Payload {
                msg: ciphertext,
                aad: context,
            };
            Aes256GcmSiv::new(&(**key).into())
                .decrypt(&(*nonce).into(), payload)
                .ok()
        };
        self.keys.iter().find_map(open)
    }
}

fn mac(key: &Key, message: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&**key).expect("invariant: HMAC takes keys of any length");
    mac.update(message);
    mac
}

/// HMAC-SHA256 as the key derivation (one block of RFC 5869's expand step, as the master key is uniform).
fn subkey(master: &Key, label: &str) -> Key {
    let mut info = b"qrelay ".to_vec();
    info.extend_from_slice(label.as_bytes());
    info.push(1);
    Zeroizing::new(mac(master, &info).finalize().into_bytes().into())
}

pub(super) fn is_key_id(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    (1..=KEY_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

fn decode(text: &str) -> Option<Key> {
    let bytes = Zeroizing::new(BASE64.decode(text.as_bytes()).ok()?);
    let key: [u8; KEY_BYTES] = bytes.as_slice().try_into().ok()?;
    Some(Zeroizing::new(key))
}

/// Writes beside the path and links into place, which fails if something stands there: a crash at any moment
/// leaves either no file under `path` or the whole one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    if path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let draft = dir.join(format!(".master-key-{}", base32(&random::<5>())));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    linked.and(removed)?;
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(id: &str, byte: u8) -> String {
        format!("{id}:{}", BASE64.encode(&[byte; KEY_BYTES]))
    }

    #[test]
    fn a_created_file_is_private_and_loads_as_the_same_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let made = MasterKeys::create(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let (loaded, created) = MasterKeys::load_or_create(&path).unwrap();
        assert!(!created);
        let bytes = made.derive("x").encrypt(b"", b"m");
        assert_eq!(loaded.derive("x").decrypt(b"", &bytes), Some(b"m".to_vec()));
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no draft is left behind"
        );
    }

    #[test]
    fn an_existing_file_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(MasterKeys::create(&path).is_err());
        assert!(matches!(
            MasterKeys::load_or_create(&path),
            Err(MasterKeyError::Content { path: named, source })
                if named == path && matches!(*source, MasterKeyError::Empty)
        ));
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_file_open_to_everybody_is_refused_and_one_open_to_its_group_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        fs::write(&path, line("a", 1)).unwrap();
        for (mode, taken) in [
            (0o644, false),
            (0o602, false),
            (0o640, true),
            (0o600, true),
            (0o400, true),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(MasterKeys::load(&path).is_ok(), taken, "{mode:o}");
        }
    }

    #[test]
    fn a_directory_in_its_place_is_called_one() {
        let dir = tempfile::tempdir().unwrap();
        let Err(MasterKeyError::File { path, source, .. }) = MasterKeys::load_or_create(dir.path()) else {
            panic!("a directory is no key file")
        };
        assert_eq!(
            (path.as_path(), source.kind()),
            (dir.path(), io::ErrorKind::IsADirectory)
        );
    }

    #[test]
    fn texts_that_are_no_keys_are_refused_by_line_and_without_showing_them() {
        let (a, b) = (line("a", 1), line("b", 2));
        let short = format!("c:{}", BASE64.encode(&[7; 31]));
        for (text, expected) in [
            (String::new(), "no master key"),
            ("# only a comment\n\n".into(), "no master key"),
            (format!("{a}\n{b}\n{short}"), "line 3"),
            (format!("{a}\n\n{a}"), "line 3"),
            (format!("A:{}", &a[2..]), "line 1"),
            (format!(":{}", &a[2..]), "line 1"),
            (a[2..].to_owned(), "line 1"),
        ] {
            let error = MasterKeys::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("AQEB") && !error.contains("BwcH"), "{error}");
        }
    }

    #[test]
    fn the_environment_may_hold_one_bare_key_or_the_files_text() {
        let bare = MasterKeys::from_env_text(&format!(" {}\n", BASE64.encode(&[1; 32]))).unwrap();
        let other = MasterKeys::from_env_text(&BASE64.encode(&[2; 32])).unwrap();
        assert_ne!(bare.sealing().0, other.sealing().0);
        let file = MasterKeys::from_env_text(&format!("{}\n{}", line("new", 1), line("old", 2))).unwrap();
        assert_eq!(file.sealing().0, "new");
        assert!(file.opening("old").is_some());
        assert!(MasterKeys::from_env_text("").is_err());
    }

    #[test]
    fn derived_keys_differ_by_label_and_decrypt_across_a_rotation() {
        let old = MasterKeys::parse(&line("old", 1)).unwrap();
        let rotated = MasterKeys::parse(&format!("{}\n{}", line("new", 2), line("old", 1))).unwrap();
        let bytes = old.derive("page").encrypt(b"context", b"message");
        let decrypt =
            |label: &str, context: &[u8], bytes: &[u8]| rotated.derive(label).decrypt(context, bytes);
        assert_eq!(decrypt("page", b"context", &bytes), Some(b"message".to_vec()));
        assert_eq!(decrypt("other", b"context", &bytes), None);
        assert_eq!(decrypt("page", b"contest", &bytes), None);
        for cut in 0..bytes.len() {
            assert_eq!(decrypt("page", b"context", &bytes[..cut]), None);
        }
        let newer = rotated.derive("page").encrypt(b"context", b"message");
        assert_eq!(old.derive("page").decrypt(b"context", &newer), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,200}") {
            let _parsed = MasterKeys::parse(&text).is_ok();
            let _parsed = MasterKeys::from_env_text(&text).is_ok();
        }
    }
}
