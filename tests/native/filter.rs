//! The filter of system calls: no wider than Docker's, and wide enough for programs and their tests.

use crate::bpf::{Call, answer};
use crate::docker;
use libc::{SECCOMP_RET_ALLOW, c_long};
use seccompiler::BpfProgram;
use std::collections::BTreeSet;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output};
use sweroll::sandbox::native::filter;

const CAPABILITIES: [&str; 7] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"];
/// More numbers than any kernel has calls.
const NUMBERS: u32 = 1000;
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
/// The 32-bit twin of either.
#[cfg(target_arch = "x86_64")]
const FOREIGN: u32 = 0x4000_0003;
#[cfg(target_arch = "aarch64")]
const FOREIGN: u32 = 0x4000_0028;

fn call(number: c_long, argument: u64) -> Call {
    Call { number: number as u32, architecture: NATIVE, arguments: [argument, 0, 0, 0, 0, 0] }
}

/// Every call that is worth a look: of all numbers with all bits and none, and of those whose arguments matter with each bit.
fn calls() -> impl Iterator<Item = Call> {
    let plain = (0..NUMBERS).flat_map(|number| [0, u64::MAX].map(|fill| Call { arguments: [fill; 6], ..call(number.into(), 0) }));
    let numbers = [libc::SYS_clone, libc::SYS_socket, libc::SYS_personality, libc::SYS_prctl, libc::SYS_ioctl, libc::SYS_socketpair];
    let arguments = || (0..64).map(|bit| 1u64 << bit).chain(0..64).chain([0x2_0008, 0xffff_ffff, 0x7e02_0000]);
    plain.chain(numbers.into_iter().flat_map(move |number| arguments().map(move |argument| call(number, argument))))
}

fn allows(programs: &[BpfProgram], call: &Call) -> bool {
    programs.iter().all(|program| answer(program, call) == SECCOMP_RET_ALLOW)
}

#[test]
fn nothing_is_let_through_that_docker_would_refuse() {
    let Some(theirs) = docker::filters(&CAPABILITIES) else { return };
    assert!(!theirs.is_empty(), "the container has a filter");
    let ours = [filter::program().unwrap()];
    let wider: Vec<Call> = calls().filter(|call| allows(&ours, call) && !allows(&theirs, call)).collect();
    assert!(wider.is_empty(), "{wider:?}");
    let all = |programs: &[BpfProgram]| calls().filter(|call| allows(programs, call)).map(|call| call.number).collect::<BTreeSet<_>>();
    let (ours, theirs) = (all(&ours), all(&theirs));
    let stricter: Vec<_> = theirs.difference(&ours).collect();
    println!("{} numbers; {} of Docker's, of which not ours: {stricter:?}", ours.len(), theirs.len());
    assert!(ours.len() > 250);
}

#[test]
fn answers_are_as_documented() {
    let program = filter::program().unwrap();
    let error = |errno: i32| libc::SECCOMP_RET_ERRNO | errno as u32;
    let says = |call: Call| answer(&program, &call);
    assert_eq!(says(call(libc::SYS_read, 7)), SECCOMP_RET_ALLOW);
    assert_eq!(says(call(libc::SYS_mount, 0)), error(libc::EPERM));
    assert_eq!(says(call(libc::SYS_clone3, 0)), error(libc::ENOSYS));
    assert_eq!(says(call(900, 0)), error(libc::ENOSYS));
    let threads = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_SETTLS;
    assert_eq!(says(call(libc::SYS_clone, threads as u64)), SECCOMP_RET_ALLOW);
    assert_eq!(says(call(libc::SYS_clone, (threads | libc::CLONE_NEWNET) as u64)), error(libc::EPERM));
    assert_eq!(says(call(libc::SYS_socket, libc::AF_INET6 as u64)), SECCOMP_RET_ALLOW);
    for family in [libc::AF_VSOCK, libc::AF_ALG, libc::AF_PACKET, libc::AF_CAN, libc::AF_UNSPEC] {
        assert_eq!(says(call(libc::SYS_socket, family as u64)), error(libc::EPERM), "{family}");
        // The kernel looks at the low half only.
        assert_eq!(says(call(libc::SYS_socket, family as u64 | 1 << 32)), error(libc::EPERM), "{family}");
    }
    assert_eq!(says(call(libc::SYS_personality, 0x0004_0000)), error(libc::EPERM));
    assert_eq!(says(Call { architecture: FOREIGN, ..call(libc::SYS_read, 0) }), libc::SECCOMP_RET_KILL_PROCESS);
    #[cfg(target_arch = "x86_64")]
    for number in 0..NUMBERS {
        assert_eq!(says(call(c_long::from(number | 1 << 30), 0)), error(libc::ENOSYS), "{number} of x32");
    }
}

/// Runs the command with the filter on it.
fn filtered(command: &mut Command) -> Output {
    let program = filter::program().unwrap();
    // SAFETY: two system calls, and nothing that takes a lock or memory.
    unsafe { command.pre_exec(move || seccompiler::apply_filter(&program).map_err(|_| std::io::Error::from_raw_os_error(libc::EINVAL))) };
    command.output().unwrap()
}

#[test]
fn programs_and_their_tests_run() {
    let work = tempfile::tempdir().unwrap();
    let output = filtered(Command::new("python3").args(["-c", include_str!("filter.py")]).current_dir(work.path()));
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.lines().filter(|line| line.ends_with(" works")).count() >= 30, "{text}");
    assert!(text.lines().filter(|line| line.ends_with(" refused")).count() >= 30, "{text}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_32_bit_entrance_is_closed() {
    let mut command = Command::new("true");
    let program = filter::program().unwrap();
    // SAFETY: system calls only; 20 is `getpid` there.
    unsafe {
        command.pre_exec(move || {
            seccompiler::apply_filter(&program).map_err(|_| std::io::Error::from_raw_os_error(libc::EINVAL))?;
            let _pid: u64;
            std::arch::asm!("int 0x80", inlateout("rax") 20u64 => _pid);
            Ok(())
        })
    };
    let status = command.spawn().and_then(|mut child| child.wait()).unwrap();
    assert_eq!(status.signal(), Some(libc::SIGSYS));
}
