//! Applying a git diff, whole or not at all, with the image's git.

use super::files::explain;
use super::git::{Repository, storage};
use super::process::Processes;
use super::protocol::OpError;
use super::quote::unquote;
use super::tree::{self, Exclude};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{fs, io};

/// Git itself checks the whole diff before it writes, and refuses paths outside `workdir`, beyond links or inside `.git`.
/// Checked first by itself, so that a diff that does not fit is told apart from files that could not be written.
///
/// A directory in whose place the diff puts a file or a link is emptied of what no snapshot holds (`exclude`, sockets, empty
/// directories): the diff cannot name that, and git would stop half-way because of it.
///
/// # Errors
/// `Rejected`, `Invalid`: nothing was written. `NoSpace` and `Failed`, where the files cannot be written: they may be half changed.
pub fn apply(processes: &Processes, workdir: &Path, diff: &[u8], exclude: &[String]) -> Result<(), OpError> {
    if diff.trim_ascii().is_empty() {
        return Ok(());
    }
    let exclude = Exclude::new(exclude)?;
    let workdir = workdir.canonicalize().map_err(|e| explain(workdir, &e))?;
    let diff = mended(diff);
    let repository = Repository::new()?;
    let git = |args: &[&str]| repository.git(processes, args, &workdir, &diff);
    let checked = git(&["apply", "--check", "--whitespace=nowarn", "-p1", "-"])?;
    if !checked.success {
        return Err(OpError::Rejected { message: checked.message });
    }
    let stale = in_the_way(&workdir, &diff, &exclude)?;
    let cleared = stale.iter().try_for_each(|path| remove(&workdir.join(OsStr::from_bytes(path))));
    cleared.map_err(|e| storage("remove what is in the way of the diff", e))?;
    let applied = git(&["apply", "--whitespace=nowarn", "-p1", "-"])?;
    if applied.success {
        return Ok(());
    }
    let message = format!("the diff fits, but its files could not be written: {}", applied.message);
    let full = ["No space left on device", "Disk quota exceeded"].iter().any(|error| message.contains(error));
    Err(if full { OpError::NoSpace { message } } else { OpError::Failed { message } })
}

/// What no snapshot holds in directories that the diff replaces, contents before their directories.
///
/// # Errors
/// `Rejected` where a snapshot would hold a file there that the diff does not delete.
fn in_the_way(workdir: &Path, diff: &[u8], exclude: &Exclude) -> Result<Vec<Vec<u8>>, OpError> {
    let Named { created, deleted } = named(diff);
    // Git has checked the names that it read; these were read here.
    let is_directory = |path: &Vec<u8>| {
        let at = workdir.join(OsStr::from_bytes(path));
        at != workdir
            && at.symlink_metadata().is_ok_and(|meta| meta.is_dir())
            && at.canonicalize().is_ok_and(|real| real == at && at.starts_with(workdir))
    };
    let replaced: Vec<Vec<u8>> = created.into_iter().filter(is_directory).map(|path| [&path[..], b"/"].concat()).collect();
    if replaced.is_empty() {
        return Ok(Vec::new());
    }
    let seen = tree::walk(workdir, exclude)?;
    let inside = |path: &Vec<u8>| replaced.iter().any(|directory| path.starts_with(directory));
    let paths = seen.entries.iter().map(|entry| &entry.path).chain(&seen.closed);
    if let Some(kept) = paths.filter(|path| inside(path)).find(|path| !deleted.contains(*path)) {
        let kept = String::from_utf8_lossy(kept);
        return Err(OpError::Rejected {
            message: format!("{kept}: the diff puts a file in place of its directory and does not delete it"),
        });
    }
    let mut pending = replaced;
    let mut stale = Vec::new();
    while let Some(directory) = pending.pop() {
        let at = workdir.join(OsStr::from_bytes(&directory));
        for entry in fs::read_dir(&at).map_err(|e| explain(&at, &e))?.flatten() {
            let path = [&directory[..], entry.file_name().as_bytes()].concat();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                stale.push(path.clone());
                pending.push([&path[..], b"/"].concat());
            } else if !deleted.contains(&path) {
                stale.push(path);
            }
        }
    }
    stale.reverse();
    Ok(stale)
}

/// A file, or a directory unless the diff is to delete what is in it.
fn remove(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return fs::remove_file(path);
    }
    match fs::remove_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        done => done,
    }
}

