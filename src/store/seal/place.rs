//! The directories of a sealed dataset: what in them is ours, and how a new one takes the place of the old.

use super::build::Log;
use crate::store::{
    StoreError,
    fact::Stream,
    files::{self, remove_if_there},
    sealed::Sealed,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where a dataset is built; after the exchange, where the old one lies until it is removed.
#[must_use]
pub fn new_of(dir: &Path) -> PathBuf {
    dir.join("data.new")
}

/// Where the old dataset waits on a file system that cannot exchange two names.
fn old_of(dir: &Path) -> PathBuf {
    dir.join("data.old")
}

/// Refuses to work where `data` or what stands beside it holds files that sweroll did not write, or is a link: the exchange would
/// take the link for the directory. Puts back what a crash left between two renames.
///
/// # Errors
/// Names the first such file.
pub fn prepare(dir: &Path) -> Result<(), StoreError> {
    let (data, old) = (Sealed::data(dir), old_of(dir));
    for path in [&data, &new_of(dir), &old] {
        if path.is_symlink() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Err(StoreError::Foreign { path: dir.to_owned(), name: format!("a link {name}") });
        }
        if let Some(name) = names(path)?.into_iter().find(|name| !is_ours(name)) {
            return Err(StoreError::Foreign { path: path.clone(), name });
        }
    }
    if old.exists() && !data.exists() {
        files::put_in_place(&old, &data)?;
    }
    Ok(())
}

/// Puts `data.new` in the place of `data`, durably: the moment at which the new dataset is there and the old one is not.
///
/// # Errors
/// Where the file system refuses.
pub fn commit(dir: &Path) -> Result<(), StoreError> {
    let (data, new) = (Sealed::data(dir), new_of(dir));
    if !data.exists() {
        return files::put_in_place(&new, &data);
    }
    match renameat_with(CWD, &new, CWD, &data, RenameFlags::EXCHANGE) {
        Ok(()) => files::sync_parent(&data),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
            let old = old_of(dir);
            remove(&old)?;
            files::put_in_place(&data, &old)?;
            files::put_in_place(&new, &data)
        }
        Err(e) => Err(StoreError::io("replace", &data, &e.into())),
    }
}

/// Whether a dataset is in its place, and what follows on that is not done.
#[must_use]
pub fn is_unfinished(dir: &Path) -> bool {
    Sealed::data(dir).join(Log::NAME).exists()
}

/// Removes what is not needed once the dataset is in its place.
///
/// # Errors
/// Where it cannot be removed.
pub fn tidy(dir: &Path) -> Result<(), StoreError> {
    remove(&new_of(dir))?;
    remove(&old_of(dir))?;
    remove_if_there(&Sealed::data(dir).join(Log::NAME))
}

fn remove(dir: &Path) -> Result<(), StoreError> {
    sweep(dir, |_| false)?;
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", dir, &e)),
        _ => Ok(()),
    }
}

/// Removes the files of ours that are not to be kept.
///
/// # Errors
/// Where one cannot be removed.
pub fn sweep(dir: &Path, keep: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    names(dir)?.iter().filter(|name| is_ours(name) && !keep(name)).try_for_each(|name| remove_if_there(&dir.join(name)))
}

/// What lies in a directory; nothing where there is none.
fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let fail = |e: io::Error| StoreError::io("read", dir, &e);
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(fail(e)),
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).map_err(fail)).collect(),
    }
}

fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    let shard = name.strip_suffix(".index.jsonl").map(|shard| format!("{shard}.jsonl.zst"));
    ["sealed.json", Log::NAME].contains(&name) || Stream::parse(shard.as_deref().unwrap_or(name)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_others_are_told_from_ours() {
        for ours in ["sealed.json", "sealed.json.tmp", "progress.jsonl", "attempts-00003.jsonl.zst", "trajectories-00000.index.jsonl.tmp"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["", "notes.md", "trajectories-0.jsonl.zst", "train-00000.index.jsonl", "trajectories-00000.jsonl"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
