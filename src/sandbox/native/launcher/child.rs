//! From a copy of the launcher to a sandbox's first process.

use super::etc;
use super::root;
use super::upper::Uppers;
use super::user::{self, User};
use super::wire::{Setup, Start};
use super::{GO, MAP_ME};
use crate::images::Ids;
use crate::linux::{self, CLONE_NEWCGROUP, CLONE_NEWUSER};
use crate::sandbox::native::cgroup::{Group, Groups};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{Rlimit, Signal, set_parent_process_death_signal, setrlimit, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the toolbox is inside, as in containers.
const TOOLBOX: &str = "/.sweroll/toolbox";
const OOM_SCORE: &str = "500";
const HOSTNAME: &str = "sandbox";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What root keeps in a sandbox; the same as in containers, for the reasons told there.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

pub struct Child<'a> {
    pub setup: &'a Setup,
    pub ids: Ids,
    pub uppers: &'a Uppers,
    pub start: &'a Start,
    pub groups: &'a Groups,
    pub group: &'a Group,
    pub talk: &'a OwnedFd,
}

impl Child<'_> {
    /// Returns only where it failed.
    pub fn become_sandbox(&self, stream: OwnedFd, filter: &seccompiler::BpfProgram) -> io::Error {
        let Err(error) = self.try_become(stream, filter);
        error
    }

    /// The order matters: what needs the launcher's rights comes first, and each step gives up more of them.
    fn try_become(&self, stream: OwnedFd, filter: &seccompiler::BpfProgram) -> io::Result<Infallible> {
        // Memory is counted from here on.
        self.group.join().map_err(doing("its control group"))?;
        self.network().map_err(doing("its network"))?;
        root::build(self).map_err(doing("its file system"))?;
        rustix::system::sethostname(HOSTNAME.as_bytes())?;
        let user = user::resolve(&self.start.user, &etc::read("/etc/passwd"), &etc::read("/etc/group")).map_err(io::Error::other)?;
        linux::new_session_keyring()?;
        // A host without memory takes sandboxes before the engine.
        fs::write("/proc/self/oom_score_adj", OOM_SCORE)?;
        linux::unshare(CLONE_NEWCGROUP).map_err(doing("a cgroup namespace"))?;
        linux::unshare(CLONE_NEWUSER).map_err(doing("a user namespace"))?;
        send(self.talk, MAP_ME, SendFlags::NOSIGNAL)?;
        self.hear_go()?;
        self.limits().map_err(doing("its limits"))?;
        self.become_user(&user).map_err(doing("its user"))?;
        // Not before: a change of user takes it back. Should the launcher have died since, the stream's end tells the toolbox.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        set_no_new_privs(true)?;
        let mut toolbox = self.toolbox(&user, stream)?;
        seccompiler::apply_filter(filter).map_err(|error| io::Error::other(format!("its seccomp filter: {error}")))?;
        Err(toolbox.exec())
    }

    fn hear_go(&self) -> io::Result<()> {
        let mut said = [0; 16];
        let (bytes, _) = recv(self.talk, &mut said, RecvFlags::empty())?;
        if &said[..bytes] == GO { Ok(()) } else { Err(io::Error::other("the launcher went away")) }
    }

    /// Loopback only, where every port and ping are open to all, as in a container.
    fn network(&self) -> io::Result<()> {
        linux::loopback_up()?;
        // Missing on old kernels, and no reason to fail.
        let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
        let last = self.ids.first.saturating_add(self.ids.count - 1);
        let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", format!("{} {last}", self.ids.first));
        Ok(())
    }

    fn limits(&self) -> io::Result<()> {
        let both = |value| Rlimit { current: Some(value), maximum: Some(value) };
        for (resource, value) in self.groups.rlimits(&self.start.limits, self.setup.nofile) {
            setrlimit(resource, both(value))?;
        }
        Ok(())
    }

    fn become_user(&self, user: &User) -> io::Result<()> {
        for bit in 0..CapabilitySet::all().bits().count_ones() {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            if !CAPABILITIES.contains(capability) {
                // The kernel may know fewer.
                let _ = remove_capability_from_bounding_set(capability);
            }
        }
        let groups: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        // Where there is one user only there is one group only, and no list of them.
        if self.ids.count > 1 {
            set_thread_groups(&groups)?;
        }
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        if user.uid == 0 {
            set_capabilities(
                None,
                CapabilitySets { effective: CAPABILITIES, permitted: CAPABILITIES, inheritable: CapabilitySet::empty() },
            )?;
        }
        umask(rustix::fs::Mode::from_raw_mode(0o022));
        Ok(())
    }

    fn toolbox(&self, user: &User, stream: OwnedFd) -> io::Result<Command> {
        let mut command = Command::new(TOOLBOX);
        command.arg("toolbox").env_clear();
        command.envs([("PATH", DEFAULT_PATH), ("HOSTNAME", HOSTNAME), ("HOME", &user.home)]);
        command.envs(self.start.env.iter().map(|(name, value)| (name, value)));
        let workdir = Some(Path::new(&self.start.workdir)).filter(|workdir| workdir.is_dir());
        command.current_dir(workdir.unwrap_or(Path::new("/")));
        command.stdin(Stdio::from(stream.try_clone()?)).stdout(Stdio::from(stream)).stderr(Stdio::null());
        Ok(command)
    }
}

fn doing(what: &str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}
