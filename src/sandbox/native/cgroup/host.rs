//! Which control groups this host has mounted, and where in them this process is. Pure.

use std::path::{Path, PathBuf};

/// What a group can hold or count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    Memory,
    Pids,
    /// Shares of processor time.
    Cpu,
    /// Counts processor time; version 2 does so in every group.
    Cpuacct,
}

impl Controller {
    pub const ALL: [Controller; 4] = [Controller::Memory, Controller::Pids, Controller::Cpu, Controller::Cpuacct];

    /// Its name to the kernel, and its directory below `/sys/fs/cgroup` of version 1.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
        }
    }

    /// Those among the words of a text.
    pub fn among<'a>(words: impl Iterator<Item = &'a str>) -> Vec<Self> {
        let words: Vec<&str> = words.collect();
        Self::ALL.into_iter().filter(|controller| words.contains(&controller.name())).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

/// A mounted tree of groups.
#[derive(Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub version: Version,
    /// Empty for version 2, where each group has its own.
    pub controllers: Vec<Controller>,
    pub mount: PathBuf,
    /// The group of this process, below `mount`.
    pub own: PathBuf,
}

/// What can be of use, by the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`. Where version 1 has any of the controllers,
/// version 2 cannot have them all: then it is left out.
pub fn hierarchies(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for hierarchy in mountinfo.lines().filter_map(|line| mounted(line, cgroup)) {
        let twin = found.iter().any(|known| known.version == hierarchy.version && known.controllers == hierarchy.controllers);
        if !twin {
            found.push(hierarchy);
        }
    }
    let first = if found.iter().any(|hierarchy| hierarchy.version == Version::One) { Version::One } else { Version::Two };
    found.retain(|hierarchy| hierarchy.version == first);
    found
}

/// `ID PARENT MAJOR:MINOR ROOT MOUNT OPTIONS ... - TYPE SOURCE SUPER`, as proc(5) has it.
fn mounted(line: &str, cgroup: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, mount) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let version = match kind {
        "cgroup" => Version::One,
        "cgroup2" => Version::Two,
        _ => return None,
    };
    let controllers = if version == Version::One { Controller::among(options.split(',')) } else { Vec::new() };
    if version == Version::One && controllers.is_empty() {
        return None;
    }
    let group = cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let same = match version {
            Version::One => Controller::among(names.split(',')) == controllers,
            Version::Two => number == "0" && names.is_empty(),
        };
        same.then_some(path)
    })?;
    // A container sees its own group as the mount's root, unless it has a namespace for groups: then both are `/`.
    let own = Path::new(group).strip_prefix(root).or_else(|_| Path::new(group).strip_prefix("/")).ok()?;
    let inside = own.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    inside.then(|| Hierarchy { version, controllers, mount: unescaped(mount).into(), own: own.to_owned() })
}

/// Spaces and the like are written as `\040`.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(mountinfo: &str, cgroup: &str) -> Vec<String> {
        let names = |hierarchy: &Hierarchy| hierarchy.controllers.iter().map(|c| c.name()).collect::<Vec<_>>().join("+");
        hierarchies(mountinfo, cgroup)
            .iter()
            .map(|h| format!("{:?} {} {} {}", h.version, names(h), h.mount.display(), h.own.display()))
            .collect()
    }

    #[test]
    fn version_1_goes_before_an_empty_version_2() {
        let mountinfo = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                         32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
                         34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                         35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                         39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                         40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                         41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let cgroup = "8:pids:/\n4:memory:/a/b\n3:cpuset:/\n1:cpu,cpuacct:/jobs\n0::/\n";
        let expected =
            ["One cpu+cpuacct /sys/fs/cgroup/cpu,cpuacct jobs", "One memory /sys/fs/cgroup/memory a/b", "One pids /sys/fs/cgroup/pids "];
        assert_eq!(summary(mountinfo, cgroup), expected);
    }

    #[test]
    fn version_2_alone_is_one_tree() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
                         90 30 0:26 / /mnt/a\\040b rw - cgroup2 cgroup2 rw\n";
        let cgroup = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope\n";
        assert_eq!(summary(mountinfo, cgroup), ["Two  /sys/fs/cgroup user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope"]);
    }

    #[test]
    fn a_container_is_at_the_root_of_what_it_sees() {
        let mountinfo = "35 31 0:32 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(summary(mountinfo, "4:memory:/docker/1\n"), ["One memory /sys/fs/cgroup/memory "]);
        assert_eq!(summary(mountinfo, "4:memory:/../2\n"), [""; 0]);
        assert_eq!(summary("35 31 0:32 / /c rw - cgroup cgroup rw,memory\n", "0::/\n"), [""; 0]);
        assert_eq!(summary("gibberish", "more of it"), [""; 0]);
    }
}
