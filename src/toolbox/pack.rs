//! Git objects in packs of our own making: an object's name is its SHA-1, a pack is one uncompressed file.
//!
//! Written here and not by the image's git, because that would read attributes and nested repositories, needs a file per
//! object or a part that some images lack (`fast-import`), and costs a process. A pack's file has no name, so that nothing
//! in the sandbox can delete or alter it; git opens it through `/proc/TOOLBOX/fd/N`.

use flate2::{Compression, Crc, write::ZlibEncoder};
use sha1::{Digest, Sha1};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Offsets from here on go to the index's table of long ones.
const LONG_OFFSET: u64 = 1 << 31;

/// Name of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(pub [u8; 20]);

impl std::fmt::Display for Oid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Oid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Type {
    Tree = 2,
    Blob = 3,
}

impl Type {
    fn word(self) -> &'static str {
        match self {
            Type::Tree => "tree",
            Type::Blob => "blob",
        }
    }
}

pub fn oid(kind: Type, content: &[u8]) -> Oid {
    let mut hash = Sha1::new_with_prefix(format!("{} {}\0", kind.word(), content.len()));
    hash.update(content);
    Oid(hash.finalize().into())
}

/// Name of a blob that is too large to be held. `size` is what the file said; one that changes meanwhile gets a name that no blob has.
pub fn stream_oid(mut content: impl Read, size: u64) -> io::Result<Oid> {
    let mut hash = Sha1::new_with_prefix(format!("blob {size}\0"));
    io::copy(&mut content.by_ref().take(size), &mut hash)?;
    Ok(Oid(hash.finalize().into()))
}

/// A pack in the making.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
    at: u64,
    index: Vec<Object>,
    known: HashSet<Oid>,
}

#[derive(Debug, Clone, Copy)]
struct Object {
    oid: Oid,
    crc: u32,
    offset: u64,
}

/// A finished pack.
#[derive(Debug)]
pub struct Pack {
    file: File,
    /// Sorted by name.
    index: Vec<Object>,
    id: [u8; 20],
}

impl Writer {
    pub fn new(file: File) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(256 << 10, file);
        // The count comes when it is known.
        file.write_all(b"PACK\0\0\0\x02\0\0\0\0")?;
        Ok(Writer { file, at: 12, index: Vec::new(), known: HashSet::new() })
    }

    /// Stores the object unless it is here already.
    pub fn add(&mut self, oid: Oid, kind: Type, content: &[u8]) -> io::Result<()> {
        if !self.known.insert(oid) {
            return Ok(());
        }
        let mut bytes = ZlibEncoder::new(entry_header(kind, content.len()), Compression::none());
        bytes.write_all(content)?;
        let bytes = bytes.finish()?;
        let mut crc = Crc::new();
        crc.update(&bytes);
        self.file.write_all(&bytes)?;
        self.index.push(Object { oid, crc: crc.sum(), offset: self.at });
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<Pack> {
        self.index.sort_unstable_by_key(|object| object.oid);
        // Git compares the pack's checksum with the index's copy and computes neither when it reads objects.
        let mut id = Sha1::new();
        self.index.iter().for_each(|object| id.update(object.oid.0));
        let id: [u8; 20] = id.finalize().into();
        self.file.write_all(&id)?;
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.write_all_at(&(self.index.len() as u32).to_be_bytes(), 8)?;
        Ok(Pack { file, index: self.index, id })
    }
}

/// Type and size: four bits of the size, then seven a byte.
fn entry_header(kind: Type, size: usize) -> Vec<u8> {
    let mut header = vec![((kind as u8) << 4) | (size & 15) as u8];
    let mut rest = size >> 4;
    while rest > 0 {
        if let Some(last) = header.last_mut() {
            *last |= 0x80;
        }
        header.push((rest & 0x7f) as u8);
        rest >>= 7;
    }
    header
}

impl Pack {
    pub fn oids(&self) -> impl Iterator<Item = Oid> {
        self.index.iter().map(|object| object.oid)
    }

    /// Makes the pack visible in `objects/pack` of a repository.
    pub fn place(&self, directory: &Path) -> io::Result<()> {
        let mut name = "pack-".to_owned();
        let _ = write!(name, "{}", Oid(self.id));
        let source = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        std::os::unix::fs::symlink(source, directory.join(format!("{name}.pack")))?;
        fs::write(directory.join(format!("{name}.idx")), self.index_file())
    }

    /// Version 2: counts by first byte, names, checksums, offsets, long offsets, the pack's id, and a checksum of it all.
    fn index_file(&self) -> Vec<u8> {
        let mut out = b"\xfftOc\0\0\0\x02".to_vec();
        for first in 0..=255 {
            let up_to = self.index.partition_point(|object| object.oid.0[0] <= first);
            out.extend_from_slice(&(up_to as u32).to_be_bytes());
        }
        self.index.iter().for_each(|object| out.extend_from_slice(&object.oid.0));
        self.index.iter().for_each(|object| out.extend_from_slice(&object.crc.to_be_bytes()));
        let mut long = Vec::new();
        for object in &self.index {
            let short = if object.offset < LONG_OFFSET {
                object.offset as u32
            } else {
                long.push(object.offset);
                LONG_OFFSET as u32 | (long.len() - 1) as u32
            };
            out.extend_from_slice(&short.to_be_bytes());
        }
        long.iter().for_each(|offset| out.extend_from_slice(&offset.to_be_bytes()));
        out.extend_from_slice(&self.id);
        let checksum = Sha1::digest(&out);
        out.extend_from_slice(&checksum);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_git_s() {
        assert_eq!(oid(Type::Blob, b"").to_string(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(oid(Type::Tree, b"").to_string(), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
        assert_eq!(stream_oid(&b"hello\n"[..], 6).unwrap(), oid(Type::Blob, b"hello\n"));
        assert_eq!(oid(Type::Blob, b"hello\n").to_string(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }

    #[test]
    fn sizes_are_split_over_the_header() {
        assert_eq!(entry_header(Type::Blob, 15), [0x3f]);
        assert_eq!(entry_header(Type::Blob, 16), [0xb0, 1]);
        assert_eq!(entry_header(Type::Tree, 0x1234), [0xa4, 0xa3, 0x02]);
    }
}
