//! Snapshot and diff, on the files as they lie: the agent's repository is neither read nor changed, and nothing of the image is needed.
//!
//! A snapshot stores content and names of all files; the diff compares a second look with it, in this process alone: whatever
//! the agent has done to the image's programs, its work can be taken.
//! Files whose inode, size and times are those of the snapshot are not read again.

use super::files::invalid;
use super::git::{nameless_file, storage};
use super::objects::{self, Oid, Store, Type};
use super::patch::{self, Side};
use super::protocol::{MAX_BLOB, OpError};
use super::tree::{self, Content, Entry, Exclude, Stamp, Walked};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Larger files are hashed, not stored; a change of one is a diff over any limit.
const MAX_STORED: u64 = 32 << 20;
/// Larger files are known by size and times alone.
const MAX_HASHED: u64 = 8 << 30;
/// Most bytes of new content that a diff reads: seconds of hashing, and far more than fits into a diff that anybody keeps.
const MAX_NEW: u64 = 1 << 30;
/// Most snapshots of one sandbox; each holds its objects open.
const MAX_SNAPSHOTS: usize = 64;

/// Everything recorded in this sandbox.
#[derive(Debug, Default)]
pub struct Shadow {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stores: Vec<Store>,
    snapshots: Vec<Arc<Snapshot>>,
}

/// All files at one moment.
#[derive(Debug)]
struct Snapshot {
    tree: Oid,
    workdir: PathBuf,
    /// Sorted by path.
    files: Vec<Recorded>,
}

#[derive(Debug, Clone)]
struct Recorded {
    entry: Entry,
    oid: Oid,
    /// Whether an equal stamp later means equal content.
    settled: bool,
    /// Whether the content is in a store.
    held: bool,
}

impl Snapshot {
    fn get(&self, path: &[u8]) -> Option<&Recorded> {
        self.files.binary_search_by(|file| file.entry.path.as_slice().cmp(path)).ok().map(|at| &self.files[at])
    }

    fn below<'a>(&'a self, directory: &'a [u8]) -> impl Iterator<Item = &'a Recorded> {
        let from = self.files.partition_point(|file| file.entry.path.as_slice() < directory);
        self.files[from..].iter().take_while(move |file| file.entry.path.starts_with(directory))
    }
}

impl Shadow {
    /// Name of the recorded tree.
    pub fn snapshot(&self, workdir: &Path, exclude: &[String]) -> Result<String, OpError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.snapshots.len() >= MAX_SNAPSHOTS {
            return Err(invalid(format!("{MAX_SNAPSHOTS} snapshots were taken in this sandbox, which is the limit")));
        }
        let base = state.snapshots.iter().rfind(|snapshot| snapshot.workdir == workdir).cloned();
        let walked = tree::walk(workdir, &Exclude::new(exclude)?)?;
        let (snapshot, store) = record(&state.stores, workdir, walked, base.as_deref(), u64::MAX)?;
        let tree = snapshot.tree.to_string();
        state.stores.push(store);
        state.snapshots.push(Arc::new(snapshot));
        Ok(tree)
    }

    /// The git diff from a recorded tree to the files as they are. No directory is a directory without files.
    ///
    /// # Errors
    /// `TooLarge`, as soon as it is known; `Invalid` where the files cannot be read; `NoSpace`; `Failed` where the tree is unknown.
    pub fn diff(&self, workdir: &Path, tree: &str, exclude: &[String], max: u64) -> Result<String, OpError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.snapshots.iter().rfind(|snapshot| snapshot.tree.to_string() == tree && snapshot.workdir == workdir);
        let unknown = || OpError::Failed { message: format!("no tree {tree} of {} was recorded in this sandbox", workdir.display()) };
        let base = known.ok_or_else(unknown)?;
        let exclude = Exclude::new(exclude)?;
        let walked = if tree::is_gone(workdir) { Walked::default() } else { tree::walk(workdir, &exclude)? };
        refuse_much(base, &walked, max)?;
        let (now, store) = record(&state.stores, workdir, walked, Some(base), MAX_NEW)?;
        refuse_large(base, &now, max)?;
        write_patch(&state.stores, &store, base, &now, max.min(MAX_BLOB as u64))
    }
}

/// What the sizes alone say before anything is read: content of another size than the recorded is new.
fn refuse_much(base: &Snapshot, walked: &Walked, max: u64) -> Result<(), OpError> {
    let mut new = 0u64;
    for entry in &walked.entries {
        let size = entry.stamp.size();
        if base.get(&entry.path).is_none_or(|before| before.entry.stamp.size() != size) {
            new = new.saturating_add(size);
            if size > MAX_STORED || new > MAX_NEW {
                return Err(OpError::TooLarge { size: new, max: max.min(MAX_STORED) });
            }
        }
    }
    Ok(())
}

/// Content that is not stored cannot be compared; where it changed, the diff would hold it whole.
fn refuse_large(base: &Snapshot, now: &Snapshot, max: u64) -> Result<(), OpError> {
    let changed = |file: &&Recorded, other: &Snapshot| !file.held && other.get(&file.entry.path).is_none_or(|o| o.oid != file.oid);
    let mut large = now.files.iter().filter(|file| changed(file, base)).chain(base.files.iter().filter(|file| changed(file, now)));
    large.next().map_or(Ok(()), |file| Err(OpError::TooLarge { size: file.entry.stamp.size(), max: max.min(MAX_STORED) }))
}

