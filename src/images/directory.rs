//! A plain root directory as an image of one layer. The same tree gives the same image, wherever and whenever it is taken.

use super::files::broken;
use super::{ImageError, Offer, digest};
use rustix::fs::{fgetxattr, flistxattr};
use serde_json::json;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use tar::{Builder, EntryType, Header};

/// Bytes of one extended attribute; Linux takes no longer one (XATTR_SIZE_MAX), nor a longer list of names.
const XATTR_BYTES: usize = 65536;

/// What an image's processes begin with.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// `USER[:GROUP]`; empty: root.
    pub user: String,
}

/// The image that a directory makes; its one layer is read by [`open`]. Reads all of it once.
///
/// # Errors
/// `ImagePull` where something cannot be read.
pub fn offer(root: &Path, process: &Process) -> Result<Offer, ImageError> {
    let mut archive = digest::Digesting::new(open(root).map_err(|error| unreadable(root, &error))?);
    io::copy(&mut archive, &mut io::sink()).map_err(|error| unreadable(root, &error))?;
    let config = json!({
        "architecture": super::architecture(),
        "os": "linux",
        "config": { "Env": process.env, "User": process.user },
        "rootfs": { "type": "layers", "diff_ids": [archive.finish()] },
    });
    Ok(Offer { config: config.to_string().into_bytes(), digest: String::new() })
}

fn unreadable(root: &Path, error: &io::Error) -> ImageError {
    broken(format!("{}: {error}", root.display()))
}

/// The directory as an archive, written by a thread as it is read.
///
/// # Errors
/// Where it is no directory.
pub fn open(root: &Path) -> io::Result<Box<dyn Read + Send>> {
    let meta = fs::metadata(root)?;
    if !meta.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let (reader, writer) = io::pipe()?;
    let root = root.to_owned();
    let thread = thread::spawn(move || Walk::new(root, meta.dev(), writer).run());
    Ok(Box::new(Archive { reader, thread: Some(thread) }))
}

/// What the thread writes; its error is the reader's.
struct Archive {
    reader: PipeReader,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if read == 0
            && !buffer.is_empty()
            && let Some(thread) = self.thread.take()
        {
            thread.join().map_err(|_| io::Error::other("the thread that reads the directory panicked"))??;
        }
        Ok(read)
    }
}

struct Walk<W: Write> {
    root: PathBuf,
    /// What is mounted below stays out: `/proc` of a running system is no part of its image.
    device: u64,
    archive: Builder<W>,
    /// First name of each file that has several.
    linked: HashMap<u64, PathBuf>,
}

impl<W: Write> Walk<W> {
    fn new(root: PathBuf, device: u64, writer: W) -> Self {
        Walk { root, device, archive: Builder::new(writer), linked: HashMap::new() }
    }

    fn run(mut self) -> io::Result<()> {
        self.directory(Path::new(""))?;
        self.archive.into_inner()?.flush()
    }

    fn directory(&mut self, name: &Path) -> io::Result<()> {
        let path = self.root.join(name);
        let dir = File::open(&path)?;
        let meta = dir.metadata()?;
        self.xattrs(&dir)?;
        let mut header = header(&meta, EntryType::Directory);
        self.archive.append_data(&mut header, if name.as_os_str().is_empty() { Path::new(".") } else { name }, io::empty())?;
        if meta.dev() != self.device {
            return Ok(());
        }
        let mut entries = fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<OsString>>>()?;
        entries.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        entries.iter().try_for_each(|entry| {
            let child = name.join(entry);
            self.entry(&child).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", child.display())))
        })
    }

    fn entry(&mut self, name: &Path) -> io::Result<()> {
        let path = self.root.join(name);
        let meta = fs::symlink_metadata(&path)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            return self.directory(name);
        }
        if meta.nlink() > 1 && (kind.is_file() || kind.is_symlink()) {
            if let Some(first) = self.linked.get(&meta.ino()) {
                return self.archive.append_link(&mut header(&meta, EntryType::Link), name, first);
            }
            self.linked.insert(meta.ino(), name.to_owned());
        }
        if kind.is_symlink() {
            self.symlink(name, &meta, &fs::read_link(&path)?)
        } else if kind.is_file() {
            self.file(name, &path)
        } else if kind.is_fifo() {
            self.archive.append_data(&mut header(&meta, EntryType::Fifo), name, io::empty())
        } else {
            // Sockets and devices are of a running system.
            Ok(())
        }
    }

    /// Its target as it is: the archive's writer would tidy it up, where it is not too long for the header.
    fn symlink(&mut self, name: &Path, meta: &Metadata, target: &Path) -> io::Result<()> {
        let mut header = header(meta, EntryType::Symlink);
        match header.set_link_name_literal(target.as_os_str().as_bytes()) {
            Ok(()) => self.archive.append_data(&mut header, name, io::empty()),
            Err(_) => self.archive.append_link(&mut header, name, target),
        }
    }

    fn file(&mut self, name: &Path, path: &Path) -> io::Result<()> {
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let meta = file.metadata()?;
        self.xattrs(&file)?;
        let mut header = header(&meta, EntryType::Regular);
        header.set_size(meta.len());
        // Were it longer or shorter by now than its header says, all behind it would be shifted.
        let exactly = file.take(meta.len()).chain(Short);
        self.archive.append_data(&mut header, name, exactly.take(meta.len()))
    }

    fn xattrs(&mut self, file: &File) -> io::Result<()> {
        let mut list = vec![0; XATTR_BYTES];
        let Ok(length) = flistxattr(file, &mut list[..]) else { return Ok(()) };
        let mut names: Vec<&str> = list[..length].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()).collect();
        names.retain(|name| *name == "security.capability" || name.starts_with("user."));
        names.sort_unstable();
        let mut kept = Vec::new();
        for name in names {
            let mut value = vec![0; XATTR_BYTES];
            let length = fgetxattr(file, name, &mut value[..])?;
            value.truncate(length);
            kept.push((format!("SCHILY.xattr.{name}"), value));
        }
        if kept.is_empty() {
            Ok(())
        } else {
            self.archive.append_pax_extensions(kept.iter().map(|(key, value)| (key.as_str(), &value[..])))
        }
    }
}

/// Where a file ends before it should.
struct Short;

impl Read for Short {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("it became shorter while it was read"))
    }
}

fn header(meta: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.permissions().mode() & 0o7777);
    header.set_uid(meta.uid().into());
    header.set_gid(meta.gid().into());
    header.set_mtime(meta.mtime().max(0) as u64);
    header.set_size(0);
    header
}
