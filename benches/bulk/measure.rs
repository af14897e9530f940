//! What a child process costs: wall time, processor time, peak memory.

use std::{
    io,
    process::{Child, Command},
    time::Instant,
};

#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Seconds.
    pub wall: f64,
    /// Seconds of all cores, user and system.
    pub cpu: f64,
    /// Largest resident set, bytes. This process must stay small: a child starts with its parent's.
    pub peak: u64,
}

/// Runs the command to its end, its output where ours goes.
///
/// # Errors
/// Where it cannot start or says that it failed.
pub fn run(command: &mut Command) -> io::Result<Cost> {
    let began = Instant::now();
    let child = command.spawn()?;
    let (status, usage) = wait(&child)?;
    let wall = began.elapsed().as_secs_f64();
    if status != 0 {
        return Err(io::Error::other(format!("{command:?} ended with status {status}")));
    }
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    Ok(Cost { wall, cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime), peak: usage.ru_maxrss as u64 * 1024 })
}

fn wait(child: &Child) -> io::Result<(i32, libc::rusage)> {
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    loop {
        // SAFETY: both places are ours and live through the call; all-zero is a rusage.
        let done = unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, usage.as_mut_ptr()) };
        if done >= 0 {
            // SAFETY: written by the call that succeeded.
            return Ok((status, unsafe { usage.assume_init() }));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
