//! A sandbox's file system: its image below, its upper above, and what every process expects of a system around them.
//!
//! Every place is found without following a link and reached by its descriptor, for the image is hostile; nothing is mounted by
//! a path that it could have bent.

use super::child::Child;
use super::etc;
use super::upper;
use super::world::{self, DEV, EMPTY, NEW_ROOT, TOOLBOX, UPPER, host_entries};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, mkdirat, openat2, symlinkat};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_remount, unmount};
use rustix::process::{chdir, pivot_root};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Most terminals of one sandbox; the host has some 4,000 for all.
const TERMINALS: u32 = 256;
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// What tells of the host or of other sandboxes, or would do something to them; an image's own kernel does not have all.
const HIDDEN_FILES: [&str; 5] = ["kcore", "keys", "latency_stats", "timer_list", "sched_debug"];
const HIDDEN_DIRS: [&str; 3] = ["acpi", "asound", "scsi"];
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Makes it, and makes it the root of this mount namespace; nothing of the launcher's world stays within reach.
pub fn build(child: &Child<'_>) -> io::Result<()> {
    let upper = if child.start.keep { world::kept(child.start.id) } else { PathBuf::from(UPPER) };
    if !child.start.keep {
        child.uppers.mount(&child.setup.scratch, child.start.id, &upper).map_err(at("its upper"))?;
    }
    overlay(child, &upper).map_err(at("its overlay"))?;
    let root = Root { root: open_root()?, owner: child.ids.outside(0) };
    if child.start.layers.is_none() {
        root.host(&child.start.workdir).map_err(at("the host's directories"))?;
    }
    root.dev(child)?;
    root.proc()?;
    root.sys(child)?;
    root.tmp(child)?;
    root.toolbox().map_err(at("/.sweroll/toolbox"))?;
    etc::write(&root.root, root.owner);
    drop(root);
    chdir(NEW_ROOT)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    Ok(())
}

fn overlay(child: &Child<'_>, upper: &Path) -> io::Result<()> {
    let layers = child.start.layers.as_deref().unwrap_or_default();
    let kept = child.start.upon.map(upper::files_of);
    let top = kept.clone().or_else(|| layers.last().map(|layer| child.setup.layers.join(layer).join("fs")));
    let mode = top.and_then(|top| fs::metadata(top).ok()).map_or(0o755, |found| found.permissions().mode() & 0o7777);
    let (upper, work) = upper::directories(upper, mode, child.ids.outside(0))?;
    // Relative to the layers: all options must fit into a page. The highest comes first there.
    chdir(if layers.is_empty() { Path::new("/") } else { &child.setup.layers })?;
    let kept = kept.map(|kept| kept.display().to_string());
    let lower: Vec<String> = kept.into_iter().chain(layers.iter().rev().map(|layer| format!("{layer}/fs"))).collect();
    let lower = if lower.is_empty() { EMPTY.to_owned() } else { lower.join(":") };
    // A user namespace may not write the kernel's own attributes, so overlays have others there.
    let attributes = if child.ids.are_roots() { "" } else { ",userxattr" };
    let options = format!("lowerdir={lower},upperdir={},workdir={},volatile{attributes}", upper.display(), work.display());
    let mounted = mount("overlay", NEW_ROOT, "overlay", MountFlags::NODEV | MountFlags::NOATIME, CString::new(options)?.as_c_str());
    chdir("/")?;
    Ok(mounted?)
}

fn open_root() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(NEW_ROOT, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The new root before it is one.
struct Root {
    root: OwnedFd,
    /// The number outside of root inside.
    owner: u32,
}

/// A place in it, held open.
struct Place {
    held: OwnedFd,
}

impl Place {
    /// A path to it for calls that take none but paths.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.held.as_raw_fd()))
    }
}

