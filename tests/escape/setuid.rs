//! What a planted setuid file is on the host. What it gives inside is in the table of the same name.

use crate::support::*;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use sweroll::toolbox::protocol::End;

/// The root directory of the sandbox that has a process with this in its command line, seen from the host by its root.
fn root_of(mark: &str) -> Option<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let has_mark = |path: &PathBuf| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        line.starts_with(b"sleep\0") && String::from_utf8_lossy(&line).contains(mark)
    };
    processes.filter(has_mark).map(|path| path.join("root")).find(|root| root.join("var/tmp/planted").exists())
}

/// Whether a user who is neither owner nor of the group gets through all directories of the path.
fn is_open_to_others(path: &Path) -> bool {
    path.ancestors().all(|dir| std::fs::metadata(dir).is_ok_and(|found| found.mode() & 0o001 != 0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_setuid_file_is_nothing_on_the_host() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root sees a sandbox's files from the host");
        return;
    }
    for place in places().await {
        let sandbox = place.start("setuid").await;
        let mark = format!("6{}", std::process::id());
        let plant = format!("cp /usr/bin/id /var/tmp/planted && chmod 6755 /var/tmp/planted && (sleep {mark} >/dev/null 2>&1 &)");
        assert_eq!(output(sandbox.toolbox(), shell(&plant)).await, (End::Exited(0), String::new()));
        let mut root = root_of(&mark);
        for _ in 0..100 {
            if root.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                root = root_of(&mark);
            }
        }
        let root = root.expect("the sandbox is on this host");
        let planted = std::fs::metadata(root.join("var/tmp/planted")).unwrap();
        assert_eq!(planted.mode() & 0o7777, 0o6755);
        match place.backend {
            // Its owner is the host's root: nobody else may come to it.
            Backend::Docker => {
                let directory = client().info().await.unwrap().docker_root_dir.unwrap();
                assert!(!is_open_to_others(Path::new(&directory)), "{directory} is open to all users");
            }
            Backend::Native => {
                let users = std::fs::read_to_string("/etc/passwd").unwrap();
                let of_host = |uid: u32| users.lines().any(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()));
                let first = sweroll::images::Settings::default().first_id;
                assert!((first..first + (1 << 16)).contains(&planted.uid()) && !of_host(planted.uid()), "its owner is {}", planted.uid());
                assert!((first..first + (1 << 16)).contains(&planted.gid()), "its group is {}", planted.gid());
            }
        }
        if let Some(scratch) = &place.scratch {
            for entry in std::fs::read_dir(scratch.path()).unwrap().flatten() {
                assert!(!is_open_to_others(&entry.path()), "{} is open to all users", entry.path().display());
            }
        }
        sandbox.destroy().await.unwrap();
    }
}
