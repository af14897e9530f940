//! The machine that figures are taken on, and what this process takes of it.

use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};
use std::{fs, io, path::Path, time::Duration};

/// What figures have to be read with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    /// Processors that this process may use, before it is bound to fewer.
    pub cores: usize,
    /// Of the host, bytes.
    pub memory_bytes: u64,
    pub kernel: String,
    pub arch: String,
    /// One minute's load when the measurement began.
    pub load: f64,
    /// Of sweroll.
    pub version: String,
    /// Built with optimisation. Figures of another build mean nothing.
    pub optimised: bool,
}

fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'));
    found.map(str::trim).unwrap_or_default()
}

impl Machine {
    #[must_use]
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory = value(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|n| n.parse::<u64>().ok());
        Machine {
            cpu: value(&read("/proc/cpuinfo"), "model name").to_owned(),
            cores: processors().len(),
            memory_bytes: memory.unwrap_or_default() * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            load: read("/proc/loadavg").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// Processor time of this process since it began, all threads, user and system.
#[must_use]
pub fn cpu_time() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

/// What the host of a virtual machine took from these processors for others, since the start; 0 where it does not tell.
#[must_use]
pub fn stolen(processors: &[usize]) -> Duration {
    stolen_by(&fs::read_to_string("/proc/stat").unwrap_or_default(), processors)
}

/// Of lines `cpu0 user nice system idle iowait irq softirq steal ...`, in ticks.
fn stolen_by(stat: &str, processors: &[usize]) -> Duration {
    let of = |line: &str| -> Option<u64> {
        let mut words = line.strip_prefix("cpu")?.split_ascii_whitespace();
        let processor = words.next()?.parse().ok()?;
        if processors.contains(&processor) { words.nth(7)?.parse().ok() } else { None }
    };
    let ticks: u64 = stat.lines().filter_map(of).sum();
    Duration::from_secs(1).mul_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// As [`cpu_time`], of the thread that asks.
#[must_use]
pub fn thread_time() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// What lies at `path`: a sync of `tmpfs` costs nothing. Empty where nobody knows.
#[must_use]
pub fn file_system(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    // The deepest mount, and of two at one place the later one.
    let over = fields.filter(|(at, _)| path.starts_with(at)).max_by_key(|(at, _)| at.len());
    over.map_or_else(String::new, |(_, kind)| kind.to_owned())
}

/// Bytes of this process in memory.
#[must_use]
pub fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * rustix::param::page_size() as u64
}

#[must_use]
pub fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64)
}

/// Raises the limit of open files to `wanted`, past the hard one where this user may. Returns what is allowed then.
#[must_use]
pub fn allow_open_files(wanted: u64) -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|now| now < wanted) {
        limit.current = Some(wanted);
        limit.maximum = limit.maximum.map(|hard| hard.max(wanted));
        // Refused: the caller says so.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Numbers of the processors that this thread may run on.
#[must_use]
pub fn processors() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// Binds this thread, and all that it begins from now on, to these processors.
///
/// # Errors
/// Of the kernel.
pub fn bind(processors: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    processors.iter().for_each(|&cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_machine() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20 && machine.kernel.contains('.'), "{machine:?}");
        assert!(resident() > 1 << 18 && allow_open_files(10) >= 10 && open_files() > 2 && cpu_time() > Duration::ZERO);
        assert_eq!(file_system(Path::new("/proc/self")), "proc");
        assert_eq!(value("a b\t: c d\nx: 1", "a b"), "c d");
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 0 0 0 0 0 0 7 0 0\ncpu1 1 0 0 0 0 0 0 30 0 0\ncpu10 1 0 0 0 0 0 0 5 0 0\nintr 8";
        let ticks = stolen_by(stat, &[0, 10]).as_secs_f64() * rustix::param::clock_ticks_per_second() as f64;
        assert!((ticks - 12.0).abs() < 1e-3, "{ticks}");
    }
}
