//! The first process of a sandbox: greets, serves requests concurrently, and takes everything it started with it.
//!
//! Threads rather than an async runtime: it starts in a millisecond and stays small. The pool grows with the calls in flight;
//! commands of the session have one thread, which keeps them in order.

use super::apply;
use super::diff::Shadow;
use super::edit::{self, Edits};
use super::files;
use super::output::Drain;
use super::process::Processes;
use super::protocol::{self, Answer, Greeting, Op, OpError, PROTOCOL, Reply, Request};
use super::search;
use super::shell::Runner;
use super::usage;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Most requests served at once; more wait.
const MAX_WORKERS: usize = 256;
/// A worker without work ends after this, unless it is the last.
const IDLE: Duration = Duration::from_secs(10);
const STACK: usize = 2 << 20;

/// Runs `sweroll toolbox` with the arguments after that word; returns at the end of its stream.
#[must_use]
pub fn main(args: &[OsString]) -> ExitCode {
    be_first_process();
    let served = Options::parse(args).and_then(|options| {
        let (input, output) = open_stream(options.connect.as_deref())?;
        serve(input, output, options.shell)
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sweroll toolbox: {e}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Options {
    /// Socket to connect to; none: the stream is standard input and output.
    connect: Option<PathBuf>,
    /// Instead of the first bash or sh that is found.
    shell: Option<PathBuf>,
}

impl Options {
    fn parse(args: &[OsString]) -> io::Result<Self> {
        let mut options = Options::default();
        for pair in args.chunks(2) {
            match (pair[0].to_str(), pair.get(1)) {
                (Some("--connect"), Some(path)) => options.connect = Some(path.into()),
                (Some("--shell"), Some(path)) => options.shell = Some(path.into()),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: sweroll toolbox [--connect SOCKET] [--shell PATH]")),
            }
        }
        Ok(options)
    }
}

/// The two directions of the stream, on descriptors that no child inherits.
fn open_stream(socket: Option<&Path>) -> io::Result<(OwnedFd, OwnedFd)> {
    let Some(path) = socket else {
        let halves = (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        return Ok(halves);
    };
    let stream = UnixStream::connect(path).map_err(|e| io::Error::other(format!("cannot connect to {}: {e}", path.display())))?;
    Ok((stream.try_clone()?.into(), stream.into()))
}

/// All that operations need.
struct Toolbox {
    processes: Arc<Processes>,
    runner: Runner,
    edits: Edits,
    shadow: Shadow,
    output: Mutex<File>,
}

fn serve(input: OwnedFd, output: OwnedFd, shell: Option<PathBuf>) -> io::Result<()> {
    let processes = Arc::new(Processes::default());
    let drain = Arc::new(Drain::new()?);
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let toolbox = Arc::new(Toolbox {
        processes: processes.clone(),
        runner: Runner::new(processes.clone(), drain.clone(), cwd, shell),
        edits: Edits::default(),
        shadow: Shadow::default(),
        output: Mutex::new(output.into()),
    });
    spawn("reaper", {
        let processes = processes.clone();
        move || processes.reap()
    })?;
    spawn("drain", move || drain.run())?;
    let pool = Arc::new(Pool::new(MAX_WORKERS));
    let session = Arc::new(Pool::new(1));
    pool.grow()?;
    session.grow()?;
    toolbox.send(&Greeting { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() }, &[])?;

    let mut reader = BufReader::with_capacity(16 << 10, File::from(input));
    while let Ok((request, blob)) = read_request(&mut reader) {
        let ordered = matches!(&request.op, Op::Run(run) if run.session);
        let toolbox = toolbox.clone();
        let job = Box::new(move || toolbox.answer(request, &blob));
        if ordered { session.give(job) } else { pool.give(job) }
    }
    processes.kill_all();
    Ok(())
}

/// Adopts orphans, and leaves the terminal, descriptors and signal dispositions of whoever started it.
fn be_first_process() {
    close_inherited();
    if std::process::id() != 1 {
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let _ = rustix::process::setsid();
    }
    // SAFETY: plain system calls on this process; no other thread runs yet. SIGPIPE stays ignored here, and the standard
    // library gives it back to children. The system call itself, since libc refuses signals that it keeps for itself;
    // all-zero bytes are a default disposition, and the kernel reads no more of them than the size of its signal set says.
    unsafe {
        let default = [0u64; 8];
        for signal in (1..=64).filter(|&s| s != libc::SIGPIPE && s != libc::SIGKILL && s != libc::SIGSTOP) {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8usize);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        // One heap for all threads: their work is short, and every heap keeps memory of its own.
        #[cfg(target_env = "gnu")]
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// A child must hold no pipe of whoever started the toolbox.
fn close_inherited() {
    // SAFETY: nothing of this process has opened a descriptor above standard error yet.
    if unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) } == 0 {
        return;
    }
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<i32> = open.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(|&fd| fd > 2).collect();
    for fd in open {
        // SAFETY: as above; the descriptor of the listing itself is closed already, and closing it again is an error without effect.
        unsafe { libc::close(fd) };
    }
}

fn read_request(reader: &mut impl Read) -> io::Result<(Request, Vec<u8>)> {
    let mut prefix = [0; 8];
    reader.read_exact(&mut prefix)?;
    let (header_len, blob_len) = protocol::lengths(prefix)?;
    let mut header = vec![0; header_len];
    reader.read_exact(&mut header)?;
    let mut blob = vec![0; blob_len];
    reader.read_exact(&mut blob)?;
    Ok((serde_json::from_slice(&header)?, blob))
}

impl Toolbox {
    fn send<T: serde::Serialize>(&self, header: &T, blob: &[u8]) -> io::Result<()> {
        let frame = protocol::encode(header, blob)?;
        self.output.lock().unwrap_or_else(PoisonError::into_inner).write_all(&frame)
    }

    /// A panic is this request's failure and nobody else's.
    fn answer(&self, request: Request, blob: &[u8]) {
        let Request { id, op } = request;
        let done = catch_unwind(AssertUnwindSafe(|| self.perform(op, blob)));
        let done = done.unwrap_or_else(|_| Err(OpError::Failed { message: "the toolbox panicked at this operation".into() }));
        let (result, blob) = match done {
            Ok((answer, blob)) => (Ok(answer), blob),
            Err(error) => (Err(error), Vec::new()),
        };
        if let Err(e) = self.send(&Reply { id, result }, &blob) {
            let failed = OpError::Failed { message: format!("the reply could not be sent: {e}") };
            let _ = self.send(&Reply { id, result: Err(failed) }, &[]);
        }
    }

    fn perform(&self, op: Op, blob: &[u8]) -> Result<(Answer, Vec<u8>), OpError> {
        let at = |path: &str| self.runner.resolve(path);
        let done = |blob: Vec<u8>| Ok((Answer::Done, blob));
        match op {
            Op::Run(run) => self.runner.run(&run, blob).map(|(ran, output)| (Answer::Ran(ran), output)),
            Op::View { path, range } => done(edit::view(&at(&path), range)?),
            Op::Create { path, overwrite } => {
                self.edits.create(&at(&path), overwrite, blob)?;
                done(Vec::new())
            }
            Op::Replace { path, old, new } => done(self.edits.replace(&at(&path), &old, &new)?),
            Op::Insert { path, line, text } => done(self.edits.insert(&at(&path), line, &text)?),
            Op::Undo { path } => done(self.edits.undo(&at(&path))?),
            Op::Directory { path } => {
                files::check_directory(&at(&path))?;
                done(Vec::new())
            }
            Op::Read { path, offset, max } => {
                let (size, bytes) = files::read(&at(&path), offset, max.min(protocol::MAX_BLOB as u64))?;
                Ok((Answer::Read { size }, bytes))
            }
            Op::Write { path, mode } => {
                files::write(&at(&path), blob, Some(mode & 0o7777))?;
                done(Vec::new())
            }
            Op::Search(search) => {
                let found = search::search(&search, &at(&search.path), &search.path)?;
                Ok((Answer::Found { total: found.total, shown: found.shown }, found.text))
            }
            Op::Find { pattern, path, max_results } => {
                let found = search::find(&pattern, &at(&path), &path, max_results)?;
                Ok((Answer::Found { total: found.total, shown: found.shown }, found.text))
            }
            Op::Usage => Ok((Answer::Usage(usage::usage()), Vec::new())),
            Op::Snapshot { workdir, exclude } => {
                let tree = self.shadow.snapshot(&at(&workdir), &exclude)?;
                Ok((Answer::Tree { tree }, Vec::new()))
            }
            Op::Diff { workdir, tree, exclude, max, settle } => {
                if settle {
                    self.processes.kill_all();
                }
                done(self.shadow.diff(&at(&workdir), &tree, &exclude, max)?.into_bytes())
            }
            Op::Apply { workdir, exclude } => {
                apply::apply(&self.processes, &at(&workdir), blob, &exclude)?;
                done(Vec::new())
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body).map(drop)
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that take jobs in the order of their coming; there is always at least one.
struct Pool {
    most: usize,
    state: Mutex<PoolState>,
    given: Condvar,
}

#[derive(Default)]
struct PoolState {
    jobs: VecDeque<Job>,
    idle: usize,
    workers: usize,
}

impl Pool {
    fn new(most: usize) -> Self {
        Pool { most, state: Mutex::default(), given: Condvar::new() }
    }

    /// One thread more.
    fn grow(self: &Arc<Self>) -> io::Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).workers += 1;
        let pool = self.clone();
        spawn("worker", move || pool.work()).inspect_err(|_| self.state.lock().unwrap_or_else(PoisonError::into_inner).workers -= 1)
    }

    fn give(self: &Arc<Self>, job: Job) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.jobs.push_back(job);
        let short = state.jobs.len() > state.idle && state.workers < self.most;
        drop(state);
        self.given.notify_one();
        if short {
            // Where the process limit is reached, the job waits for a thread that is there.
            let _ = self.grow();
        }
    }

    fn work(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            while let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            }
            state.idle += 1;
            let last = state.workers == 1;
            let patience = if last { Duration::MAX } else { IDLE };
            let (back, waited) = self.given.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() && state.workers > 1 {
                state.workers -= 1;
                return;
            }
        }
    }
}
