//! A directory that only this engine uses, locked for as long as the engine lives, so that another can tell a stale one.

use crate::domain::{Failure, Kind};
use crate::images::lock::{try_exclusive, unguessable};
use rustix::fs::{StatVfsMountFlags, statvfs};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

const PREFIX: &str = "sweroll-";
/// A Unix socket's address holds 108 bytes; ours is the directory, a number and a letter.
const MAX_PATH: usize = 80;
const TRIES: u32 = 8;

/// Removed with all that is in it on drop.
#[derive(Debug)]
pub struct PrivateDir {
    path: PathBuf,
    _lock: File,
}

impl PrivateDir {
    /// A new one in `base`, or in the first of `$XDG_RUNTIME_DIR`, the temporary directory, `/var/tmp` that allows
    /// programs to run and sockets to be addressed.
    ///
    /// # Errors
    /// `SandboxStart` when none can be had.
    pub fn create(base: Option<&Path>) -> Result<Self, Failure> {
        let mut reasons = Vec::new();
        for base in bases(base) {
            match usable(&base).and_then(|()| Self::create_in(&base)) {
                Ok(dir) => return Ok(dir),
                Err(error) => reasons.push(format!("{}: {error}", base.display())),
            }
        }
        let message = format!(
            "no directory for the sandboxes' sockets ({}); set private_dir to a short path on a file system that is not mounted noexec",
            reasons.join("; ")
        );
        Err(Failure::new(Kind::SandboxStart, message))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn create_in(base: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let path = base.join(format!("{PREFIX}{}", unguessable()?));
            DirBuilder::new().mode(0o700).create(&path)?;
            if let Some(lock) = try_exclusive(&path)? {
                return Ok(PrivateDir { path, _lock: lock });
            }
        }
        Err(io::Error::other("each new directory was swept away at once"))
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the directories of dead engines of this user, each after `before` had a look at it. Returns how many.
pub fn sweep(base: Option<&Path>, before: impl Fn(&Path)) -> usize {
    let uid = rustix::process::geteuid().as_raw();
    let mut removed = 0;
    for entry in bases(base).iter().filter_map(|base| fs::read_dir(base).ok()).flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && fs::symlink_metadata(entry.path()).is_ok_and(|found| found.is_dir() && found.uid() == uid);
        if ours && let Ok(Some(_lock)) = try_exclusive(&entry.path()) {
            before(&entry.path());
            removed += usize::from(fs::remove_dir_all(entry.path()).is_ok());
        }
    }
    removed
}

fn bases(chosen: Option<&Path>) -> Vec<PathBuf> {
    if let Some(base) = chosen {
        return vec![base.to_owned()];
    }
    let mut all: Vec<PathBuf> = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from).into_iter().collect();
    for base in [std::env::temp_dir(), "/var/tmp".into()] {
        if !all.contains(&base) {
            all.push(base);
        }
    }
    all
}

fn usable(base: &Path) -> io::Result<()> {
    if !base.is_absolute() || base.as_os_str().len() > MAX_PATH {
        return Err(io::Error::other(format!("its path is not absolute or longer than {MAX_PATH} bytes")));
    }
    if statvfs(base)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err(io::Error::other("it is mounted noexec"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_one_stays_and_a_stale_one_goes() {
        let base = tempfile::tempdir().unwrap();
        let live = PrivateDir::create(Some(base.path())).unwrap();
        assert_eq!(fs::metadata(live.path()).unwrap().mode() & 0o777, 0o700);
        let stale = base.path().join("sweroll-0000000000000000");
        fs::create_dir_all(stale.join("1")).unwrap();
        fs::create_dir(base.path().join("foreign")).unwrap();
        std::os::unix::fs::symlink(base.path().join("foreign"), base.path().join("sweroll-link")).unwrap();

        assert_eq!(sweep(Some(base.path()), |path| assert_eq!(path, stale)), 1);
        assert!(live.path().exists() && !stale.exists() && base.path().join("foreign").exists());
        let path = live.path().to_owned();
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn a_long_path_is_refused_with_the_mend() {
        let base = tempfile::tempdir().unwrap();
        let long = base.path().join("x".repeat(90));
        fs::create_dir(&long).unwrap();
        let failure = PrivateDir::create(Some(&long)).unwrap_err();
        assert!(failure.message.contains("private_dir"), "{failure}");
    }
}
