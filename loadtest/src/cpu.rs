//! CPU time from `/proc`: what a server's processes used, all threads and reaped children included.
//!
//! The kernel counts user and system time of a process in ticks of 10 ms, from its precise run time. What kernel threads do
//! on its behalf (writing a file system's journal) is not in it.

use std::{fs, time::Duration};

use anyhow::{Context, anyhow};

/// `USER_HZ`: fixed at 100 in the kernel's interface on every architecture this runs on.
const TICK: Duration = Duration::from_millis(10);

/// One process's line in `/proc/PID/stat`.
struct Stat {
    running: bool,
    group: u32,
    ticks: u32,
}

/// The processes of a group that have not ended.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn group_members(group: u32) -> anyhow::Result<Vec<u32>> {
    Ok(stats(group)?
        .into_iter()
        .filter(|(_, stat)| stat.running)
        .map(|(pid, _)| pid)
        .collect())
}

/// The CPU time, user and system, that the processes of a group have used since they started.
///
/// # Errors
/// When `/proc` cannot be read or no process of the group lives.
pub fn group_time(group: u32) -> anyhow::Result<Duration> {
    let stats = stats(group)?;
    anyhow::ensure!(!stats.is_empty(), "no process of group {group} lives");
    let ticks = stats
        .iter()
        .fold(0_u32, |sum, (_, stat)| sum.saturating_add(stat.ticks));
    Ok(TICK * ticks)
}

fn stats(group: u32) -> anyhow::Result<Vec<(u32, Stat)>> {
    let mut stats = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc (Linux only)")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end while the folder is read.
        let Ok(line) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let stat = parse(&line).with_context(|| format!("cannot understand /proc/{pid}/stat: {line}"))?;
        if stat.group == group {
            stats.push((pid, stat));
        }
    }
    Ok(stats)
}

/// proc(5): after the command in parentheses, which may itself hold parentheses and blanks, the fields are state,
/// ppid, pgrp (5th), … utime, stime, cutime, cstime (14th to 17th).
fn parse(line: &str) -> anyhow::Result<Stat> {
    let (_, fields) = line.rsplit_once(')').ok_or_else(|| anyhow!("no command"))?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).ok_or_else(|| anyhow!("no field {number}"));
    let mut ticks = 0_u32;
    for number in 14..=17 {
        ticks = ticks.saturating_add(field(number)?.parse()?);
    }
    Ok(Stat {
        running: !matches!(*field(3)?, "Z" | "X"),
        group: field(5)?.parse()?,
        ticks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood_whatever_the_command_is_called() {
        let line = "42 (a) b) (c) S 1 40 40 0 -1 4194560 100 0 0 0 150 50 7 3 20 0 5 0 1 2 3";
        let stat = parse(line).unwrap();
        assert_eq!((stat.group, stat.ticks, stat.running), (40, 210, true));
        assert!(parse("42 (a) S 1").is_err());
    }

    #[test]
    fn work_shows_as_time_of_the_group() {
        let own = rustix::process::getpgrp().as_raw_nonzero().get().cast_unsigned();
        let before = group_time(own).unwrap();
        let mut sum = 0_u64;
        while group_time(own).unwrap() < before + TICK * 3 {
            sum = std::hint::black_box((0..1_000_000_u64).fold(sum, u64::wrapping_add));
        }
        assert!(group_members(own).unwrap().contains(&std::process::id()));
    }
}
