//! Locks by `flock`, which the kernel lets go when the process that holds them ends, however it ends.

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

const TRIES: usize = 16;

/// Waits for the only hold on a file, which is made where it is missing.
///
/// # Errors
/// What the kernel says; so all of these.
pub fn exclusive(path: &Path) -> io::Result<File> {
    waiting(path, FlockOperation::LockExclusive)
}

/// Waits for a hold on a file that others may share.
pub fn shared(path: &Path) -> io::Result<File> {
    waiting(path, FlockOperation::LockShared)
}

fn waiting(path: &Path, how: FlockOperation) -> io::Result<File> {
    loop {
        let file: File = open(path, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::from(0o600))?.into();
        if take(&file, path, how)? {
            return Ok(file);
        }
    }
}

/// Waits for a hold on what is there, shared with others; none where it is not there any more.
pub fn shared_if_there(path: &Path) -> io::Result<Option<File>> {
    if_there(path, FlockOperation::LockShared)
}

/// The only hold on what is there; none where it is not there any more, or another holds it.
pub fn try_exclusive(path: &Path) -> io::Result<Option<File>> {
    if_there(path, FlockOperation::NonBlockingLockExclusive)
}

fn if_there(path: &Path, how: FlockOperation) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        file => {
            let file = file?;
            Ok(take(&file, path, how)?.then_some(file))
        }
    }
}

/// Whether the lock was got, and is on what the path still stands for.
fn take(file: &File, path: &Path, how: FlockOperation) -> io::Result<bool> {
    loop {
        match flock(file, how) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(file.metadata()?.ino() == there.ino()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A directory that is locked while this value lives, and goes with it; when the process dies before, the next sweep takes it.
#[derive(Debug)]
pub struct Scratch {
    pub path: PathBuf,
    _lock: File,
}

impl Scratch {
    pub fn create_in(parent: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let path = parent.join(unguessable()?);
            DirBuilder::new().mode(0o700).create(&path)?;
            // None: a sweep came between.
            if let Some(lock) = try_exclusive(&path)? {
                return Ok(Scratch { path, _lock: lock });
            }
        }
        Err(io::Error::other("each new directory was swept away at once"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what is below `parent` and nobody holds. Returns how much it was.
pub fn sweep(parent: &Path) -> io::Result<usize> {
    let mut swept = 0;
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let Some(_lock) = try_exclusive(&path)? else { continue };
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Ok(()) => swept += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(swept)
}

/// 16 hexadecimal digits from the kernel.
///
/// # Errors
/// What the kernel says.
pub fn unguessable() -> io::Result<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
