"""Uses what programs and their tests use, and asks for what no sandbox gives; prints a line for each, and fails with the first that is
otherwise."""

import asyncio, ctypes, fcntl, mmap, os, pty, select, signal, socket, sqlite3, subprocess, sys, threading, time
import platform
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import Pool, Process, Queue, Semaphore, shared_memory

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"


def call(number, *arguments):
    """The answer of a system call, or its error number below 0."""
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(n) if isinstance(n, int) else n for n in arguments))
    return result if result >= 0 else -ctypes.get_errno()


def square(n):
    return n * n


def works(name, test):
    result = test()
    assert result is None or result is True or (not isinstance(result, bool) and result >= 0), (name, result)
    print(name, "works", flush=True)


def files():
    with open("a", "wb") as file:
        file.write(b"x" * 10000)
        os.posix_fallocate(file.fileno(), 0, 20000)
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o600)
    os.link("a", "b"), os.symlink("a", "c"), os.rename("b", "d"), os.mkdir("e"), os.truncate("a", 5000), os.utime("a"), os.mkfifo("f")
    assert os.stat("c").st_size == 5000 and os.access("a", os.R_OK, effective_ids=True) and os.statvfs(".") and os.listdir(".")
    os.listxattr("a")


def copies():
    with open("a", "rb") as source, open("g", "wb") as target:
        os.copy_file_range(source.fileno(), target.fileno(), 100)
        os.sendfile(target.fileno(), source.fileno(), 0, 100)
        ends = os.pipe()
        os.splice(source.fileno(), ends[1], 100, offset_src=0) if hasattr(os, "splice") else call(275 if X86 else 76, source.fileno(), 0, ends[1], 0, 100, 0)


def locks():
    with open("a", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)


def threads():
    seen = []
    all = [threading.Thread(target=seen.append, args=(n,)) for n in range(20)]
    [thread.start() for thread in all], [thread.join() for thread in all]
    with ThreadPoolExecutor(4) as pool:
        assert len(seen) == 20 and list(pool.map(square, range(5)))[-1] == 16


def children():
    assert subprocess.run(["sh", "-c", "echo a | cat; sleep 0.01 & wait"], capture_output=True, text=True).stdout == "a\n"
    assert subprocess.run(["true"], start_new_session=True, close_fds=True).returncode == 0
    with subprocess.Popen(["sleep", "100"]) as child:
        child.kill()
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert os.waitid(os.P_PID, os.posix_spawn("/bin/true", ["true"], {}), os.WEXITED).si_status == 0


def processes():
    queue, semaphore = Queue(), Semaphore(1)
    child = Process(target=queue.put, args=(7,))
    child.start()
    assert queue.get(timeout=20) == 7
    child.join()
    with semaphore, Pool(2) as pool:
        assert pool.map(square, [3]) == [9]
    with ProcessPoolExecutor(2) as pool:
        assert pool.submit(square, 4).result() == 16


def shared():
    block = shared_memory.SharedMemory(create=True, size=4096)
    block.buf[0] = 1
    block.close(), block.unlink()


def loops():
    async def main():
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close(), server.close()
        process = await asyncio.create_subprocess_exec("echo", "x", stdout=asyncio.subprocess.PIPE)
        assert (await process.communicate())[0] == b"x\n"
        await asyncio.to_thread(time.sleep, 0.001)

    asyncio.run(main())


def database():
    with sqlite3.connect("base") as base:
        base.execute("pragma journal_mode=wal")
        base.execute("create table t (a)")
        base.execute("insert into t values (1)")
    base.close()


def polls():
    ends = os.pipe()
    epoll = select.epoll()
    epoll.register(ends[0], select.EPOLLIN)
    os.write(ends[1], b"x")
    assert epoll.poll(1) and select.select([ends[0]], [], [], 1)[0]
    poll = select.poll()
    poll.register(ends[0])
    assert poll.poll(100)


def sockets():
    for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
        socket.socket(family, socket.SOCK_DGRAM).close()
    one, other = socket.socketpair()
    socket.send_fds(one, [b"x"], [0])
    assert socket.recv_fds(other, 1, 1)[0] == b"x"
    socket.if_nameindex()


def signals():
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    signal.setitimer(signal.ITIMER_REAL, 100), signal.setitimer(signal.ITIMER_REAL, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    os.kill(os.getpid(), signal.SIGUSR2)
    assert signal.sigtimedwait([signal.SIGUSR2], 1)


def terminal():
    pid, end = pty.fork()
    if pid == 0:
        os.execvp("stty", ["stty", "-a"])
    assert b"speed" in os.read(end, 1000)
    os.waitpid(pid, 0)


def repository():
    script = "git init -q . && git add a && git -c user.name=a -c user.email=b commit -qm x && git status --short && git gc -q && git log --oneline"
    subprocess.run(["sh", "-ec", "mkdir r && cd r && echo 1 > a && " + script], check=True, stdout=subprocess.DEVNULL)


def memory():
    area = mmap.mmap(-1, 1 << 20)
    area.madvise(mmap.MADV_DONTNEED)
    assert libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(area))), 4096) == 0
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)


def affinity():
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.nice(1), os.sched_getscheduler(0), os.sched_yield(), os.getloadavg(), os.cpu_count()


