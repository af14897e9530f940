//! The system calls of sandboxes that no library offers safely: the one file of theirs with `unsafe` in it.

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, Resource, getrlimit};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

pub use libc::{CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS};

/// Has the allocator keep what thousands of tasks free and take again, in few arenas: by default it gives memory back to the kernel and
/// asks for it anew at every turn, a page at a time, in up to eight arenas a processor.
pub fn keep_memory(arenas: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers only; a value that the allocator does not take is left out.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 16 << 20);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        // Small chunks lie in each thread's own cache as it is; those beyond would be joined at every large one that goes.
        libc::mallopt(libc::M_MXFAST, 0);
        libc::mallopt(libc::M_TOP_PAD, 1 << 20);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = arenas;
}

/// Has the kernel's table of open files be as large as so many need, as far as they are allowed. It grows by itself as well, but where
/// threads share it, who opens the file that does not fit waits until all processors have passed a quiet moment: 7 to 25 ms, at each
/// doubling, for the event loop.
///
/// # Errors
/// Where there is no memory for it.
pub fn make_room_for_files(files: u64) -> io::Result<()> {
    /// 8 MiB of the kernel's memory.
    const MOST: u64 = 1 << 20;
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let last = files.min(allowed).min(MOST).saturating_sub(1);
    let any = File::open("/")?;
    fcntl_dupfd_cloexec(&any, last as i32)?;
    Ok(())
}

/// Which of two processes this is.
#[derive(Debug)]
pub enum Cloned {
    Child,
    Parent { pid: Pid, pidfd: OwnedFd },
}

/// `clone3`: a copy of this process, in new namespaces of these kinds (`CLONE_NEW*`). Only for a process of one thread: another's
/// locks would stay taken in the child forever.
///
/// # Errors
/// What the kernel says; `InvalidInput` where there are other threads.
pub fn clone(namespaces: i32) -> io::Result<Cloned> {
    only_thread()?;
    let mut pidfd: i32 = -1;
    // SAFETY: all-zero bytes are valid for it.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (namespaces | libc::CLONE_PIDFD) as u64;
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the child has memory of its own, and the only thread; `args` and `pidfd` outlive the call.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    match Pid::from_raw(pid as i32) {
        None => Ok(Cloned::Child),
        // SAFETY: the kernel has just made it for us.
        Some(pid) => Ok(Cloned::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// `unshare`: new namespaces for this process of one thread.
///
/// # Errors
/// What the kernel says; `InvalidInput` where there are other threads.
pub fn unshare(namespaces: i32) -> io::Result<()> {
    only_thread()?;
    // SAFETY: without CLONE_FILES no descriptor changes its meaning; there is no other thread.
    checked(unsafe { libc::unshare(namespaces) }.into()).map(drop)
}

/// `socket`, `ioctl(SIOCSIFFLAGS)`: sets the loopback device of this network namespace up.
///
/// # Errors
/// What the kernel says.
pub fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero bytes are valid for it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads one `ifreq`.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

/// `keyctl(KEYCTL_JOIN_SESSION_KEYRING)`: leaves the session's keys behind.
///
/// # Errors
/// What the kernel says; none where it has no keyrings.
pub fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the null pointer asks for a keyring without a name.
    match checked(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) }) {
        Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => Err(error),
        _ => Ok(()),
    }
}

/// A file as a block device, which goes once nothing has it open or mounted: `ioctl(LOOP_CTL_GET_FREE)`, `ioctl(LOOP_CONFIGURE)`.
///
/// # Errors
/// Where there are no loop devices for this user.
pub fn attach_loop(file: &File) -> io::Result<(File, PathBuf)> {
    const GET_FREE: libc::c_ulong = 0x4C82;
    const CONFIGURE: libc::c_ulong = 0x4C0A;
    const AUTOCLEAR: u32 = 4;
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    loop {
        // SAFETY: takes no argument.
        let number = checked(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE as _) }.into())?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = File::options().read(true).write(true).open(&path)?;
        let mut config = LoopConfig { fd: file.as_raw_fd() as u32, block_size: 0, info: [0; 29], reserved: [0; 8] };
        config.info[LoopConfig::FLAGS] = u64::from(AUTOCLEAR) << 32;
        // SAFETY: the kernel reads one `loop_config`, whose layout this is.
        match checked(unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as _, &raw const config) }.into()) {
            Ok(_) => return Ok((device, path)),
            // Another process took the free one first.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
        }
    }
}

/// `struct loop_config` of linux/loop.h: 232 bytes of `loop_info64` in the middle, of which only `lo_flags` is set.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: [u64; 29],
    reserved: [u64; 8],
}

impl LoopConfig {
    /// The word of `info` that holds `lo_encrypt_key_size` and `lo_flags`: past five u64 and two of four u32.
    const FLAGS: usize = 6;
}

fn only_thread() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads == 1 { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{threads} threads run in this process"))) }
}

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_for_as_many_files_as_are_allowed() {
        for files in [0, 1, 5000, u64::MAX] {
            make_room_for_files(files).unwrap();
        }
    }
}
