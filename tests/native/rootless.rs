//! Native sandboxes of a user other than root.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// One that this host has not, with no numbers of its own to give away.
const USER: u32 = 54321;

#[test]
fn the_demo_runs_natively_for_a_user_without_rights() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    chown(home.path(), Some(USER), Some(USER)).unwrap();
    // What cargo built may lie where that user may not go.
    let program = home.path().join("sweroll");
    std::fs::copy(env!("CARGO_BIN_EXE_sweroll"), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut demo = Command::new(&program);
    demo.args(["demo", "--out"]).arg(home.path().join("run")).uid(USER).gid(USER).current_dir(home.path());
    demo.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home.path()).env("TMPDIR", home.path());
    let done = demo.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}{err}");
    assert!(!err.contains("plain processes"), "{err}");
    assert!(out.contains("resolved                4"), "{out}");
}