/// The paths that a diff creates and deletes.
#[derive(Debug, Default, PartialEq)]
struct Named {
    created: HashSet<Vec<u8>>,
    deleted: HashSet<Vec<u8>>,
}

/// No line of content begins as a header does: each has its sign, and base 85 has no space.
fn named(diff: &[u8]) -> Named {
    let mut named = Named::default();
    let mut lines = diff.split(|&b| b == b'\n').peekable();
    while let Some(line) = lines.next() {
        let Some(path) = line.strip_prefix(b"diff --git ").and_then(path_of) else { continue };
        match lines.peek() {
            Some(next) if next.starts_with(b"new file mode ") => drop(named.created.insert(path)),
            Some(next) if next.starts_with(b"deleted file mode ") => drop(named.deleted.insert(path)),
            _ => {}
        }
    }
    named
}

/// The path in `a/PATH b/PATH`, which is the same on both sides where a file comes or goes.
fn path_of(names: &[u8]) -> Option<Vec<u8>> {
    let first = if names.starts_with(b"\"") { unquote(names)? } else { names.get(..names.len() / 2)?.to_vec() };
    first.strip_prefix(b"a/").map(<[u8]>::to_vec)
}

/// The diff with what trimming took from its end: the last line's end, and empty lines of the last hunk.
fn mended(diff: &[u8]) -> Vec<u8> {
    let mut out = diff.to_vec();
    if out.last() != Some(&b'\n') {
        out.push(b'\n');
    }
    if memchr::memmem::rfind(&out, b"\nGIT binary patch\n") > memchr::memmem::rfind(&out, b"\n@@ -") {
        // A binary patch ends with an empty line.
        out.push(b'\n');
        return out;
    }
    let lines: Vec<&[u8]> = out.strip_suffix(b"\n").unwrap_or(&out).split(|&b| b == b'\n').collect();
    let missing = lines.iter().rposition(|line| line.starts_with(b"@@ -")).and_then(|at| missing_context(lines[at], &lines[at + 1..]));
    (0..missing.unwrap_or(0)).for_each(|_| out.extend_from_slice(b" \n"));
    out
}

/// Lines that both sides of the hunk lack.
fn missing_context(header: &[u8], body: &[&[u8]]) -> Option<usize> {
    let header = std::str::from_utf8(header.get(..header.len().min(100))?).ok()?;
    let mut ranges =
        header.split(' ').skip(1).take(2).map(|range| range.split_once(',').map_or(Some(1), |(_, count)| count.parse::<usize>().ok()));
    let (old, new) = (ranges.next()??, ranges.next()??);
    let (mut had_old, mut had_new) = (0, 0);
    for line in body {
        match line.first() {
            Some(b'-') => had_old += 1,
            Some(b'+') => had_new += 1,
            Some(b' ') | None => (had_old, had_new) = (had_old + 1, had_new + 1),
            Some(b'\\') => {}
            Some(_) => return None,
        }
    }
    let missing = old.checked_sub(had_old)?;
    (new.checked_sub(had_new)? == missing).then_some(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_and_deleted_paths_are_read_from_the_headers() {
        let diff = b"diff --git a/x y b/x y\ndeleted file mode 100644\n-diff --git a/no b/no\n\
                     diff --git \"a/\\303\\244\" \"b/\\303\\244\"\nnew file mode 120000\ndiff --git a/kept b/kept\nindex 1..2\n";
        let set = |path: &[u8]| HashSet::from([path.to_vec()]);
        assert_eq!(named(diff), Named { created: set("\u{e4}".as_bytes()), deleted: set(b"x y") });
    }

    #[test]
    fn what_trimming_took_is_put_back() {
        let whole = b"--- a/f\n+++ b/f\n@@ -1,4 +1,4 @@\n a\n-b\n+c\n \n \n";
        assert_eq!(mended(whole), whole);
        assert_eq!(mended(whole.trim_ascii()), whole);
        assert_eq!(mended(&whole[..whole.len() - 1]), whole);
        // A hunk that is short on one side only is not understood, and left to git.
        let short = b"@@ -1,4 +1,9 @@\n a\n-b\n+c\n";
        assert_eq!(mended(short), short);
        assert_eq!(mended(b"garbage"), b"garbage\n");
    }
}