def suite():
    with open("test_x.py", "w") as file:
        file.write("import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertTrue(1)\n")
    subprocess.run([sys.executable, "-m", "unittest", "-q", "test_x"], check=True, stderr=subprocess.DEVNULL)


for test in (files, copies, locks, threads, children, processes, shared, loops, database, polls, sockets, signals, terminal, repository,
             memory, affinity, suite):
    works(test.__name__, test)

number = lambda x86, arm: x86 if X86 else arm
buffer = ctypes.create_string_buffer(4096)
works("inotify", lambda: libc.inotify_add_watch(libc.inotify_init1(0), b".", 0xfff))
works("memfd", lambda: os.memfd_create("x"))
works("timerfd", lambda: libc.timerfd_create(1, 0))
works("eventfd", lambda: libc.eventfd(0, 0))
works("signalfd", lambda: call(number(289, 74), -1, buffer, 8, 0))
works("statx", lambda: call(number(332, 291), -100, b".", 0, 0xfff, buffer))
works("faccessat2", lambda: call(439, -100, b".", 4, 0x200))
works("openat2", lambda: call(437, -100, b".", (ctypes.c_uint64 * 3)(), 24))
works("close_range", lambda: call(436, 900, 1000, 0))
works("epoll_pwait2", lambda: call(441, -1, buffer, 1, buffer, 0, 8) == -9)
works("membarrier", lambda: call(number(324, 283), 0, 0, 0))
works("rseq", lambda: call(number(334, 293), 0, 0, 0, 0) in (-22, -16))
works("getrandom", lambda: len(os.getrandom(16)))
works("getcpu", lambda: call(number(309, 168), buffer, 0, 0))
works("pidfd", lambda: os.pidfd_open(os.getpid()))
works("pidfd_send_signal", lambda: signal.pidfd_send_signal(os.pidfd_open(os.getpid()), 0))
works("semaphores", lambda: libc.semctl(libc.semget(0, 1, 0o1600), 0, 0))
works("shm", lambda: libc.shmctl(libc.shmget(0, 4096, 0o1600), 0, 0))
works("queues", lambda: libc.msgctl(libc.msgget(0, 0o1600), 0, 0))
works("timers", lambda: call(number(222, 107), 1, 0, buffer))
works("seccomp", lambda: call(number(317, 277), 2, 0, ctypes.byref(ctypes.c_uint32(0x7fff0000))))
works("personality", lambda: call(number(135, 92), 0xffffffff))
works("ptrace", lambda: call(number(101, 117), -1, -1, 0, 0) == -3)


def refused(name, x86, arm, *arguments, error=1):
    if number(x86, arm) is None:
        return
    result = call(number(x86, arm), *(arguments or (-1,) * 6))
    assert result == -error, (name, result)
    print(name, "refused", flush=True)


for name, x86, arm in (
    ("mount", 165, 40), ("umount2", 166, 39), ("pivot_root", 155, 41), ("chroot", 161, 51), ("setns", 308, 268), ("open_tree", 428, 428),
    ("move_mount", 429, 429), ("fsopen", 430, 430), ("fsconfig", 431, 431), ("fsmount", 432, 432), ("fspick", 433, 433),
    ("mount_setattr", 442, 442), ("keyctl", 250, 219), ("add_key", 248, 217), ("request_key", 249, 218), ("bpf", 321, 280),
    ("perf_event_open", 298, 241), ("userfaultfd", 323, 282), ("io_uring_setup", 425, 425), ("io_uring_enter", 426, 426),
    ("io_uring_register", 427, 427), ("kexec_load", 246, 104), ("kexec_file_load", 320, 294), ("init_module", 175, 105),
    ("finit_module", 313, 273), ("delete_module", 176, 106), ("reboot", 169, 142), ("swapon", 167, 224), ("swapoff", 168, 225),
    ("quotactl", 179, 60), ("acct", 163, 89), ("open_by_handle_at", 304, 265), ("unshare", 272, 97), ("syslog", 103, 116),
    ("settimeofday", 164, 170), ("clock_settime", 227, 112), ("sethostname", 170, 161), ("setdomainname", 171, 162), ("kcmp", 312, 272),
    ("pidfd_getfd", 438, 438), ("process_madvise", 440, 440), ("mbind", 237, 235), ("move_pages", 279, 239), ("vhangup", 153, 58),
    ("fanotify_init", 300, 262), ("lookup_dcookie", 212, 18), ("iopl", 172, None), ("ioperm", 173, None), ("modify_ldt", 154, None),
    ("name_to_handle_at", 303, 264), ("process_vm_readv", 310, 270), ("process_vm_writev", 311, 271), ("pkey_alloc", 330, 289),
    ("uselib", 134, None), ("ustat", 136, None), ("sysfs", 139, None),
):
    refused(name, x86, arm)
refused("clone of a user namespace", 56, 220, 0x10000000 | 17, 0, 0, 0, 0)
refused("clone3", 435, 435, buffer, 88, error=38)
refused("a call of the future", 900, 900, error=38)
refused("x32", 1 << 30 | 39, None, error=38)
refused("personality", 135, 92, 0x40000)
for family in (40, 38, 17, 16 + 13):
    refused(f"sockets of family {family}", 41, 198, family, 2, 0)
