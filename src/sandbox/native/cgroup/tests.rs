use super::host::{Controller, Version};
use super::*;
use crate::sandbox::owner::{Owner, Process};
use rustix::process::Pid;
use std::collections::HashMap;
use std::fs;
use std::process::{Child, Command, Stdio};

impl Group {
    /// Moves a process of one thread in.
    fn add(&self, pid: Pid) -> io::Result<()> {
        let pid = pid.as_raw_pid().to_string();
        self.dirs.iter().try_for_each(|dir| write(dir, "cgroup.procs", &pid))
    }
}

fn limits(memory: u64, pids: u32, cpus: f64) -> Limits {
    Limits { memory, pids, cpus, ..Limits::default() }
}

fn fake(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

const V2: (&str, &str) = ("proc/self/mountinfo", "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n");
const LABEL: &str = "boot/1/100/5";
const NAME: &str = "sweroll-boot.1.100.5";

/// A tree of version 2 whose group `a/b` has these processes, of which 101 and 102 are the engine's.
fn v2(processes: &str) -> tempfile::TempDir {
    fake(&[
        V2,
        ("proc/self/cgroup", "0::/a/b\n"),
        ("proc/100/stat", "100 (engine) S 7 0"),
        ("proc/101/stat", "101 (a) b) S 100 0"),
        ("proc/102/stat", "102 (c) S 101 0"),
        ("proc/7/stat", "7 (shell) S 1 0"),
        ("cg/cgroup.procs", "1\n"),
        ("cg/cgroup.controllers", "cpuset cpu io memory pids\n"),
        ("cg/a/cgroup.type", "domain\n"),
        ("cg/a/cgroup.procs", ""),
        ("cg/a/cgroup.controllers", "cpu memory\n"),
        ("cg/a/b/cgroup.type", "domain\n"),
        ("cg/a/b/cgroup.procs", processes),
        ("cg/a/b/cgroup.controllers", "cpu memory pids\n"),
    ])
}

fn path_of(groups: &Groups, root: &tempfile::TempDir) -> String {
    groups.parents[0].path.strip_prefix(root.path()).unwrap().display().to_string()
}

#[test]
fn version_2_writes_what_it_holds() {
    let root = v2("");
    // Its name ends as that of the group that the engine has been moved to before.
    fs::write(root.path().join("proc/self/cgroup"), "0::/a/b/sweroll-engine\n").unwrap();
    let groups = Groups::find_below(root.path(), LABEL);
    assert_eq!(groups.holds(), "memory, pids and processors by cgroup v2");
    assert_eq!(path_of(&groups, &root), format!("cg/a/b/{NAME}"));
    let group = groups.create("one", &limits(4096, 10, 1.5)).unwrap();
    let dir = root.path().join("cg/a/b").join(NAME).join("one");
    let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
    assert_eq!([text("memory.max"), text("pids.max"), text("cpu.max")], ["4096", "10", "150000 100000"]);
    assert_eq!(fs::read_to_string(root.path().join("cg/a/b/cgroup.subtree_control")).unwrap(), "+cpu");
    group.add(Pid::from_raw(4711).unwrap()).unwrap();
    assert_eq!(text("cgroup.procs"), "4711");
    assert_eq!(group.mounts(), [(dir.clone(), "")]);
    assert_eq!(group.oom_kills(), 0);
    fs::write(dir.join("memory.events"), "low 0\noom 4\noom_kill 3\noom_group_kill 9\n").unwrap();
    assert_eq!(group.oom_kills(), 3);
    assert!(groups.create("one", &limits(1, 1, 1.0)).is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists));
    assert_eq!(groups.rlimits(&limits(1, 1, 1.0), 9), [(Resource::Nofile, 9), (Resource::Core, 1)]);
}

#[test]
fn our_own_processes_make_room() {
    let root = v2("100\n101\n102\n");
    let groups = Groups::find_below(root.path(), LABEL);
    // Nothing moves in a tree of plain files, so that it is taken for one where processes appear without end.
    assert_eq!(fs::read_to_string(root.path().join("cg/a/b/sweroll-engine/cgroup.procs")).unwrap(), "102");
    assert_eq!(path_of(&groups, &root), format!("cg/a/{NAME}"), "the next above that has no processes");
    assert_eq!(groups.holds(), "memory and processors by cgroup v2, pids of each user by its rlimit");
    assert_eq!(groups.rlimits(&limits(1, 33, 1.0), 9)[2..], [(Resource::Nproc, 33)]);
}

#[test]
fn the_processes_of_others_are_not_moved() {
    let root = v2("100\n7\n");
    fs::write(root.path().join("cg/a/cgroup.procs"), "8\n").unwrap();
    fs::remove_file(root.path().join("cg/cgroup.procs")).unwrap();
    let groups = Groups::find_below(root.path(), LABEL);
    assert!(!root.path().join("cg/a/b/sweroll-engine").exists());
    let holds = groups.holds();
    assert!(
        holds.starts_with("memory of each process by its rlimit, pids of each user by its rlimit, processors by nothing (no"),
        "{holds}"
    );
    assert!(holds.contains("/cg/a/b: process 7, which is not of this engine, is in it, "), "{holds}");
    assert_eq!(groups.rlimits(&limits(55, 33, 1.0), 9)[2..], [(Resource::Data, 55), (Resource::Nproc, 33)]);
    let group = groups.create("none", &limits(1, 1, 1.0)).unwrap();
    group.add(Pid::from_raw(1).unwrap()).unwrap();
    assert_eq!((group.mounts(), group.oom_kills()), (Vec::new(), 0));
    group.remove().unwrap();
}

