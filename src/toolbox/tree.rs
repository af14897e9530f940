//! The files below a directory as git would see them if no ignore rule, attribute or nested repository were there.

use super::files::invalid;
use super::protocol::OpError;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Most files of one tree.
const MAX_FILES: usize = 2_000_000;
/// A change this close before the look at a file could be followed by another with the same time.
const CLOCK_GRAIN: Duration = Duration::from_millis(50);

/// What git records of a file besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Executable,
    Link,
}

impl Kind {
    pub fn mode(self) -> &'static str {
        match self {
            Kind::Plain => "100644",
            Kind::Executable => "100755",
            Kind::Link => "120000",
        }
    }
}

/// Tells that a file has not changed since it was read. A program can set the modification time, not the change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    size: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Stamp {
            size: meta.len(),
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether a later change would surely show in the times.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(CLOCK_GRAIN);
        (self.changed.0, self.changed.1) < (now.as_secs() as i64, i64::from(now.subsec_nanos()))
    }
}

#[derive(Debug, Clone)]
pub struct Entry {
    /// Relative to the root, with slashes.
    pub path: Vec<u8>,
    pub kind: Kind,
    pub stamp: Stamp,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walked {
    /// Sorted by path.
    pub entries: Vec<Entry>,
    /// Directories that could not be listed, with a slash at the end.
    pub closed: Vec<Vec<u8>>,
}

/// Paths left out, in git's `glob` form from the root: `*` stops at a slash, `**` does not; a directory takes all below it.
#[derive(Debug)]
pub struct Exclude {
    files: GlobSet,
    directories: GlobSet,
}

impl Exclude {
    pub fn new(patterns: &[String]) -> Result<Self, OpError> {
        let (mut files, mut directories) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let plain = pattern.trim_start_matches(":(exclude)").trim_start_matches(":(glob)").trim_end_matches('/');
            let compile = |glob: &str| {
                let glob = GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build();
                glob.map_err(|e| invalid(format!("bad exclude pattern {pattern:?}: {e}")))
            };
            files.add(compile(plain)?);
            directories.add(compile(plain)?);
            if let Some(directory) = plain.strip_suffix("/**") {
                directories.add(compile(directory)?);
            }
        }
        let build = |set: GlobSetBuilder| set.build().map_err(|e| invalid(format!("bad exclude patterns: {e}")));
        Ok(Exclude { files: build(files)?, directories: build(directories)? })
    }
}

/// Whether there is no directory at `root`, as told apart from one that cannot be looked at.
pub fn is_gone(root: &Path) -> bool {
    match fs::metadata(root) {
        Ok(meta) => !meta.is_dir(),
        Err(e) => matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)),
    }
}

/// All regular files and links below `root`, through nested repositories but never into a repository's own data.
pub fn walk(root: &Path, exclude: &Exclude) -> Result<Walked, OpError> {
    match fs::metadata(root) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return Err(invalid(format!("{} is no directory", root.display()))),
        Err(e) => return Err(super::files::explain(root, &e)),
    }
    let mut walked = Walked::default();
    // Directories still to be listed; a stack of our own, since a hostile tree is deeper than ours may be.
    let mut pending: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(directory) = pending.pop() {
        let at = root.join(std::ffi::OsStr::from_bytes(&directory));
        let Ok(listing) = readable(&at, 0o500, || fs::read_dir(&at)) else {
            walked.closed.push(directory);
            continue;
        };
        for entry in listing.flatten() {
            let name = entry.file_name();
            if is_repository_data(name.as_bytes()) {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            let mut path = directory.clone();
            path.extend_from_slice(name.as_bytes());
            let as_path = Path::new(std::ffi::OsStr::from_bytes(&path));
            if meta.is_dir() {
                if !exclude.directories.is_match(as_path) {
                    path.push(b'/');
                    pending.push(path);
                }
            } else if let Some(kind) = kind_of(&meta)
                && !exclude.files.is_match(as_path)
            {
                walked.entries.push(Entry { path, kind, stamp: Stamp::of(&meta) });
            }
        }
        if walked.entries.len() > MAX_FILES {
            return Err(invalid(format!("more than {MAX_FILES} files below {}", root.display())));
        }
    }
    walked.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(walked)
}

