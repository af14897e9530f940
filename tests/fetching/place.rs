//! A run with a registry, a backend and a directory of its own.

use crate::common::{Endpoint, docker, expect, stderr, stdout, sweroll};
use crate::made;
use crate::registry::Registry;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Docker,
    Native,
}

pub struct Place {
    pub backend: Backend,
    pub registry: Registry,
    names: Vec<String>,
    endpoint: Endpoint,
    instances: PathBuf,
    temp: TempDir,
}

impl Place {
    /// With an instance for each of `names`, and for each that does not begin with `no-` an image with `bytes` of its own. None, with
    /// a word, where the backend or the registry cannot be had.
    pub fn new(backend: Backend, names: &[&str], bytes: usize) -> Option<Place> {
        if backend == Backend::Docker && !docker() {
            return None;
        }
        if backend == Backend::Native && !rustix::process::geteuid().is_root() {
            eprintln!("skipped: this takes root");
            return None;
        }
        let mut registry = Registry::start()?;
        let there: Vec<&str> = names.iter().copied().filter(|name| !name.starts_with("no-")).collect();
        registry.add(&there, bytes);
        let temp = tempfile::tempdir().unwrap();
        let instances = temp.path().join("instances.jsonl");
        let rows = names.iter().map(|name| format!("{}\n", made::instance(name, &registry.name(name))));
        fs::write(&instances, rows.collect::<String>()).unwrap();
        let endpoint = Endpoint::start(&instances, "gold", &[]);
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Some(Place { backend, registry, names, endpoint, instances, temp })
    }

    pub fn out(&self) -> PathBuf {
        self.temp.path().join("run")
    }

    pub fn store(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    pub fn command(&self, samples: u32, settings: &[&str]) -> Command {
        let mut command = sweroll();
        command.arg("run").arg("--instances").arg(&self.instances).arg("--out").arg(self.out());
        command.args(["--endpoint", &self.endpoint.url, "--model", "any", "--quiet", "--samples", &samples.to_string()]);
        command.arg("--events").arg(self.temp.path().join("events"));
        command.args(["--sandbox", if self.backend == Backend::Docker { "docker" } else { "native" }]);
        let store = format!("images.dir='{}'", self.store().display());
        let quick = ["seal.at_end=false", &store, "sandbox.docker.pull.backoff_s=0", "images.pull.backoff_s=0"];
        // Whatever this machine's disk has free.
        let roomy = ["scheduler.images.disk_high=0", "scheduler.images.disk_low=0", "scheduler.images.expected_bytes=1_000_000"];
        for setting in quick.iter().chain(&roomy).chain(settings) {
            command.args(["--set", setting]);
        }
        command
    }

    /// Runs to the end, expects this exit code, and gives what it said on stderr.
    #[track_caller]
    pub fn run(&self, code: i32, samples: u32, settings: &[&str]) -> String {
        let output = self.command(samples, settings).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}\n{}\n{}", stdout(&output), stderr(&output), self.log());
        stderr(&output)
    }

    /// Which images the backend has.
    pub fn there(&self) -> Vec<String> {
        let all = match self.backend {
            Backend::Docker => Command::new("docker").args(["images", "--format", "{{.Repository}}:{{.Tag}}"]).output().unwrap(),
            Backend::Native => expect(sweroll().args(["images", "list", "--format", "json", "--store"]).arg(self.store()), 0),
        };
        let all = stdout(&all);
        self.names.iter().filter(|name| all.contains(&self.registry.name(name))).cloned().collect()
    }

    /// As a user does it.
    pub fn pull(&self, name: &str) {
        let output = Command::new("docker").args(["pull", "-q", &self.registry.name(name)]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }

    /// The store is on a disk of so many MiB, until what is returned is dropped.
    pub fn small_disk(&self, mib: usize) -> Mounted {
        let store = self.store();
        fs::create_dir(&store).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(&store).status().unwrap();
        assert!(done.success());
        Mounted(store)
    }

    /// The run's events of this kind, in their order.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.temp.path().join("events")).unwrap();
        let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|event| event["event"] == kind).collect()
    }

    pub fn log(&self) -> String {
        let logs = fs::read_dir(self.out().join("logs")).into_iter().flatten().flatten();
        logs.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.backend == Backend::Docker {
            for name in self.there() {
                let _ = Command::new("docker").args(["rmi", &self.registry.name(&name)]).output();
            }
        }
    }
}

pub struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn unmount(at: &Path) {
    let _ = Command::new("umount").arg("-l").arg(at).status();
}
