//! The system calls that a sandbox may make: those of programs and of their tests. Nothing that Docker's default profile refuses to
//! a container of the same seven capabilities, and less: no exotic sockets, no LDT, no 32-bit programs.
//!
//! | call | answer |
//! | --- | --- |
//! | in the tables | the kernel's |
//! | `clone` into namespaces, `socket` of other families, `personality` of other values | `EPERM` |
//! | `clone3`, whose flags are in memory where no filter sees them | `ENOSYS`: C libraries then take `clone` |
//! | newer than the newest allowed one, and x32's (numbers from 2^30) | `ENOSYS`, as of an older kernel |
//! | every other | `EPERM` |
//! | by another architecture's table (`int 0x80`, 32-bit programs) | the process is killed (`SIGSYS`) |
//!
//! The kernel keeps constant answers in a bitmap (since 5.11), so only the three calls with arguments to look at cost time. For the
//! bitmap it runs the program for every number as the filter is installed, hence a tree of ranges and not a list.
//! A traced process cannot step around the filter since 4.8; older kernels are not for it.

mod tree;

use libc::*;
use seccompiler::BpfProgram;
use std::collections::BTreeMap;
use std::io;
use tree::{Answer, compile};

/// Names and trees of files.
const PATHS: &[c_long] = &[
    SYS_chdir,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_fchdir,
    SYS_fchmodat,
    SYS_fchownat,
    SYS_getcwd,
    SYS_linkat,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_newfstatat,
    SYS_openat,
    SYS_openat2,
    SYS_readlinkat,
    SYS_renameat,
    SYS_renameat2,
    SYS_statfs,
    SYS_statx,
    SYS_symlinkat,
    SYS_truncate,
    SYS_umask,
    SYS_unlinkat,
    SYS_utimensat,
];

const ATTRIBUTES: &[c_long] = &[
    SYS_fgetxattr,
    SYS_flistxattr,
    SYS_fremovexattr,
    SYS_fsetxattr,
    SYS_getxattr,
    SYS_lgetxattr,
    SYS_listxattr,
    SYS_llistxattr,
    SYS_lremovexattr,
    SYS_lsetxattr,
    SYS_removexattr,
    SYS_setxattr,
];

/// Open files, pipes and what is like them.
const DESCRIPTORS: &[c_long] = &[
    SYS_close,
    SYS_close_range,
    SYS_copy_file_range,
    SYS_dup,
    SYS_dup3,
    SYS_fadvise64,
    SYS_fallocate,
    SYS_fchmod,
    SYS_fchown,
    SYS_fcntl,
    SYS_fdatasync,
    SYS_flock,
    SYS_fstat,
    SYS_fstatfs,
    SYS_fsync,
    SYS_ftruncate,
    SYS_getdents64,
    SYS_io_cancel,
    SYS_io_destroy,
    SYS_io_getevents,
    SYS_io_setup,
    SYS_io_submit,
    SYS_ioctl,
    SYS_lseek,
    SYS_memfd_create,
    SYS_pipe2,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_pwritev2,
    SYS_read,
    SYS_readahead,
    SYS_readv,
    SYS_sendfile,
    SYS_splice,
    SYS_sync,
    SYS_sync_file_range,
    SYS_syncfs,
    SYS_tee,
    SYS_vmsplice,
    SYS_write,
    SYS_writev,
];

/// Waiting for many things at once.
const EVENTS: &[c_long] = &[
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_eventfd2,
    SYS_fanotify_mark,
    SYS_inotify_add_watch,
    SYS_inotify_init1,
    SYS_inotify_rm_watch,
    SYS_ppoll,
    SYS_pselect6,
    SYS_signalfd4,
    SYS_timerfd_create,
    SYS_timerfd_gettime,
    SYS_timerfd_settime,
];

const MEMORY: &[c_long] = &[
    SYS_brk,
    SYS_madvise,
    SYS_membarrier,
    SYS_mincore,
    SYS_mlock,
    SYS_mlock2,
    SYS_mlockall,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_msync,
    SYS_munlock,
    SYS_munlockall,
    SYS_munmap,
    SYS_remap_file_pages,
];

/// Processes, threads, and debuggers of them.
const PROCESSES: &[c_long] = &[
    SYS_execve,
    SYS_execveat,
    SYS_exit,
    SYS_exit_group,
    SYS_futex,
    SYS_get_robust_list,
    SYS_getpgid,
    SYS_getpid,
    SYS_getppid,
    SYS_getsid,
    SYS_gettid,
    SYS_pidfd_open,
    SYS_prctl,
    SYS_ptrace,
    SYS_rseq,
    SYS_set_robust_list,
    SYS_set_tid_address,
    SYS_setpgid,
    SYS_setsid,
    SYS_wait4,
    SYS_waitid,
];

const SIGNALS: &[c_long] = &[
    SYS_kill,
    SYS_pidfd_send_signal,
    SYS_restart_syscall,
    SYS_rt_sigaction,
    SYS_rt_sigpending,
    SYS_rt_sigprocmask,
    SYS_rt_sigqueueinfo,
    SYS_rt_sigreturn,
    SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait,
    SYS_rt_tgsigqueueinfo,
    SYS_sigaltstack,
    SYS_tgkill,
    SYS_tkill,
];

/// Users, groups, capabilities, and giving up more.
const IDENTITY: &[c_long] = &[
    SYS_capget,
    SYS_capset,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getgroups,
    SYS_getresgid,
    SYS_getresuid,
    SYS_getuid,
    SYS_landlock_add_rule,
    SYS_landlock_create_ruleset,
    SYS_landlock_restrict_self,
    SYS_seccomp,
    SYS_setfsgid,
    SYS_setfsuid,
    SYS_setgid,
    SYS_setgroups,
    SYS_setregid,
    SYS_setresgid,
    SYS_setresuid,
    SYS_setreuid,
    SYS_setuid,
];

