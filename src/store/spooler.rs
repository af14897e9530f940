//! The one thread that has the spool. It takes all entries that wait, puts them into the redo log at once, syncs that where one
//! of them was paid for, and then answers each.

use super::{
    StoreError,
    files::{self, AppendFile, Disk},
    redo,
    run_dir::Layout,
    spool,
    state::State,
};
use crate::domain::{AttemptId, Entry};
use std::{
    collections::VecDeque,
    fs,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// What the thread is asked for.
pub(super) enum Job {
    Append(Append),
    /// The entries of an attempt that is not at work.
    Recover(AttemptId, Answer<Vec<Entry>>),
    Close,
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// One entry for one attempt's file.
pub(super) struct Append {
    pub id: AttemptId,
    /// Bytes of whole entries before it.
    pub offset: u64,
    pub line: Vec<u8>,
    /// It was paid for: the answer waits until it is durable. Others become so with the next that is.
    pub paid: bool,
    pub answer: Answer<()>,
}

pub(super) struct Spooler {
    pub layout: Layout,
    pub disk: Disk,
    pub state: Arc<Mutex<State>>,
    /// Bytes of all logs together; beyond them the oldest are given up, once the attempts' files have what they say.
    pub log_bytes: u64,
    /// From the beginning of one round to that of the next, where rounds follow each other.
    pub rest: Duration,
    /// Files that are written at the same time when a log is given up.
    pub syncs: usize,
    pub max_entry_bytes: u64,
    pub log: Option<Log>,
    /// Full ones, oldest first.
    pub full: VecDeque<Log>,
    /// Of the next log.
    pub number: u64,
    /// Logs that are being given up, and how many of them were, in the end.
    pub retiring: Option<(Arc<VecDeque<Log>>, JoinHandle<usize>)>,
}

pub(super) struct Log {
    number: u64,
    file: AppendFile,
    good: u64,
    /// Bytes that are durable; those of observations up to `good` may not be.
    synced: u64,
    index: redo::Index,
}

/// What one round takes at most: it bounds the memory, the wait of the first, and how many attempts go on at the same moment.
const ROUND_JOBS: usize = 128;
const ROUND_BYTES: usize = 32 << 20;
/// Logs among which the bytes are shared. One goes at once when its attempts are committed: there are as many as live ones need.
const LOGS: u64 = 16;

impl Spooler {
    /// Works until it is asked to close, or nobody can ask any more.
    pub fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let (mut closing, mut due) = (false, Instant::now());
        while !closing {
            let Some(first) = jobs.blocking_recv() else { break };
            if matches!(first, Job::Append(_)) {
                // At once after a quiet while; under load one sync serves all that come in the meantime.
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due = Instant::now() + self.rest;
            }
            let (mut waiting, mut asked, mut bytes, mut next) = (Vec::new(), Vec::new(), 0, Some(first));
            while let Some(job) = next {
                match job {
                    Job::Close => closing = true,
                    Job::Recover(id, answer) => asked.push((id, answer)),
                    Job::Append(append) => {
                        bytes += append.line.len();
                        waiting.push(append);
                    }
                }
                let room = waiting.len() < ROUND_JOBS && bytes < ROUND_BYTES && !closing;
                next = if room { jobs.try_recv().ok() } else { None };
            }
            // More wait already: they need no rest to come together.
            if waiting.len() == ROUND_JOBS {
                due = Instant::now();
            }
            self.round(waiting);
            for (id, answer) in asked {
                let _ = answer.send(self.recover(&id));
            }
        }
        self.full.extend(self.log.take());
        self.settle_retiring();
        let logs = Arc::new(std::mem::take(&mut self.full));
        self.retire(logs)();
    }

    fn recover(&mut self, id: &AttemptId) -> Result<Vec<Entry>, StoreError> {
        if self.retiring.as_ref().is_some_and(|(logs, _)| logs.iter().any(|log| log.index.has(id))) {
            self.settle_retiring();
        }
        let index = redo::Index::joined(id, self.full.iter().chain(&self.log).map(|log| &log.index));
        spool::recover(&self.layout, &index, id, &self.disk, self.max_entry_bytes)
    }

    fn round(&mut self, mut appends: Vec<Append>) {
        let is_new = |append: &Append| append.offset > 0 || fs::metadata(spool::path(&self.layout, &append.id)).map_or(0, |m| m.len()) == 0;
        for append in appends.extract_if(.., |append| !is_new(append)) {
            let path = spool::path(&self.layout, &append.id);
            let _ = append.answer.send(Err(StoreError::damaged(&path, "byte 0", "an earlier process has written this attempt")));
        }
        let written = if appends.is_empty() { Ok(()) } else { self.write(&appends) };
        for append in appends {
            let _ = append.answer.send(written.clone());
        }
        // What lies in the next log must not be durable before what came before it.
        if self.log.as_ref().is_some_and(|log| log.good >= self.log_bytes.div_ceil(LOGS) && log.synced == log.good) {
            self.rotate();
        }
    }

    fn write(&mut self, appends: &[Append]) -> Result<(), StoreError> {
        let log = match &mut self.log {
            Some(log) => log,
            None => {
                let file = AppendFile::open(&redo::path(&self.layout, self.number), &self.disk)?;
                let log = Log { number: self.number, good: file.len(), synced: file.len(), file, index: redo::Index::default() };
                self.number += 1;
                self.log.insert(log)
            }
        };
        log.write(appends)
    }

    /// The next entries go to another log, while the oldest is given up beside them.
    fn rotate(&mut self) {
        self.full.extend(self.log.take());
        self.settle_retiring();
        // Locked for one at a time: the event loop asks the state too.
        let done = |id: &AttemptId| self.state.lock().unwrap_or_else(PoisonError::into_inner).is_committed(id);
        self.full.iter_mut().for_each(|log| log.index.forget(done));
        let (mut over, live) = std::mem::take(&mut self.full).into_iter().partition::<VecDeque<_>, _>(|log| log.index.is_empty());
        self.full = live;
        over.extend(self.full.drain(..(self.full.len() + 1).saturating_sub(LOGS as usize)));
        if !over.is_empty() {
            let logs = Arc::new(over);
            let thread = thread::spawn(self.retire(Arc::clone(&logs)));
            self.retiring = Some((logs, thread));
        }
    }

    /// What could not be given up is tried again with the next.
    fn settle_retiring(&mut self) {
        if let Some((logs, thread)) = self.retiring.take() {
            let gone = thread.join().unwrap_or(0);
            let left = Arc::into_inner(logs).into_iter().flatten().skip(gone);
            self.full = left.chain(std::mem::take(&mut self.full)).collect();
        }
    }

    /// Gives up the logs, oldest first, up to one with which that fails; returns how many.
    fn retire(&self, logs: Arc<VecDeque<Log>>) -> impl FnOnce() -> usize + Send + 'static {
        let (layout, disk, state, syncs) = (self.layout.clone(), self.disk.clone(), Arc::clone(&self.state), self.syncs);
        let done = move |id: &AttemptId| state.lock().unwrap_or_else(PoisonError::into_inner).is_committed(id);
        let give_up = move |log: &Log| {
            log.index.spill(&layout, &disk, syncs, &done)?;
            files::remove_if_there(&redo::path(&layout, log.number))
        };
        let warn = |e: &StoreError| tracing::warn!("logs of the spool stay for now: {e}");
        move || logs.iter().take_while(|log| give_up(log).inspect_err(warn).is_ok()).count()
    }
}

impl Log {
    fn write(&mut self, appends: &[Append]) -> Result<(), StoreError> {
        let mut records = Vec::with_capacity(appends.iter().map(|append| append.line.len() + 256).sum());
        let places: Vec<u64> =
            appends.iter().map(|append| redo::write(&mut records, &append.id, append.offset, &append.line) as u64).collect();
        if self.file.is_ragged(self.good) {
            self.renew()?;
        }
        let sync = appends.iter().any(|append| append.paid);
        if let Err(e) = self.file.append(&records).and_then(|_| if sync { self.file.sync() } else { Ok(()) }) {
            // Where this fails too, the next append tries it again.
            let _ = self.renew();
            return Err(e);
        }
        for (append, at) in appends.iter().zip(places) {
            self.index.add(&append.id, self.number, self.good + at, append.offset, append.line.len() as u64);
        }
        self.good = self.file.len();
        self.synced = if sync { self.good } else { self.synced };
        Ok(())
    }

    fn renew(&mut self) -> Result<(), StoreError> {
        self.file.renew(self.synced, self.good)?;
        self.synced = self.good;
        Ok(())
    }
}
