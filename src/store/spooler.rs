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
    collections::BTreeSet,
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
    /// Full ones.
    pub full: BTreeSet<u32>,
    /// What lies in all logs.
    pub index: redo::Index,
    /// Attempts in the index beyond which it is looked through for those that are committed.
    pub crowded: usize,
    /// Of the next log.
    pub number: u32,
    /// Logs that are being given up, and those of them that were, in the end.
    pub retiring: Option<(BTreeSet<u32>, JoinHandle<BTreeSet<u32>>)>,
}

pub(super) struct Log {
    number: u32,
    file: AppendFile,
    good: u64,
    /// Bytes that are durable; those of observations up to `good` may not be.
    synced: u64,
}

/// What one round takes at most: it bounds the memory, the wait of the first, and how many attempts go on at the same moment.
const ROUND_JOBS: usize = 128;
const ROUND_BYTES: usize = 32 << 20;
/// Jobs of a round after which the rest is twice as long: one sync should serve more of them.
const CROWD: usize = 16;
/// The least of [`Spooler::crowded`].
pub(super) const MANY: usize = 1024;
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
            match waiting.len() {
                // More wait already: they need no rest to come together.
                ROUND_JOBS => due = Instant::now(),
                CROWD.. => due += self.rest,
                _ => {}
            }
            self.round(waiting);
            for (id, answer) in asked {
                let _ = answer.send(self.recover(&id));
            }
        }
        self.full.extend(self.log.take().map(|log| log.number));
        self.settle_retiring();
        let logs = std::mem::take(&mut self.full);
        self.retire(logs)();
    }

    fn recover(&mut self, id: &AttemptId) -> Result<Vec<Entry>, StoreError> {
        if self.retiring.as_ref().is_some_and(|(logs, _)| self.index.logs_of(id).any(|log| logs.contains(&log))) {
            self.settle_retiring();
        }
        spool::recover(&self.layout, &self.index, id, &self.disk, self.max_entry_bytes)
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
        if self.index.attempts().len() > self.crowded {
            self.forget();
        }
        // What lies in the next log must not be durable before what came before it.
        let full_at = self.log_bytes.div_ceil(LOGS).min(redo::MAX_LOG_BYTES);
        if self.log.as_ref().is_some_and(|log| log.good >= full_at && log.synced == log.good) {
            self.rotate();
        }
    }

    fn write(&mut self, appends: &[Append]) -> Result<(), StoreError> {
        let log = match &mut self.log {
            Some(log) => log,
            None => {
                let file = AppendFile::open(&redo::path(&self.layout, self.number), &self.disk)?;
                let log = Log { number: self.number, good: file.len(), synced: file.len(), file };
                self.number += 1;
                self.log.insert(log)
            }
        };
        let places = log.write(appends)?;
        for (append, at) in appends.iter().zip(places) {
            // Both are bounded: the log by `MAX_LOG_BYTES`, at which it is synced in any case, the attempt by what a `SpoolWriter` takes.
            self.index.add(&append.id, log.number, at as u32, append.offset as u32, append.line.len() as u32);
        }
        Ok(())
    }

    /// What is committed is needed no more.
    fn forget(&mut self) {
        // Locked for one at a time: the event loop asks the state too.
        self.index.forget(|id| self.state.lock().unwrap_or_else(PoisonError::into_inner).is_committed(id));
        self.crowded = MANY.max(2 * self.index.attempts().len());
    }

    /// The next entries go to another log, while the oldest are given up beside them: those that are needed no more, and one where
    /// there are too many.
    fn rotate(&mut self) {
        self.full.extend(self.log.take().map(|log| log.number));
        self.settle_retiring();
        self.forget();
        let live = self.index.logs();
        let excess = (live.len() + 1).saturating_sub(LOGS as usize);
        let kept: BTreeSet<u32> = live.into_iter().skip(excess).collect();
        let (stay, go) = std::mem::take(&mut self.full).into_iter().partition(|log| kept.contains(log));
        self.full = stay;
        if !BTreeSet::is_empty(&go) {
            let thread = thread::spawn(self.retire(go.clone()));
            self.retiring = Some((go, thread));
        }
    }

    /// What could not be given up is tried again with the next.
    fn settle_retiring(&mut self) {
        if let Some((logs, thread)) = self.retiring.take() {
            let gone = thread.join().unwrap_or_default();
            self.index.forget_logs(&gone);
            self.full.extend(logs.difference(&gone));
        }
    }

    /// Gives up the logs and returns those with which that went well.
    fn retire(&self, logs: BTreeSet<u32>) -> impl FnOnce() -> BTreeSet<u32> + Send + 'static {
        let (layout, disk, state, syncs) = (self.layout.clone(), self.disk.clone(), Arc::clone(&self.state), self.syncs);
        let index = self.index.of(&logs);
        move || {
            let done = |id: &AttemptId| state.lock().unwrap_or_else(PoisonError::into_inner).is_committed(id);
            let warn = |e: &StoreError| tracing::warn!("logs of the spool stay for now: {e}");
            if index.spill(&layout, &disk, syncs, done).inspect_err(warn).is_err() {
                return BTreeSet::new();
            }
            let give_up = |log: &u32| files::remove_if_there(&redo::path(&layout, *log)).inspect_err(warn).is_ok();
            logs.into_iter().take_while(give_up).collect()
        }
    }
}

impl Log {
    /// Returns where each of them lies.
    fn write(&mut self, appends: &[Append]) -> Result<Vec<u64>, StoreError> {
        let mut records = Vec::with_capacity(appends.iter().map(|append| append.line.len() + 256).sum());
        let begun = self.good;
        let place = |append: &Append| begun + redo::write(&mut records, &append.id, append.offset, &append.line) as u64;
        let places = appends.iter().map(place).collect();
        if self.file.is_ragged(self.good) {
            self.renew()?;
        }
        let sync = appends.iter().any(|append| append.paid) || begun + records.len() as u64 >= redo::MAX_LOG_BYTES;
        if let Err(e) = self.file.append(&records).and_then(|_| if sync { self.file.sync() } else { Ok(()) }) {
            // Where this fails too, the next append tries it again.
            let _ = self.renew();
            return Err(e);
        }
        self.good = self.file.len();
        self.synced = if sync { self.good } else { self.synced };
        Ok(places)
    }

    fn renew(&mut self) -> Result<(), StoreError> {
        self.file.renew(self.synced, self.good)?;
        self.synced = self.good;
        Ok(())
    }
}
