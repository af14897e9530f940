//! What the daemon is asked to create for one sandbox. Pure.

use crate::sandbox::{Limits, Purpose, Spec};
use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountType, ResourcesUlimits,
};
use std::collections::HashMap;
use std::path::Path;

/// Labels of every container: its run, its episode (`instance@sample`), attempt, purpose, and the engine process it belongs to.
pub const RUN: &str = "sweroll.run";
pub const EPISODE: &str = "sweroll.episode";
pub const ATTEMPT: &str = "sweroll.attempt";
pub const PURPOSE: &str = "sweroll.purpose";
pub const ENGINE: &str = "sweroll.engine";

/// Where the engine's binary is inside a container, and the directory that holds its socket.
pub const TOOLBOX: &str = "/.sweroll/toolbox";
const IO: &str = "/.sweroll/io";
/// Name of the socket in its directory, on both sides.
pub const SOCKET: &str = "s";
/// The same in every sandbox, and it resolves: a container's own id would differ in every trajectory.
const HOSTNAME: &str = "sandbox";

/// What test suites run by root need: files of any owner, dropping to another user, and ending its processes.
/// Ports below 1024 and ping are open to all in a container's own network namespace since Docker 20.10; chroot, mknod,
/// raw sockets, file capabilities and the audit log are not for tests.
const CAPABILITIES: [&str; 7] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"];

/// How the toolbox's stream leaves the container.
#[derive(Debug, Clone, Copy)]
pub enum Channel<'a> {
    /// A socket in the directory `io` and the binary `toolbox`, both of this host, mounted read-only.
    Socket { io: &'a Path, toolbox: &'a Path },
    /// Standard input and output; the binary is uploaded before the start.
    Attach,
}

/// The create request of one sandbox. The working directory is left alone: the daemon would create a missing one.
#[must_use]
pub fn request(spec: &Spec, image: &str, owner: &str, nofile: u64, channel: Channel<'_>) -> ContainerCreateBody {
    let (arguments, attached) = match channel {
        Channel::Socket { .. } => (vec!["toolbox".to_owned(), "--connect".to_owned(), format!("{IO}/{SOCKET}")], false),
        Channel::Attach => (vec!["toolbox".to_owned()], true),
    };
    ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec![TOOLBOX.to_owned()]),
        cmd: Some(arguments),
        hostname: Some(HOSTNAME.to_owned()),
        labels: Some(labels(spec, owner)),
        tty: Some(false),
        open_stdin: Some(attached),
        stdin_once: Some(attached),
        attach_stdin: Some(attached),
        attach_stdout: Some(attached),
        attach_stderr: Some(false),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(host_config(&spec.limits, nofile, channel)),
        ..ContainerCreateBody::default()
    }
}

fn labels(spec: &Spec, owner: &str) -> HashMap<String, String> {
    let purpose = match spec.purpose {
        Purpose::Agent => "agent",
        Purpose::Grade => "grade",
    };
    let pairs = [
        (RUN, spec.run.clone()),
        (EPISODE, spec.attempt.episode.to_string()),
        (ATTEMPT, spec.attempt.attempt.to_string()),
        (PURPOSE, purpose.to_owned()),
        (ENGINE, owner.to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn host_config(limits: &Limits, nofile: u64, channel: Channel<'_>) -> HostConfig {
    let memory = i64::try_from(limits.memory).unwrap_or(i64::MAX);
    let mounts = match channel {
        Channel::Socket { io, toolbox } => vec![mount(io, IO), mount(toolbox, TOOLBOX)],
        Channel::Attach => Vec::new(),
    };
    HostConfig {
        auto_remove: Some(true),
        init: Some(false),
        mounts: Some(mounts),
        network_mode: Some(if limits.network { "bridge" } else { "none" }.to_owned()),
        extra_hosts: Some(vec![format!("{HOSTNAME}:127.0.0.1")]),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        memory: Some(memory),
        memory_swap: Some(memory),
        nano_cpus: Some(nano_cpus(limits.cpus)),
        pids_limit: Some(i64::from(limits.pids)),
        shm_size: Some(i64::try_from(limits.shm).unwrap_or(i64::MAX)),
        // Not 0: where the host pipes core dumps to a program of its own, only a limit of 1 keeps it from being run.
        ulimits: Some(vec![ulimit("nofile", nofile), ulimit("core", 1)]),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        ..HostConfig::default()
    }
}

/// A bind whose source must exist: the short `binds` form would have the daemon create a directory in its place.
fn mount(source: &Path, target: &str) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        ..Mount::default()
    }
}

fn ulimit(name: &str, value: u64) -> ResourcesUlimits {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    ResourcesUlimits { name: Some(name.to_owned()), soft: Some(value), hard: Some(value) }
}

#[allow(clippy::cast_possible_truncation)]
fn nano_cpus(cpus: f64) -> i64 {
    (cpus * 1e9).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            run: "night".into(),
            attempt: "a__b-1@2.3".parse().unwrap(),
            purpose: Purpose::Grade,
            image: "x:1".into(),
            workdir: "/nowhere".into(),
            limits: Limits::default(),
            keep: false,
            upon: None,
        }
    }

    #[test]
    fn a_socket_container_is_closed_but_for_the_toolbox() {
        let channel = Channel::Socket { io: Path::new("/p/1"), toolbox: Path::new("/p/toolbox") };
        let body = request(&spec(), "sha256:1", "me", 1024, channel);
        assert_eq!(body.working_dir, None);
        assert_eq!(body.entrypoint.unwrap(), [TOOLBOX]);
        assert_eq!(body.cmd.unwrap(), ["toolbox", "--connect", "/.sweroll/io/s"]);
        let labels = body.labels.unwrap();
        let label = |key| labels[key].as_str();
        assert_eq!([label(RUN), label(EPISODE), label(ATTEMPT), label(PURPOSE), label(ENGINE)], ["night", "a__b-1@2", "3", "grade", "me"]);

        let host = body.host_config.unwrap();
        assert!(host.mounts.unwrap().iter().all(|mount| mount.read_only == Some(true)));
        assert_eq!((host.network_mode.as_deref(), host.memory, host.memory_swap), (Some("none"), Some(4 << 30), Some(4 << 30)));
        assert_eq!((host.nano_cpus, host.pids_limit, host.auto_remove), (Some(2_000_000_000), Some(1024), Some(true)));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
    }

    #[test]
    fn an_attached_container_mounts_nothing() {
        let mut spec = spec();
        spec.limits.network = true;
        let body = request(&spec, "sha256:1", "me", 1024, Channel::Attach);
        assert_eq!((body.tty, body.open_stdin, body.stdin_once), (Some(false), Some(true), Some(true)));
        let host = body.host_config.unwrap();
        assert_eq!((host.mounts.unwrap().len(), host.network_mode.as_deref()), (0, Some("bridge")));
    }
}
