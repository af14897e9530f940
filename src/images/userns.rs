//! A user other than root gets a namespace in which it is root, over its own number and those that /etc/subuid gives it.

use crate::linux::{self, CLONE_NEWNS, CLONE_NEWUSER, Cloned};
use rustix::process::{WaitIdOptions, getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

const MEND: &str = "run as root, or let the kernel give this user namespaces: sysctl user.max_user_namespaces above 0, and where they exist \
    kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0";

/// Makes this process root of a user namespace and of a mount namespace of its own, unless it is root already. Only for a process
/// of one thread. Its other numbers are those of /etc/subuid and /etc/subgid, given by `newuidmap` and `newgidmap` (package
/// uidmap); without them it has one only, so that all files have one owner.
///
/// # Errors
/// Where the kernel does not allow it, with the mend.
pub fn enter() -> io::Result<()> {
    if geteuid().is_root() && capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::CHOWN) {
        return Ok(());
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let name = user_name(uid);
    let ranges = [("/etc/subuid", "newuidmap", uid), ("/etc/subgid", "newgidmap", gid)]
        .map(|(file, program, own)| Range::find(Path::new(file), &name, uid).map(|range| (program, own, range)));
    let refused = |error: io::Error| io::Error::new(error.kind(), format!("no user namespace for user {uid}: {error}; {MEND}"));
    match ranges {
        [Some(users), Some(groups)] if installed(users.0) && installed(groups.0) => mapped_from_outside(&[users, groups]).map_err(refused),
        _ => {
            linux::unshare(CLONE_NEWUSER | CLONE_NEWNS).map_err(refused)?;
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
            fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
        }
    }
}

/// Who is outside may give more numbers than one: a child that stays there runs the two programs for us.
fn mapped_from_outside(maps: &[(&str, u32, Range)]) -> io::Result<()> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let pid = std::process::id().to_string();
    match linux::clone(0)? {
        Cloned::Child => {
            drop(ours);
            let mapped = (&theirs).read_exact(&mut [0]).and_then(|()| maps.iter().try_for_each(|map| give(&pid, map)));
            let said = mapped.err().map(|error| error.to_string()).unwrap_or_default();
            let _ = (&theirs).write_all(said.as_bytes());
            std::process::exit(0)
        }
        Cloned::Parent { pidfd, .. } => {
            drop(theirs);
            linux::unshare(CLONE_NEWUSER | CLONE_NEWNS)?;
            (&ours).write_all(b"m")?;
            let mut said = String::new();
            (&ours).take(4096).read_to_string(&mut said)?;
            let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            if said.is_empty() { Ok(()) } else { Err(io::Error::other(said)) }
        }
    }
}

fn give(pid: &str, (program, own, range): &(&str, u32, Range)) -> io::Result<()> {
    let numbers = [0, *own, 1, 1, range.first, range.count].map(|number| number.to_string());
    let done = Command::new(program).arg(pid).args(&numbers).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(()) } else { Err(io::Error::other(format!("{program}: {}", said.trim()))) }
}

fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
        || ["/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(program).is_file())
}

fn user_name(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields
        .filter(|fields| fields.get(2).and_then(|n| n.parse().ok()) == Some(uid))
        .map(|fields| fields[0].to_owned())
        .next()
        .unwrap_or_default()
}

/// Numbers of the host that a user may give away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

impl Range {
    fn find(file: &Path, name: &str, uid: u32) -> Option<Self> {
        Self::of(&fs::read_to_string(file).ok()?, name, uid)
    }

    /// The largest of the lines `NAME-OR-NUMBER:FIRST:COUNT` for this user.
    fn of(text: &str, name: &str, uid: u32) -> Option<Self> {
        let lines = text.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let who = fields.next()?;
            let ours = (!name.is_empty() && who == name) || who.parse() == Ok(uid);
            let range = Range { first: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? };
            (ours && range.count > 0).then_some(range)
        });
        lines.max_by_key(|range| range.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_range_of_the_user_is_taken() {
        let text = "ada:100000:65536\n1000:300000:10\nbob:200000:65536\nada:400000:131072\nada:broken\n";
        assert_eq!(Range::of(text, "ada", 1000), Some(Range { first: 400_000, count: 131_072 }));
        assert_eq!(Range::of(text, "", 1000), Some(Range { first: 300_000, count: 10 }));
        assert_eq!(Range::of(text, "eve", 7), None);
    }
}
