"""Makes attempts, each in a child of its own, and prints how each ended, as JSON.

Standard input: [[name, code], ...]. An ending is one line: `refused WORD` (an errno's name, or what `refuse` was given),
`reached TEXT` where the code came to its end (TEXT: its variable `got`), `killed SIGNAL`, `hung`, `broken TEXT`.
"""
import base64, ctypes, errno, fcntl, glob, json, mmap, os, platform, resource, select, signal, socket, stat, struct, subprocess
import sys, threading, time

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
PATIENCE = 60  # seconds for one attempt, on a slow machine
APART = sys.argv[1:] == ['apart']  # each attempt in mounts of its own, where it may succeed

# Numbers of x86_64 and aarch64; those above 424 are the same everywhere.
NUMBERS = {
    'acct': (163, 89), 'add_key': (248, 217), 'adjtimex': (159, 171), 'bpf': (321, 280), 'capset': (126, 91), 'chroot': (161, 51),
    'clock_adjtime': (305, 266), 'clock_settime': (227, 112), 'clone': (56, 220), 'clone3': (435, 435), 'delete_module': (176, 106),
    'fanotify_init': (300, 262), 'finit_module': (313, 273), 'fsconfig': (431, 431), 'fsmount': (432, 432), 'fsopen': (430, 430),
    'fspick': (433, 433), 'init_module': (175, 105), 'io_uring_setup': (425, 425), 'kcmp': (312, 272), 'kexec_file_load': (320, 294),
    'kexec_load': (246, 104), 'keyctl': (250, 219), 'mbind': (237, 235), 'migrate_pages': (256, 238), 'mknodat': (259, 33),
    'mount': (165, 40), 'mount_setattr': (442, 442), 'move_mount': (429, 429), 'move_pages': (279, 239), 'mq_open': (240, 180),
    'name_to_handle_at': (303, 264), 'open_by_handle_at': (304, 265), 'open_tree': (428, 428), 'perf_event_open': (298, 241),
    'personality': (135, 92), 'pidfd_getfd': (438, 438), 'pidfd_open': (434, 434), 'pivot_root': (155, 41), 'prctl': (157, 167),
    'process_vm_readv': (310, 270), 'process_vm_writev': (311, 271), 'ptrace': (101, 117), 'quotactl': (179, 60), 'reboot': (169, 142),
    'request_key': (249, 218), 'sched_setscheduler': (144, 119), 'seccomp': (317, 277), 'set_mempolicy': (238, 237),
    'setdomainname': (171, 162), 'setns': (308, 268), 'setpriority': (141, 140), 'settimeofday': (164, 170), 'sethostname': (170, 161),
    'setxattr': (188, 5), 'shmat': (30, 196), 'shmget': (29, 194), 'msgget': (68, 186), 'semget': (64, 190), 'swapon': (167, 224),
    'syslog': (103, 116), 'umount2': (166, 39), 'unshare': (272, 97), 'userfaultfd': (323, 282), 'vhangup': (153, 58),
}
NAMESPACES = {'mnt': 0x20000, 'cgroup': 0x2000000, 'uts': 0x4000000, 'ipc': 0x8000000, 'user': 0x10000000, 'pid': 0x20000000,
              'net': 0x40000000, 'time': 0x80}
PTRACE_PEEKDATA, PTRACE_POKEDATA, PTRACE_DETACH, PTRACE_ATTACH, PTRACE_SEIZE = 2, 5, 17, 16, 0x4206


class Refused(Exception):
    pass


def refuse(word):
    raise Refused(word)


def number(name):
    return NUMBERS[name][0 if platform.machine() == 'x86_64' else 1]


def sys_(name, *args):
    """A system call by name or number; integers are passed whole, text as a C string."""
    def plain(arg):
        if isinstance(arg, str):
            return ctypes.c_char_p(arg.encode())
        if isinstance(arg, bytes):
            return ctypes.c_char_p(arg)
        return ctypes.c_long(arg) if isinstance(arg, int) else arg
    result = LIBC.syscall(ctypes.c_long(number(name) if isinstance(name, str) else name), *map(plain, args))
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def mount(source, target, kind, flags=0, data=None):
    return sys_('mount', source, target, kind, flags, data)


def write(path, text, flags=0):
    """Without O_CREAT: a write that would make a file of its own reaches nothing."""
    fd = os.open(path, os.O_WRONLY | flags)
    os.write(fd, text.encode() if isinstance(text, str) else text)
    os.close(fd)


def read(path, most=4096):
    """Some bytes, or a refusal where there are none."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    found = os.read(fd, most)
    os.close(fd)
    return found or refuse('empty')


def scratch():
    """A directory of its own on the sandbox's disk."""
    path = '/var/tmp/attempt-%d' % os.getpid()
    os.mkdir(path)
    return path


def machine_code(code):
    """Calls x86 machine code; what it leaves in eax."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    result = call()
    if -4096 < result < 0:
        raise OSError(-result, 'int 0x80')
    return result


def int80(nr, arg):
    """A system call of the 32-bit table, from 64-bit code: push rbx; eax, ebx = nr, arg; int 0x80; pop rbx; ret."""
    if platform.machine() != 'x86_64':
        raise OSError(errno.ENOSYS, 'int 0x80')
    return machine_code(b'\x53\xb8' + struct.pack('<I', nr) + b'\xbb' + struct.pack('<I', arg) + b'\xcd\x80\x5b\xc3')


def netlink(family, kind, flags, body):
    """A request to a part of the kernel, and its answer's error."""
    line = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
    line.settimeout(5)
    line.send(struct.pack('IHHII', 16 + len(body), kind, flags, 1, 0) + body)
    error = -struct.unpack_from('i', line.recv(4096), 16)[0]
    if error > 0:
        raise OSError(error, 'netlink')


def word_of(error):
    return errno.errorcode.get(error.errno, type(error).__name__).replace('ENOTSUP', 'EOPNOTSUPP')


def act(code):
    space = dict(globals(), got='')
    try:
        exec(code, space)
        return 'reached %s' % (space['got'],)
    except Refused as refused:
        return 'refused %s' % refused
    except OSError as error:
        return 'refused ' + word_of(error)
    except BaseException as error:
        return 'broken %s: %s' % (type(error).__name__, error)


def attempt(code):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        # Where memory runs out it is this process that goes.
        open('/proc/self/oom_score_adj', 'w').write('1000')
        if APART:
            sys_('unshare', NAMESPACES['mnt'])
            mount(None, '/sys', None, 0x20)
        os.write(writer, act(code).strip().encode('utf-8', 'backslashreplace')[:4000])
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], PATIENCE)
    told = os.read(reader, 4096).decode() if ready else ''
    os.close(reader)
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if told:
        return told
    return 'killed ' + signal.Signals(os.WTERMSIG(status)).name if ready and os.WIFSIGNALED(status) else 'hung'


if __name__ == '__main__':
    sys.stdout.write(json.dumps({name: attempt(code) for name, code in json.load(sys.stdin)}))
