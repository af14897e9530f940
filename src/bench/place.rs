//! Where figures are taken: a directory that goes with its value, and with Ctrl-C or a termination, which also end the processes that
//! work in it.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// Not `sweroll-`: sweeps of sandboxes take directories of that name for those of dead engines.
const PREFIX: &str = "bench-of-sweroll";
/// Times that a directory is removed in which something is still written, and the time between two.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// What a signal has to clear away.
static LEFT: Mutex<Left> = Mutex::new(Left { watched: false, dirs: Vec::new(), children: Vec::new() });

struct Left {
    watched: bool,
    dirs: Vec<PathBuf>,
    children: Vec<Pid>,
}

fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory; removed with the value unless it was given.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    kept: bool,
}

impl Place {
    /// The directory that was given, or a new one in the temporary directory.
    ///
    /// # Errors
    /// Of the disk.
    pub fn make(given: Option<&Path>) -> io::Result<Self> {
        if let Some(dir) = given {
            fs::create_dir_all(dir)?;
            return Ok(Place { dir: dir.to_owned(), kept: true });
        }
        watch()?;
        let base = std::env::temp_dir();
        for number in 0_u64.. {
            let dir = base.join(format!("{PREFIX}-{}-{number}", process::id()));
            match fs::create_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
                Ok(()) => {
                    left().dirs.push(dir.clone());
                    return Ok(Place { dir, kept: false });
                }
            }
        }
        unreachable!("the numbers do not end")
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.dir);
            left().dirs.retain(|dir| *dir != self.dir);
        }
    }
}

fn remove(dir: &Path) {
    for _ in 0..TRIES {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => thread::sleep(PAUSE),
            _ => return,
        }
    }
}

/// A process that ends with the value, or with a signal to this one.
#[derive(Debug)]
pub struct Helper(pub process::Child);

impl Helper {
    #[must_use]
    pub fn new(child: process::Child) -> Self {
        left().children.extend(Pid::from_raw(child.id().cast_signed()));
        Helper(child)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let id = self.0.id().cast_signed();
        left().children.retain(|pid| pid.as_raw_pid() != id);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Clears away at the first signal that asks this process to end.
fn watch() -> io::Result<()> {
    if std::mem::replace(&mut left().watched, true) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(entered);
    let wait = move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => Signal::INT,
                _ = terminate.recv() => Signal::TERM,
                _ = hangup.recv() => Signal::HUP,
            }
        });
        let left = left();
        for child in &left.children {
            // They clear away too.
            let _ = kill_process(*child, Signal::TERM);
        }
        left.dirs.iter().for_each(|dir| remove(dir));
        process::exit(128 + number.as_raw());
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_of_its_own_goes_and_one_that_was_given_stays() {
        let given = tempfile::tempdir().unwrap();
        let (own, other) = (Place::make(None).unwrap(), Place::make(None).unwrap());
        assert_ne!(own.dir(), other.dir());
        let name = own.dir().file_name().unwrap().to_str().unwrap().to_owned();
        assert!(!name.starts_with("sweroll-"), "{name} would be swept away as a dead engine's");
        let kept = Place::make(Some(&given.path().join("a/b"))).unwrap();
        let [gone, there] = [&own, &kept].map(|place| {
            fs::write(place.dir().join("file"), "x").unwrap();
            place.dir().to_owned()
        });
        drop((own, kept));
        assert!(!gone.exists() && there.join("file").exists() && other.dir().exists());
    }
}
