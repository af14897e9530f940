//! A directory that appears as a whole: it is built beside its place and moved there.

use super::{ExportError, io_error};
use crate::export::report::Report;
use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};
use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

/// The file by which an export is recognised.
pub const REPORT: &str = "export.json";
/// Holds the lock of who builds.
const LOCK: &str = ".building";

/// A directory under construction. Dropped unfinished, it goes away.
pub struct Building {
    out: PathBuf,
    temp: PathBuf,
    lock: Option<File>,
    done: bool,
}

impl Building {
    /// Begins what shall be `out`: absent, an empty directory, or with `overwrite` an earlier export and nothing else.
    /// What a crash left of an earlier beginning is taken away.
    ///
    /// # Errors
    /// Where `out` is something else, or another process builds it.
    pub fn begin(out: &Path, overwrite: bool) -> Result<Self, ExportError> {
        check(out, overwrite)?;
        let occupied = |why: &str| ExportError::Occupied { out: out.to_owned(), why: why.to_owned() };
        let name = out.file_name().ok_or_else(|| occupied("it has no name of its own: name the directory to be made"))?;
        let mut temp_name = OsStr::new(".").to_owned();
        temp_name.push(name);
        temp_name.push(".part");
        let temp = out.with_file_name(temp_name);
        // One with a report is an export that was replaced and not yet taken away.
        let is_ours = [LOCK, REPORT].iter().any(|name| temp.join(name).exists());
        if temp.exists() && !is_ours && !is_empty(&temp)? {
            return Err(occupied(&format!("{} stands where it would be built: remove that", temp.display())));
        }
        fs::create_dir_all(&temp).map_err(io_error("create", &temp))?;
        let lock = lock(&temp)?.ok_or_else(|| occupied("another export to it is under way"))?;
        clear(&temp)?;
        Ok(Building { out: out.to_owned(), temp, lock: Some(lock), done: false })
    }

    /// Where files are put.
    pub fn path(&self) -> &Path {
        &self.temp
    }

    /// Moves it to its place, durably; an earlier export there goes away.
    pub fn finish(mut self, overwrite: bool) -> Result<(), ExportError> {
        // One call for all: an export may have a file a trajectory.
        File::open(&self.temp).and_then(|dir| Ok(syncfs(dir)?)).map_err(io_error("write", &self.temp))?;
        check(&self.out, overwrite)?;
        let replaced = overwrite && self.out.exists() && !is_empty(&self.out)?;
        if replaced {
            renameat_with(CWD, &self.temp, CWD, &self.out, RenameFlags::EXCHANGE).map_err(|e| io_error("replace", &self.out)(e.into()))?;
        } else {
            fs::rename(&self.temp, &self.out).map_err(io_error("create", &self.out))?;
        }
        self.done = true;
        // Only now, that nobody takes the export for what a crash left.
        let building = self.out.join(LOCK);
        fs::remove_file(&building).map_err(io_error("remove", &building))?;
        let parent = self.out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(io_error("write", parent))?;
        // Whoever begins another export now takes the replaced one away as well.
        if replaced && let Some(_lock) = lock(&self.temp)? {
            clear(&self.temp)?;
            fs::remove_dir_all(&self.temp).map_err(io_error("remove", &self.temp))?;
        }
        Ok(())
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_dir_all(&self.temp);
        }
        self.lock = None;
    }
}

/// The lock of who builds in the directory; none where another has it.
fn lock(dir: &Path) -> Result<Option<File>, ExportError> {
    let path = dir.join(LOCK);
    let file = File::create(&path).map_err(io_error("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(io_error("lock", &path)(e)),
    }
}

/// Takes away all but the lock.
fn clear(dir: &Path) -> Result<(), ExportError> {
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let entry = entry.map_err(io_error("read", dir))?;
        let path = entry.path();
        if entry.file_name() == LOCK {
            continue;
        }
        let is_dir = entry.file_type().map_err(io_error("read", &path))?.is_dir();
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(io_error("remove", &path))?;
    }
    Ok(())
}

fn is_empty(dir: &Path) -> Result<bool, ExportError> {
    Ok(fs::read_dir(dir).map_err(io_error("read", dir))?.next().is_none())
}

/// Whether `out` may become the export.
fn check(out: &Path, overwrite: bool) -> Result<(), ExportError> {
    let occupied = |why: String| ExportError::Occupied { out: out.to_owned(), why };
    let metadata = match fs::symlink_metadata(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io_error("read", out))?,
    };
    if !metadata.is_dir() {
        return Err(occupied("it is no directory".to_owned()));
    }
    if is_empty(out)? {
        return Ok(());
    }
    let files = fs::read(out.join(REPORT)).ok().and_then(|json| Report::files_of(&json));
    let Some(files) = files else { return Err(occupied("it is not empty, and no export: choose another directory".to_owned())) };
    if !overwrite {
        return Err(occupied("it holds an export: choose another directory, or --overwrite".to_owned()));
    }
    let known: HashSet<PathBuf> = files.iter().map(|file| out.join(file)).chain([out.join(REPORT), out.join(LOCK)]).collect();
    match walk(out)?.into_iter().find(|path| !known.contains(path)) {
        Some(other) => Err(occupied(format!("{} is not of the export that is there: move it away", other.display()))),
        None => Ok(()),
    }
}

/// All that is in the directory and below, but for directories.
fn walk(dir: &Path) -> Result<Vec<PathBuf>, ExportError> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(io_error("read", &dir))? {
            let entry = entry.map_err(io_error("read", &dir))?;
            let is_dir = entry.file_type().map_err(io_error("read", &dir))?.is_dir();
            if is_dir { &mut dirs } else { &mut found }.push(entry.path());
        }
    }
    Ok(found)
}
