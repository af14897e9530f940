//! The process that makes native sandboxes: small, of one thread and with nothing of the engine's memory or environment, so that
//! a copy of it is cheap, and may do anything until it becomes the sandbox's first process.

mod child;
mod etc;
mod root;
mod upper;
mod user;
pub mod wire;
mod world;

use super::cgroup::{Group, Groups};
use crate::images::{Ids, userns};
use crate::linux::{self, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, Cloned};
use crate::sandbox::owner::Owner;
use child::Child;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use wire::{News, Order, Setup, Start};

/// What a sandbox's child and the launcher say to each other while it is being made: one datagram of these.
const GO: &[u8] = b"go";
const MAP_ME: &[u8] = b"map";
/// The longest word on why a child failed.
const WHY_BYTES: usize = 4096;

/// Runs `sweroll launcher`: orders over standard input, a socket, until its end.
#[must_use]
pub fn main() -> ExitCode {
    let Ok(control) = take_control() else { return ExitCode::FAILURE };
    let prepared = match wire::receive::<Setup>(&control) {
        Ok(Some((setup, _))) => Launcher::prepare(setup, &control),
        _ => return ExitCode::FAILURE,
    };
    let told = match &prepared {
        Ok(launcher) => News::Ready { limits: launcher.groups.holds(), upper: launcher.uppers.to_string() },
        Err(error) => News::Unable { message: error.to_string() },
    };
    let served = wire::send(&control, &told, None).and_then(|()| prepared?.serve());
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The socket, on a descriptor that no child inherits.
fn take_control() -> io::Result<OwnedFd> {
    let control = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(control)
}

struct Launcher {
    setup: Setup,
    ids: Ids,
    uppers: upper::Uppers,
    groups: Groups,
    filter: seccompiler::BpfProgram,
    control: OwnedFd,
    epoll: OwnedFd,
    sandboxes: HashMap<u64, Making>,
}

/// A sandbox from its first process's birth to its death.
struct Making {
    pid: Pid,
    pidfd: OwnedFd,
    group: Group,
    /// Until it is made.
    talk: Option<OwnedFd>,
    /// Why it was not made.
    why: Option<(String, bool)>,
    made: bool,
    killed: bool,
    memory: Option<Watch>,
}

/// What tells that a sandbox's memory ran out.
struct Watch {
    events: OwnedFd,
    flags: EventFlags,
    last: Option<Instant>,
}

impl Watch {
    /// Whether that was just now, and the kernel did not tell yet or not long ago.
    fn is_recent(&self) -> bool {
        let wanted = if self.flags.contains(EventFlags::PRI) { PollFlags::PRI } else { PollFlags::IN };
        let waits = poll(&mut [PollFd::new(&self.events, wanted)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
        waits || self.last.is_some_and(|at| at.elapsed() < OOM_TO_END)
    }
}

/// What an event is about: a number and one of these in its lowest bits.
const CONTROL: u64 = 0;
const TALK: u64 = 1;
const DEATH: u64 = 2;
const MEMORY: u64 = 3;

/// Longest time between the end of memory and that of the first process which it caused; as for containers.
const OOM_TO_END: Duration = Duration::from_secs(2);

impl Launcher {
    fn prepare(setup: Setup, control: &OwnedFd) -> io::Result<Self> {
        userns::enter()?;
        let ids = Ids::ours(&crate::images::Settings { first_id: setup.first_id, ..crate::images::Settings::default() });
        if let Some(theirs) = setup.ids.filter(|theirs| *theirs != ids) {
            let message =
                format!("the image store has files of users {} and on, and sandboxes would have {} and on; ", theirs.first, ids.first);
            return Err(io::Error::other(message + "use a store of this user's own (images.dir), or the first_id that it was made with"));
        }
        linux::new_session_keyring()?;
        // Ours and not the engine's: what is ours is over with us, and an engine may have had others.
        let groups = Groups::find(&Owner::ours()?.to_string());
        let uppers = upper::Uppers::prepare(&setup, ids)?;
        world::enter(&setup, &groups, ids.are_roots())?;
        let filter = super::filter::program().map_err(io::Error::other)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let control = control.try_clone()?;
        epoll::add(&epoll, &control, EventData::new_u64(CONTROL), EventFlags::IN)?;
        Ok(Launcher { setup, ids, uppers, groups, filter, control, epoll, sandboxes: HashMap::new() })
    }

    fn serve(mut self) -> io::Result<()> {
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 64];
        loop {
            let (events, _) = match epoll::wait(&self.epoll, &mut space, None) {
                Err(rustix::io::Errno::INTR) => continue,
                events => events?,
            };
            let about: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
            for about in about {
                let (id, what) = (about >> 2, about & 3);
                match what {
                    TALK => self.hear(id)?,
                    DEATH => self.bury(id)?,
                    MEMORY => self.memory_ran_out(id),
                    _ => match wire::receive::<Order>(&self.control)? {
                        Some((Order::Start(start), Some(stream))) => self.start(start, stream)?,
                        Some((Order::Kill { id }, _)) => self.kill(id),
                        Some((Order::Forget { id }, _)) => upper::forget(id),
                        Some(_) => {}
                        // The engine is gone.
                        None => return self.end(),
                    },
                }
            }
        }
    }

    fn start(&mut self, start: Start, stream: OwnedFd) -> io::Result<()> {
        let id = start.id;
        match self.clone_child(start, stream) {
            Ok(making) => {
                self.sandboxes.insert(id, making);
                Ok(())
            }
            Err(error) => self.failed(id, error.to_string(), is_full(&error)),
        }
    }

    fn clone_child(&self, start: Start, stream: OwnedFd) -> io::Result<Making> {
        if start.keep {
            self.uppers.keep(&self.setup.scratch, start.id)?;
        }
        let group = self.groups.create(&start.id.to_string(), &start.limits)?;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (pid, pidfd) = match linux::clone(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET)? {
            Cloned::Parent { pid, pidfd } => (pid, pidfd),
            Cloned::Child => {
                drop(ours);
                let child = Child {
                    setup: &self.setup,
                    ids: self.ids,
                    uppers: &self.uppers,
                    groups: &self.groups,
                    start: &start,
                    group: &group,
                    talk: &theirs,
                };
                let error = child.become_sandbox(stream, &self.filter);
                let text = format!("{}{error}", if is_full(&error) { "full " } else { "fail " });
                let _ = send(&theirs, &text.as_bytes()[..text.len().min(WHY_BYTES)], SendFlags::NOSIGNAL);
                std::process::exit(1)
            }
        };
        let mut making = Making { pid, pidfd, group, talk: None, why: None, made: false, killed: false, memory: None };
        let ready = self
            .watch_memory(&mut making, start.id)
            .and_then(|()| Ok(epoll::add(&self.epoll, &ours, EventData::new_u64(start.id << 2 | TALK), EventFlags::IN)?))
            .and_then(|()| Ok(epoll::add(&self.epoll, &making.pidfd, EventData::new_u64(start.id << 2 | DEATH), EventFlags::IN)?));
        match ready {
            Ok(()) => Ok(Making { talk: Some(ours), ..making }),
            Err(error) => {
                let _ = pidfd_send_signal(&making.pidfd, Signal::KILL);
                let _ = waitid(WaitId::PidFd(making.pidfd.as_fd()), WaitIdOptions::EXITED);
                let _ = making.group.remove();
                Err(error)
            }
        }
    }

    fn watch_memory(&self, making: &mut Making, id: u64) -> io::Result<()> {
        if let Some((events, flags)) = making.group.memory_events()? {
            epoll::add(&self.epoll, &events, EventData::new_u64(id << 2 | MEMORY), flags)?;
            making.memory = Some(Watch { events, flags, last: None });
        }
        Ok(())
    }

    /// Takes what a child says; its silence says that it became the sandbox's first process, or died.
    fn hear(&mut self, id: u64) -> io::Result<()> {
        let Some(making) = self.sandboxes.get_mut(&id) else { return Ok(()) };
        let Some(talk) = making.talk.take() else { return Ok(()) };
        // Copies of it live on in children that are being made, and would keep it waking us.
        let _ = epoll::delete(&self.epoll, &talk);
        let mut said = [0; WHY_BYTES];
        let bytes = recv(&talk, &mut said, RecvFlags::empty()).map_or(0, |(bytes, _)| bytes);
        match &said[..bytes] {
            MAP_ME => match map(making.pid, self.ids).and_then(|()| Ok(send(&talk, GO, SendFlags::NOSIGNAL).map(drop)?)) {
                Ok(()) => {
                    epoll::add(&self.epoll, &talk, EventData::new_u64(id << 2 | TALK), EventFlags::IN)?;
                    making.talk = Some(talk);
                }
                Err(error) => {
                    making.why = Some((format!("its users cannot be mapped: {error}"), false));
                    let _ = pidfd_send_signal(&making.pidfd, Signal::KILL);
                }
            },
            [] => making.made = true,
            said => {
                let (kind, text) = said.split_at(said.len().min(5));
                making.why = Some((String::from_utf8_lossy(text).into_owned(), kind == b"full "));
            }
        }
        Ok(())
    }

    fn memory_ran_out(&mut self, id: u64) {
        if let Some(watch) = self.sandboxes.get_mut(&id).and_then(|making| making.memory.as_mut()) {
            // Of the two kinds of them, one has no beginning to go to.
            let _ = rustix::fs::seek(&watch.events, rustix::fs::SeekFrom::Start(0));
            let _ = rustix::io::read(&watch.events, &mut [0; 256]);
            watch.last = Some(Instant::now());
        }
    }

    fn kill(&mut self, id: u64) {
        if let Some(making) = self.sandboxes.get_mut(&id) {
            making.killed = true;
            let _ = pidfd_send_signal(&making.pidfd, Signal::KILL);
        }
    }

    fn bury(&mut self, id: u64) -> io::Result<()> {
        // What it said last may not have been heard yet.
        self.hear(id)?;
        let Some(making) = self.sandboxes.remove(&id) else { return Ok(()) };
        let _ = epoll::delete(&self.epoll, &making.pidfd);
        // It is told of the group's removal too.
        let _ = making.memory.as_ref().map(|watch| epoll::delete(&self.epoll, &watch.events));
        let status = waitid(WaitId::PidFd(making.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        let code = status.as_ref().map_or(-1, code);
        let for_memory = making.group.oom_kills() > 0 && making.memory.as_ref().is_some_and(Watch::is_recent);
        let oom = !making.killed && code == i64::from(128 + Signal::KILL.as_raw()) && for_memory;
        // What is left of it is swept.
        let _ = making.group.remove();
        match making.why {
            Some((why, no_space)) => self.failed(id, why, no_space),
            None if !making.made => self.failed(id, format!("it died while it was made, with code {code}"), false),
            None => self.tell(&News::Ended { id, code, oom }),
        }
    }

    fn failed(&self, id: u64, message: String, no_space: bool) -> io::Result<()> {
        self.tell(&News::Failed { id, message, no_space })
    }

    fn tell(&self, news: &News) -> io::Result<()> {
        wire::send(&self.control, news, None)
    }

    /// Takes everything with it.
    fn end(self) -> io::Result<()> {
        for making in self.sandboxes.values() {
            let _ = pidfd_send_signal(&making.pidfd, Signal::KILL);
        }
        for (_, making) in self.sandboxes {
            let _ = waitid(WaitId::PidFd(making.pidfd.as_fd()), WaitIdOptions::EXITED);
            let _ = making.group.remove();
        }
        Ok(())
    }
}

/// Says which numbers are the child's, which has just left our user namespace.
fn map(pid: Pid, ids: Ids) -> io::Result<()> {
    let line = format!("0 {} {}", ids.first, ids.count);
    let file = |name: &str| format!("/proc/{}/{name}", pid.as_raw_pid());
    if ids.count == 1 {
        fs::write(file("setgroups"), "deny")?;
    }
    fs::write(file("uid_map"), &line)?;
    fs::write(file("gid_map"), &line)
}

fn code(status: &WaitIdStatus) -> i64 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or(signal).map_or(-1, i64::from)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
