//! A layer's tree as it is written: every path is looked up within the tree's root, whatever links the layer has.

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fsetxattr, futimens, linkat, mkdirat, mkfifoat, mknodat, openat, openat2, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// A path within the tree: no empty part, no `.`, no `..`, no slash; empty: the root.
pub type Parts<'a> = [&'a [u8]];

/// Who owns a file, and what may be done with it.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    pub uid: u32,
    pub gid: u32,
    /// With the setuid, setgid and sticky bits.
    pub mode: u32,
    pub mtime: (i64, u32),
}

#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// Parts of the root's own path.
    above: usize,
    depth_max: usize,
    /// Owner of directories that no member tells of.
    owner: (u32, u32),
    opaque: &'static str,
    /// The directory that was asked for last: the next member is mostly in it too.
    last: Option<(Vec<u8>, OwnedFd)>,
}

/// Whether the overlay's marks are `trusted.overlay.*`, which only root of the host may set, or `user.overlay.*`.
#[must_use]
pub fn opaque_mark(in_user_namespace: bool) -> &'static str {
    if in_user_namespace { "user.overlay.opaque" } else { "trusted.overlay.opaque" }
}

impl Tree {
    /// Makes the directory.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create(path: &Path, owner: (u32, u32), opaque: &'static str, depth_max: usize) -> io::Result<Self> {
        mkdirat(CWD, path, Mode::from(0o755))?;
        let root = openat(CWD, path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        fchown(&root, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
        fchmod(&root, Mode::from(0o755))?;
        let above = depth(&root)?;
        Ok(Tree { root, above, depth_max, owner, opaque, last: None })
    }

    /// Makes a directory, or takes the one that is there. One that stands for a whiteout hides what is below it.
    ///
    /// # Errors
    /// What the kernel says; so all of these.
    pub fn directory(&mut self, path: &Parts, stamp: &Stamp) -> io::Result<OwnedFd> {
        let dir = match path.split_last() {
            None => self.root.try_clone()?,
            Some(_) if path.len() > self.depth_max => return Err(too_deep(self.depth_max)),
            Some((name, parents)) => {
                let parent = self.open_parent(parents)?;
                let mut hides = false;
                match found(&parent, name)? {
                    Found::Directory => {}
                    Found::Nothing => mkdirat(&parent, *name, Mode::from(0o700))?,
                    other => {
                        hides = other == Found::Whiteout;
                        self.last = None;
                        unlinkat(&parent, *name, AtFlags::empty())?;
                        mkdirat(&parent, *name, Mode::from(0o700))?;
                    }
                }
                let dir = openat(&parent, *name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                if hides {
                    self.mark(&dir)?;
                }
                dir
            }
        };
        own(&dir, stamp)?;
        Ok(dir)
    }

    /// Makes an empty file, to be filled and then stamped with [`Tree::stamp`].
    pub fn file(&mut self, path: &Parts) -> io::Result<File> {
        let (parent, name) = self.clear(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&parent, name, flags, Mode::from(0o600))?.into())
    }

    /// Owner, mode and time, in the order in which none undoes another.
    pub fn stamp(file: &impl AsFd, stamp: &Stamp) -> io::Result<()> {
        own(file, stamp)?;
        futimens(file, &times(stamp.mtime))?;
        Ok(())
    }

    /// An attribute that this file system or kernel does not let us set is left out.
    pub fn xattr(file: &impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
        match fsetxattr(file, name, value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
            other => Ok(other?),
        }
    }

    pub fn symlink(&mut self, path: &Parts, target: &[u8], stamp: &Stamp) -> io::Result<()> {
        let (parent, name) = self.clear(path)?;
        symlinkat(target, &parent, name)?;
        chownat(&parent, name, Some(Uid::from_raw(stamp.uid)), Some(Gid::from_raw(stamp.gid)), AtFlags::SYMLINK_NOFOLLOW)?;
        utimensat(&parent, name, &times(stamp.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    pub fn fifo(&mut self, path: &Parts, stamp: &Stamp) -> io::Result<()> {
        let (parent, name) = self.clear(path)?;
        mkfifoat(&parent, name, Mode::from(0o600))?;
        chownat(&parent, name, Some(Uid::from_raw(stamp.uid)), Some(Gid::from_raw(stamp.gid)), AtFlags::SYMLINK_NOFOLLOW)?;
        // The name is the fifo's that was just made: nobody else has the tree.
        chmodat(&parent, name, Mode::from(stamp.mode & 0o7777), AtFlags::empty())?;
        utimensat(&parent, name, &times(stamp.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// A further name of a file that is in the tree.
    pub fn hard_link(&mut self, path: &Parts, target: &Parts) -> io::Result<()> {
        let Some((target_name, target_parents)) = target.split_last() else { return Err(Errno::ISDIR.into()) };
        if path == target {
            return Ok(());
        }
        let from = self.open(target_parents)?;
        let (parent, name) = self.clear(path)?;
        Ok(linkat(&from, *target_name, &parent, name, AtFlags::empty())?)
    }

    /// Hides what lower layers have there. What this layer has there stays, whichever came first.
    pub fn whiteout(&mut self, path: &Parts) -> io::Result<()> {
        let Some((name, parents)) = path.split_last() else { return Err(Errno::INVAL.into()) };
        let parent = self.open_parent(parents)?;
        match found(&parent, name)? {
            Found::Nothing => Ok(mknodat(&parent, *name, FileType::CharacterDevice, Mode::empty(), 0)?),
            Found::Directory => {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                self.mark(&openat(&parent, *name, flags, Mode::empty())?)
            }
            Found::Whiteout | Found::Other => Ok(()),
        }
    }

    /// Hides all that lower layers have in a directory.
    pub fn opaque(&mut self, path: &Parts) -> io::Result<()> {
        let dir = self.open_parent(path)?;
        let again = openat(&dir, c".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        self.mark(&again)
    }

    /// Sets a directory's time, once nothing more is made in it. One that is no directory any more is left.
    pub fn directory_time(&mut self, path: &Parts, mtime: (i64, u32)) -> io::Result<()> {
        let Some((name, parents)) = path.split_last() else { return Ok(futimens(&self.root, &times(mtime))?) };
        let parent = self.open(parents)?;
        match found(&parent, name)? {
            Found::Directory => Ok(utimensat(&parent, *name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?),
            _ => Ok(()),
        }
    }

    /// Has all of it written to the disk.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.root)?)
    }

    fn mark(&self, dir: &OwnedFd) -> io::Result<()> {
        Ok(fsetxattr(dir, self.opaque, b"y", XattrFlags::empty())?)
    }

    /// The parent of a path and its name, with nothing there.
    fn clear<'a>(&mut self, path: &Parts<'a>) -> io::Result<(OwnedFd, &'a [u8])> {
        let Some((name, parents)) = path.split_last() else { return Err(Errno::EXIST.into()) };
        let parent = self.open_parent(parents)?;
        match found(&parent, name)? {
            Found::Nothing => return Ok((parent, name)),
            Found::Directory => remove_tree(&parent, name)?,
            Found::Whiteout | Found::Other => unlinkat(&parent, *name, AtFlags::empty())?,
        }
        // What was there may have been on its way.
        self.last = None;
        Ok((parent, name))
    }

    /// The directory of that path; it and those above it are made where they are missing.
    fn open_parent(&mut self, path: &Parts) -> io::Result<OwnedFd> {
        let missing = match self.open(path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => error,
            other => return other,
        };
        let Some((name, parents)) = path.split_last() else { return Err(missing) };
        let parent = self.open_parent(parents)?;
        match found(&parent, name)? {
            Found::Nothing | Found::Whiteout => {
                let (uid, gid) = self.owner;
                drop(self.directory(path, &Stamp { uid, gid, mode: 0o755, mtime: (0, 0) })?);
                self.open(path)
            }
            Found::Directory | Found::Other => Err(missing),
        }
    }

    /// The directory of that path. Links on the way lead to where they would with the tree as the root of all.
    fn open(&mut self, path: &Parts) -> io::Result<OwnedFd> {
        if path.len() > self.depth_max {
            return Err(too_deep(self.depth_max));
        }
        let joined = match path {
            [] => b".".to_vec(),
            parts => parts.join(&b'/'),
        };
        if let Some((last, dir)) = &self.last
            && *last == joined
        {
            return dir.try_clone();
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let plain = openat2(&self.root, &joined[..], flags, Mode::empty(), inside | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS);
        let dir = match plain {
            // A link is on the way: it may lead deeper than the path is long.
            Err(Errno::LOOP) => {
                let dir = openat2(&self.root, &joined[..], flags, Mode::empty(), inside | ResolveFlags::IN_ROOT)?;
                if depth(&dir)?.saturating_sub(self.above) > self.depth_max {
                    return Err(too_deep(self.depth_max));
                }
                dir
            }
            other => other?,
        };
        self.last = Some((joined, dir.try_clone()?));
        Ok(dir)
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Directory,
    Whiteout,
    Other,
}

fn found(parent: &OwnedFd, name: &[u8]) -> io::Result<Found> {
    let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        other => other?,
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Found::Directory,
        FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
        _ => Found::Other,
    })
}

/// Owner first: changing it clears the setuid bits and the capabilities.
fn own(file: &impl AsFd, stamp: &Stamp) -> io::Result<()> {
    fchown(file, Some(Uid::from_raw(stamp.uid)), Some(Gid::from_raw(stamp.gid)))?;
    Ok(fchmod(file, Mode::from(stamp.mode & 0o7777))?)
}

fn times((tv_sec, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// How many parts a directory's path has.
fn depth(dir: &OwnedFd) -> io::Result<usize> {
    let path = readlinkat(CWD, format!("/proc/self/fd/{}", dir.as_raw_fd()), Vec::new())?;
    Ok(path.to_bytes().iter().filter(|byte| **byte == b'/').count())
}

fn too_deep(most: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is more than {most} directories deep"))
}

/// Removes a directory with all that is in it, without following a link.
fn remove_tree(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let dir = openat(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        match (entry.file_name().to_bytes(), found(&dir, entry.file_name().to_bytes())?) {
            (b"." | b"..", _) => {}
            (child, Found::Directory) => remove_tree(&dir, child)?,
            (child, _) => unlinkat(&dir, child, AtFlags::empty())?,
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
