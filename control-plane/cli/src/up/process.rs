//! What the process takes from the machine: its limit of open files, and what it uses.

use metrics::{describe_gauge, gauge};
use rustix::{
    param::page_size,
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

/// Raises the limit of open files as far as the system allows without asking: each connection is one.
pub(crate) fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = ?limit.current, "cannot raise the limit of open files");
    }
}

/// Describes the process's metrics.
pub(crate) fn describe() {
    describe_gauge!(
        "process_cpu_seconds_total",
        "Processor time used, user and system."
    );
    describe_gauge!("process_resident_memory_bytes", "Resident memory.");
    describe_gauge!("process_open_fds", "Open file descriptors.");
    describe_gauge!("process_max_fds", "The limit of open file descriptors.");
}

/// Notes what the process uses now. What the system does not tell is left out.
pub(crate) fn measure() {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = u32::try_from(cpu.tv_nsec).unwrap_or(0);
    let seconds = u64::try_from(cpu.tv_sec).unwrap_or(0);
    gauge!("process_cpu_seconds_total").set(std::time::Duration::new(seconds, nanos).as_secs_f64());
    if let Some(bytes) = resident_bytes() {
        gauge!("process_resident_memory_bytes").set(as_float(bytes));
    }
    // Reading the directory opens one more.
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge!("process_open_fds").set(as_float(u64::try_from(open.count()).unwrap_or(0)));
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        gauge!("process_max_fds").set(as_float(limit));
    }
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(u64::try_from(page_size()).ok()?)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a gauge is a double; 2^53 bytes are eight pebibytes"
)]
fn as_float(value: u64) -> f64 {
    value as f64
}
