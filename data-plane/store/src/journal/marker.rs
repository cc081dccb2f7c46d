//! A file for each writer that uses the directory: who it is, so that its successor can close it, journal or not.
//!
//! It is there before the writer registers, and goes when the writer is closed.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::sync_directory;
use crate::{
    clock::Timestamp,
    id::{EventAddress, PartitionId, Seq, WriterId},
    store::Install,
};

/// The files' extension.
pub(super) const EXTENSION: &str = "writer";

/// Who a writer is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marker {
    /// Its id.
    pub writer: WriterId,
    /// Which machine and role, for people.
    pub node: String,
    /// When it registered.
    pub registered_at: Timestamp,
    /// Tells installs apart, and nothing else.
    pub install: String,
}

/// A text that tells installs apart: some address, enciphered under the install's key.
pub(crate) fn fingerprint(install: &Install) -> String {
    let address = EventAddress {
        partition: PartitionId::TEST,
        writer: WriterId::from_u64(0),
        seq: Seq::ZERO,
        index: 0,
    };
    install.ids.event_id(address).to_string()
}

impl Marker {
    fn path(dir: &Path, writer: WriterId) -> PathBuf {
        dir.join(format!("{writer}.{EXTENSION}"))
    }

    /// Puts it down durably.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let path = Self::path(dir, self.writer);
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        sync_directory(dir)
    }

    /// Reads a marker file.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// Removes it, if it is there.
    pub(super) fn remove(dir: &Path, writer: WriterId) -> io::Result<()> {
        match fs::remove_file(Self::path(dir, writer)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_directory(dir),
        }
    }
}
