//! Files as bytes: bounded reads, and writes that are atomic where the file system allows it.

use super::protocol::OpError;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Links of a symlink chain followed by hand.
const MAX_LINKS: usize = 40;

/// An error in words fit for a model; full storage is told apart.
pub fn explain(path: &Path, error: &io::Error) -> OpError {
    let path = path.display();
    let message = match error.kind() {
        _ if is_full(error) => return OpError::NoSpace { message: format!("{path}: {error}") },
        ErrorKind::NotFound => format!("{path} does not exist"),
        ErrorKind::PermissionDenied => format!("{path}: permission denied"),
        ErrorKind::IsADirectory => format!("{path} is a directory"),
        ErrorKind::NotADirectory => format!("a part of {path} is a file, not a directory"),
        ErrorKind::ReadOnlyFilesystem => format!("{path} is on a read-only file system"),
        _ => format!("{path}: {error}"),
    };
    OpError::Invalid { message }
}

pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

pub fn invalid(message: String) -> OpError {
    OpError::Invalid { message }
}

/// That a process could begin there.
pub fn check_directory(path: &Path) -> Result<(), OpError> {
    let meta = fs::metadata(path).map_err(|e| explain(path, &e))?;
    if !meta.is_dir() {
        return Err(invalid(format!("{} is no directory", path.display())));
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(|e| explain(path, &e.into()))
}

/// A regular file opened for reading; never blocks on a pipe or a device.
pub fn open(path: &Path) -> Result<(File, Metadata), OpError> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| explain(path, &e))?;
    let meta = file.metadata().map_err(|e| explain(path, &e))?;
    if meta.is_dir() {
        return Err(invalid(format!("{} is a directory", path.display())));
    }
    if !meta.is_file() {
        return Err(invalid(format!("{} is no regular file", path.display())));
    }
    Ok((file, meta))
}

/// Reads on until its time or its bytes are used up: then reading is an error, and stays one.
pub struct Budget<R> {
    inner: R,
    until: Instant,
    left: u64,
    spent: bool,
}

impl<R> Budget<R> {
    pub fn new(inner: R, until: Instant, bytes: u64) -> Self {
        Budget { inner, until, left: bytes, spent: false }
    }

    pub fn is_spent(&self) -> bool {
        self.spent
    }
}

impl<R: Read> Read for Budget<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.spent = self.spent || self.left == 0 || Instant::now() > self.until;
        if self.spent {
            return Err(ErrorKind::TimedOut.into());
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buffer[..most])?;
        self.left -= n as u64;
        Ok(n)
    }
}

/// At most `max` bytes from `offset`, and the whole file's size.
pub fn read(path: &Path, offset: u64, max: u64) -> Result<(u64, Vec<u8>), OpError> {
    let (mut file, meta) = open(path)?;
    let mut read = || -> io::Result<Vec<u8>> {
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        (&file).take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|e| explain(path, &e))?;
    // Files of /proc say 0.
    Ok((meta.len().max(offset.saturating_add(bytes.len() as u64) * u64::from(!bytes.is_empty())), bytes))
}

/// The whole of a regular file.
///
/// # Errors
/// `TooLarge` over `max` bytes.
pub fn read_whole(path: &Path, max: u64) -> Result<Vec<u8>, OpError> {
    let (file, meta) = open(path)?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(|e| explain(path, &e))?;
    if bytes.len() as u64 > max {
        return Err(OpError::TooLarge { size: meta.len().max(max + 1), max });
    }
    Ok(bytes)
}

/// Writes the whole file; parents are created, an existing file keeps its owner. `mode`: none keeps it, or is the umask's for a new file.
pub fn write(path: &Path, bytes: &[u8], mode: Option<u32>) -> Result<(), OpError> {
    let target = through_links(path)?;
    let put = || -> io::Result<()> {
        if let Some(parent) = target.parent() {
            // A file in a parent's place says that it exists.
            fs::create_dir_all(parent)
                .map_err(|e| if e.kind() == ErrorKind::AlreadyExists { ErrorKind::NotADirectory.into() } else { e })?;
        }
        match fs::symlink_metadata(&target) {
            Ok(old) if old.is_dir() => Err(ErrorKind::IsADirectory.into()),
            Ok(old) if !old.is_file() => Err(io::Error::other("is no regular file")),
            Ok(old) => {
                accessat(CWD, &target, Access::WRITE_OK, AtFlags::EACCESS)
                    .or_else(|e| if e == rustix::io::Errno::NOSYS { Ok(()) } else { Err(e) })?;
                let mode = mode.unwrap_or(old.mode() & 0o7777);
                // Another name of the same file must show the change too.
                let replaced = if old.nlink() > 1 { Err(ErrorKind::Unsupported.into()) } else { replace(&target, bytes, mode, Some(&old)) };
                match replaced {
                    Ok(()) => {}
                    // Writing in place would cut the file where storage ends.
                    Err(e) if is_full(&e) => return Err(e),
                    Err(_) => overwrite(&target, bytes, mode, &old)?,
                }
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::NotFound => replace(&target, bytes, mode.unwrap_or(0o666 & !umask()), None),
            Err(e) => Err(e),
        }
    };
    put().map_err(|e| explain(path, &e))
}

/// Where a write to `path` ends up: links are followed by hand, since the last target may not exist yet.
fn through_links(path: &Path) -> Result<PathBuf, OpError> {
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&at) {
            Ok(target) => at = at.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return Ok(at),
        }
    }
    Err(invalid(format!("{}: too many levels of symbolic links", path.display())))
}

/// A new file renamed over the old.
fn replace(target: &Path, bytes: &[u8], mode: u32, old: Option<&Metadata>) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = format!(".sweroll-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let temporary = target.parent().unwrap_or(Path::new("/")).join(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let mut fill = || -> io::Result<()> {
        file.write_all(bytes)?;
        if let Some(old) = old {
            let new = file.metadata()?;
            if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
        }
        // After the owner, since a change of owner clears some bits.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&temporary, target)
    };
    fill().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// In place: for hard links, bind mounts, foreign owners and directories that cannot be written.
fn overwrite(target: &Path, bytes: &[u8], mode: u32, old: &Metadata) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(target)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    if mode != old.mode() & 0o7777 {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn umask() -> u32 {
    // Reading the mask by setting it would race with other threads.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:")).map(str::trim);
    mask.and_then(|octal| u32::from_str_radix(octal, 8).ok()).unwrap_or(0o022)
}
