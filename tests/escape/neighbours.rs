//! Two episodes of one run side by side.

use crate::support::*;

/// What another episode may have: files, memory, queues, sockets and a process that holds them.
const VICTIM: &str = r#"
import os, subprocess, sys
started = subprocess.Popen([sys.executable, '-c', '''
import ctypes, mmap, os, platform, socket, time
for path in ('/var/tmp/neighbour', '/dev/shm/neighbour'):
    open(path, 'w').write('secret')
libc = ctypes.CDLL(None)
assert libc.shmget(0x5ec2e7, 4096, 0o1600) >= 0 and libc.msgget(0x5ec2e7, 0o1600) >= 0 and libc.semget(0x5ec2e7, 1, 0o1600) >= 0
assert libc.syscall(240 if platform.machine() == 'x86_64' else 180, b'neighbour', os.O_RDWR | os.O_CREAT, 0o600, None) >= 0
sockets = []
for family, address in ((1, '/var/tmp/neighbour.socket'), (1, chr(0) + 'neighbour'), (2, ('127.0.0.1', 4747))):
    sockets.append(socket.socket(family))
    sockets[-1].bind(address)
    sockets[-1].listen()
os.write(1, b'ready')
os.close(1)
time.sleep(600)
'''], env={**os.environ, 'SECRET': 'secret of the neighbour'}, start_new_session=True, stdout=subprocess.PIPE)
print(started.stdout.read().decode())
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_episode_does_not_reach_another() {
    for place in places().await {
        let (victim, other) = tokio::join!(place.start("victim"), place.start("other"));
        let (end, text) = output(victim.toolbox(), run(python(VICTIM))).await;
        assert!(text == "ready\n", "{:?}: {end:?} {text}", place.backend);
        let attempts = table("neighbours");
        let there = make(victim.toolbox(), &attempts).await;
        assert!(there.values().all(|ending| ending.starts_with("reached")), "{there:#?}");
        hold(place.backend, other.toolbox(), &attempts).await;
        victim.destroy().await.unwrap();
        other.destroy().await.unwrap();
    }
}

/// Each sandbox has keys, names and numbers of its own: no namespace but the user's is shared, which native sandboxes do not share either.
#[tokio::test(flavor = "multi_thread")]
async fn episodes_share_no_namespace() {
    for place in places().await {
        let (one, other) = tokio::join!(place.start("one"), place.start("another"));
        let look = "got = sorted(os.readlink('/proc/self/ns/' + name) for name in ('cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts'))";
        let (of_one, of_other) = tokio::join!(make_one(one.toolbox(), look), make_one(other.toolbox(), look));
        let names = |ending: &str| -> Vec<String> { ending.split('\'').filter(|name| name.contains(":[")).map(str::to_owned).collect() };
        let host: Vec<String> = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
            .iter()
            .map(|name| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_string_lossy().into_owned())
            .collect();
        let (of_one, of_other) = (names(&of_one), names(&of_other));
        assert_eq!((of_one.len(), of_other.len()), (7, 7), "{of_one:?} {of_other:?}");
        let shared: Vec<&String> = of_one.iter().filter(|name| of_other.contains(name) || host.contains(name)).collect();
        let wanted = match place.backend {
            Backend::Docker => shared.iter().all(|name| name.starts_with("user:")),
            Backend::Native => shared.is_empty(),
        };
        assert!(wanted, "{:?}: {shared:?}", place.backend);
        one.destroy().await.unwrap();
        other.destroy().await.unwrap();
    }
}
