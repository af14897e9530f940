//! The group of an engine in a hierarchy, made where the hierarchy lets it.

use super::host::{Controller, Hierarchy, Version};
use super::{PREFIX, Parent, read, write};
use crate::sandbox::owner::Owner;
use rustix::fs::{Access, access};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Where the engine and its helpers go, to leave their group without processes.
const ENGINE: &str = "sweroll-engine";
/// Tries to empty a group whose processes start others meanwhile.
const MOVES: usize = 10;
/// More generations than this are not followed to find out whose a process is.
const GENERATIONS: usize = 64;

/// The engine's group in a hierarchy; its children will hold what it says.
///
/// # Errors
/// Why there can be none, in words.
pub fn parent(root: &Path, hierarchy: &Hierarchy, label: &str) -> Result<Parent, String> {
    let mount = below(root, &hierarchy.mount);
    match hierarchy.version {
        Version::One => {
            let names: Vec<_> = hierarchy.controllers.iter().map(|controller| controller.name()).collect();
            let own = mount.join(&hierarchy.own);
            let made = first(&own, label, &hierarchy.controllers);
            made.map_err(|error| format!("{} cannot be divided for {}: {error}", own.display(), names.join(" and ")))
        }
        Version::Two => second(root, &mount, &hierarchy.own, label),
    }
}

fn below(root: &Path, path: &Path) -> std::path::PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn first(own: &Path, label: &str, controllers: &[Controller]) -> io::Result<Parent> {
    let mut parent = open(own, label, Version::One, controllers)?;
    parent.swap = parent.path.join("memory.memsw.limit_in_bytes").exists();
    if controllers.contains(&Controller::Memory) {
        // Of kernels before 5.11, which ask; refused where it is so already.
        let _ = write(&parent.dir, "memory.use_hierarchy", "1");
    }
    Ok(parent)
}

fn second(root: &Path, mount: &Path, own: &Path, label: &str) -> Result<Parent, String> {
    // Started again below the same engine: its group has been divided already.
    let own = if own.ends_with(ENGINE) { own.parent().unwrap_or(own) } else { own };
    let mut why = Vec::new();
    for candidate in own.ancestors() {
        let group = if candidate == Path::new("") { mount.to_owned() } else { mount.join(candidate) };
        match divide(root, &group, candidate == own, label) {
            Ok(parent) => return Ok(parent),
            Err(error) => why.push(format!("{}: {error}", group.display())),
        }
    }
    Err(format!("no control group is delegated, as by `systemd-run --user --scope -p Delegate=yes`: {}", why.join(", ")))
}

fn divide(root: &Path, group: &Path, own: bool, label: &str) -> io::Result<Parent> {
    // Who may not write here may move nothing from here to below, either.
    access(group.join("cgroup.procs"), Access::WRITE_OK)?;
    let dir = OwnedFd::from(File::open(group)?);
    let has = Controller::among(read(&dir, "cgroup.controllers")?.split_whitespace());
    if has.is_empty() {
        return Err(io::Error::other("it has none of the controllers"));
    }
    // The root of all has no type, and may have processes of its own.
    if group.join("cgroup.type").exists() {
        vacate(root, group, &dir, own, label)?;
    }
    let enabled = enable(&dir, &has)?;
    let mut parent = open(group, label, Version::Two, &enabled)?;
    parent.controllers = enable(&parent.dir, &enabled)?;
    parent.swap = parent.path.join("memory.swap.max").exists();
    Ok(parent)
}

/// Moves our processes out of a group that has no others.
fn vacate(root: &Path, group: &Path, dir: &OwnedFd, own: bool, label: &str) -> io::Result<()> {
    for _ in 0..MOVES {
        let text = read(dir, "cgroup.procs")?;
        let processes: Vec<i32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        if processes.is_empty() {
            return Ok(());
        }
        let engine = label.replace('.', "/").parse::<Owner>().map(|owner| owner.pid()).ok();
        if let Some(other) = processes.iter().find(|&&pid| !own || !engine.is_some_and(|engine| descends(root, pid, engine))) {
            return Err(io::Error::other(format!("process {other}, which is not of this engine, is in it")));
        }
        let leaf = group.join(ENGINE);
        make(&leaf)?;
        let leaf = File::open(leaf)?;
        for pid in processes {
            match write(&leaf, "cgroup.procs", &pid.to_string()) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
    }
    Err(io::Error::other("new processes appear in it without end"))
}

fn descends(root: &Path, pid: i32, from: i32) -> bool {
    let parent = |pid: i32| {
        let stat = fs::read_to_string(root.join(format!("proc/{pid}/stat"))).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    std::iter::successors(Some(pid), |&pid| parent(pid)).take(GENERATIONS).any(|pid| pid == from)
}

/// Gives the children of a group those of the controllers that it can.
fn enable(dir: &OwnedFd, controllers: &[Controller]) -> io::Result<Vec<Controller>> {
    let mut refused = None;
    let mut enabled = Vec::new();
    for &controller in controllers {
        match write(dir, "cgroup.subtree_control", &format!("+{}", controller.name())) {
            Ok(()) => enabled.push(controller),
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if enabled.is_empty() => Err(error),
        _ => Ok(enabled),
    }
}

fn open(group: &Path, label: &str, version: Version, controllers: &[Controller]) -> io::Result<Parent> {
    let path = group.join(format!("{PREFIX}{}", label.replace('/', ".")));
    make(&path)?;
    let dir = File::open(&path)?.into();
    Ok(Parent { version, controllers: controllers.to_vec(), path, dir, swap: false })
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
