//! Memory, processes and processor time of each sandbox, held by control groups: version 1 where its hierarchies are mounted,
//! version 2 where a part of its tree is ours to divide, else by what [`Groups::rlimits`] can.
//!
//! ```text
//! v1  HIERARCHY/OURS/sweroll-OWNER/SANDBOX   for memory, pids, cpu and cpuacct; below our own, so that its limits hold for all
//! v2  TREE/OURS/sweroll-OWNER/SANDBOX        and our processes move to TREE/OURS/sweroll-engine: a group that has processes
//!                                            of its own cannot be divided. Where others' are in it, the next above that has
//!                                            none and may be written
//! ```

mod divide;
mod host;
mod sweep;

pub use sweep::sweep;

use crate::sandbox::Limits;
use host::{Controller, Version};
use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::Resource;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Begins the names of all groups of ours; an owner's text with `.` for `/` follows.
const PREFIX: &str = "sweroll-";
/// Microseconds over which processor time is counted: the kernel's default.
const PERIOD_US: u32 = 100_000;
const CPU_QUOTA: &str = "cpu.cfs_quota_us";
/// The shortest time in a period that the kernel takes.
const LEAST_QUOTA_US: f64 = 1000.0;
/// How long a group may stay busy after its processes are gone.
const BUSY: Duration = Duration::from_secs(1);

/// Where one engine's groups are.
#[derive(Debug)]
pub struct Groups {
    parents: Arc<[Parent]>,
    /// Why what is not held is not.
    missing: Vec<String>,
}

/// A group of the engine's, whose children are the sandboxes'.
#[derive(Debug)]
struct Parent {
    version: Version,
    /// What its children hold.
    controllers: Vec<Controller>,
    path: PathBuf,
    dir: OwnedFd,
    /// Whether swap is counted.
    swap: bool,
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Its path may lead elsewhere by now, in the launcher's own world. Not where there are sandboxes left in it: then it is swept.
        let above = openat(&self.dir, "..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        if let (Ok(above), Some(name)) = (above, self.path.file_name()) {
            let _ = unlinkat(above, name, AtFlags::REMOVEDIR);
        }
    }
}

impl Groups {
    /// Takes what this host gives. `label` is the text of the engine's `Owner`; the engine or a descendant calls.
    #[must_use]
    pub fn find(label: &str) -> Self {
        Self::find_below(Path::new("/"), label)
    }

    /// With the system's files below `root`.
    fn find_below(root: &Path, label: &str) -> Self {
        let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let hierarchies = host::hierarchies(&text("proc/self/mountinfo"), &text("proc/self/cgroup"));
        let (mut parents, mut missing) = (Vec::new(), Vec::new());
        for hierarchy in &hierarchies {
            match divide::parent(root, hierarchy, label) {
                Ok(parent) => parents.push(parent),
                Err(why) => missing.push(why),
            }
        }
        if hierarchies.is_empty() {
            missing.push("no control groups are mounted".to_owned());
        }
        Groups { parents: parents.into(), missing }
    }

