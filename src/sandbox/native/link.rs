//! The engine's end of its launcher: orders out, news in, one entry for each sandbox that lives.

use super::launcher::wire::{self, News, Order, Setup, Start};
use crate::domain::{Failure, Kind};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// How long a launcher may take until it takes orders; it formats a file and mounts some directories.
const READY: Duration = Duration::from_secs(60);

/// How often a launcher is started whose program someone still has open for writing.
const BUSY_TRIES: u32 = 500;

/// What is known of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Wanted,
    Failed { message: String, no_space: bool },
    Ended { code: Option<i64>, oom: bool },
}

/// A launcher that runs; dropping it ends it and all its sandboxes.
#[derive(Debug)]
pub struct Link {
    socket: Arc<UnixStream>,
    known: Arc<Mutex<Known>>,
    /// Ends by the end of the socket, with all that it has; kept so that it is waited for.
    _process: Child,
}

impl Drop for Link {
    /// The launcher sees the end and removes what it made, which a kill would leave to the next sweep. Our listener holds the
    /// socket too, so that it has to be said.
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
    }
}

#[derive(Debug, Default)]
struct Known {
    sandboxes: HashMap<u64, watch::Sender<State>>,
    /// The launcher is gone.
    over: bool,
}

impl Link {
    /// Starts a launcher, and waits until it takes orders.
    ///
    /// # Errors
    /// `SandboxStart`, where the host does not allow native sandboxes with why and the mend.
    pub async fn start(program: &Path, setup: &Setup) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(Kind::SandboxStart, format!("no native sandboxes on this host: {error}"));
        let (socket, process) = spawn(program).map_err(|error| failed(&error))?;
        wire::send(&*socket, setup, None).map_err(|error| failed(&error))?;
        match tokio::time::timeout(READY, next(&socket)).await {
            Ok(Ok(Some(News::Ready { limits, upper }))) => tracing::info!(limits, upper, "native sandboxes"),
            Ok(Ok(Some(News::Unable { message }))) => return Err(failed(&message)),
            Ok(Ok(other)) => return Err(failed(&format!("their launcher said {other:?}"))),
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&format!("their launcher was not ready within {} s", READY.as_secs()))),
        }
        let known = Arc::new(Mutex::new(Known::default()));
        tokio::spawn(listen(socket.clone(), known.clone()));
        Ok(Link { socket, known, _process: process })
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        lock(&self.known).over
    }

    /// Orders a sandbox, with its end of the stream.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn launch(&self, start: Start, stream: OwnedFd) -> io::Result<watch::Receiver<State>> {
        let id = start.id;
        let (state, watched) = watch::channel(State::Wanted);
        {
            let mut known = lock(&self.known);
            if known.over {
                return Err(io::Error::other("the launcher of the sandboxes is gone"));
            }
            known.sandboxes.insert(id, state);
        }
        let sent = self.send(&Order::Start(start), Some(&stream)).await;
        if sent.is_err() {
            lock(&self.known).sandboxes.remove(&id);
        }
        sent.map(|()| watched)
    }

    pub async fn kill(&self, id: u64) -> io::Result<()> {
        self.send(&Order::Kill { id }, None).await
    }

    /// For whoever cannot wait; the launcher reads without pause, so that its socket is hardly ever full.
    pub fn kill_at_once(&self, id: u64) -> io::Result<()> {
        wire::send(&*self.socket, &Order::Kill { id }, None)
    }

    /// A kept upper is wanted no more.
    pub fn forget(&self, id: u64) -> io::Result<()> {
        wire::send(&*self.socket, &Order::Forget { id }, None)
    }

    async fn send(&self, order: &Order, descriptor: Option<&OwnedFd>) -> io::Result<()> {
        loop {
            self.socket.writable().await?;
            match self.socket.try_io(Interest::WRITABLE, || wire::send(&*self.socket, order, descriptor)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent,
            }
        }
    }
}

fn spawn(program: &Path) -> io::Result<(Arc<UnixStream>, Child)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let mut command = Command::new(program);
    command
        .arg("launcher")
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A Ctrl-C at the terminal is for the engine, which drains.
        .process_group(0);
    // A child that another thread is starting right now may still hold the program open as we wrote it.
    let mut tries = (0..BUSY_TRIES).map(|_| command.spawn());
    let process = loop {
        match tries.next() {
            Some(Err(error)) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(Duration::from_millis(2)),
            Some(spawned) => break spawned?,
            None => return Err(io::ErrorKind::ExecutableFileBusy.into()),
        }
    };
    // A stream by its type only: what is asked of it are datagrams, and whether it is ready.
    Ok((Arc::new(UnixStream::from_std(ours.into())?), process))
}

async fn next(socket: &UnixStream) -> io::Result<Option<News>> {
    loop {
        socket.readable().await?;
        match socket.try_io(Interest::READABLE, || wire::receive::<News>(socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            news => return Ok(news?.map(|(news, _)| news)),
        }
    }
}

async fn listen(socket: Arc<UnixStream>, known: Arc<Mutex<Known>>) {
    loop {
        let (id, state) = match next(&socket).await {
            Ok(Some(News::Failed { id, message, no_space })) => (id, State::Failed { message, no_space }),
            Ok(Some(News::Ended { id, code, oom })) => (id, State::Ended { code: Some(code), oom }),
            Ok(Some(_)) => continue,
            Ok(None) | Err(_) => break,
        };
        if let Some(sandbox) = lock(&known).sandboxes.remove(&id) {
            sandbox.send_replace(state);
        }
    }
    // Each sandbox's stream ends with it, and the sandbox with its stream.
    let mut known = lock(&known);
    known.over = true;
    for (_, sandbox) in known.sandboxes.drain() {
        sandbox.send_replace(State::Ended { code: None, oom: false });
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
