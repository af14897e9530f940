//! A layer's archive becomes a tree as an overlay takes it. The archive is hostile: nothing of it reaches outside the tree, and
//! its entries, bytes, depth and names are bounded.

use super::Ids;
use super::members::{Member, Members, Mtime, Source};
use super::tree::{Stamp, Tree};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use tar::EntryType;

/// Bounds of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Layers that are unpacked at the same time; 0: one a core, but no more than 8.
    pub threads: usize,
    /// Bytes of a layer's archive, uncompressed.
    pub layer_bytes: u64,
    /// Files, directories and links of a layer.
    pub layer_files: u64,
    /// Directories one in another.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { threads: 0, layer_bytes: 64 << 30, layer_files: 4_000_000, depth: 200 }
    }
}

/// Bytes that are copied at a time.
const BUFFER: usize = 128 << 10;
/// Linux takes no longer path (PATH_MAX, with its closing zero).
const PATH_BYTES: usize = 4095;
/// Bytes of the names of directories, which are kept until their times are set.
const DIRECTORY_NAMES: usize = 256 << 20;
/// Bytes of the list of them besides the names.
const TIME_BYTES: usize = 48;
/// What a file or a directory takes of a disk at least.
const DISK_BLOCK: u64 = 4096;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const META: &[u8] = b".wh..wh.";

/// What a layer came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub files: u64,
    /// In blocks of 4 KiB, as a disk holds them.
    pub bytes: u64,
}

/// Reads an uncompressed archive to its last byte.
///
/// # Errors
/// `InvalidData` and `UnexpectedEof` where the archive is broken or over a limit; what else the kernel says. The message names the
/// member.
pub fn unpack(archive: impl Read, tree: &mut Tree, ids: Ids, limits: &Limits) -> io::Result<Tally> {
    let mut members = Members::new(Bounded { source: archive, left: limits.layer_bytes, most: limits.layer_bytes });
    let mut unpacking =
        Unpacking { tree, ids, limits, tally: Tally::default(), times: Vec::new(), names: 0, buffer: vec![0; BUFFER].into() };
    while let Some(member) = members.next()? {
        unpacking.member(&member, &mut members).map_err(|error| about(&error, &member.path))?;
    }
    unpacking.times()?;
    io::copy(&mut members.into_source(), &mut io::sink())?;
    Ok(unpacking.tally)
}

struct Unpacking<'a> {
    tree: &'a mut Tree,
    ids: Ids,
    limits: &'a Limits,
    tally: Tally,
    /// Directories and their times, set in the end: whatever is made in one changes its time.
    times: Vec<(Box<[u8]>, Mtime)>,
    names: usize,
    buffer: Box<[u8]>,
}

