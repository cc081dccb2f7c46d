//! Edges with a journal: each has a directory, which outlives its processes; and what a crash does to what stood there.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use qrelay_store::{journal::JournalConfig, seeded::Dice};
use tempfile::TempDir;

use super::sim::Who;

/// Where files cost no disk, if there is such a place.
const MEMORY: &str = "/dev/shm";

/// A machine with a directory for a journal.
#[derive(Debug)]
pub(super) struct Edge {
    dir: TempDir,
    bytes_max: u64,
    /// The process that has it.
    pub(super) process: Option<Who>,
}

impl Edge {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let mut builder = tempfile::Builder::new();
        builder.prefix("qrelay-simulation-");
        let dir = if Path::new(MEMORY).is_dir() {
            builder.tempdir_in(MEMORY)
        } else {
            builder.tempdir()
        };
        Self {
            dir: dir.expect("a directory for tests"),
            // Some are full after a few batches.
            bytes_max: if dice.chance(300) { 4096 } else { 1 << 20 },
            process: None,
        }
    }

    pub(super) fn journal(&self) -> JournalConfig {
        JournalConfig {
            bytes_max: self.bytes_max,
            ..JournalConfig::new(self.dir.path().to_owned())
        }
    }

    /// Its process is no more. One that crashed may have been writing: what was not synced stands there in part, or as
    /// something else.
    pub(super) fn crashed(&mut self, dice: &mut Dice) {
        self.process = None;
        if dice.chance(500) {
            return;
        }
        let Some(last) = self.segments().pop() else { return };
        let torn: Vec<u8> = (0..dice.between(1, 60))
            .map(|_| u8::try_from(dice.below(256)).expect("a byte"))
            .collect();
        let file = OpenOptions::new().append(true).open(last);
        file.and_then(|mut file| file.write_all(&torn))
            .expect("a file that was written before");
    }

    fn segments(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.dir.path()).expect("the directory is there");
        let paths = files.map(|file| file.expect("it can be listed").path());
        let mut segments: Vec<_> = paths
            .filter(|path| path.extension().is_some_and(|it| it == "journal"))
            .collect();
        segments.sort();
        segments
    }
}
