//! What is inside, and what is not.

use crate::support::*;
use std::collections::BTreeSet;
use sweroll::sandbox::Provider;
use sweroll::sandbox::docker::Stream;
use sweroll::toolbox::protocol::{Command, End, Op, Run};

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_closed_but_for_the_toolbox() {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let sandbox = docker.start(&spec("closed", EMPTY)).await.unwrap();
    let toolbox = sandbox.toolbox();

    let mounts = read(toolbox, "/proc/self/mountinfo").await;
    let from_disk =
        mounts.lines().filter(|line| !["proc", "tmpfs", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "overlay"].contains(&kind(line)));
    let points: BTreeSet<&str> = from_disk.map(|line| line.split(' ').nth(4).unwrap()).collect();
    let docker_files = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
    let ours: Vec<&&str> = points.iter().filter(|point| !docker_files.contains(point)).collect();
    assert!(ours.iter().all(|point| point.starts_with("/.sweroll/")), "{mounts}");
    let read_only = |line: &str| line.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro");
    assert!(mounts.lines().filter(|line| line.contains(" /.sweroll/")).all(read_only), "{mounts}");
    let second = ["/.sweroll/toolbox", "toolbox", "--connect", "/.sweroll/io/s"].map(str::to_owned).to_vec();
    let (end, text) = output(toolbox, run(Command::Exec(second))).await;
    assert!(end == End::Exited(1) && text.contains("cannot connect"), "the engine still listens: {end:?} {text}");

    let environment = read(toolbox, "/proc/1/environ").await;
    let names: BTreeSet<&str> = environment.split('\0').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name).collect();
    assert_eq!(names, BTreeSet::from(["HOME", "HOSTNAME", "PATH"]), "{environment}");

    let groups = read(toolbox, "/proc/self/cgroup").await;
    assert!(groups.lines().all(|line| line.ends_with(":/")), "{groups}");

    let devices = read(toolbox, "/proc/net/dev").await;
    let devices: Vec<&str> = devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    assert_eq!(devices, ["lo"]);

    let status = read(toolbox, "/proc/1/status").await;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    // Bits 0, 1, 3, 4, 5, 6, 7: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID.
    for set in ["CapEff:", "CapBnd:", "CapPrm:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0b1111_1011, "{set}");
    }
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    sandbox.destroy().await.unwrap();
}

fn kind(mountinfo: &str) -> &str {
    mountinfo.split(" - ").nth(1).unwrap().split(' ').next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_suite_finds_what_it_needs() {
    if !has_debian().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let sandbox = docker.start(&debian("suite")).await.unwrap();
    let checks = [
        ("another user", "su -s /bin/sh nobody -c 'id -un'", "nobody"),
        ("another user's file", "touch /tmp/x && chown nobody /tmp/x && chmod 0 /tmp/x && echo y >> /tmp/x && cat /tmp/x", "y"),
        (
            "a low port on its own name",
            "python3 -c \"import socket as s; a=s.socket(); a.bind((s.gethostname(), 80)); a.listen(); s.create_connection(('localhost', 80)); print('up')\"",
            "up",
        ),
        (
            "no way out",
            "python3 -c \"import socket; socket.create_connection(('1.1.1.1', 53), 5)\" 2>&1 | tail -1",
            "Network is unreachable",
        ),
        ("a name of no one", "hostname", "sandbox"),
        ("no core files", "ulimit -c", "0"),
    ];
    for (what, command, wanted) in checks {
        let (end, text) = output(sandbox.toolbox(), shell(command)).await;
        assert!(end == End::Exited(0) && text.trim().contains(wanted), "{what}: {end:?} {text}");
    }
    sandbox.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_cannot_speak_for_the_toolbox() {
    if !has_debian().await {
        return;
    }
    let docker = docker(Stream::Socket).await;
    let sandbox = docker.start(&debian("stream")).await.unwrap();
    let forge = "for fd in 0 1 2 3 4 5 6 7 8 9; do echo forged > /proc/1/fd/$fd; done; kill -9 1; kill -9 -1";
    for _ in 0..2 {
        output(sandbox.toolbox(), shell(forge)).await;
    }
    assert_eq!(output(sandbox.toolbox(), shell("echo still there")).await.1, "still there\n");
    sandbox.destroy().await.unwrap();
}

/// In a container root has no right to trace other processes, so closing the toolbox closes it to everyone.
#[tokio::test(flavor = "multi_thread")]
async fn a_test_process_cannot_look_into_the_toolbox_that_takes_its_report() {
    if !has_debian().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let sandbox = docker.start(&debian("report")).await.unwrap();
    let look = "import ctypes, os\n\
        libc = ctypes.CDLL(None)\n\
        for name in ['mem', 'maps', 'environ'] + ['fd/%d' % n for n in range(64)]:\n\
        \x20   try: print('reached', open('/proc/1/' + name, 'rb').name)\n\
        \x20   except OSError: pass\n\
        if libc.ptrace(16, 1, 0, 0) == 0: print('traced', os.waitpid(1, 0x40000000), libc.ptrace(17, 1, 0, 0))\n\
        print('looked as', os.getuid())\n\
        try: os.write(3, b'said')\n\
        except OSError: pass\n";
    let what = Command::Exec(["python3", "-c", look].map(str::to_owned).to_vec());
    let Op::Run(plain) = run(what) else { unreachable!() };
    let (_, before) = output(sandbox.toolbox(), Op::Run(plain.clone())).await;
    assert!(before.contains("reached /proc/1/mem"), "{before}");
    let (end, text) = output(sandbox.toolbox(), Op::Run(Run { report_cap: 100, ..plain.clone() })).await;
    assert_eq!((end, text.as_str()), (End::Exited(0), "looked as 0\nsaid"));
    let as_nobody = plain.what.clone();
    let Command::Exec(argv) = as_nobody else { unreachable!() };
    let dropped = ["setpriv", "--reuid=65534", "--clear-groups"].into_iter().map(str::to_owned).chain(argv).collect();
    let (end, text) = output(sandbox.toolbox(), Op::Run(Run { what: Command::Exec(dropped), report_cap: 100, ..plain })).await;
    assert_eq!((end, text.as_str()), (End::Exited(0), "looked as 65534\nsaid"));
    sandbox.destroy().await.unwrap();
}
