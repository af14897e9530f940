//! Content under git's names: an object's name is its SHA-1, and a store keeps each content once.
//!
//! A store's file has no name, so that nothing in the sandbox can delete or alter it, and no git is needed to read it.

use sha1::{Digest, Sha1};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Name of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(pub [u8; 20]);

impl Oid {
    /// What a diff calls the side that does not exist.
    pub const NONE: Oid = Oid([0; 20]);
}

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
    Tree,
    Blob,
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

/// Contents one behind the other in a file.
#[derive(Debug)]
pub struct Store {
    file: File,
    end: u64,
    /// Offset and length.
    index: HashMap<Oid, (u64, usize)>,
}

impl Store {
    pub fn new(file: File) -> Self {
        Store { file, end: 0, index: HashMap::new() }
    }

    pub fn has(&self, oid: Oid) -> bool {
        self.index.contains_key(&oid)
    }

    /// Bytes held.
    pub fn size(&self) -> u64 {
        self.end
    }

    /// Stores the content unless it is here already.
    pub fn add(&mut self, oid: Oid, content: &[u8]) -> io::Result<()> {
        if !self.has(oid) {
            self.file.write_all_at(content, self.end)?;
            self.index.insert(oid, (self.end, content.len()));
            self.end += content.len() as u64;
        }
        Ok(())
    }

    /// The content; none where it is not here.
    pub fn get(&self, oid: Oid) -> io::Result<Option<Vec<u8>>> {
        let Some(&(at, len)) = self.index.get(&oid) else { return Ok(None) };
        let mut content = vec![0; len];
        self.file.read_exact_at(&mut content, at)?;
        Ok(Some(content))
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
    fn what_was_stored_is_given_back() {
        let mut store = Store::new(tempfile::tempfile().unwrap());
        for content in [&b"one"[..], b"", b"three", b"one"] {
            store.add(oid(Type::Blob, content), content).unwrap();
        }
        assert_eq!(store.size(), 8);
        assert_eq!(store.get(oid(Type::Blob, b"three")).unwrap().as_deref(), Some(&b"three"[..]));
        assert_eq!(store.get(oid(Type::Blob, b"")).unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(store.get(Oid::NONE).unwrap(), None);
    }
}
