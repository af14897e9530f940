//! Which engine process a sandbox belongs to, written so that a dead engine can be told from a live one.

use rustix::{io::Errno, process};
use std::{fmt, fs, io, str::FromStr};

/// One engine process on one boot of one host. Written `boot/namespace/pid/start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The kernel's id of this boot; another host has another.
    boot: String,
    /// Inode of the process id namespace: the same number is another process in another namespace.
    namespace: String,
    pid: i32,
    /// Clock ticks from boot to the process's start: process ids are used again.
    start: u64,
}

/// What is known of a process id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    Gone,
    StartedAt(u64),
    /// It exists, but not more is shown to us.
    Hidden,
}

impl Owner {
    /// This process.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn ours() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let namespace = fs::read_link("/proc/self/ns/pid")?.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        let pid = process::getpid().as_raw_pid();
        let start = start_of(&fs::read_to_string("/proc/self/stat")?)
            .ok_or_else(|| io::Error::other("/proc/self/stat does not show the start time"))?;
        Ok(Owner { boot, namespace, pid, start })
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether the engine is known to be dead, seen from `here`. One that cannot be judged from here is not.
    #[must_use]
    pub fn is_dead(&self, here: &Owner, look: impl Fn(i32) -> Process) -> bool {
        self.is_near(here)
            && match look(self.pid) {
                Process::Gone => true,
                Process::StartedAt(start) => start != self.start,
                Process::Hidden => false,
            }
    }

    /// Whether its process id means something here.
    #[must_use]
    pub fn is_near(&self, here: &Owner) -> bool {
        self.boot == here.boot && self.namespace == here.namespace
    }
}

/// What the kernel says of a process id.
#[must_use]
pub fn look(pid: i32) -> Process {
    let Some(known) = process::Pid::from_raw(pid).filter(|_| pid > 0) else { return Process::Gone };
    if process::test_kill_process(known) == Err(Errno::SRCH) {
        return Process::Gone;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.ok().as_deref().and_then(start_of).map_or(Process::Hidden, Process::StartedAt)
}

/// Field 22 of a `/proc/PID/stat` line; the name in field 2 may hold anything, so it is counted from the last `)`.
fn start_of(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.boot, self.namespace, self.pid, self.start)
    }
}

/// A label that names no engine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not name an engine process")]
pub struct BadOwner(String);

impl FromStr for Owner {
    type Err = BadOwner;

    fn from_str(text: &str) -> Result<Self, BadOwner> {
        let bad = || BadOwner(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let [boot, namespace, pid, start] = parts[..] else { return Err(bad()) };
        let (pid, start) = (pid.parse().map_err(|_| bad())?, start.parse().map_err(|_| bad())?);
        Ok(Owner { boot: boot.to_owned(), namespace: namespace.to_owned(), pid, start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(text: &str) -> Owner {
        text.parse().unwrap()
    }

    #[test]
    fn this_process_round_trips_and_lives() {
        let ours = Owner::ours().unwrap();
        assert_eq!(owner(&ours.to_string()), ours);
        assert!(!ours.is_dead(&ours, look));
        for bad in ["", "a/b/c", "a/b/1/x", "a/b/1/2/3"] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_can_be_judged_from_here_is_dead() {
        let here = owner("boot/1/10/100");
        let that = owner("boot/1/11/110");
        assert!(that.is_dead(&here, |_| Process::Gone));
        assert!(that.is_dead(&here, |_| Process::StartedAt(111)));
        assert!(!that.is_dead(&here, |_| Process::StartedAt(110)));
        assert!(!that.is_dead(&here, |_| Process::Hidden));
        assert!(!owner("other/1/11/110").is_dead(&here, |_| Process::Gone));
        assert!(!owner("boot/2/11/110").is_dead(&here, |_| Process::Gone));
    }

    #[test]
    fn a_reaped_child_is_gone() {
        let mut child = std::process::Command::new("/proc/self/exe").arg("--list").stdout(std::process::Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(matches!(look(pid), Process::StartedAt(_)));
        child.wait().unwrap();
        assert_eq!(look(pid), Process::Gone);
        assert_eq!(look(0), Process::Gone);
    }

    #[test]
    fn a_name_cannot_shift_the_start_time() {
        let fields = (3..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_of(&format!("7 (a) b) (c) {fields}")), Some(22));
    }
}