impl Root {
    /// A directory of the image at a path of single names, made where it is missing.
    fn directory(&self, path: &str) -> io::Result<Place> {
        let mut made = String::new();
        for name in path.split('/') {
            made = if made.is_empty() { name.to_owned() } else { format!("{made}/{name}") };
            match self.open(&made, OFlags::DIRECTORY) {
                Err(rustix::io::Errno::NOENT) => {
                    let (parent, name) = made.rsplit_once('/').unwrap_or((".", &made));
                    let parent = self.open(parent, OFlags::DIRECTORY)?;
                    mkdirat(&parent.held, name, Mode::from_raw_mode(0o755))?;
                    self.own(&parent.held, name)?;
                }
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
        self.open(path, OFlags::DIRECTORY).map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("/{path} of the image is no directory: {error}"))
        })
    }

    fn open(&self, path: &str, flags: OFlags) -> rustix::io::Result<Place> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags;
        let held = openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)?;
        Ok(Place { held })
    }

    fn own(&self, parent: &OwnedFd, name: &str) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.owner), Gid::from_raw(self.owner));
        Ok(chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn dev(&self, child: &Child<'_>) -> io::Result<()> {
        let dev = self.directory("dev")?;
        mount_bind_recursive(DEV, dev.path()).map_err(at_errno("/dev"))?;
        let over = |name: &str, kind: &str, flags, options: String| -> io::Result<()> {
            // Reopened: what was opened before lies under the mount.
            let place = self.open(&format!("dev/{name}"), OFlags::DIRECTORY)?;
            mount(kind, place.path(), kind, flags, CString::new(options)?.as_c_str()).map_err(at_errno(&format!("/dev/{name}")))
        };
        let (root, tty) = (self.owner, child.ids.outside(5));
        over(
            "pts",
            "devpts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            format!("newinstance,ptmxmode=0666,mode=0620,max={TERMINALS},gid={tty}"),
        )?;
        over("shm", "tmpfs", PLAIN, format!("mode=1777,size={},uid={root},gid={root}", child.start.limits.shm))?;
        // A kernel may be built without it.
        let _ = over("mqueue", "mqueue", PLAIN, String::new());
        Ok(())
    }

    fn proc(&self) -> io::Result<()> {
        let place = self.directory("proc")?;
        mount("proc", place.path(), "proc", PLAIN, c"").map_err(at_errno("/proc"))?;
        for name in HIDDEN_FILES {
            if let Ok(file) = self.open(&format!("proc/{name}"), OFlags::empty()) {
                mount_bind("/dev/null", file.path()).map_err(at_errno(name))?;
            }
        }
        for name in HIDDEN_DIRS {
            if let Ok(dir) = self.open(&format!("proc/{name}"), OFlags::DIRECTORY) {
                mount_bind(EMPTY, dir.path()).map_err(at_errno(name))?;
            }
        }
        for name in READ_ONLY {
            let path = format!("proc/{name}");
            if let Ok(place) = self.open(&path, OFlags::empty()) {
                mount_bind(place.path(), place.path()).map_err(at_errno(name))?;
                let bound = self.open(&path, OFlags::empty())?;
                mount_remount(bound.path(), MountFlags::BIND | MountFlags::RDONLY | PLAIN, c"").map_err(at_errno(name))?;
            }
        }
        Ok(())
    }

    /// Read-only, with the control groups' counters where there are any.
    fn sys(&self, child: &Child<'_>) -> io::Result<()> {
        let place = self.directory("sys")?;
        let flags = PLAIN | MountFlags::RDONLY;
        if mount("sysfs", place.path(), "sysfs", flags, c"").is_err() {
            // A user namespace may not have it where the host hides a part of its own.
            mount_bind(EMPTY, place.path()).map_err(at_errno("/sys"))?;
            return Ok(());
        }
        if let Ok(firmware) = self.open("sys/firmware", OFlags::DIRECTORY) {
            mount_bind(EMPTY, firmware.path()).map_err(at_errno("/sys/firmware"))?;
        }
        let mounts = child.group.mounts();
        if mounts.is_empty() {
            return Ok(());
        }
        let Ok(groups) = self.open("sys/fs/cgroup", OFlags::DIRECTORY) else { return Ok(()) };
        if mounts.iter().any(|(_, name)| !name.is_empty()) {
            mount("tmpfs", groups.path(), "tmpfs", PLAIN, c"mode=0755,size=65536").map_err(at_errno("/sys/fs/cgroup"))?;
        }
        for (directory, name) in mounts {
            let path = format!("sys/fs/cgroup/{name}");
            if !name.is_empty() {
                let groups = self.open("sys/fs/cgroup", OFlags::DIRECTORY)?;
                mkdirat(&groups.held, name, Mode::from_raw_mode(0o755))?;
            }
            let place = self.open(path.trim_end_matches('/'), OFlags::DIRECTORY)?;
            mount_bind(&directory, place.path()).map_err(at_errno(name))?;
            let bound = self.open(path.trim_end_matches('/'), OFlags::DIRECTORY)?;
            mount_remount(bound.path(), MountFlags::BIND | flags, c"").map_err(at_errno(name))?;
        }
        Ok(())
    }

    /// In memory where the image has nothing there: what it has must stay to be seen.
    fn tmp(&self, child: &Child<'_>) -> io::Result<()> {
        let existed = self.open("tmp", OFlags::empty()).is_ok();
        let tmp = self.directory("tmp")?;
        let empty = fs::read_dir(tmp.path())?.next().is_none();
        if child.setup.tmp_bytes > 0 && empty {
            let (root, bytes) = (self.owner, child.setup.tmp_bytes);
            let options = CString::new(format!("mode=1777,size={bytes},uid={root},gid={root}"))?;
            mount("tmpfs", tmp.path(), "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()).map_err(at_errno("/tmp"))?;
        } else if !existed {
            fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o1777))?;
        }
        Ok(())
    }

    fn toolbox(&self) -> io::Result<()> {
        let dir = self.directory(".sweroll")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        // An image that has a file there does not keep it.
        let _ = rustix::fs::unlinkat(&dir.held, "toolbox", AtFlags::empty());
        openat2(&dir.held, "toolbox", flags, Mode::from_raw_mode(0o555), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
        let place = self.open(".sweroll/toolbox", OFlags::empty())?;
        // Read-only as the launcher has it: a bind keeps that.
        Ok(mount_bind(TOOLBOX, place.path())?)
    }

    /// For the image that is the host's own: its programs and libraries, and nobody's files.
    fn host(&self, workdir: &str) -> io::Result<()> {
        for (name, from) in host_entries() {
            let (parent, last) = name.rsplit_once('/').unwrap_or((".", name));
            let parent = if parent == "." { self.open(".", OFlags::DIRECTORY)? } else { self.directory(parent)? };
            let found = fs::symlink_metadata(&from)?;
            if found.is_symlink() {
                symlinkat(fs::read_link(&from)?, &parent.held, last)?;
            } else {
                if found.is_dir() {
                    mkdirat(&parent.held, last, Mode::from_raw_mode(0o755))?;
                } else {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                    rustix::fs::openat(&parent.held, last, flags, Mode::from_raw_mode(0o444))?;
                }
                mount_bind(&from, self.open(name, OFlags::empty())?.path())?;
            }
        }
        let workdir = workdir.split('/').filter(|name| !matches!(*name, "" | "." | "..")).collect::<Vec<_>>().join("/");
        for name in ["root", "home", "var/tmp", "run", &workdir].into_iter().filter(|name| !name.is_empty()) {
            self.directory(name)?;
        }
        etc::write_users(&self.root, self.owner)
    }
}

fn at(what: &str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn at_errno(what: &str) -> impl Fn(rustix::io::Errno) -> io::Error {
    move |error| at(what)(error.into())
}
