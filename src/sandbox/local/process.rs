//! A toolbox that runs as a plain process, and the end of everything that it started.

use crate::domain::{Failure, Kind};
use crate::sandbox::Fate;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::Mutex;

/// Rounds of killing: what forks while it is killed is met in the next one.
const ROUNDS: u32 = 100;
/// How long after its stream broke the process may still run before it counts as alive.
const DYING: Duration = Duration::from_secs(5);

/// A child with a home directory of its own. Dropping it kills and removes all of it.
#[derive(Debug)]
pub struct Process {
    child: Mutex<Child>,
    home: PathBuf,
}

impl Process {
    #[must_use]
    pub fn new(child: Child, home: PathBuf) -> Self {
        Process { child: Mutex::new(child), home }
    }

    pub async fn fate(&self) -> Fate {
        let mut child = self.child.lock().await;
        match tokio::time::timeout(DYING, child.wait()).await {
            Ok(Ok(status)) => {
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
                Fate { gone: true, oom: false, exit_code: code.map(i64::from) }
            }
            _ => Fate::default(),
        }
    }

    /// Kills it with all that it started, and removes its home.
    ///
    /// # Errors
    /// `SandboxLost` when something survives, or its files do.
    pub async fn destroy(self) -> Result<(), Failure> {
        let still_there = |what: &str| Failure::new(Kind::SandboxLost, format!("local sandbox {}: {what}", self.home.display()));
        let (pid, home) = (pid(&*self.child.lock().await), self.home.clone());
        let ended = tokio::task::spawn_blocking(move || end(pid, &home)).await;
        let _ = tokio::time::timeout(DYING, self.child.lock().await.wait()).await;
        match ended {
            Ok(true) if !self.home.exists() => Ok(()),
            Ok(true) => Err(still_there("its files cannot be removed; remove the directory by hand")),
            _ => Err(still_there("its processes fork faster than they can be killed; end them by hand")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.home.exists() {
            end(pid(self.child.get_mut()), &self.home);
        }
    }
}

/// None once it was waited for: the number may be another's by then.
fn pid(child: &Child) -> Option<i32> {
    child.id().and_then(|pid| i32::try_from(pid).ok())
}

/// Kills a home's processes, for a home whose engine died.
pub fn kill_all_of(home: &Path) {
    kill_all(None, home);
}

/// Whether nothing of it is left running; its home goes too.
fn end(pid: Option<i32>, home: &Path) -> bool {
    let dead = kill_all(pid, home);
    let _ = fs::remove_dir_all(home);
    dead
}

/// The toolbox dies last: what it started is found as its descendants, orphans included, for as long as it lives.
fn kill_all(root: Option<i32>, home: &Path) -> bool {
    let descendants_gone = (0..ROUNDS).any(|_| {
        let found = family(&running(), root, home);
        found.iter().filter(|pid| Some(**pid) != root).for_each(|pid| kill(*pid));
        let gone = found.iter().all(|pid| Some(*pid) == root);
        if !gone {
            std::thread::sleep(Duration::from_millis(2));
        }
        gone
    });
    root.into_iter().for_each(kill);
    descendants_gone
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// One line of the process table.
struct Running {
    pid: i32,
    parent: i32,
    environment: Vec<u8>,
}

fn running() -> Vec<Running> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let is_alive = fields.next()? != "Z";
        let parent = fields.next()?.parse().ok()?;
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        is_alive.then_some(Running { pid, parent, environment })
    };
    entries.filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The descendants of `root`, it included, and whatever has a path below `home` in its environment.
fn family(all: &[Running], root: Option<i32>, home: &Path) -> HashSet<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = HashSet::new();
    let mut open: Vec<i32> =
        all.iter().filter(|process| names(&process.environment, home)).map(|process| process.pid).chain(root).collect();
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// Whether a variable's value is `home` or below it.
fn names(environment: &[u8], home: &Path) -> bool {
    let home = home.as_os_str().as_bytes();
    let below = |value: &[u8]| value.strip_prefix(home).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    environment.split(|byte| *byte == 0).filter_map(|pair| pair.splitn(2, |byte| *byte == b'=').nth(1)).any(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, environment: &str) -> Running {
        Running { pid, parent, environment: environment.as_bytes().to_vec() }
    }

    #[test]
    fn a_family_is_descent_and_home() {
        let all = [
            process(1, 0, ""),
            process(10, 1, "HOME=/p/1"),
            process(11, 10, ""),
            process(12, 11, ""),
            process(20, 1, "A=b\0TMPDIR=/p/1/tmp\0"),
            process(30, 1, "HOME=/p/12\0PATH=/bin:/p/1"),
        ];
        assert_eq!(family(&all, Some(10), Path::new("/p/1")), HashSet::from([10, 11, 12, 20]));
        assert_eq!(family(&all, None, Path::new("/p/12")), HashSet::from([30]));
    }

    #[tokio::test]
    async fn what_left_the_session_dies_too() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        let script = "(setsid sleep 1000 &) ; sleep 1000 & echo $! > here; wait";
        let child = tokio::process::Command::new("sh").args(["-c", script]).env("HOME", &home).current_dir(&home).spawn().unwrap();
        let process = Process::new(child, home.clone());
        while running().iter().filter(|process| names(&process.environment, &home)).count() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process.destroy().await.unwrap();
        assert!(!home.exists());
        assert!(!running().iter().any(|process| names(&process.environment, &home)));
    }
}
