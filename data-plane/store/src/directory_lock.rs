//! A directory's lock (the embedded store's, the journal's): one process at a time, for life.
//!
//! An advisory `flock` on a file that is never removed: it ends with the process, however that ends, and so proves
//! that an earlier owner is dead.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// The lock file's name.
const FILE: &str = "qrelay.lock";
/// Who only looks whether it is taken has it for a moment, in which nobody's start is to be refused.
const LOOK: Duration = Duration::from_millis(10);
const LOOKS_MAX: u32 = 5;

/// Why a directory was not taken.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process has it: who, for people.
    InUse(String),
    /// It cannot be made, or its lock not be taken.
    Io(std::io::Error),
}

/// Held for as long as any thread may write there.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    file: File,
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing would not do while a child process that was just forked has the descriptor too.
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!(%error, "cannot unlock a directory");
        }
    }
}

impl DirectoryLock {
    /// Makes the directory if there is none, and takes it.
    pub(crate) fn take(dir: &Path) -> Result<Self, LockError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(LockError::Io)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(FILE))
            .map_err(LockError::Io)?;
        let mut looks = 0;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if looks < LOOKS_MAX => {
                    looks += 1;
                    std::thread::sleep(LOOK);
                }
                Err(Errno::WOULDBLOCK) => return Err(LockError::InUse(owner(&mut file))),
                Err(error) => return Err(LockError::Io(error.into())),
            }
        }
        // The number is for people and may be missing; on a full disk the lock holds all the same.
        if let Err(error) = note_owner(&mut file) {
            tracing::warn!(%error, "cannot write the process id into the lock file");
        }
        Ok(Self { file })
    }

    /// Who has the directory just now, for people. Changes nothing.
    pub(crate) fn holder(dir: &Path) -> std::io::Result<Option<String>> {
        let mut file = match File::open(dir.join(FILE)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        // Given back at once; see [`LOOK`].
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => flock(&file, FlockOperation::Unlock)
                .map(|()| None)
                .map_err(Into::into),
            Err(Errno::WOULDBLOCK) => Ok(Some(owner(&mut file))),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether somebody ever had it.
    pub(crate) fn was_taken(dir: &Path) -> bool {
        dir.join(FILE).is_file()
    }
}

fn note_owner(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

/// Who holds the lock, as far as the file tells.
fn owner(file: &mut File) -> String {
    let mut text = String::new();
    match file
        .take(32)
        .read_to_string(&mut text)
        .map(|_| text.trim().parse::<u32>())
    {
        Ok(Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}
