//! A journal without a thread, for simulations: its work is a task of the caller's runtime, with real files, and takes as long
//! and fails as the simulation says.

use std::{io, sync::Arc, time::Duration};

use tokio::{runtime::Handle, time::sleep};

use super::{Journal, JournalConfig, JournalError, reading::Reading};
use crate::limits;

/// What a simulation decides of a disk.
pub struct SimulatedDisk {
    /// How long the next jobs take.
    pub takes: Box<dyn Fn() -> Duration + Send + Sync>,
    /// Whether the next write fails.
    pub fails: Box<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedDisk")
    }
}

impl Journal {
    /// [`Self::open`] on such a disk. What was asked of it and not begun when the runtime ends is never done, as in a crash.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn open_simulated(config: JournalConfig, simulated: SimulatedDisk) -> Result<Self, JournalError> {
        let SimulatedDisk { takes, fails } = simulated;
        let before_write = move || match fails() {
            true => Err(io::Error::other("as the simulation says")),
            false => Ok(()),
        };
        Self::start(
            config,
            Arc::new(before_write),
            Reading::at_once(),
            |mut disk, mut jobs| {
                let work = async move {
                    let mut group = Vec::new();
                    while jobs.recv_many(&mut group, limits::JOURNAL_GROUP_MAX).await > 0 {
                        sleep(takes()).await;
                        disk.work(&mut group);
                    }
                };
                drop(Handle::current().spawn(work));
                Ok(None)
            },
        )
    }
}