/// Clocks are read: to set one takes a capability that no sandbox has.
const TIME: &[c_long] = &[
    SYS_adjtimex,
    SYS_clock_adjtime,
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_getitimer,
    SYS_gettimeofday,
    SYS_nanosleep,
    SYS_setitimer,
    SYS_timer_create,
    SYS_timer_delete,
    SYS_timer_getoverrun,
    SYS_timer_gettime,
    SYS_timer_settime,
    SYS_times,
];

const SOCKETS: &[c_long] = &[
    SYS_accept,
    SYS_accept4,
    SYS_bind,
    SYS_connect,
    SYS_getpeername,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_listen,
    SYS_recvfrom,
    SYS_recvmmsg,
    SYS_recvmsg,
    SYS_sendmmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_setsockopt,
    SYS_shutdown,
    SYS_socketpair,
];

/// Queues, semaphores and shared memory, of the sandbox's own namespace.
const IPC: &[c_long] = &[
    SYS_mq_getsetattr,
    SYS_mq_notify,
    SYS_mq_open,
    SYS_mq_timedreceive,
    SYS_mq_timedsend,
    SYS_mq_unlink,
    SYS_msgctl,
    SYS_msgget,
    SYS_msgrcv,
    SYS_msgsnd,
    SYS_semctl,
    SYS_semget,
    SYS_semop,
    SYS_semtimedop,
    SYS_shmat,
    SYS_shmctl,
    SYS_shmdt,
    SYS_shmget,
];

/// Shares of the machine, and what it tells of itself.
const RESOURCES: &[c_long] = &[
    SYS_getcpu,
    SYS_getpriority,
    SYS_getrandom,
    SYS_getrlimit,
    SYS_getrusage,
    SYS_ioprio_get,
    SYS_ioprio_set,
    SYS_prlimit64,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
    SYS_sched_getaffinity,
    SYS_sched_getattr,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_sched_rr_get_interval,
    SYS_sched_setaffinity,
    SYS_sched_setattr,
    SYS_sched_setparam,
    SYS_sched_setscheduler,
    SYS_sched_yield,
    SYS_setpriority,
    SYS_setrlimit,
    SYS_sysinfo,
    SYS_uname,
];

/// What younger architectures have by other names only.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[
    SYS_access,
    SYS_alarm,
    SYS_arch_prctl,
    SYS_chmod,
    SYS_chown,
    SYS_creat,
    SYS_dup2,
    SYS_epoll_create,
    SYS_epoll_wait,
    SYS_eventfd,
    SYS_fork,
    SYS_futimesat,
    SYS_getdents,
    SYS_getpgrp,
    SYS_inotify_init,
    SYS_lchown,
    SYS_link,
    SYS_lstat,
    SYS_mkdir,
    SYS_mknod,
    SYS_open,
    SYS_pause,
    SYS_pipe,
    SYS_poll,
    SYS_readlink,
    SYS_rename,
    SYS_rmdir,
    SYS_select,
    SYS_signalfd,
    SYS_stat,
    SYS_symlink,
    SYS_time,
    SYS_unlink,
    SYS_utime,
    SYS_utimes,
    SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

const TABLES: [&[c_long]; 13] =
    [PATHS, ATTRIBUTES, DESCRIPTORS, EVENTS, MEMORY, PROCESSES, SIGNALS, IDENTITY, TIME, SOCKETS, IPC, RESOURCES, OLD];

/// Loopback is all the network that most sandboxes have; routes and interfaces are read by netlink.
const FAMILIES: [c_int; 4] = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];

/// Linux, and Linux of version numbers 2.6, each with its 32-bit twin; and the question which it is.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const NAMESPACES: c_int = CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUSER | CLONE_NEWUTS;

/// `AUDIT_ARCH_*` of linux/audit.h: how a filter is told whose table a number is of.
const ARCHITECTURE: Option<u32> = match () {
    () if cfg!(target_arch = "x86_64") => Some(0xc000_003e),
    () if cfg!(target_arch = "aarch64") => Some(0xc000_00b7),
    () => None,
};

/// The filter, for `seccompiler::apply_filter`, which sets `no_new_privs` with it.
///
/// # Errors
/// `Unsupported` on an architecture that it is not written for.
pub fn program() -> io::Result<BpfProgram> {
    let unsupported = || io::Error::new(io::ErrorKind::Unsupported, format!("no filter of system calls for {}", std::env::consts::ARCH));
    let architecture = ARCHITECTURE.ok_or_else(unsupported)?;
    let mut answers: BTreeMap<c_long, Answer> = TABLES.concat().into_iter().map(|call| (call, Answer::Allow)).collect();
    answers.insert(SYS_clone, Answer::Without(NAMESPACES as u32));
    answers.insert(SYS_socket, Answer::OneOf(FAMILIES.map(|family| family as u32).to_vec()));
    answers.insert(SYS_personality, Answer::OneOf(PERSONALITIES.to_vec()));
    answers.insert(SYS_clone3, Answer::Error(ENOSYS));

    let newest = answers.keys().next_back().map_or(0, |&call| call);
    let listed = (0..=newest).map(|call| (call as u32, answers.remove(&call).unwrap_or(Answer::Error(EPERM))));
    Ok(compile(architecture, listed.chain([(newest as u32 + 1, Answer::Error(ENOSYS))])))
}
