//! The host as its process table, mounts, disks and cgroups show it: what a sandbox leaves there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Numbers of the processes whose command line holds `mark`, zombies left out.
pub fn running(mark: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| command_line(*pid).split('\0').any(|argument| argument == mark)).collect()
}

fn command_line(pid: i32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

pub fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

/// Every process that descends from `pid`, zombies too.
pub fn descendants(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<i32> =
        lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    children.iter().flat_map(|child| std::iter::once(*child).chain(descendants(*child))).collect()
}

/// Numbers of the launchers of native sandboxes whose engines have their directories in `dir`.
pub fn launchers(dir: &Path) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| command_line(*pid).strip_prefix(dir.to_str().unwrap()).is_some_and(|rest| rest.contains("\0launcher\0"))).collect()
}

/// Lines of the mount table, and files of loop devices, that hold `sign`.
pub fn mounts(sign: &str) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let loops = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let loops = loops.filter_map(|block| std::fs::read_to_string(block.path().join("loop/backing_file")).ok());
    mounts.lines().map(str::to_owned).chain(loops).filter(|line| line.contains(sign)).collect()
}

/// Paths of the cgroups, of whatever hierarchy, whose name holds `sign`.
pub fn cgroups(sign: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = open.pop() {
        for group in groups_in(&dir) {
            if group.file_name().unwrap().to_string_lossy().contains(sign) {
                found.push(group);
            } else {
                open.push(group);
            }
        }
    }
    found
}

/// The cgroups right below one.
pub fn groups_in(group: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// What this process holds open, as the kernel names it.
pub fn descriptors() -> Vec<String> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut open: Vec<String> = open.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.display().to_string())).collect();
    open.sort();
    open
}

/// Asks again until it holds, for half a minute.
pub async fn soon(holds: impl AsyncFn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