    /// Where the groups are on the host.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        self.parents.iter().map(|parent| parent.path.clone()).collect()
    }

    fn version_of(&self, controller: Controller) -> Option<Version> {
        self.parents.iter().find(|parent| parent.controllers.contains(&controller)).map(|parent| parent.version)
    }

    /// What holds which limit, in words for a log line.
    #[must_use]
    pub fn holds(&self) -> String {
        let limits = [
            (Controller::Memory, "memory", "memory of each process by its rlimit"),
            (Controller::Pids, "pids", "pids of each user by its rlimit"),
            (Controller::Cpu, "processors", "processors by nothing"),
        ];
        let (mut held, mut others) = (Vec::new(), Vec::new());
        let mut version = 0;
        for (controller, word, otherwise) in limits {
            match self.version_of(controller) {
                Some(found) => {
                    version = if found == Version::One { 1 } else { 2 };
                    held.push(word);
                }
                None => others.push(otherwise.to_owned()),
            }
        }
        let groups = (!held.is_empty()).then(|| format!("{} by cgroup v{version}", listed(&held)));
        let all: Vec<String> = groups.into_iter().chain(others).collect();
        let why = if all.len() > 1 || held.is_empty() { self.missing.join("; ") } else { String::new() };
        if why.is_empty() { all.join(", ") } else { format!("{} ({why})", all.join(", ")) }
    }

    /// A group of these limits; 0 is none.
    ///
    /// # Errors
    /// `AlreadyExists` for a name in use; what the kernel says.
    pub fn create(&self, name: &str, limits: &Limits) -> io::Result<Group> {
        let mut group = Group { name: name.to_owned(), parents: Arc::clone(&self.parents), dirs: Vec::new() };
        for parent in self.parents.iter() {
            if let Err(error) = parent.make(name, limits, &mut group.dirs) {
                let message = format!("{}/{name}: {error}", parent.path.display());
                group.remove()?;
                return Err(io::Error::new(error.kind(), message));
            }
        }
        Ok(group)
    }

    /// What the first process of a sandbox sets, once it is in its user namespace: `RLIMIT_NPROC` then counts in that alone (since
    /// Linux 5.14; before, all sandboxes together). `RLIMIT_DATA` and not `RLIMIT_AS`: runtimes reserve far more than they use.
    #[must_use]
    pub fn rlimits(&self, limits: &Limits, nofile: u64) -> Vec<(Resource, u64)> {
        // Not 0: where the host pipes core dumps to a program of its own, only a limit of 1 keeps it from being run.
        let mut list = vec![(Resource::Nofile, nofile), (Resource::Core, 1)];
        if limits.memory > 0 && self.version_of(Controller::Memory).is_none() {
            list.push((Resource::Data, limits.memory));
        }
        if limits.pids > 0 && self.version_of(Controller::Pids).is_none() {
            list.push((Resource::Nproc, limits.pids.into()));
        }
        list
    }
}

impl Parent {
    fn make(&self, name: &str, limits: &Limits, dirs: &mut Vec<OwnedFd>) -> io::Result<()> {
        mkdirat(&self.dir, name, Mode::from_raw_mode(0o755))?;
        let dir = openat(&self.dir, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let written = self.values(limits).into_iter().try_for_each(|(file, value)| match write(&dir, file, &value) {
            // A group above has less: then that one holds.
            Err(error) if file == CPU_QUOTA && error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), format!("{file} = {value}: {error}"))),
            Ok(()) => Ok(()),
        });
        dirs.push(dir);
        written
    }

    /// Files and what to write to them, in this order.
    fn values(&self, limits: &Limits) -> Vec<(&'static str, String)> {
        let mut values = Vec::new();
        for controller in &self.controllers {
            match (controller, self.version) {
                (Controller::Memory, _) if limits.memory == 0 => {}
                (Controller::Memory, Version::One) => {
                    values.push(("memory.limit_in_bytes", limits.memory.to_string()));
                    // Memory and swap, never below memory alone.
                    values.push(if self.swap {
                        ("memory.memsw.limit_in_bytes", limits.memory.to_string())
                    } else {
                        ("memory.swappiness", "0".to_owned())
                    });
                }
                (Controller::Memory, Version::Two) => {
                    values.push(("memory.max", limits.memory.to_string()));
                    values.extend(self.swap.then(|| ("memory.swap.max", "0".to_owned())));
                }
                (Controller::Pids, _) if limits.pids > 0 => values.push(("pids.max", limits.pids.to_string())),
                (Controller::Cpu, Version::One) if limits.cpus > 0.0 => values.push((CPU_QUOTA, quota_us(limits.cpus).to_string())),
                (Controller::Cpu, Version::Two) if limits.cpus > 0.0 => {
                    values.push(("cpu.max", format!("{} {PERIOD_US}", quota_us(limits.cpus))));
                }
                (Controller::Pids | Controller::Cpu | Controller::Cpuacct, _) => {}
            }
        }
        values
    }
}

