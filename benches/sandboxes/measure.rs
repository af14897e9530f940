//! What the kernel tells of processes, control groups and the machine.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Of the processes of a Docker daemon: itself, its containerd, and what holds the containers.
#[derive(Debug)]
pub enum Daemons {
    None,
    /// In these control groups, whose files count their processor time.
    Groups(Vec<Group>),
    /// In no group of their own, or on another machine.
    Machine,
}

#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
    version: u32,
}

impl Daemons {
    pub fn none() -> Self {
        Daemons::None
    }

    /// By who listens at `DOCKER_HOST`.
    pub fn find() -> Self {
        let groups = listener().and_then(|daemon| {
            let containerd = processes().find(|process| process.name == "containerd" && process.parent == daemon);
            let containerd = containerd.or_else(|| processes().find(|process| process.name == "containerd" && process.parent == 1));
            let pids = [Some(daemon), containerd.map(|process| process.pid)];
            pids.into_iter().flatten().map(|pid| group(pid).map(|group| (group.dir.clone(), group))).collect::<Option<HashMap<_, _>>>()
        });
        match groups {
            Some(groups) => Daemons::Groups(groups.into_values().collect()),
            None => {
                eprintln!("the daemon has no control group of its own: its processor time is taken as all of the machine's");
                Daemons::Machine
            }
        }
    }

    pub fn is_any(&self) -> bool {
        !matches!(self, Daemons::None)
    }

    /// Seconds so far.
    pub fn cpu(&self) -> f64 {
        match self {
            Daemons::None => 0.0,
            Daemons::Groups(groups) => groups.iter().map(Group::cpu).sum(),
            Daemons::Machine => machine_cpu() - own_cpu(),
        }
    }

    /// Processes of theirs, with those in the containers, as far as they can be told from others'.
    fn pids(&self) -> BTreeSet<u32> {
        match self {
            Daemons::None => BTreeSet::new(),
            Daemons::Groups(groups) => {
                let all: Vec<Process> = processes().collect();
                groups.iter().flat_map(Group::pids).flat_map(|root| descendants(root, &all)).collect()
            }
            Daemons::Machine => {
                let all: Vec<Process> = processes().collect();
                let theirs = |name: &str| name == "dockerd" || name.starts_with("containerd");
                all.iter().filter(|process| theirs(&process.name)).flat_map(|process| descendants(process.pid, &all)).collect()
            }
        }
    }
}

impl Group {
    fn cpu(&self) -> f64 {
        let read = |file: &str| fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        if self.version == 1 {
            return read("cpuacct.usage").trim().parse::<f64>().unwrap_or(0.0) / 1e9;
        }
        let text = read("cpu.stat");
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<f64>().ok());
        usage.unwrap_or(0.0) / 1e6
    }

    fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

/// The control group that counts a process's time, unless it is that of all.
fn group(pid: u32) -> Option<Group> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let version = if controllers.split(',').any(|name| name == "cpuacct") { 1 } else { 2 };
        (version == 1 || controllers.is_empty()).then(|| (version, controllers.to_owned(), path.to_owned()))
    });
    let (version, controllers, path) = found?;
    let at = if version == 1 { Path::new("/sys/fs/cgroup").join(controllers) } else { PathBuf::from("/sys/fs/cgroup") };
    let dir = at.join(path.trim_start_matches('/'));
    (path != "/" && dir.is_dir()).then_some(Group { dir, version })
}

fn listener() -> Option<u32> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    let stream = UnixStream::connect(host.strip_prefix("unix://")?).ok()?;
    u32::try_from(rustix::net::sockopt::socket_peercred(&stream).ok()?.pid.as_raw_pid()).ok()
}

struct Process {
    pid: u32,
    parent: u32,
    name: String,
    /// Seconds of processor time, its own and that of the children that it has reaped.
    cpu: f64,
}

fn processes() -> impl Iterator<Item = Process> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(process)
}

fn process(pid: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = (text.split_once('(')?.1.rsplit_once(')')?.0, text.rsplit_once(')')?.1);
    let fields: Vec<u64> = rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let cpu = fields.get(10..14)?.iter().sum::<u64>() as f64 / ticks;
    Some(Process { pid, parent: u32::try_from(fields[0]).ok()?, name: name.to_owned(), cpu })
}

fn descendants(root: u32, all: &[Process]) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([root]);
    loop {
        let more: Vec<u32> = all.iter().filter(|p| found.contains(&p.parent) && !found.contains(&p.pid)).map(|p| p.pid).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Seconds that this process, its living children and all that these have reaped have taken.
pub fn own_cpu() -> f64 {
    let me = std::process::id();
    processes().filter(|process| process.pid == me || process.parent == me).map(|process| process.cpu).sum()
}

fn machine_cpu() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1).map(|field| field.parse::<u64>().unwrap_or(0));
    let busy: u64 = fields.take(8).enumerate().filter(|(which, _)| ![3, 4].contains(which)).map(|(_, ticks)| ticks).sum();
    busy as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// KB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Proportional set size of the engine, its descendants and the daemons'.
    pss: u64,
    /// What the kernel holds for itself and cannot give back: objects, stacks, page tables, counters of each processor.
    kernel: u64,
    available: u64,
}

impl Memory {
    pub fn now(daemons: &Daemons) -> Self {
        let all: Vec<Process> = processes().collect();
        let pids: BTreeSet<u32> = descendants(std::process::id(), &all).into_iter().chain(daemons.pids()).collect();
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let of = |names: &[&str]| text.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).filter_map(number).sum();
        Memory {
            pss: pids.into_iter().map(pss).sum(),
            kernel: of(&["SUnreclaim:", "KernelStack:", "PageTables:", "Percpu:"]),
            available: of(&["MemAvailable:"]),
        }
    }

    /// KB for each of `count`, as in [`Memory`]; of what is available, how much less.
    pub fn since(&self, before: &Memory, count: usize) -> [f64; 3] {
        let each = |now: u64, then: u64| (now as f64 - then as f64) / count as f64;
        [each(self.pss, before.pss), each(self.kernel, before.kernel), each(before.available, self.available)]
    }
}

fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines().find(|line| line.starts_with("Pss:")).and_then(number).unwrap_or(0)
}

fn number(line: &str) -> Option<u64> {
    line.split_whitespace().nth(1)?.parse().ok()
}

pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

pub fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

pub fn machine() -> serde_json::Value {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, name)| name);
    serde_json::json!({
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "model": model,
        "memory_kb": meminfo.lines().next().and_then(number),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "load": load(),
    })
}