#[test]
fn version_1_sets_memory_before_its_sum_with_swap() {
    let parent = |version, controllers: &[Controller], swap| Parent {
        version,
        controllers: controllers.to_vec(),
        path: "/nowhere".into(),
        dir: File::open("/").unwrap().into(),
        swap,
    };
    let files =
        |parent: Parent, limits| parent.values(&limits).into_iter().map(|(file, value)| format!("{file}={value}")).collect::<Vec<_>>();
    let all = Controller::ALL;
    assert_eq!(
        files(parent(Version::One, &all, true), limits(9, 8, 0.5)),
        ["memory.limit_in_bytes=9", "memory.memsw.limit_in_bytes=9", "pids.max=8", "cpu.cfs_quota_us=50000"]
    );
    assert_eq!(files(parent(Version::One, &all[..1], false), limits(9, 8, 0.5))[1], "memory.swappiness=0");
    assert_eq!(files(parent(Version::Two, &all[..1], true), limits(9, 8, 0.5)), ["memory.max=9", "memory.swap.max=0"]);
    assert_eq!(files(parent(Version::One, &all[2..], false), limits(9, 8, 0.0001)), ["cpu.cfs_quota_us=1000"]);
    for version in [Version::One, Version::Two] {
        assert!(files(parent(version, &all, true), limits(0, 0, 0.0)).is_empty());
    }
}

/// Groups of this machine for an engine of that name, where there are any; the test is skipped elsewhere.
fn real(label: &str) -> Option<Groups> {
    let groups = Groups::find(label);
    if groups.parents.is_empty() {
        eprintln!("skipped: {}", groups.holds());
        return None;
    }
    Some(groups)
}

/// Runs the script, in the group from its first word on.
fn inside(group: &Group, script: &str) -> Child {
    let mut child =
        Command::new("sh").args(["-c", &format!("read go; {script}")]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    group.add(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()).unwrap();
    io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
    child
}

/// An engine of another boot, with this process's number: sweeps of other tests and of engines cannot judge it.
fn engine(boot: &str, start: u32) -> String {
    format!("test-{boot}/{0}/{0}/{start}", std::process::id())
}

#[test]
fn memory_and_processes_end_where_the_limits_are() {
    let Some(groups) = real(&engine("limits", 1)) else { return };
    let group = groups.create("pids", &limits(0, 8, 0.0)).unwrap();
    let many = inside(&group, "trap 'kill $all; wait' EXIT; for n in 1 2 3 4 5 6 7 8 9 10; do sleep 9 & all=\"$all $!\"; done 2>&1");
    let told = many.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&told.stdout).to_lowercase().contains("fork"), "{told:?}");
    assert_eq!(group.oom_kills(), 0);
    group.remove().unwrap();

    let group = groups.create("x", &limits(32 << 20, 0, 0.0)).unwrap();
    let big = inside(&group, "head -c 200000000 /dev/zero | tail -c 150000000 > /dev/null; echo survived $?").wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&big.stdout).contains("survived 0"), "{big:?}");
    assert!(group.oom_kills() > 0);
    assert!(group.mounts().iter().all(|(path, _)| path.join("cgroup.procs").exists()));

    let mut live = inside(&group, "exec sleep 100");
    let busy = groups.create("x", &Limits::default());
    assert!(busy.is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists));
    let paths = group.mounts();
    let _ = live.kill();
    live.wait().unwrap();
    group.remove().unwrap();
    assert!(paths.iter().all(|(path, _)| !path.exists()));
    let parents: Vec<PathBuf> = groups.parents.iter().map(|parent| parent.path.clone()).collect();
    drop(groups);
    assert!(parents.iter().all(|path| !path.exists()), "the engine's own groups are gone with it");
}

#[test]
fn processor_time_is_held() {
    let Some(groups) = real(&engine("cpu", 1)) else { return };
    if groups.version_of(Controller::Cpu).is_none() {
        eprintln!("skipped: {}", groups.holds());
        return;
    }
    let group = groups.create("x", &limits(0, 0, 0.1)).unwrap();
    let mut busy = inside(&group, "while :; do :; done");
    std::thread::sleep(Duration::from_secs(1));
    let file = |place: &str, name: &str| {
        let mounts: HashMap<_, _> = group.mounts().into_iter().map(|(path, place)| (place, path)).collect();
        fs::read_to_string(mounts.get(place)?.join(name)).ok()
    };
    let stat = file("cpu", "cpu.stat").or_else(|| file("", "cpu.stat")).unwrap();
    busy.kill().unwrap();
    busy.wait().unwrap();
    group.remove().unwrap();
    let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
    assert_ne!(throttled, "0", "{stat}");
}

#[test]
fn the_groups_of_dead_engines_are_swept_with_what_runs_in_them() {
    let (dead, alive) = (engine("sweep", 1), engine("sweep", 2));
    let (Some(of_dead), Some(of_alive)) = (real(&dead), real(&alive)) else { return };
    let left = of_dead.create("left", &Limits::default()).unwrap();
    let kept = of_alive.create("kept", &Limits::default()).unwrap();
    let mut stray = inside(&left, "sleep 100");
    let reaper = std::thread::spawn(move || stray.wait().unwrap());
    let paths: Vec<PathBuf> = left.mounts().into_iter().map(|(path, _)| path).collect();
    let here: Owner = engine("sweep", 3).parse().unwrap();
    assert_eq!(sweep(&here, |_| Process::StartedAt(2)), 1);
    assert!(!reaper.join().unwrap().success(), "it was killed");
    assert!(paths.iter().all(|path| !path.exists() && !path.parent().unwrap().exists()));
    assert!(kept.mounts().iter().all(|(path, _)| path.exists()));
    kept.remove().unwrap();
}
