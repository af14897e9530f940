//! The launcher's own view of the host: a mount namespace with what sandboxes are made of and nothing else, so that a copy of it
//! for each sandbox is cheap and shows no file of the host.

use super::super::cgroup::Groups;
use super::wire::Setup;
use crate::linux::{self, CLONE_NEWNS};
use rustix::fs::{CWD, Mode, symlinkat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_remount, unmount,
};
use rustix::process::pivot_root;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Places in it, besides the layers and the scratch directory, which are where they are on the host.
pub const NEW_ROOT: &str = "/.new";
pub const UPPER: &str = "/.upper";
/// Where uppers are that outlive their sandboxes, each under its number.
const KEPT: &str = "/.kept";
/// A `/dev` to be shared by all sandboxes: what is theirs alone is mounted over it.
pub const DEV: &str = "/.dev";
/// The program that serves in the sandboxes, read-only.
pub const TOOLBOX: &str = "/.toolbox";
/// An empty directory, read-only.
pub const EMPTY: &str = "/.empty";
/// The host's system directories, read-only.
pub const HOST: &str = "/.host";

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
const HOST_DIRS: [&str; 10] =
    ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc/alternatives", "etc/ld.so.cache", "etc/ld.so.conf.d"];

/// Leaves the host's mounts behind.
///
/// # Errors
/// Names the mount that failed.
pub fn enter(setup: &Setup, groups: &Groups, is_root: bool) -> io::Result<()> {
    linux::unshare(CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // Over the scratch directory, since any other place may not be there or not be ours.
    let world = setup.scratch.join("world");
    fs::create_dir_all(&world)?;
    tmpfs(&world, "mode=0755")?;
    let inside = |path: &str| world.join(path.trim_start_matches('/'));

    bind(Path::new("/proc"), &inside("/proc"), true)?;
    bind(Path::new("/sys"), &inside("/sys"), true)?;
    // Whoever is no root may not uncover what lies under a mount, so has to take those on it along.
    bind(Path::new("/dev"), &inside("/dev"), !is_root)?;
    let shared = [setup.layers.clone(), setup.scratch.clone()].into_iter().chain(groups.directories());
    // Groups in /sys are there by now, and one with a mount over it could not be removed.
    for path in shared.filter(|path| path.exists() && !path.starts_with("/sys")) {
        bind(&path, &inside(&path.to_string_lossy()), !is_root)?;
    }
    for place in [NEW_ROOT, UPPER, KEPT, EMPTY] {
        fs::create_dir(inside(place))?;
    }
    fs::write(inside(TOOLBOX), "")?;
    mount_bind(&setup.toolbox, inside(TOOLBOX))?;
    read_only(&inside(TOOLBOX), MountFlags::NOSUID | MountFlags::NODEV)?;
    bind(&inside(EMPTY), &inside(EMPTY), false)?;
    read_only(&inside(EMPTY), MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)?;
    devices(&inside(DEV))?;
    host(&inside(HOST))?;

    rustix::process::chdir(&world)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Where a kept upper is mounted.
pub fn kept(id: u64) -> PathBuf {
    Path::new(KEPT).join(id.to_string())
}

fn devices(dev: &Path) -> io::Result<()> {
    fs::create_dir(dev)?;
    tmpfs(dev, "mode=0755,size=65536")?;
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(name))?;
    }
    for name in DEVICES {
        fs::write(dev.join(name), "")?;
        let device = Path::new("/dev").join(name);
        mount_bind(&device, dev.join(name)).map_err(|error| at("a bind of", &device, error.into()))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, CWD, dev.join(name))?;
    }
    read_only(dev, MountFlags::NOSUID | MountFlags::NOEXEC)
}

/// For the image that is the host's own.
fn host(to: &Path) -> io::Result<()> {
    for name in HOST_DIRS {
        let (from, to) = (Path::new("/").join(name), to.join(name));
        match fs::symlink_metadata(&from) {
            Ok(found) if found.is_symlink() => {
                fs::create_dir_all(to.parent().unwrap_or(&to))?;
                symlinkat(fs::read_link(&from)?, CWD, &to)?;
            }
            Ok(_) => {
                bind(&from, &to, false)?;
                read_only(&to, MountFlags::NOSUID | MountFlags::NODEV)?;
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// What the host's system directories are under in this world.
pub fn host_entries() -> impl Iterator<Item = (&'static str, PathBuf)> {
    HOST_DIRS.into_iter().map(|name| (name, Path::new(HOST).join(name))).filter(|(_, path)| fs::symlink_metadata(path).is_ok())
}

fn tmpfs(at_path: &Path, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    mount("tmpfs", at_path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .map_err(|error| at("a tmpfs at", at_path, error.into()))
}

fn bind(from: &Path, to: &Path, deep: bool) -> io::Result<()> {
    if from.is_dir() {
        rustix::fs::mkdirat(CWD, to, Mode::from_raw_mode(0o755))
            .or_else(|_| fs::create_dir_all(to).map_err(|_| rustix::io::Errno::NOENT))?;
    } else {
        fs::create_dir_all(to.parent().unwrap_or(to))?;
        fs::write(to, "")?;
    }
    let bound = if deep { mount_bind_recursive(from, to) } else { mount_bind(from, to) };
    bound.map_err(|error| at("a bind of", from, error.into()))
}

fn read_only(path: &Path, flags: MountFlags) -> io::Result<()> {
    let flags = MountFlags::BIND | MountFlags::RDONLY | flags;
    mount_remount(path, flags, c"").map_err(|error| at("a read-only view of", path, error.into()))
}

fn at(what: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}
