//! CPU time of a server's processes, user and system, of all their threads, also of those that have ended.
//!
//! Read from each process's CPU clock, to the nanosecond: `/proc/PID/stat` counts in ticks of 10 ms, a tenth of what a short
//! turn costs. What kernel threads do on a process's behalf (writing a file system's journal) is not in it.

use std::{fs, time::Duration};

use anyhow::{Context, anyhow};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

/// One process's line in `/proc/PID/stat`.
struct Stat {
    running: bool,
    group: u32,
}

/// The processes of a group that have not ended.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn group_members(group: u32) -> anyhow::Result<Vec<u32>> {
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc (Linux only)")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end while the folder is read.
        let Ok(line) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let stat = parse(&line).with_context(|| format!("cannot understand /proc/{pid}/stat: {line}"))?;
        if stat.running && stat.group == group {
            members.push(pid);
        }
    }
    Ok(members)
}

/// The CPU time that the living processes of a group have used since they started. A process that ends takes its share
/// with it: the servers compared keep theirs.
///
/// # Errors
/// When `/proc` cannot be read or no process of the group lives.
pub fn group_time(group: u32) -> anyhow::Result<Duration> {
    let members = group_members(group)?;
    anyhow::ensure!(!members.is_empty(), "no process of group {group} lives");
    let mut sum = Duration::ZERO;
    for pid in members {
        let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?))?;
        sum += Duration::from(clock_gettime(clock)?);
    }
    Ok(sum)
}

/// A group is at rest when it used no more than 5 % of such a window.
const REST_WINDOW: Duration = Duration::from_millis(200);

/// Waits until the group is at rest, at most so long: what it does after a load belongs to the load.
///
/// # Errors
/// When `/proc` cannot be read or no process of the group lives.
pub async fn settle(group: u32, longest: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + longest;
    let mut before = group_time(group)?;
    loop {
        sleep(REST_WINDOW).await;
        let now = group_time(group)?;
        if now - before <= REST_WINDOW / 20 || Instant::now() >= deadline {
            return Ok(());
        }
        before = now;
    }
}

/// The most memory that any living process of a group has held at once, in bytes (`VmHWM`).
///
/// # Errors
/// When `/proc` cannot be read or no process of the group lives.
pub fn peak_memory(group: u32) -> anyhow::Result<u64> {
    let peaks = status(group, "VmHWM:")?;
    peaks
        .into_iter()
        .max()
        .with_context(|| format!("no process of group {group} lives"))
}

/// The memory that the living processes of a group hold, in bytes: all that is resident (`VmRSS`).
///
/// # Errors
/// When `/proc` cannot be read.
pub fn memory(group: u32) -> anyhow::Result<u64> {
    Ok(status(group, "VmRSS:")?.into_iter().sum())
}

/// The same without pages of files (`RssAnon`).
///
/// # Errors
/// When `/proc` cannot be read.
pub fn own_memory(group: u32) -> anyhow::Result<u64> {
    Ok(status(group, "RssAnon:")?.into_iter().sum())
}

/// What this line of `/proc/PID/status` says of each living process of a group, in bytes.
fn status(group: u32, line: &str) -> anyhow::Result<Vec<u64>> {
    let mut values = Vec::new();
    for pid in group_members(group)? {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        let value = status.lines().find_map(|text| text.strip_prefix(line));
        let kib: Option<u64> = value.and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse().ok());
        values.extend(kib.map(|kib| kib * 1024));
    }
    Ok(values)
}

/// Lets [`peak_memory`] of a group count from now on.
///
/// # Errors
/// When `/proc` cannot be read, or not be written to (Linux before 4.0, or another user's process).
pub fn forget_peak_memory(group: u32) -> anyhow::Result<()> {
    for pid in group_members(group)? {
        // proc(5): 5 resets the high-water mark of resident memory.
        fs::write(format!("/proc/{pid}/clear_refs"), "5")
            .with_context(|| format!("cannot reset the peak of process {pid}"))?;
    }
    Ok(())
}

/// While this lives, the thread that made it stays on a core, and so do processes that it starts on no core of their own.
#[derive(Debug)]
#[must_use = "it ends with this"]
pub struct Stay {
    before: CpuSet,
}

/// Keeps the calling thread on a core.
///
/// # Errors
/// When there is no such core.
pub fn stay_on(core: usize) -> anyhow::Result<Stay> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this)?;
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(this, &cores).with_context(|| format!("cannot run on core {core}"))?;
    Ok(Stay { before })
}

impl Drop for Stay {
    fn drop(&mut self) {
        // It could be done before.
        sched_setaffinity(Pid::from_raw(0), &self.before).ok();
    }
}

/// The CPU time that this process has used.
///
/// # Errors
/// When the clock cannot be read.
pub fn own_time() -> anyhow::Result<Duration> {
    let clock = nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID;
    Ok(Duration::from(clock_gettime(clock)?))
}

/// proc(5): after the command in parentheses, which may itself hold parentheses and blanks, the fields are state,
/// parent and group (3rd to 5th).
fn parse(line: &str) -> anyhow::Result<Stat> {
    let (_, fields) = line.rsplit_once(')').ok_or_else(|| anyhow!("no command"))?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).ok_or_else(|| anyhow!("no field {number}"));
    Ok(Stat {
        running: !matches!(*field(3)?, "Z" | "X"),
        group: field(5)?.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood_whatever_the_command_is_called() {
        let stat = parse("42 (a) b) (c) S 1 40 40 0 -1 4194560 100 0 0 0 150 50 7 3 20 0 5 0 1 2 3").unwrap();
        assert_eq!((stat.group, stat.running), (40, true));
        assert!(!parse("42 (a) Z 1 40 40").unwrap().running);
        assert!(parse("42 (a) S 1").is_err());
    }

    #[test]
    fn a_thread_stays_on_a_core_no_longer_than_it_is_to() {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this).unwrap();
        let core = (0..CpuSet::count())
            .find(|core| before.is_set(*core).unwrap())
            .unwrap();
        let stay = stay_on(core).unwrap();
        let during = sched_getaffinity(this).unwrap();
        let others = (0..CpuSet::count()).filter(|other| *other != core);
        assert!(during.is_set(core).unwrap());
        assert!(
            others
                .map(|other| during.is_set(other).unwrap())
                .all(|is_set| !is_set)
        );
        drop(stay);
        assert_eq!(sched_getaffinity(this).unwrap(), before);
    }

    #[test]
    fn work_shows_as_time_of_the_group() {
        let own = rustix::process::getpgrp().as_raw_nonzero().get().cast_unsigned();
        let before = group_time(own).unwrap();
        let mut sum = 0_u64;
        while group_time(own).unwrap() < before + Duration::from_millis(20) {
            sum = std::hint::black_box((0..1_000_000_u64).fold(sum, u64::wrapping_add));
        }
        assert!(group_members(own).unwrap().contains(&std::process::id()));
        assert!(own_time().unwrap() >= Duration::from_millis(10));
        assert!(peak_memory(own).unwrap() > 100_000);
        assert!(memory(own).unwrap() > own_memory(own).unwrap());
    }
}