impl Unpacking<'_> {
    fn member(&mut self, member: &Member, bytes: &mut impl Read) -> io::Result<()> {
        self.tally.files += 1;
        if self.tally.files > self.limits.layer_files {
            return Err(broken(format!("a layer has more than {} files (images.unpack.layer_files)", self.limits.layer_files)));
        }
        let path = parts(&member.path)?;
        if let Some((name, parents)) = path.split_last()
            && name.starts_with(WHITEOUT)
        {
            return self.whiteout(name, parents);
        }
        let stamp = self.stamp(member);
        match member.kind {
            // Very old archives have no type for directories.
            EntryType::Regular if member.path.ends_with(b"/") => self.directory(&path, member, &stamp),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(&path, member, &stamp, bytes),
            EntryType::Directory => self.directory(&path, member, &stamp),
            EntryType::Symlink if member.link.len() > PATH_BYTES => Err(too_long()),
            EntryType::Symlink => self.tree.symlink(&path, &member.link, &stamp),
            EntryType::Link => self.tree.hard_link(&path, &parts(&member.link)?),
            EntryType::Fifo => self.tree.fifo(&path, &stamp),
            // The sandbox has devices of its own, and no others.
            EntryType::Char | EntryType::Block => Ok(()),
            other => Err(broken(format!("it is of type {:?}, which no layer has", char::from(other.as_byte())))),
        }
    }

    fn whiteout(&mut self, name: &[u8], parents: &[&[u8]]) -> io::Result<()> {
        if name == OPAQUE {
            return self.tree.opaque(parents);
        }
        if name.starts_with(META) {
            return Ok(());
        }
        match &name[WHITEOUT.len()..] {
            b"" | b"." | b".." => Err(broken("a whiteout names no file")),
            hidden => self.tree.whiteout(&[parents, &[hidden]].concat()),
        }
    }

    fn directory(&mut self, path: &[&[u8]], member: &Member, stamp: &Stamp) -> io::Result<()> {
        let dir = self.tree.directory(path, stamp)?;
        xattrs(&dir, member)?;
        self.tally.bytes += DISK_BLOCK;
        let name = path.join(&b'/').into_boxed_slice();
        self.names += name.len() + TIME_BYTES;
        if self.names > DIRECTORY_NAMES {
            return Err(broken(format!("the names of a layer's directories are longer than {DIRECTORY_NAMES} bytes")));
        }
        self.times.push((name, stamp.mtime));
        Ok(())
    }

    fn file(&mut self, path: &[&[u8]], member: &Member, stamp: &Stamp, bytes: &mut impl Read) -> io::Result<()> {
        let mut file = self.tree.file(path)?;
        match &member.sparse {
            None => self.copy(bytes, &mut file)?,
            Some(sparse) => {
                file.set_len(sparse.size)?;
                for (offset, length) in &sparse.pieces {
                    file.seek(SeekFrom::Start(*offset))?;
                    self.copy(&mut bytes.take(*length), &mut file)?;
                }
            }
        }
        self.tally.bytes += member.size.next_multiple_of(DISK_BLOCK);
        Tree::stamp(&file, stamp)?;
        xattrs(&file, member)
    }

    fn copy(&mut self, from: &mut impl Read, to: &mut File) -> io::Result<()> {
        loop {
            match from.read(&mut self.buffer)? {
                0 => return Ok(()),
                read => to.write_all(&self.buffer[..read])?,
            }
        }
    }

    fn stamp(&self, member: &Member) -> Stamp {
        let (uid, gid) = (self.ids.outside(member.uid), self.ids.outside(member.gid));
        Stamp { uid, gid, mode: member.mode & 0o7777, mtime: member.mtime }
    }

    fn times(&mut self) -> io::Result<()> {
        for (name, mtime) in std::mem::take(&mut self.times) {
            match self.tree.directory_time(&parts(&name)?, mtime) {
                // Another member has taken its place, or that of one above it.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                other => other.map_err(|error| about(&error, &name))?,
            }
        }
        Ok(())
    }
}

/// Those that mean something inside: a program's capabilities and what users note. An overlay's own marks are not the archive's to set.
fn xattrs(file: &impl std::os::fd::AsFd, member: &Member) -> io::Result<()> {
    let wanted = |name: &[u8]| name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."));
    member.xattrs.iter().filter(|(name, _)| wanted(name)).try_for_each(|(name, value)| Tree::xattr(file, name, value))
}

/// The parts of a member's path, which begins at the root of the tree however it is written.
fn parts(path: &[u8]) -> io::Result<Vec<&[u8]>> {
    if path.len() > PATH_BYTES {
        return Err(too_long());
    }
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop().ok_or_else(|| broken("its name leads out of the root"))?),
            part => parts.push(part),
        }
    }
    Ok(parts)
}

/// An archive that may not go on forever.
struct Bounded<R> {
    source: R,
    left: u64,
    most: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| broken(format!("a layer has more than {} bytes (images.unpack.layer_bytes)", self.most)))?;
        Ok(read)
    }
}

impl<R: Read> Source for Bounded<R> {}

fn about(error: &io::Error, path: &[u8]) -> io::Error {
    let shown: String = String::from_utf8_lossy(path).chars().take(200).collect();
    io::Error::new(error.kind(), format!("{shown:?}: {error}"))
}

fn too_long() -> io::Error {
    broken(format!("its name is longer than {PATH_BYTES} bytes"))
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.into())
}
