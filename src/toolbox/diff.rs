//! Snapshot, diff and apply, on the files as they lie: the agent's repository is neither read nor changed.
//!
//! A snapshot stores content and names of all files as git objects; the diff compares two such trees with the image's git.
//! Files whose inode, size and times are those of the snapshot are not read again.

use super::files::invalid;
use super::git::{Repository, nameless_file, storage};
use super::pack::{self, Oid, Pack, Type, Writer};
use super::process::Processes;
use super::protocol::{MAX_BLOB, OpError};
use super::tree::{self, Content, Entry, Exclude, Stamp};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Larger files are hashed, not stored; a change of one is a diff over any limit.
const MAX_STORED: u64 = 32 << 20;
/// Larger files are known by size and times alone.
const MAX_HASHED: u64 = 8 << 30;
/// Most snapshots of one sandbox; each holds its objects open.
const MAX_SNAPSHOTS: usize = 64;

/// Everything recorded in this sandbox.
#[derive(Debug, Default)]
pub struct Shadow {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    packs: Vec<Pack>,
    stored: HashSet<Oid>,
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
    /// Whether the content is in a pack.
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
        let (snapshot, pack) = record(&state.stored, workdir, &Exclude::new(exclude)?, base.as_deref())?;
        let tree = snapshot.tree.to_string();
        state.stored.extend(pack.oids());
        state.packs.push(pack);
        state.snapshots.push(Arc::new(snapshot));
        Ok(tree)
    }

    /// The git diff from a recorded tree to the files as they are.
    pub fn diff(&self, processes: &Processes, workdir: &Path, tree: &str, exclude: &[String], max: u64) -> Result<Vec<u8>, OpError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.snapshots.iter().rfind(|snapshot| snapshot.tree.to_string() == tree && snapshot.workdir == workdir);
        let base = known.ok_or_else(|| invalid(format!("no tree {tree} of {} was recorded in this sandbox", workdir.display())))?;
        let exclude = Exclude::new(exclude)?;
        let (now, pack) = record(&state.stored, workdir, &exclude, Some(base))?;
        if now.tree == base.tree {
            return Ok(Vec::new());
        }
        refuse_large(base, &now, max)?;
        let repository = Repository::new()?;
        for pack in state.packs.iter().chain([&pack]) {
            pack.place(&repository.packs()).map_err(|e| storage("place objects for git", e))?;
        }
        let (from, to) = (base.tree.to_string(), now.tree.to_string());
        let args = [
            "diff-tree",
            "-r",
            "-p",
            "--binary",
            "--full-index",
            "--no-renames",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--unified=3",
            "--src-prefix=a/",
            "--dst-prefix=b/",
            &from,
            &to,
        ];
        let gave = repository.git(processes, &args, None, b"", max.min(MAX_BLOB as u64))?;
        match gave.output {
            Some(_) if !gave.success => Err(OpError::Failed { message: format!("git could not compare the trees: {}", gave.message) }),
            Some(diff) => Ok(diff),
            None => Err(OpError::TooLarge { size: gave.total, max }),
        }
    }
}

/// Content that is not stored cannot be compared; where it changed, the diff would hold it whole.
fn refuse_large(base: &Snapshot, now: &Snapshot, max: u64) -> Result<(), OpError> {
    let changed = |file: &&Recorded, other: &Snapshot| !file.held && other.get(&file.entry.path).is_none_or(|o| o.oid != file.oid);
    let mut large = now.files.iter().filter(|file| changed(file, base)).chain(base.files.iter().filter(|file| changed(file, now)));
    large.next().map_or(Ok(()), |file| Err(OpError::TooLarge { size: file.entry.stamp.size(), max: max.min(MAX_STORED) }))
}

/// Stores what is not stored yet, and the trees above it.
fn record(stored: &HashSet<Oid>, workdir: &Path, exclude: &Exclude, base: Option<&Snapshot>) -> Result<(Snapshot, Pack), OpError> {
    let full = |e| storage("store the files' content", e);
    let walked = tree::walk(workdir, exclude)?;
    let mut writer = Writer::new(nameless_file()?).map_err(full)?;
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
                let oid = pack::oid(Type::Blob, &bytes);
                if !stored.contains(&oid) {
                    writer.add(oid, Type::Blob, &bytes).map_err(full)?;
                }
                files.push(Recorded { entry, oid, settled, held: true });
            }
            Ok(Content::Large(file, size)) if size <= MAX_HASHED => {
                let oid = pack::stream_oid(file, size).map_err(|e| storage("read a large file", e))?;
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
    let tree = store_trees(&files, |body| {
        let oid = pack::oid(Type::Tree, body);
        if !stored.contains(&oid) {
            writer.add(oid, Type::Tree, body)?;
        }
        Ok(oid)
    });
    let tree = tree.map_err(full)?;
    Ok((Snapshot { tree, workdir: workdir.to_owned(), files }, writer.finish().map_err(full)?))
}

/// A name for content that is never read.
fn stamp_oid(stamp: &Stamp) -> Oid {
    pack::oid(Type::Blob, format!("{stamp:?}").as_bytes())
}

/// One tree object per directory, the innermost first. Order by path, with slashes, is git's own order of entries.
fn store_trees(files: &[Recorded], mut store: impl FnMut(&[u8]) -> io::Result<Oid>) -> io::Result<Oid> {
    let mut open: Vec<(&[u8], Vec<u8>)> = vec![(b"", Vec::new())];
    let mut close = |open: &mut Vec<(&[u8], Vec<u8>)>| -> io::Result<()> {
        if let Some((name, body)) = open.pop()
            && let Some((_, parent)) = open.last_mut()
        {
            let oid = store(&body)?;
            push_tree_entry(parent, "40000", name, oid);
        }
        Ok(())
    };
    for file in files {
        let mut parts: Vec<&[u8]> = file.entry.path.split(|&b| b == b'/').collect();
        let name = parts.pop().unwrap_or_default();
        let shared = open[1..].iter().zip(&parts).take_while(|((open, _), part)| open == *part).count();
        while open.len() > shared + 1 {
            close(&mut open)?;
        }
        open.extend(parts[shared..].iter().map(|part| (*part, Vec::new())));
        if let Some((_, body)) = open.last_mut() {
            push_tree_entry(body, file.entry.kind.mode(), name, file.oid);
        }
    }
    while open.len() > 1 {
        close(&mut open)?;
    }
    let root = open.pop().map(|(_, body)| body).unwrap_or_default();
    store(&root)
}

fn push_tree_entry(body: &mut Vec<u8>, mode: &str, name: &[u8], oid: Oid) {
    body.extend_from_slice(mode.as_bytes());
    body.push(b' ');
    body.extend_from_slice(name);
    body.push(0);
    body.extend_from_slice(&oid.0);
}
