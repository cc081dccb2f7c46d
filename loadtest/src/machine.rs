//! The machine that figures hold for, read off itself.

use std::{fmt, fs, path::Path};

use rustix::{fs::statfs, system::uname};
use serde::Serialize;

/// A machine, as far as figures depend on it.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor.
    pub processor: String,
    /// The kernel.
    pub kernel: String,
    /// Of the data directory: in memory, a commit would cost nothing.
    pub file_system: String,
}

impl Machine {
    /// This one, with data in `folder`.
    ///
    /// # Errors
    /// When the folder does not exist.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kind = statfs(folder)?.f_type;
        Ok(Self {
            processor: model.map_or("unknown", |(_, model)| model).to_owned(),
            kernel: uname().release().to_string_lossy().into_owned(),
            file_system: file_system(u64::try_from(kind).unwrap_or_default()),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, Linux {}, data on {}",
            self.processor, self.kernel, self.file_system
        )
    }
}

/// statfs(2)'s magic numbers of what data directories lie on.
fn file_system(magic: u64) -> String {
    match magic {
        0xef53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x794c_7630 => "overlay".into(),
        0x0102_1994 => "tmpfs (in memory: durable figures mean nothing)".into(),
        other => format!("{other:#x}"),
    }
}
