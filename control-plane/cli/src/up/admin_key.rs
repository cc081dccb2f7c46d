//! The admin key: given by the operator, or made at the first start. Only its hash is kept between starts.
//!
//! A key that was made is shown before its hash is kept: a crash between the two makes another key at the next
//! start, where the other order would leave an install that nobody can open.

use std::{
    fs, io,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use qrelay_control::{AdminKey, InvalidAdminKey};
use secrecy::{ExposeSecret, SecretString};

/// The kept hash, in the data directory.
const HASH_FILE: &str = "admin-key.sha256";
/// A made key, in the data directory, when there is no terminal to print it on.
const KEY_FILE: &str = "admin-key";
/// 64 hexadecimal digits and a line's end.
const HASH_BYTES_MAX: u64 = 128;

/// Where a key that is made at the first start is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdminKeyTo {
    /// On standard output.
    Terminal,
    /// In a file of the data directory, mode 0600, which the log names.
    File,
}

impl AdminKeyTo {
    /// On standard output if a person reads it.
    pub(crate) fn fitting() -> Self {
        if io::stdout().is_terminal() {
            Self::Terminal
        } else {
            Self::File
        }
    }
}

/// Why there is no admin key.
#[derive(Debug, thiserror::Error)]
pub enum AdminKeyError {
    /// The operator's own key will not do.
    #[error("QRELAY_ADMIN_KEY or --admin-key-file will not do")]
    Invalid(#[from] InvalidAdminKey),
    /// The file with the hash is damaged.
    #[error("{} is damaged; set QRELAY_ADMIN_KEY to a new key, which replaces it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot read or write {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The made key could not be printed.
    #[error("cannot print the admin key")]
    Print(#[source] io::Error),
}

/// The given key, where none is kept: all processes of a cluster are given the same.
pub(crate) fn given(text: &SecretString) -> Result<AdminKey, AdminKeyError> {
    Ok(AdminKey::new(text)?)
}

/// The key of this start: the given one, the kept one, or a new one. Call it with the directory's lock held.
pub(crate) fn obtain(
    directory: &Path,
    given: Option<&SecretString>,
    show_to: AdminKeyTo,
) -> Result<AdminKey, AdminKeyError> {
    let path = directory.join(HASH_FILE);
    let kept = kept(&path);
    if let Some(text) = given {
        let key = AdminKey::new(text)?;
        // A damaged file is replaced, too.
        if !matches!(&kept, Ok(Some(kept)) if kept.hash() == key.hash()) {
            keep(&path, &key)?;
            replaced(directory, matches!(kept, Ok(Some(_))))?;
        }
        return Ok(key);
    }
    if let Some(key) = kept? {
        return Ok(key);
    }
    let text = AdminKey::generate();
    let key = AdminKey::new(&text)?;
    show(directory, &text, show_to)?;
    keep(&path, &key)?;
    Ok(key)
}

/// The given key is the admin key from now on: a key that was made before opens nothing, and its file goes.
fn replaced(directory: &Path, another: bool) -> Result<(), AdminKeyError> {
    if another {
        tracing::warn!("the admin key was replaced by the given one; the old one opens nothing any more");
    }
    let path = directory.join(KEY_FILE);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(AdminKeyError::File { path, source }),
        _ => Ok(()),
    }
}

fn kept(path: &Path) -> Result<Option<AdminKey>, AdminKeyError> {
    let failed = |source| AdminKeyError::File {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    match fs::File::open(path) {
        Ok(file) => {
            io::Read::read_to_string(&mut io::Read::take(file, HASH_BYTES_MAX), &mut text).map_err(failed)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match AdminKey::from_hash(text.trim()) {
        Some(key) => Ok(Some(key)),
        None => Err(AdminKeyError::Damaged {
            path: path.to_owned(),
        }),
    }
}

fn keep(path: &Path, key: &AdminKey) -> Result<(), AdminKeyError> {
    write_whole(path, &format!("{}\n", key.hash()))
}

fn show(directory: &Path, text: &SecretString, to: AdminKeyTo) -> Result<(), AdminKeyError> {
    match to {
        AdminKeyTo::Terminal => print(&mut io::stdout(), text).map_err(AdminKeyError::Print),
        AdminKeyTo::File => {
            let path = directory.join(KEY_FILE);
            write_whole(&path, &format!("{}\n", text.expose_secret()))?;
            tracing::warn!(
                admin_key_file = %path.display(),
                "made the admin key; keep it somewhere safe and delete the file"
            );
            Ok(())
        }
    }
}

fn print(to: &mut dyn Write, text: &SecretString) -> io::Result<()> {
    let key = text.expose_secret();
    writeln!(
        to,
        "\nThis is the admin key. It is shown only now; keep it:\n\n  {key}\n\nTo use it:  export QRELAY_KEY={key}\n"
    )?;
    to.flush()
}

/// The file appears whole and durable, for its owner only, or not at all.
fn write_whole(path: &Path, text: &str) -> Result<(), AdminKeyError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let written = || {
        // Made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        fs::File::open(directory)?.sync_all()
    };
    written().map_err(|source| AdminKeyError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_first_start_makes_a_key_and_later_ones_know_its_hash() {
        let directory = tempfile::tempdir().unwrap();
        let made = obtain(directory.path(), None, AdminKeyTo::File).unwrap();
        let (key_file, hash_file) = (directory.path().join(KEY_FILE), directory.path().join(HASH_FILE));
        let shown = fs::read_to_string(&key_file).unwrap();
        assert_eq!(AdminKey::new(&secret(shown.trim())).unwrap().hash(), made.hash());
        assert_eq!((mode(&key_file), mode(&hash_file)), (0o600, 0o600));
        assert!(!fs::read_to_string(&hash_file).unwrap().contains(shown.trim()));
        fs::remove_file(&key_file).unwrap();
        assert_eq!(
            obtain(directory.path(), None, AdminKeyTo::File).unwrap().hash(),
            made.hash()
        );
        assert!(!key_file.exists(), "it is shown once");
    }

    #[test]
    fn a_given_key_replaces_the_kept_one() {
        let directory = tempfile::tempdir().unwrap();
        let first = obtain(directory.path(), None, AdminKeyTo::File).unwrap();
        let own = secret("an-admin-key-of-the-operator");
        let given = obtain(directory.path(), Some(&own), AdminKeyTo::File).unwrap();
        assert_ne!(given.hash(), first.hash());
        assert_eq!(
            obtain(directory.path(), None, AdminKeyTo::File).unwrap().hash(),
            given.hash()
        );
    }

    #[test]
    fn a_weak_key_and_a_damaged_hash_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let weak = obtain(directory.path(), Some(&secret("short")), AdminKeyTo::File);
        assert!(matches!(weak, Err(AdminKeyError::Invalid(_))));
        fs::write(directory.path().join(HASH_FILE), "not a hash").unwrap();
        assert!(matches!(
            obtain(directory.path(), None, AdminKeyTo::File),
            Err(AdminKeyError::Damaged { .. })
        ));
        let own = secret("an-admin-key-of-the-operator");
        assert!(obtain(directory.path(), Some(&own), AdminKeyTo::File).is_ok());
    }

    #[test]
    fn a_person_sees_the_key_and_what_to_do_with_it() {
        let mut text = Vec::new();
        print(&mut text, &secret("qra_1")).unwrap();
        assert!(
            String::from_utf8(text)
                .unwrap()
                .contains("export QRELAY_KEY=qra_1")
        );
    }
}
