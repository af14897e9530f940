//! What is inside, and what is not.

use crate::backend::{Backend, On};
use crate::support::*;
use std::collections::BTreeSet;
use sweroll::sandbox::Limits;
use sweroll::toolbox::protocol::{Command, End, Op, Run};

pub async fn it_is_closed_but_for_the_toolbox(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let toolbox = sandbox.toolbox();

    let mounts = read(toolbox, "/proc/self/mountinfo").await;
    let kinds = ["proc", "tmpfs", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "overlay"];
    let from_disk = mounts.lines().filter(|line| !kinds.contains(&kind(line)));
    let points: BTreeSet<&str> = from_disk.filter(|line| kind(line) != "devtmpfs").map(point).collect();
    let docker_files = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
    assert!(points.iter().all(|point| docker_files.contains(point) || point.starts_with("/.sweroll/")), "{mounts}");
    let read_only = |line: &str| line.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro");
    assert!(mounts.lines().filter(|line| line.contains(" /.sweroll/")).all(read_only), "{mounts}");
    if backend.on == On::Docker {
        let (end, text) = output(toolbox, exec(&["/.sweroll/toolbox", "toolbox", "--connect", "/.sweroll/io/s"])).await;
        assert!(end == End::Exited(1) && text.contains("cannot connect"), "the engine still listens: {end:?} {text}");
    }

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

fn point(mountinfo: &str) -> &str {
    mountinfo.split(' ').nth(4).unwrap()
}

/// Each command must succeed and say what is wanted.
async fn find(backend: &Backend, checks: &[(&str, &str, &str)]) {
    let sandbox = backend.sandbox().await;
    let mut differ = Vec::new();
    for (what, command, wanted) in checks {
        let (end, text) = output(sandbox.toolbox(), shell(command)).await;
        if end != End::Exited(0) || text.trim() != *wanted {
            differ.push(format!("{what}: {end:?} {:?}, not {wanted:?}", text.trim()));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    sandbox.destroy().await.unwrap();
}

pub async fn a_test_suite_finds_what_it_needs(backend: &Backend) {
    let listen = "import socket as s; a=s.socket(); a.bind((s.gethostname(), 80)); a.listen()";
    let talk = format!("python3 -c \"{listen}; s.create_connection(('localhost', 80)); print('up')\"");
    let checks = [
        ("another user", "su -s /bin/sh nobody -c 'id -un'", "nobody"),
        ("another user's file", "touch /tmp/x && chown nobody /tmp/x && chmod 0 /tmp/x && echo y >> /tmp/x && cat /tmp/x", "y"),
        ("a low port on its own name", &talk, "up"),
        (
            "no way out",
            "python3 -c \"import socket; socket.create_connection(('1.1.1.1', 53), 5)\" 2>&1 | tail -1",
            "OSError: [Errno 101] Network is unreachable",
        ),
        ("a name of no one", "hostname; cat /etc/hostname; cat /proc/sys/kernel/hostname", "sandbox\nsandbox\nsandbox"),
        ("no core files", "ulimit -c", "0"),
        ("bounded open files", "ulimit -n; ulimit -Hn", "16384\n16384"),
        ("the usual mask", "umask", "0022"),
        ("its root and its user", "id -u; id -g; echo $HOME", "0\n0\n/root"),
        ("a process of its own", "echo $PPID; tr '\\0' ' ' < /proc/1/cmdline | cut -d' ' -f1,2", "1\n/.sweroll/toolbox toolbox"),
        ("nobody else", "ls /proc | grep '^[0-9][0-9][0-9]' | wc -l", "0"),
        ("threads", "python3 -c \"import threading as t; a=t.Thread(target=print, args=('ran',)); a.start(); a.join()\"", "ran"),
        ("processes with locks", "python3 -c \"import multiprocessing as m; p=m.Pool(2); print(sum(p.map(abs, [-1, -2])))\"", "3"),
        ("sockets of files", "python3 -c \"import socket as s; a=s.socket(s.AF_UNIX); a.bind('/tmp/sock'); print('bound')\"", "bound"),
        ("memory for programs", "python3 -c \"import mmap; mmap.mmap(-1, 4096, prot=7); print('mapped')\"", "mapped"),
        ("tracing its own", "python3 -c \"import ctypes; print(ctypes.CDLL(None).ptrace(0, 0, 0, 0))\"", "0"),
        ("programs anywhere", "cp /bin/echo /tmp/e && cp /bin/echo /root/e && /tmp/e one && /root/e two", "one\ntwo"),
    ];
    find(backend, &checks).await;
}

pub async fn devices_are_few_and_usable(backend: &Backend) {
    let open_tty = "python3 -c \"import os; os.open('/dev/tty', os.O_RDWR)\" 2>&1 | grep -o 'Errno 6'";
    let pair = "python3 -c \"import os, pty; a, b = pty.openpty(); os.write(b, b'hi'); print(os.ttyname(b)[:9], os.read(a, 2).decode())\"";
    let whole = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let checks = [
        ("no others", "cd /dev && echo $(ls | grep -v -x core)", whole.strip_prefix("core ").unwrap()),
        ("null", "echo away > /dev/null && wc -c < /dev/null", "0"),
        ("zero", "head -c 3 /dev/zero | od -An -tx1", "00 00 00"),
        ("full", "(echo x > /dev/full) 2>&1 | grep -o 'No space left on device'", "No space left on device"),
        ("random", "head -c 9 /dev/random | wc -c; head -c 9 /dev/urandom | wc -c", "9\n9"),
        ("a terminal of no one", open_tty, "Errno 6"),
        ("terminals", pair, "/dev/pts/ hi"),
        (
            "links",
            "cd /dev && echo $(readlink fd stdin stdout stderr ptmx)",
            "/proc/self/fd /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 pts/ptmx",
        ),
        ("output by link", "echo out > /dev/stdout; echo err > /dev/stderr; echo in | cat /dev/stdin", "out\nerr\nin"),
        ("substitution", "cat <(echo substituted)", "substituted"),
        (
            "to a user",
            "su -s /bin/sh nobody -c 'echo x > /dev/null && head -c 1 /dev/zero | wc -c && echo y > /dev/shm/y && cat /dev/shm/y'",
            "1\ny",
        ),
    ];
    find(backend, &checks).await;
}

pub async fn system_files_are_read_only(backend: &Backend) {
    let write = |path: &str| format!("(echo 1 > {path}) 2> /dev/null && echo written; true");
    let paths = [
        "/proc/sys/kernel/panic",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/.sweroll/toolbox",
    ];
    let writes = paths.map(write).join("; ");
    let checks = [
        ("settings", "(echo 1 > /proc/sys/kernel/panic) 2>&1 | grep -o 'Read-only file system'", "Read-only file system"),
        ("nothing that is the kernel's", &writes, ""),
        ("cgroups", "find /sys/fs/cgroup -mindepth 1 -type d | while read d; do mkdir $d/x 2> /dev/null && echo $d; done; true", ""),
        ("memory", "for f in kcore keys timer_list sched_debug; do head -c 1 /proc/$f 2> /dev/null | wc -c; done", "0\n0\n0\n0"),
        ("firmware", "ls /sys/firmware | wc -l", "0"),
        ("hardware", "ls /proc/scsi 2>/dev/null | wc -l; ls /proc/acpi 2>/dev/null | wc -l", "0\n0"),
    ];
    find(backend, &checks).await;
}

pub async fn temporary_files_have_their_places(backend: &Backend) {
    let checks = [
        ("modes", "stat -c %a /tmp /dev/shm", "1777\n1777"),
        ("owners", "stat -c %u:%g /tmp /dev/shm / /root", "0:0\n0:0\n0:0\n0:0"),
        ("files", "for d in /tmp /var/tmp /dev/shm /root /opt; do echo x > $d/f && cat $d/f; done", "x\nx\nx\nx\nx"),
        ("mounted", "stat -f -c %T /dev/shm", "tmpfs"),
        ("queues", "stat -f -c %T /dev/mqueue", "mqueue"),
        (
            "a removed image file",
            "rm /etc/debian_version && rm -r /opt/venv/share 2>/dev/null; rm -r /usr/share/doc && mkdir /usr/share/doc && ls /usr/share/doc | wc -l",
            "0",
        ),
        ("a renamed directory", "mv /usr/share/perl5 /usr/share/perl6 2>&1 && ls -d /usr/share/perl6", "/usr/share/perl6"),
        ("hard links and times", "cd /root && echo a > a && ln a b && touch -d @1000000000 a && stat -c '%h %Y' b", "2 1000000000"),
        ("attributes", "cd /root && python3 -c \"import os; os.setxattr('a', 'user.k', b'v'); print(os.getxattr('b', 'user.k'))\"", "b'v'"),
        ("room", "test $(df --output=avail -k / | tail -1) -gt 100000 && echo enough", "enough"),
    ];
    find(backend, &checks).await;
}

/// Two of one image, at the same time.
pub async fn neighbours_do_not_meet(backend: &Backend) {
    let (one, two) = (backend.sandbox().await, backend.sandbox().await);
    let mark = backend.mark();
    let leave =
        format!("echo mine | tee /root/f /tmp/f /dev/shm/f /etc/f > /dev/null; ipcmk -M 100 > /dev/null; sleep {mark} > /dev/null 2>&1 &");
    said(one.toolbox(), &leave).await;
    let listen = "python3 -c \"import socket as s, time; a=s.socket(); a.bind(('127.0.0.1', 4000)); a.listen(); \
        b=s.socket(s.AF_UNIX); b.bind(chr(0) + 'name'); b.listen(); open('/tmp/up', 'w'); time.sleep(1000)\" > /dev/null 2>&1 &";
    said(one.toolbox(), &format!("{listen} while ! [ -e /tmp/up ]; do sleep 0.02; done")).await;
    let look = format!(
        "cat /root/f /tmp/f /dev/shm/f /etc/f 2> /dev/null; ipcs -m | grep -c 0x; grep -l {mark} /proc/[0-9]*/cmdline | grep -v self; \
        python3 -c \"import socket as s; s.create_connection(('127.0.0.1', 4000))\" 2>&1 | tail -1; \
        python3 -c \"import socket as s; s.socket(s.AF_UNIX).connect(chr(0) + 'name')\" 2>&1 | tail -1"
    );
    let refused = "ConnectionRefusedError: [Errno 111] Connection refused";
    let (_, seen) = output(two.toolbox(), shell(&look)).await;
    // The shell that looks has the mark in its own command line.
    let seen: Vec<&str> = seen.lines().filter(|line| !line.starts_with("/proc/")).collect();
    assert_eq!(seen, ["0", refused, refused]);
    one.destroy().await.unwrap();
    assert_eq!(said(two.toolbox(), "echo still there").await, "still there\n");
    two.destroy().await.unwrap();
    let three = backend.sandbox().await;
    assert_eq!(output(three.toolbox(), shell("cat /root/f /tmp/f /dev/shm/f /etc/f 2> /dev/null")).await.1, "", "the image is as it was");
    three.destroy().await.unwrap();
}

pub async fn no_command_speaks_for_the_toolbox(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let forge = "for fd in 0 1 2 3 4 5 6 7 8 9; do echo forged > /proc/1/fd/$fd; done; kill -9 1; kill -9 -1";
    for _ in 0..2 {
        output(sandbox.toolbox(), shell(forge)).await;
    }
    assert_eq!(said(sandbox.toolbox(), "echo still there").await, "still there\n");
    sandbox.destroy().await.unwrap();
}

/// In a sandbox root has no right to trace other processes, so closing the toolbox closes it to everyone.
pub async fn no_test_looks_into_the_toolbox(backend: &Backend) {
    let sandbox = backend.start(&backend.spec_with(Limits { pids: 64, ..backend.spec().limits })).await;
    let look = "import ctypes, os\n\
        libc = ctypes.CDLL(None)\n\
        for name in ['mem', 'maps', 'environ'] + ['fd/%d' % n for n in range(64)]:\n\
        \x20   try: print('reached', open('/proc/1/' + name, 'rb').name)\n\
        \x20   except OSError: pass\n\
        if libc.ptrace(16, 1, 0, 0) == 0: print('traced', os.waitpid(1, 0x40000000), libc.ptrace(17, 1, 0, 0))\n\
        print('looked as', os.getuid())\n\
        try: os.write(3, b'said')\n\
        except OSError: pass\n";
    let Op::Run(plain) = exec(&["python3", "-c", look]) else { unreachable!() };
    let (_, before) = output(sandbox.toolbox(), Op::Run(plain.clone())).await;
    assert!(before.contains("reached /proc/1/mem"), "{before}");
    let (end, text) = output(sandbox.toolbox(), Op::Run(Run { report_cap: 100, ..plain.clone() })).await;
    assert_eq!((end, text.as_str()), (End::Exited(0), "looked as 0\nsaid"));
    let Command::Exec(argv) = plain.what.clone() else { unreachable!() };
    let dropped = ["setpriv", "--reuid=65534", "--clear-groups"].into_iter().map(str::to_owned).chain(argv).collect();
    let (end, text) = output(sandbox.toolbox(), Op::Run(Run { what: Command::Exec(dropped), report_cap: 100, ..plain })).await;
    assert_eq!((end, text.as_str()), (End::Exited(0), "looked as 65534\nsaid"));
    sandbox.destroy().await.unwrap();
}
