//! The one thread that writes the spool. It takes all entries that wait, puts each into its attempt's file, all of them into the
//! redo log, syncs that once, and then answers each.

use super::{
    StoreError,
    files::{self, AppendFile, Disk, OwnFile},
    redo,
    run_dir::Layout,
    spool,
};
use crate::domain::AttemptId;
use std::{
    collections::HashSet,
    path::PathBuf,
    thread::{self, JoinHandle},
};
use tokio::sync::{mpsc, oneshot};

/// What the thread is asked for.
pub(super) enum Job {
    Append(Append),
    Close,
}

/// One entry for one attempt's file.
pub(super) struct Append {
    pub id: AttemptId,
    /// Bytes of whole entries before it.
    pub offset: u64,
    pub line: Vec<u8>,
    /// The file is this process's own; else there may be none yet, or an empty one.
    pub ours: bool,
    pub answer: oneshot::Sender<Result<(), StoreError>>,
}

pub(super) struct Spooler {
    pub layout: Layout,
    pub disk: Disk,
    /// A log that is longer is given up, once the attempts' files are durable themselves.
    pub log_bytes: u64,
    /// Files that are synced at the same time then.
    pub syncs: usize,
    pub log: Option<Log>,
    /// Of the next log.
    pub number: u64,
    pub retiring: Option<JoinHandle<()>>,
}

/// The log that is written, and the attempts whose entries only it makes durable.
pub(super) struct Log {
    path: PathBuf,
    file: AppendFile,
    good: u64,
    attempts: HashSet<AttemptId>,
}

/// What one round takes at most: it bounds the memory and the wait of the first.
const ROUND_JOBS: usize = 1024;
const ROUND_BYTES: usize = 32 << 20;

impl Spooler {
    /// Works until it is asked to close, or nobody can ask any more.
    pub fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut closing = false;
        while !closing {
            let Some(first) = jobs.blocking_recv() else { break };
            let (mut waiting, mut bytes, mut next) = (Vec::new(), 0, Some(first));
            while let Some(job) = next {
                match job {
                    Job::Close => closing = true,
                    Job::Append(append) => {
                        bytes += append.line.len();
                        waiting.push(append);
                    }
                }
                let room = waiting.len() < ROUND_JOBS && bytes < ROUND_BYTES && !closing;
                next = if room { jobs.try_recv().ok() } else { None };
            }
            self.round(waiting);
        }
        if let Some(retiring) = self.retiring.take() {
            let _ = retiring.join();
        }
        if let Some(log) = self.log.take() {
            log.retire(&self.layout, self.syncs);
        }
    }

    fn round(&mut self, appends: Vec<Append>) {
        let mut records = Vec::new();
        let mut placed = Vec::with_capacity(appends.len());
        for append in appends {
            match append.place(&self.layout, &self.disk) {
                Ok(()) => {
                    redo::write(&mut records, &append.id, append.offset, &append.line);
                    placed.push(append);
                }
                Err(e) => drop(append.answer.send(Err(e))),
            }
        }
        let durable = if placed.is_empty() { Ok(()) } else { self.make_durable(&records, &placed) };
        for append in placed {
            if durable.is_err() {
                append.take_back(&self.layout);
            }
            let _ = append.answer.send(durable.clone());
        }
        if self.log.as_ref().is_some_and(|log| log.good >= self.log_bytes) {
            self.rotate();
        }
    }

    fn make_durable(&mut self, records: &[u8], placed: &[Append]) -> Result<(), StoreError> {
        let log = match &mut self.log {
            Some(log) => log,
            None => {
                let path = redo::path(&self.layout, self.number);
                let file = AppendFile::open(&path, &self.disk)?;
                self.number += 1;
                self.log.insert(Log { good: file.len(), path, file, attempts: HashSet::new() })
            }
        };
        log.append(records)?;
        log.attempts.extend(placed.iter().map(|append| append.id.clone()));
        Ok(())
    }

    /// The next entries go to another log, while the files of this one are made durable beside them.
    fn rotate(&mut self) {
        let (Some(log), layout, syncs) = (self.log.take(), self.layout.clone(), self.syncs) else { return };
        if let Some(earlier) = self.retiring.take() {
            let _ = earlier.join();
        }
        self.retiring = Some(thread::spawn(move || log.retire(&layout, syncs)));
    }
}

impl Log {
    fn append(&mut self, records: &[u8]) -> Result<(), StoreError> {
        if self.file.is_ragged(self.good) {
            self.file.cut(self.good)?;
        }
        if let Err(e) = self.file.append(records).and_then(|_| self.file.sync()) {
            // Where this fails too, the next append tries it again.
            let _ = self.file.cut(self.good);
            return Err(e);
        }
        self.good = self.file.len();
        Ok(())
    }

    /// Where it fails the log stays, and the next opening of the run goes by it.
    fn retire(self, layout: &Layout, syncs: usize) {
        let gone = redo::sync(layout, self.attempts, syncs).and_then(|()| files::remove_if_there(&self.path));
        if let Err(e) = gone {
            tracing::warn!("a log of the spool stays until the run is opened again: {e}");
        }
    }
}

impl Append {
    fn place(&self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        let path = spool::path(layout, &self.id);
        let file = OwnFile::open(&path)?;
        if !self.ours && file.len()? > 0 {
            return Err(StoreError::damaged(&path, "byte 0", "an earlier process has written this attempt"));
        }
        file.write_last(disk, self.offset, &self.line).inspect_err(|_| {
            // Where this fails too, the next append at this place does it.
            let _ = file.cut(self.offset);
        })
    }

    fn take_back(&self, layout: &Layout) {
        let _ = OwnFile::open(&spool::path(layout, &self.id)).and_then(|file| file.cut(self.offset));
    }
}