/// The control groups of one sandbox, one in each hierarchy.
#[derive(Debug)]
pub struct Group {
    name: String,
    parents: Arc<[Parent]>,
    dirs: Vec<OwnedFd>,
}

impl Group {
    /// Moves this process of one thread in. Version 1 takes a thread that moves itself without waiting for all processors, which
    /// takes 10 ms of whoever moves another's.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn join(&self) -> io::Result<()> {
        let file = |parent: &Parent| if parent.version == Version::One { "tasks" } else { "cgroup.procs" };
        self.parents.iter().zip(&self.dirs).try_for_each(|(parent, dir)| write(dir, file(parent), "0"))
    }

    /// Directories of the host, and their places below `/sys/fs/cgroup` of the sandbox, where the toolbox reads the counters.
    #[must_use]
    pub fn mounts(&self) -> Vec<(PathBuf, &'static str)> {
        let of = |parent: &Parent| -> Vec<&'static str> {
            match parent.version {
                Version::One => parent.controllers.iter().map(|controller| controller.name()).collect(),
                Version::Two => vec![""],
            }
        };
        self.parents.iter().flat_map(|parent| of(parent).into_iter().map(|place| (parent.path.join(&self.name), place))).collect()
    }

    /// What wakes an epoll by these flags each time that memory runs out, until it is read from its beginning; none where no group
    /// holds memory.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn memory_events(&self) -> io::Result<Option<(OwnedFd, EventFlags)>> {
        let Some((version, dir)) = self.memory() else { return Ok(None) };
        let file = |name| openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        if version == Version::Two {
            let events = file("memory.events")?;
            // The kernel tells of what happened since it was read.
            rustix::io::read(&events, &mut [0; 256])?;
            return Ok(Some((events, EventFlags::PRI)));
        }
        let events = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = file("memory.oom_control")?;
        write(dir, "cgroup.event_control", &format!("{} {}", events.as_raw_fd(), control.as_raw_fd()))?;
        Ok(Some((events, EventFlags::IN)))
    }

    fn memory(&self) -> Option<(Version, &OwnedFd)> {
        let of_memory = self.parents.iter().zip(&self.dirs).find(|(parent, _)| parent.controllers.contains(&Controller::Memory));
        of_memory.map(|(parent, dir)| (parent.version, dir))
    }

    /// How many of its processes the kernel killed for want of memory; 0 where no group holds memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let Some((version, dir)) = self.memory() else { return 0 };
        let file = if version == Version::One { "memory.oom_control" } else { "memory.events" };
        let text = read(dir, file).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes it, once its processes are gone; waits a second at most for the kernel to know that they are.
    ///
    /// # Errors
    /// `ResourceBusy` where there are processes in it still.
    pub fn remove(self) -> io::Result<()> {
        let deadline = Instant::now() + BUSY;
        self.parents.iter().take(self.dirs.len()).try_for_each(|parent| remove(&parent.dir, &self.name, deadline))
    }
}

fn remove(parent: &OwnedFd, name: &str, deadline: Instant) -> io::Result<()> {
    let mut pause = Duration::from_millis(1);
    loop {
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn write(dir: impl AsFd, file: &str, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    File::from(openat(dir, file, flags, Mode::from_raw_mode(0o644))?).write_all(text.as_bytes())
}

fn read(dir: impl AsFd, file: &str) -> io::Result<String> {
    let mut text = String::new();
    File::from(openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?).read_to_string(&mut text)?;
    Ok(text)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn quota_us(cpus: f64) -> u64 {
    (cpus * f64::from(PERIOD_US)).round().max(LEAST_QUOTA_US) as u64
}

/// "a, b and c".
fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests;
