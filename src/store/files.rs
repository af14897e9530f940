//! Files that survive a crash: append at a known length, cut back, replace as a whole. All writes of the store pass here.

use super::StoreError;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// How much the store may still write, and how many of its next syncs fail: the seam through which tests break the disk.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Faults>);

#[derive(Debug)]
struct Faults {
    space: AtomicU64,
    /// Syncs that still succeed, and those that fail after them.
    good_syncs: AtomicU64,
    bad_syncs: AtomicU64,
    syncs: AtomicU64,
}

impl Default for Disk {
    fn default() -> Self {
        Disk(Arc::new(Faults {
            space: AtomicU64::new(u64::MAX),
            good_syncs: AtomicU64::new(0),
            bad_syncs: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        }))
    }
}

impl Disk {
    /// Bytes that can be written from now on; beyond them a write is short and then fails with "no space".
    pub fn set_space(&self, bytes: u64) {
        self.0.space.store(bytes, SeqCst);
    }

    /// After `good` more syncs, `bad` fail.
    pub fn fail_syncs(&self, good: u64, bad: u64) {
        self.0.good_syncs.store(good, SeqCst);
        self.0.bad_syncs.store(bad, SeqCst);
    }

    /// Syncs of appended files so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.syncs.load(SeqCst)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let space = self.0.space.load(SeqCst);
        let granted = space.min(bytes.len() as u64);
        if space != u64::MAX {
            self.0.space.fetch_sub(granted, SeqCst);
        }
        file.write_all_at(&bytes[..granted as usize], offset)?;
        if granted < bytes.len() as u64 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let take = |count: &AtomicU64| count.try_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        if !take(&self.0.good_syncs) && take(&self.0.bad_syncs) {
            return Err(io::Error::other("injected"));
        }
        self.0.syncs.fetch_add(1, SeqCst);
        file.sync_data()
    }
}

/// A file that only grows, but for cutting back what was not committed.
#[derive(Debug)]
pub struct AppendFile {
    path: PathBuf,
    file: File,
    len: u64,
    /// A write or sync failed since the last cut.
    ragged: bool,
    disk: Disk,
}

impl AppendFile {
    /// Opens for writing, creating the file (durably) where it is not there.
    pub fn open(path: &Path, disk: &Disk) -> Result<Self, StoreError> {
        let fail = |e: io::Error| StoreError::io("open", path, &e);
        let existed = path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
        if !existed {
            sync_parent(path)?;
        }
        let len = file.metadata().map_err(fail)?.len();
        Ok(AppendFile { path: path.to_owned(), file, len, ragged: false, disk: disk.clone() })
    }

    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether a failed write or sync left something behind `good`.
    #[must_use]
    pub fn is_ragged(&self, good: u64) -> bool {
        self.ragged || self.len != good
    }

    /// Returns the offset of the first byte. On error the file may hold a part of `bytes` behind `len`: cut it.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, StoreError> {
        let offset = self.len;
        let written = self.disk.write_at(&self.file, bytes, offset);
        self.ragged |= written.is_err();
        written.map_err(|e| StoreError::io("write", &self.path, &e))?;
        self.len += bytes.len() as u64;
        Ok(offset)
    }

    pub fn sync(&mut self) -> Result<(), StoreError> {
        let synced = self.disk.sync(&self.file);
        self.ragged |= synced.is_err();
        synced.map_err(|e| StoreError::io("write", &self.path, &e))
    }

    /// Forgets everything from `len` on, durably.
    pub fn cut(&mut self, len: u64) -> Result<(), StoreError> {
        self.renew(len, len)
    }

    /// As [`Self::cut`], and writes what is before `len` once more from `synced` on: a failed sync may leave it unwritten, and the
    /// next one would not say so.
    pub fn renew(&mut self, synced: u64, len: u64) -> Result<(), StoreError> {
        let fail = |e: io::Error| StoreError::io("cut back", &self.path, &e);
        self.file.set_len(len).map_err(fail)?;
        let mut unsure = vec![0; (len - synced) as usize];
        self.file.read_exact_at(&mut unsure, synced).and_then(|()| self.file.write_all_at(&unsure, synced)).map_err(fail)?;
        self.file.sync_data().map_err(fail)?;
        self.len = len;
        self.ragged = false;
        Ok(())
    }
}

/// A file that is patched, and synced once.
pub struct OwnFile<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> OwnFile<'a> {
    /// Creates the file where it is not there.
    pub fn open(path: &'a Path) -> Result<Self, StoreError> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        Ok(OwnFile { path, file: file.map_err(|e| StoreError::io("open", path, &e))? })
    }

    /// Writes over what lies there.
    pub fn patch(&self, disk: &Disk, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        disk.write_at(&self.file, bytes, offset).map_err(|e| StoreError::io("write", self.path, &e))
    }

    pub fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|e| StoreError::io("write", self.path, &e))
    }
}

/// Replaces the file as a whole: readers see the old or the new one, a crash leaves one of them.
pub fn replace(path: &Path, disk: &Disk, bytes: &[u8]) -> Result<(), StoreError> {
    let temp = temp_of(path);
    let written = (|| {
        remove_if_there(&temp)?;
        let mut file = AppendFile::open(&temp, disk)?;
        file.append(bytes)?;
        file.sync()
    })();
    written.and_then(|()| put_in_place(&temp, path)).inspect_err(|_| {
        let _ = fs::remove_file(&temp);
    })
}

/// Where a file is built before it takes its place.
#[must_use]
pub fn temp_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Renames a synced file over `path`, durably.
pub fn put_in_place(temp: &Path, path: &Path) -> Result<(), StoreError> {
    fs::rename(temp, path).map_err(|e| StoreError::io("replace", path, &e))?;
    sync_parent(path)
}

pub fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, &e)),
        _ => Ok(()),
    }
}

/// Makes the names in the file's directory durable.
pub fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| StoreError::io("write", parent, &e))
}

pub fn create_dir(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(|e| StoreError::io("create", path, &e))
}