/// The changes in the order of their paths.
fn write_patch(stores: &[Store], new: &Store, base: &Snapshot, now: &Snapshot, max: u64) -> Result<String, OpError> {
    let full = |e| storage("read the stored content", e);
    let side = |file: &Recorded| -> io::Result<Side> {
        for store in [new].into_iter().chain(stores) {
            if let Some(content) = store.get(file.oid)? {
                return Ok(Side { kind: file.entry.kind, oid: file.oid, content });
            }
        }
        Err(io::ErrorKind::NotFound.into())
    };
    let mut out = String::new();
    let (mut before, mut after) = (base.files.iter().peekable(), now.files.iter().peekable());
    loop {
        let path = match (before.peek(), after.peek()) {
            (None, None) => return Ok(out),
            (Some(one), None) | (None, Some(one)) => &one.entry.path,
            (Some(one), Some(other)) => (&one.entry.path).min(&other.entry.path),
        };
        let old = before.next_if(|file| file.entry.path == *path);
        let new = after.next_if(|file| file.entry.path == *path);
        if old.map(|file| (file.entry.kind, file.oid)) == new.map(|file| (file.entry.kind, file.oid)) {
            continue;
        }
        let (old, new) = (old.map(side).transpose().map_err(full)?, new.map(side).transpose().map_err(full)?);
        patch::push(&mut out, path, old.as_ref(), new.as_ref()).map_err(full)?;
        if out.len() as u64 > max {
            return Err(OpError::TooLarge { size: out.len() as u64, max });
        }
    }
}

/// Stores what is not stored yet, at most about `max_new` bytes of it.
fn record(stores: &[Store], workdir: &Path, walked: Walked, base: Option<&Snapshot>, max_new: u64) -> Result<(Snapshot, Store), OpError> {
    let full = |e| storage("store the files' content", e);
    let mut new = Store::new(nameless_file()?);
    let mut files: Vec<Recorded> = Vec::with_capacity(walked.entries.len());
    for entry in walked.entries {
        let before = base.and_then(|base| base.get(&entry.path));
        let same = before.filter(|b| b.settled && b.entry.stamp == entry.stamp);
        if let Some(same) = same {
            files.push(Recorded { entry, ..same.clone() });
            continue;
        }
        let settled = entry.stamp.is_settled(SystemTime::now());
        match tree::content(workdir, &entry, MAX_STORED) {
            Ok(Content::Held(bytes)) => {
                let oid = objects::oid(Type::Blob, &bytes);
                if !stores.iter().any(|store| store.has(oid)) {
                    new.add(oid, &bytes).map_err(full)?;
                }
                if new.size() > max_new {
                    return Err(OpError::TooLarge { size: new.size(), max: max_new });
                }
                files.push(Recorded { entry, oid, settled, held: true });
            }
            Ok(Content::Large(file, size)) if size <= MAX_HASHED => {
                let oid = objects::stream_oid(file, size).map_err(|e| storage("read a large file", e))?;
                files.push(Recorded { entry, oid, settled, held: false });
            }
            Ok(Content::Large(..)) => {
                let oid = stamp_oid(&entry.stamp);
                files.push(Recorded { entry, oid, settled, held: false });
            }
            // Gone since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // What cannot be read counts as it last was; what never could, not at all.
            Err(_) => files.extend(before.cloned()),
        }
    }
    for directory in &walked.closed {
        files.extend(base.into_iter().flat_map(|base| base.below(directory)).cloned());
    }
    files.sort_unstable_by(|a, b| a.entry.path.cmp(&b.entry.path));
    Ok((Snapshot { tree: tree_oid(&files), workdir: workdir.to_owned(), files }, new))
}

/// A name for content that is never read.
fn stamp_oid(stamp: &Stamp) -> Oid {
    objects::oid(Type::Blob, format!("{stamp:?}").as_bytes())
}

/// Git's name of the tree, from those of the directories in it, the innermost first. Order by path, with slashes, is git's own
/// order of entries.
fn tree_oid(files: &[Recorded]) -> Oid {
    let mut open: Vec<(&[u8], Vec<u8>)> = vec![(b"", Vec::new())];
    let close = |open: &mut Vec<(&[u8], Vec<u8>)>| {
        if let Some((name, body)) = open.pop()
            && let Some((_, parent)) = open.last_mut()
        {
            push_tree_entry(parent, "40000", name, objects::oid(Type::Tree, &body));
        }
    };
    for file in files {
        let mut parts: Vec<&[u8]> = file.entry.path.split(|&b| b == b'/').collect();
        let name = parts.pop().unwrap_or_default();
        let shared = open[1..].iter().zip(&parts).take_while(|((open, _), part)| open == *part).count();
        while open.len() > shared + 1 {
            close(&mut open);
        }
        open.extend(parts[shared..].iter().map(|part| (*part, Vec::new())));
        if let Some((_, body)) = open.last_mut() {
            push_tree_entry(body, file.entry.kind.mode(), name, file.oid);
        }
    }
    while open.len() > 1 {
        close(&mut open);
    }
    objects::oid(Type::Tree, &open.pop().map(|(_, body)| body).unwrap_or_default())
}

fn push_tree_entry(body: &mut Vec<u8>, mode: &str, name: &[u8], oid: Oid) {
    body.extend_from_slice(mode.as_bytes());
    body.push(b' ');
    body.extend_from_slice(name);
    body.push(0);
    body.extend_from_slice(&oid.0);
}
