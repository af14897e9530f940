//! What the sandbox has used: the counters of its cgroup, version 1 or 2, else those of the toolbox's own children.

use super::protocol::Usage;
use std::fs;
use std::path::{Path, PathBuf};

/// Counters of the sandbox's cgroup where the toolbox is its first process; elsewhere the cgroup may be anybody's.
pub fn usage() -> Usage {
    let own = of_children();
    if std::process::id() != 1 {
        return own;
    }
    let of_cgroup = cgroup(Path::new("/sys/fs/cgroup"));
    Usage {
        peak_memory: of_cgroup.peak_memory.unwrap_or(own.peak_memory),
        cpu_ms: of_cgroup.cpu_ms.unwrap_or(own.cpu_ms),
        oom_kills: of_cgroup.oom_kills.unwrap_or(0),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counters {
    peak_memory: Option<u64>,
    cpu_ms: Option<u64>,
    oom_kills: Option<u64>,
}

/// Inside a container its own cgroup is mounted as the root of each hierarchy.
fn cgroup(root: &Path) -> Counters {
    let text = |path: PathBuf| fs::read_to_string(path).ok();
    let v2 = |file: &str| text(root.join(file));
    let v1 = |controller: &str, file: &str| text(root.join(controller).join(file));
    let number = |text: String| text.trim().parse::<u64>().ok();
    let peak_v2 = || v2("memory.peak").or_else(|| v2("memory.current")).and_then(number);
    let cpu_v1 = || v1("cpuacct", "cpuacct.usage").or_else(|| v1("cpu,cpuacct", "cpuacct.usage")).and_then(number);
    Counters {
        peak_memory: v1("memory", "memory.max_usage_in_bytes").and_then(number).or_else(peak_v2),
        cpu_ms: cpu_v1()
            .map(|ns| ns / 1_000_000)
            .or_else(|| v2("cpu.stat").and_then(|stat| field(&stat, "usage_usec")).map(|us| us / 1000)),
        oom_kills: v1("memory", "memory.oom_control").or_else(|| v2("memory.events")).and_then(|events| field(&events, "oom_kill")),
    }
}

/// The number after `name` in lines of names and numbers.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Reaped children: processor time of all, memory of the largest.
fn of_children() -> Usage {
    // SAFETY: `getrusage` fills the struct; all-zero bytes are valid for it.
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut used);
        used
    };
    let ms = |t: libc::timeval| t.tv_sec as u64 * 1000 + t.tv_usec as u64 / 1000;
    Usage { peak_memory: used.ru_maxrss as u64 * 1024, cpu_ms: ms(used.ru_utime) + ms(used.ru_stime), oom_kills: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn counters_of_both_versions_are_read() {
        let v2 = tree(&[
            ("memory.peak", "1048576\n"),
            ("cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
            ("memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 0\n"),
        ]);
        assert_eq!(cgroup(v2.path()), Counters { peak_memory: Some(1_048_576), cpu_ms: Some(2500), oom_kills: Some(3) });
        let v1 = tree(&[
            ("memory/memory.max_usage_in_bytes", "4096\n"),
            ("cpuacct/cpuacct.usage", "7000000\n"),
            ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ]);
        assert_eq!(cgroup(v1.path()), Counters { peak_memory: Some(4096), cpu_ms: Some(7), oom_kills: Some(2) });
        assert_eq!(cgroup(tree(&[]).path()), Counters::default());
    }
}
