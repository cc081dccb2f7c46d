//! Reading the journal's files from a disk that may not give back what it took.
//!
//! What cannot be read is asked for again and again for a while: another path to the disk may come. Then it is damage: told,
//! given up, and no more than the sectors it is in; what stands around them is shipped. Errors that say nothing of the
//! file (no descriptor left, no permission) are no damage, however long they last.

use std::{
    fs::File,
    io::{self, ErrorKind},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use rustix::io::Errno;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::limits;

/// What a disk gives or withholds at once.
const SECTOR: usize = 4096;

/// What tests do to reads: called before each, with its file and bytes.
pub(super) type BeforeRead = Arc<dyn Fn(&Path, Range<u64>) -> io::Result<()> + Send + Sync>;

/// What becomes of bytes that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unreadable {
    /// The whole read fails: it is to be repeated.
    Fails,
    /// They are damage, and all others are read.
    IsDamage,
}

/// How files are read.
#[derive(Clone)]
pub(super) struct Reading {
    before: BeforeRead,
    /// Not on a thread of its own: a simulation knows no other time than its own.
    at_once: bool,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reading")
    }
}

impl Default for Reading {
    fn default() -> Self {
        Self::with(Arc::new(|_, _| Ok(())))
    }
}

impl Reading {
    pub(super) fn with(before: BeforeRead) -> Self {
        Self {
            before,
            at_once: false,
        }
    }

    /// Without a thread.
    #[cfg(feature = "testing")]
    pub(super) fn at_once() -> Self {
        Self {
            at_once: true,
            ..Self::default()
        }
    }

    /// Fills `bytes` with what stands at `offset`.
    pub(super) fn at(&self, path: &Path, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        (self.before)(path, offset..offset + wide(bytes.len()))?;
        file.read_exact_at(bytes, offset)
    }

    /// A file's bytes, and where in them what could not be read is missing: zeros stand there.
    pub(super) fn whole(
        &self,
        path: &Path,
        unreadable: Unreadable,
    ) -> io::Result<(Vec<u8>, Vec<Range<usize>>)> {
        let file = File::open(path)?;
        let length =
            usize::try_from(file.metadata()?.len()).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
        let (mut bytes, mut missing) = (vec![0; length], Vec::new());
        match self.at(path, &file, &mut bytes, 0) {
            Err(error) if unreadable == Unreadable::IsDamage && is_lost(&error) => {}
            read => return read.map(|()| (bytes, missing)),
        }
        for begin in (0..length).step_by(SECTOR) {
            let sector = begin..length.min(begin + SECTOR);
            match self.at(path, &file, &mut bytes[sector.clone()], wide(begin)) {
                Err(error) if is_lost(&error) => {
                    bytes[sector.clone()].fill(0);
                    missing.push(sector);
                }
                read => read?,
            }
        }
        Ok((bytes, missing))
    }

    /// Reads until it succeeds, fails for a reason that is not the file's, or has failed for so long that what cannot be read
    /// is damage.
    pub(super) async fn patiently<T, F>(&self, read: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: Fn(&Self, Unreadable) -> io::Result<T> + Clone + Send + 'static,
    {
        let (began, mut told) = (Instant::now(), false);
        loop {
            let unreadable = match began.elapsed() < limits::JOURNAL_UNREADABLE_AFTER {
                true => Unreadable::Fails,
                false => Unreadable::IsDamage,
            };
            let done = if self.at_once {
                read(self, unreadable)
            } else {
                let (reading, read) = (self.clone(), read.clone());
                let done = spawn_blocking(move || read(&reading, unreadable)).await;
                done.expect("invariant: reading a file does not panic")
            };
            match done {
                Err(error) if unreadable == Unreadable::Fails && is_lost(&error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(%error, patience = ?limits::JOURNAL_UNREADABLE_AFTER, "the disk does not give back what was journaled; trying again, and giving up then what cannot be read");
                    }
                    sleep(limits::JOURNAL_RETRY_PAUSE_MAX).await;
                }
                done => return done,
            }
        }
    }
}

/// Whether it is the file that cannot be read: a sector is bad, the file is shorter than it was, or gone.
pub(super) fn is_lost(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    let is_disks = matches!(
        number,
        Some(Errno::IO | Errno::NODATA | Errno::UCLEAN | Errno::BADMSG)
    );
    is_disks || matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof)
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).expect("invariant: usize fits into u64")
}
