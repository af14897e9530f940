//! What a sandbox wrote, kept for others to start upon.

use crate::backend::Backend;
use crate::host;
use crate::support::{output, said, shell};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::sync::Arc;
use sweroll::domain::Instance;
use sweroll::grading::Runners;
use sweroll::sandbox::native::{self, Upper};
use sweroll::sandbox::{Provider, Spec, bases::Bases, prepare};
use sweroll::toolbox::protocol::End;

pub async fn files_are_built_upon(backend: &Backend) {
    for upper in [Upper::Disk, Upper::Memory] {
        let native = backend.with_settings(native::Settings { upper, ..native::Settings::default() }).await;
        let first = native.start(&Spec { keep: true, ..backend.spec() }).await.unwrap();
        said(first.toolbox(), "echo kept > /root/kept && rm /etc/hostname /etc/debian_version && rm -r /etc/apt && mkdir /etc/apt").await;
        assert!(first.is_at_rest().await, "{upper:?}");
        let upon = Some(first.keep().await.unwrap());

        let spec = Spec { upon, ..backend.spec() };
        let (one, other) = (native.start(&spec).await.unwrap(), native.start(&spec).await.unwrap());
        drop(spec);
        for sandbox in [&one, &other] {
            let (_, seen) =
                output(sandbox.toolbox(), shell("cat /root/kept; ls /etc/debian_version /etc/apt; echo more >> /root/kept")).await;
            assert!(seen.starts_with("kept\n") && seen.contains("cannot access '/etc/debian_version'"), "{upper:?}: {seen}");
            assert!(seen.trim().ends_with("/etc/apt:"), "{upper:?}: {seen}");
        }
        assert_eq!(said(one.toolbox(), "cat /root/kept").await, "kept\nmore\n", "{upper:?}: neighbours share no write");
        one.destroy().await.unwrap();
        other.destroy().await.unwrap();
    }
}

pub async fn what_is_not_in_files_is_not_kept(backend: &Backend) {
    for left in ["echo x > /tmp/.hidden", "echo x > /dev/shm/x", "ln -s nowhere /tmp/link", "setsid sleep 600 > /dev/null 2>&1 &"] {
        let sandbox = backend.start(&Spec { keep: true, ..backend.spec() }).await;
        said(sandbox.toolbox(), left).await;
        assert!(!sandbox.is_at_rest().await, "{left}");
        sandbox.destroy().await.unwrap();
    }
    let sandbox = backend.sandbox().await;
    assert!(!sandbox.is_at_rest().await, "it was not started to be kept");
    assert!(sandbox.keep().await.is_err());
}

/// Preparing takes longer than a start on a busy machine does.
pub async fn samples_start_where_the_first_was_prepared(backend: &Backend) {
    let instance = Instance { pre_commands: "sleep 5; date +%s%N > /root/when".to_owned(), ..instance(backend) };
    let bases = Bases::new(Arc::clone(&backend.provider), prepare::Settings::default(), Arc::new(Runners::default()));
    let spec = backend.spec();
    assert!(bases.kept(&instance).await.is_none());
    let (one, other) = tokio::join!(bases.start(&spec, &instance), bases.start(&spec, &instance));
    let ((one, base), (other, _)) = (one.unwrap(), other.unwrap());
    let when = said(one.toolbox(), "cat /root/when").await;
    assert_eq!(said(other.toolbox(), "cat /root/when").await, when);
    assert!(!base.base_tree.is_empty());
    let grading = backend.start(&Spec { upon: bases.kept(&instance).await, ..backend.spec() }).await;
    assert_eq!(said(grading.toolbox(), "cat /root/when").await, when);

    let launcher = host::launchers(backend.dir()).pop().unwrap();
    kill_process(Pid::from_raw(launcher).unwrap(), Signal::KILL).unwrap();
    one.toolbox().closed().await;
    let (after, _) = bases.start(&spec, &instance).await.unwrap();
    assert_ne!(said(after.toolbox(), "cat /root/when").await, when, "what went with its launcher is made again");
    after.destroy().await.unwrap();
    drop((one, other, grading));
    backend.provider.sweep("test-of-no-one").await.unwrap();
}

pub async fn what_cannot_be_kept_is_done_each_time(backend: &Backend) {
    let pre_commands = "sleep 1; date +%s%N > /root/when; setsid sleep 600 > /dev/null 2>&1 &".to_owned();
    let instance = Instance { pre_commands, ..instance(backend) };
    let bases = Bases::new(Arc::clone(&backend.provider), prepare::Settings::default(), Arc::new(Runners::default()));
    for _ in 0..2 {
        let (sandbox, _) = bases.start(&backend.spec(), &instance).await.unwrap();
        assert!(bases.kept(&instance).await.is_none());
        let (end, _) = output(sandbox.toolbox(), shell("pgrep -x sleep || ls /proc/*/exe")).await;
        assert_eq!(end, End::Exited(0));
        sandbox.destroy().await.unwrap();
    }
    let refused = Instance { pre_commands: "sleep 1; exit 3".to_owned(), ..instance };
    assert!(bases.start(&backend.spec(), &refused).await.is_err());
    assert!(bases.kept(&refused).await.is_none());
}

fn instance(backend: &Backend) -> Instance {
    let row = json!({
        "instance_id": "made__one-1", "repo": "made/one", "language": "shell", "image": backend.spec().image,
        "workdir": backend.spec().workdir, "problem_statement": "", "base_commit": "", "fix_commit": "", "patch": "", "test_patch": "",
        "test_script": "", "fail_to_pass": [], "pass_to_pass": [], "pre_commands": "", "test_cmd": "", "log_parser": "", "url": "",
    });
    serde_json::from_value(row).unwrap()
}
