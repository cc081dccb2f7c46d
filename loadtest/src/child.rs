//! A process that a benchmark starts and is sure to end: pinned to a core, its own process group, its output in a file.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::{Instant, sleep};

use crate::cpu;

/// After SIGTERM a process has this long before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How often it is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(10);

/// A running process; dropping it kills its process group.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
    group: Pid,
    log: PathBuf,
}

/// A process to start.
#[derive(Debug)]
pub struct Start<'a> {
    /// What messages call it; its output goes to `NAME.log`.
    pub name: &'a str,
    /// The core it and everything it starts runs on; none: any.
    pub core: Option<usize>,
    /// The program.
    pub program: &'a OsStr,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its environment, beside this process's own.
    pub environment: Vec<(&'a str, String)>,
    /// Where its log goes.
    pub folder: &'a Path,
}

impl Start<'_> {
    /// Starts it, under `taskset` if it has a core, and with `setpriv`'s parent-death signal, so that it ends even if this process is
    /// killed. Both replace themselves with the program: the process id is the program's.
    ///
    /// # Errors
    /// When it cannot be started (a missing program shows when it has ended at once, see [`Child::ensure_running`]).
    pub fn start(self) -> anyhow::Result<Child> {
        let log = self.folder.join(format!("{}.log", self.name));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let pinned = self
            .core
            .map(|core| ["taskset".to_owned(), "--cpu-list".to_owned(), core.to_string()]);
        let ends_with_us = ["setpriv", "--pdeathsig", "TERM", "--"].map(str::to_owned);
        let mut words = pinned.into_iter().flatten().chain(ends_with_us);
        let first = words.next().context("invariant: there are words")?;
        let process = Command::new(first)
            .args(words)
            .arg(self.program)
            .args(self.arguments)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .context("cannot start taskset or setpriv (package util-linux)")?;
        let group = Pid::from_child(&process);
        Ok(Child {
            name: self.name.to_owned(),
            process,
            group,
            log,
        })
    }
}

impl Child {
    /// The id of its process group: every process that it starts is in it.
    #[must_use]
    pub fn group(&self) -> u32 {
        self.process.id()
    }

    /// Fails, with the end of its log, when it has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.last_lines()),
            None => Ok(()),
        }
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} did not end within {} s:\n{}",
                    self.name,
                    limit.as_secs(),
                    self.last_lines()
                );
            }
            sleep(POLL).await;
        }
    }

    /// Asks it to stop, and waits.
    ///
    /// # Errors
    /// When it does not stop within 15 s; it is killed then.
    pub async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.ended(STOP_TIMEOUT).await
    }

    /// What it printed.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn output(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("cannot read {}", self.log.display()))
    }

    /// The end of what it printed.
    #[must_use]
    pub fn last_lines(&self) -> String {
        let output = self.output().unwrap_or_default();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn signal(&self, signal: Signal) {
        // A group that has ended is not an error: that is what was wanted.
        kill_process_group(self.group, signal).ok();
    }
}

impl Drop for Child {
    /// First politely: a master that is killed leaves workers behind for somebody else to bury.
    fn drop(&mut self) {
        // The id cannot have passed to a stranger: a member lives, or the first process has not been waited for.
        let lives = |child: &mut Self| {
            matches!(child.process.try_wait(), Ok(None))
                || cpu::group_members(child.group()).is_ok_and(|members| !members.is_empty())
        };
        for (signal, looks) in [(Signal::TERM, 200), (Signal::KILL, 100)] {
            if !lives(self) {
                return;
            }
            self.signal(signal);
            // Bounded: 2 s for TERM, 1 s for KILL to be carried out.
            for _ in 0..looks {
                if !lives(self) {
                    return;
                }
                std::thread::sleep(POLL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Child {
        let arguments = vec!["-c".into(), script.into()];
        let start = Start {
            name: "shell",
            core: Some(0),
            program: "sh".as_ref(),
            arguments,
            environment: vec![],
            folder,
        };
        start.start().unwrap()
    }

    #[tokio::test]
    async fn what_a_child_printed_can_be_read_when_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell(folder.path(), "echo here; exit 3");
        assert_eq!(
            child.ended(Duration::from_secs(20)).await.unwrap().code(),
            Some(3)
        );
        assert_eq!(child.output().unwrap(), "here\n");
        assert!(child.ensure_running().unwrap_err().to_string().contains("here"));
    }

    #[tokio::test]
    async fn dropping_a_child_ends_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let child = shell(folder.path(), "sleep 60 & echo started; wait");
        let deadline = Instant::now() + Duration::from_secs(20);
        while child.output().unwrap().is_empty() && Instant::now() < deadline {
            sleep(POLL).await;
        }
        let group = child.group();
        assert_eq!(cpu::group_members(group).unwrap().len(), 2);
        drop(child);
        while !cpu::group_members(group).unwrap().is_empty() && Instant::now() < deadline {
            sleep(POLL).await;
        }
        assert!(cpu::group_members(group).unwrap().is_empty());
    }
}
