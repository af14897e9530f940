//! Leak scrub: takes from the repository every object that the base commit does not reach, and verifies that it did.

use super::{Sandbox, prepare};
use crate::domain::{Failure, Instance, Kind};
use crate::toolbox::protocol::End;

/// The work itself, POSIX shell and git.
const SCRIPT: &str = include_str!("scrub/scrub.sh");

/// Removes from the repository at `workdir` what leads beyond HEAD: refs (tags of the past stay), remotes, reflogs, stashes,
/// replacements, pseudo refs, other worktrees' records, alternates, unreachable objects, and files lying in `.git` that are
/// no part of a plain repository. Work tree, index, HEAD and its history stay. Nothing outside the git directory is changed.
/// Then lists what is there: every object must be reachable from HEAD, the tags kept or the index, and the fix absent.
///
/// # Errors
/// `Leak` where the verification fails or the scrub cannot be done; `NoSpace`, `SandboxLost`.
pub async fn scrub(sandbox: &dyn Sandbox, instance: &Instance, timeout_s: u64) -> Result<(), Failure> {
    let done = prepare::script(sandbox, sandbox.workdir(), timeout_s, text(&instance.fix_commit).as_bytes()).await?;
    let how = match done.end {
        End::Exited(0) => return Ok(()),
        End::TimedOut => format!("the scrub passed its deadline of {timeout_s} s (scrub_timeout_s)"),
        End::Exited(code) => format!("the scrub ended with {code}"),
        End::Signaled(signal) => format!("the scrub was killed by signal {signal}"),
    };
    let kind = if done.ran_out_of_space() { Kind::NoSpace } else { Kind::Leak };
    Err(Failure::new(kind, format!("the future of {} may be reachable: {how}: {}", sandbox.workdir(), done.tail(2000).trim())))
}

fn text(fix_commit: &str) -> String {
    let is_hash = fix_commit.len() >= 40 && fix_commit.bytes().all(|b| b.is_ascii_hexdigit());
    format!("fix={}\n{SCRIPT}", if is_hash { fix_commit } else { "" })
}

#[cfg(test)]
mod tests;
