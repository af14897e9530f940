//! Removes the groups of engines that are dead.

use super::{BUSY, PREFIX, host, read, remove};
use crate::sandbox::owner::{Owner, Process};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Engines are not looked for in groups deeper than this.
const DEPTH: usize = 12;

/// Removes the groups of engines known to be dead, seen from `here`, with what still runs in them. Returns how many sandboxes' they were.
#[must_use]
pub fn sweep(here: &Owner, look: impl Fn(i32) -> Process) -> usize {
    sweep_below(Path::new("/"), here, look)
}

pub(super) fn sweep_below(root: &Path, here: &Owner, look: impl Fn(i32) -> Process) -> usize {
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let mut removed = BTreeSet::new();
    for hierarchy in host::hierarchies(&text("proc/self/mountinfo"), &text("proc/self/cgroup")) {
        let mount = root.join(hierarchy.mount.strip_prefix("/").unwrap_or(&hierarchy.mount));
        let mut engines = Vec::new();
        find(&mount, DEPTH, &mut engines);
        for (path, owner) in engines.into_iter().filter(|(_, owner)| owner.is_dead(here, &look)) {
            let sandboxes = directories(&path);
            removed.extend(sandboxes.into_iter().filter(|name| clear(&path, name).is_ok()).map(|name| (owner.to_string(), name)));
            let _ = fs::remove_dir(&path);
        }
    }
    removed.len()
}

fn find(dir: &Path, depth: usize, engines: &mut Vec<(PathBuf, Owner)>) {
    for name in directories(dir) {
        let path = dir.join(&name);
        match name.strip_prefix(PREFIX).and_then(|label| label.replace('.', "/").parse().ok()) {
            Some(owner) => engines.push((path, owner)),
            None if depth > 0 => find(&path, depth - 1, engines),
            None => {}
        }
    }
}

fn directories(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Ends what is in a sandbox's group, and removes it.
fn clear(parent: &Path, name: &str) -> io::Result<()> {
    let group = File::open(parent.join(name))?;
    for pid in processes(&group).into_iter().filter_map(Pid::from_raw) {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // Looked at again, as the number may have become another process's before it was held.
        if processes(&group).contains(&pid.as_raw_pid()) {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
    remove(&OwnedFd::from(File::open(parent)?), name, Instant::now() + BUSY)
}

fn processes(group: &File) -> Vec<i32> {
    let text = read(group, "cgroup.procs").unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}
