//! Images as files with names: in a directory, or in an archive that is never unpacked.

use super::members::Members;
use super::{ImageError, Offer, compression, digest};
use crate::domain::Kind;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use tar::EntryType;

/// Members of one archive of images.
const MEMBERS_MAX: usize = 100_000;
/// Bytes of a manifest or a configuration; registries take no larger manifest.
const SMALL_MAX: u64 = 4 << 20;

/// An image in a source, which [`super::Store::add`] takes.
#[derive(Debug, Clone)]
pub struct Found {
    /// As the source names it; none where it has no name there.
    pub names: Vec<String>,
    pub offer: Offer,
    /// Names of its layers' archives, the lowest first.
    pub layers: Vec<String>,
}

pub trait Files: Sync {
    /// # Errors
    /// `NotFound`, and what else the kernel says.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;

    /// Whether there is such a file, readable or not.
    fn has(&self, name: &str) -> bool {
        !matches!(self.open(name), Err(error) if error.kind() == ErrorKind::NotFound)
    }

    /// A file that is small, whole.
    ///
    /// # Errors
    /// The same, and where it is larger than 4 MiB.
    fn small(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name)?.take(SMALL_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > SMALL_MAX { Err(io::Error::other(format!("it has more than {SMALL_MAX} bytes"))) } else { Ok(bytes) }
    }
}

/// Bytes of a small file that must be there.
///
/// # Errors
/// `ImagePull`, naming the file.
pub fn bytes(files: &dyn Files, name: &str) -> Result<Vec<u8>, ImageError> {
    files.small(name).map_err(|error| broken(format!("{name}: {error}")))
}

/// # Errors
/// `ImagePull`, naming the file.
pub fn parsed<T: DeserializeOwned>(files: &dyn Files, name: &str) -> Result<T, ImageError> {
    serde_json::from_slice(&bytes(files, name)?).map_err(|error| broken(format!("{name}: {error}")))
}

pub fn broken(message: impl Into<String>) -> ImageError {
    ImageError { kind: Kind::ImagePull, message: message.into() }
}

/// A directory. Names lead nowhere else.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// # Errors
    /// Where it is no directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Folder(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }
}

impl Files for Folder {
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file: File = openat2(&self.0, name, flags, Mode::empty(), inside)?.into();
        if file.metadata()?.is_file() { Ok(Box::new(file)) } else { Err(io::Error::other("it is no regular file")) }
    }
}

/// An archive, with the places of its members.
#[derive(Debug)]
pub struct Packed {
    file: Arc<File>,
    members: HashMap<String, Place>,
}

#[derive(Debug, Clone)]
enum Place {
    At {
        offset: u64,
        size: u64,
    },
    /// Docker writes a layer once that two images have, and links to it.
    Link(String),
}

impl Packed {
    /// Opens an archive. One that is compressed or comes from a pipe is first written to `scratch`, `most` bytes of it.
    ///
    /// # Errors
    /// Where it is no archive.
    pub fn open(path: &Path, scratch: impl Fn() -> io::Result<std::path::PathBuf>, most: u64) -> io::Result<Self> {
        let file = if path == Path::new("-") { io::stdin().as_fd().try_clone_to_owned()?.into() } else { File::open(path)? };
        let mut head = [0; 6];
        let plain = file.metadata()?.is_file() && {
            let read = file.read_at(&mut head, 0)?;
            !compression::is_compressed(&head[..read])
        };
        if plain {
            return Self::index(file);
        }
        let new = scratch()?.join("archive");
        let mut spooled = File::options().read(true).write(true).create_new(true).open(&new)?;
        fs::remove_file(&new)?;
        let written = io::copy(&mut compression::plain(file)?.take(most.saturating_add(1)), &mut spooled)?;
        if written > most {
            return Err(io::Error::other(format!("it has more than {most} bytes, uncompressed (images.unpack.layer_bytes)")));
        }
        Self::index(spooled)
    }

    fn index(mut file: File) -> io::Result<Self> {
        io::Seek::rewind(&mut file)?;
        let mut members = HashMap::new();
        let mut reader = Members::new(BufReader::new(file.try_clone()?));
        while let Some(member) = reader.next()? {
            let Ok(path) = String::from_utf8(member.path) else { continue };
            let Some(name) = within("", &path) else { continue };
            let place = match member.kind {
                EntryType::Regular | EntryType::Continuous => Place::At { offset: member.offset, size: member.size },
                EntryType::Symlink | EntryType::Link => {
                    let from = if member.kind == EntryType::Link { "" } else { name.rsplit_once('/').map_or("", |(above, _)| above) };
                    match String::from_utf8(member.link).ok().and_then(|link| within(from, &link)) {
                        Some(target) => Place::Link(target),
                        None => continue,
                    }
                }
                _ => continue,
            };
            members.insert(name, place);
            if members.len() > MEMBERS_MAX {
                return Err(io::Error::other(format!("it has more than {MEMBERS_MAX} files: an archive of images has fewer")));
            }
        }
        Ok(Packed { file: Arc::new(file), members })
    }
}

impl Files for Packed {
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let place = |name: &str| within("", name).and_then(|name| self.members.get(&name)).cloned();
        match place(name) {
            Some(Place::Link(target)) => match place(&target) {
                Some(Place::At { offset, size }) => Ok(Box::new(Piece { file: self.file.clone(), offset, left: size })),
                _ => Err(ErrorKind::NotFound.into()),
            },
            Some(Place::At { offset, size }) => Ok(Box::new(Piece { file: self.file.clone(), offset, left: size })),
            None => Err(ErrorKind::NotFound.into()),
        }
    }
}

/// A part of a file that several threads read other parts of.
struct Piece {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The name that a path from a directory of the archive stands for; none where it leads out.
fn within(from: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

impl Found {
    /// The image's id.
    #[must_use]
    pub fn id(&self) -> String {
        digest::of(&self.offer.config)
    }
}
