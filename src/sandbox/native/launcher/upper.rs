//! Where a sandbox's writes go: a file system of a fixed size, its own, that is gone with its mount.

use super::super::Upper;
use super::wire::Setup;
use super::world;
use crate::images::Ids;
use crate::linux;
use rustix::fs::{SeekFrom, copy_file_range, ftruncate, seek};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Nothing outlives its mount: no tables are made that nobody asks for, and its end waits for no real disk, which takes 50 ms.
const OPTIONS: &std::ffi::CStr = c"noinit_itable,barrier=0";
/// Bytes that the smallest file takes.
const BLOCK: u64 = 4096;

/// How uppers are made, found out once.
#[derive(Debug)]
pub enum Uppers {
    /// Each a copy of this file, which holds an empty file system and is mostly holes, attached as a disk.
    Disk { template: PathBuf, bytes: u64 },
    /// Each a tmpfs with these options.
    Memory { options: CString, why: Option<String> },
}

impl fmt::Display for Uppers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uppers::Disk { .. } => f.write_str("on disk"),
            Uppers::Memory { why: None, .. } => f.write_str("in memory"),
            Uppers::Memory { why: Some(why), .. } => write!(f, "in memory, since {why}"),
        }
    }
}

impl Uppers {
    /// # Errors
    /// Where those on disk are asked for and cannot be had.
    pub fn prepare(setup: &Setup, ids: Ids) -> io::Result<Self> {
        let options = format!("mode=0755,size={},nr_inodes={}", setup.upper_bytes, setup.upper_files);
        let memory = |why| Ok(Uppers::Memory { options: CString::new(options.clone())?, why });
        let disk = || if ids.count > 1 { template(setup) } else { Err(io::Error::other("this user may attach no disk")) };
        match setup.upper {
            Upper::Memory => memory(None),
            Upper::Disk => {
                disk().map_err(|error| io::Error::other(format!("no uppers on disk: {error}; set sandbox.native.upper to memory")))
            }
            Upper::Auto => disk().or_else(|error| memory(Some(error.to_string()))),
        }
    }

    /// Mounts a new one.
    pub fn mount(&self, scratch: &Path, id: u64, at: &Path) -> io::Result<()> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        match self {
            Uppers::Disk { template, bytes } => {
                // The kernel shows it with the disk, by this name only: it tells whose it is.
                let engine = scratch.file_name().unwrap_or_default().to_string_lossy();
                let path = scratch.join(format!("{engine}-{id}.upper"));
                let file = copy(template, *bytes, &path)?;
                let attached = linux::attach_loop(&file);
                // The disk keeps the file for as long as it lives, and nobody has to remove it.
                fs::remove_file(&path)?;
                let (_device, path) = attached?;
                mount(path, at, "ext4", flags, OPTIONS)?;
            }
            Uppers::Memory { options, .. } => mount("tmpfs", at, "tmpfs", flags, options.as_c_str())?,
        }
        Ok(())
    }

    /// Mounts one where all sandboxes that are made from now on find it.
    pub fn keep(&self, scratch: &Path, id: u64) -> io::Result<()> {
        let at = world::kept(id);
        DirBuilder::new().mode(0o700).create(&at)?;
        self.mount(scratch, id, &at).inspect_err(|_| drop(fs::remove_dir(&at)))
    }
}

/// Those that use it keep it until they end.
pub fn forget(id: u64) {
    let at = world::kept(id);
    let _ = unmount(&at, UnmountFlags::DETACH);
    let _ = fs::remove_dir(&at);
}

/// The files of a kept upper.
pub fn files_of(id: u64) -> PathBuf {
    files(&world::kept(id))
}

fn files(at: &Path) -> PathBuf {
    at.join("upper")
}

/// The directories of an upper mounted at `at` that an overlay takes; what it shows as its root has the mode and owner of the first.
pub fn directories(at: &Path, mode: u32, owner: u32) -> io::Result<(PathBuf, PathBuf)> {
    let (upper, work) = (files(at), at.join("work"));
    DirBuilder::new().mode(0o700).create(&work)?;
    DirBuilder::new().mode(0o755).create(&upper)?;
    fs::set_permissions(&upper, Permissions::from_mode(mode))?;
    chown(&upper, Some(owner), Some(owner))?;
    Ok((upper, work))
}

/// Formats one file for all to copy, and sees that it can be mounted: no journal, since nothing outlives its mount, and tables
/// that are made when they are first needed, so that it holds some 100 KB.
fn template(setup: &Setup) -> io::Result<Uppers> {
    let template = setup.scratch.join("template.upper");
    // A launcher that died may have left one.
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&template)?;
    ftruncate(&file, setup.upper_bytes)?;
    // More than one for each block would leave none for what is in them.
    let inodes = setup.upper_files.min(setup.upper_bytes / BLOCK).to_string();
    let options = "^has_journal,^resize_inode,^huge_file,uninit_bg,sparse_super2";
    let extended = "lazy_itable_init=1,nodiscard,num_backup_sb=0";
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-G", "64", "-O", options, "-E", extended, "-N", &inodes])
        .arg(&template)
        .env_clear()
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("mkfs.ext4 cannot be started ({error}); install e2fsprogs")))?;
    if !output.status.success() {
        return Err(io::Error::other(format!("mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let uppers = Uppers::Disk { template, bytes: setup.upper_bytes };
    linux::attach_loop(&file).map_err(|error| io::Error::new(error.kind(), format!("no file can be attached as a disk ({error})")))?;
    Ok(uppers)
}

/// A copy with the same holes.
fn copy(template: &Path, bytes: u64, to: &Path) -> io::Result<File> {
    let from = File::open(template)?;
    let copy = File::options().read(true).write(true).create_new(true).open(to)?;
    ftruncate(&copy, bytes)?;
    let mut at = 0;
    loop {
        at = match seek(&from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => return Ok(copy),
            Err(error) => return Err(error.into()),
        };
        let end = seek(&from, SeekFrom::Hole(at))?;
        while at < end {
            let (mut read_at, mut write_at) = (at, at);
            let done =
                copy_file_range(&from, Some(&mut read_at), &copy, Some(&mut write_at), usize::try_from(end - at).unwrap_or(usize::MAX))?;
            if done == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += done as u64;
        }
    }
}