/// None for what git cannot hold: sockets, pipes, devices.
fn kind_of(meta: &Metadata) -> Option<Kind> {
    match meta.file_type() {
        t if t.is_symlink() => Some(Kind::Link),
        t if t.is_file() && meta.mode() & 0o100 != 0 => Some(Kind::Executable),
        t if t.is_file() => Some(Kind::Plain),
        _ => None,
    }
}

/// `.git` and the names that git refuses because some file system takes them for it.
fn is_repository_data(name: &[u8]) -> bool {
    let stem = name.split(|&b| b == b':').next().unwrap_or(name);
    let end = stem.iter().rposition(|&b| b != b' ' && b != b'.').map_or(0, |at| at + 1);
    let stem = &stem[..end];
    stem.eq_ignore_ascii_case(b".git") || stem.eq_ignore_ascii_case(b"git~1")
}

/// `attempt`, and once more with the owner's permissions lent to the path.
fn readable<T>(path: &Path, lent: u32, attempt: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let denied = match attempt() {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => e,
        other => return other,
    };
    let Ok(meta) = fs::symlink_metadata(path) else { return Err(denied) };
    if meta.is_symlink() || fs::set_permissions(path, Permissions::from_mode(meta.mode() & 0o7777 | lent)).is_err() {
        return Err(denied);
    }
    let result = attempt();
    let _ = fs::set_permissions(path, Permissions::from_mode(meta.mode() & 0o7777));
    result
}

/// A file's content, to be read within a bound.
pub enum Content {
    Held(Vec<u8>),
    /// Larger than the bound: open at its beginning, with its size.
    Large(File, u64),
}

/// What git stores for the entry: the bytes, or a link's target. Never follows a link at the end of the path.
pub fn content(root: &Path, entry: &Entry, held: u64) -> io::Result<Content> {
    let path = root.join(std::ffi::OsStr::from_bytes(&entry.path));
    if entry.kind == Kind::Link {
        return Ok(Content::Held(fs::read_link(path)?.into_os_string().into_encoded_bytes()));
    }
    let open = || OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
    let mut file = readable(&path, 0o400, open)?;
    let size = file.metadata()?.len();
    if size > held {
        return Ok(Content::Large(file, size));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    (&file).take(held + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > held {
        // It grew while it was read.
        file.rewind()?;
        return Ok(Content::Large(file, bytes.len() as u64));
    }
    Ok(Content::Held(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluded_directories_take_what_is_below_them() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["a.pyc", "a.py", "x/__pycache__/b.txt", "__pycache__/c", "x.egg-info/top", "d/x.egg-info/deep", "lit/eral/f", "lit/e"]
        {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let patterns = ["**/*.pyc", "**/__pycache__/**", "*.egg-info/**", ":(exclude)lit/eral"].map(str::to_owned);
        let walked = walk(dir.path(), &Exclude::new(&patterns).unwrap()).unwrap();
        let paths: Vec<String> = walked.entries.into_iter().map(|e| String::from_utf8(e.path).unwrap()).collect();
        assert_eq!(paths, ["a.py", "d/x.egg-info/deep", "lit/e"]);
    }

    #[test]
    fn names_that_some_file_system_takes_for_dot_git_are_left_out() {
        for name in [&b".git"[..], b".GIT", b".git ", b".git.", b"git~1", b".git::$INDEX_ALLOCATION"] {
            assert!(is_repository_data(name), "{name:?}");
        }
        for name in [&b".gitignore"[..], b"git", b".github", b"", b". ", b".git2"] {
            assert!(!is_repository_data(name), "{name:?}");
        }
    }
}
