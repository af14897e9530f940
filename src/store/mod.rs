//! Everything on disk: datasets coming in, the run directory, its journal, shards, spool and manifest.
//!
//! A commit writes a zstd frame, syncs the shard, journals the fact, syncs the journal, and only then answers: a crash at any
//! byte loses nothing committed and yields no duplicate. See `docs/format.md`.

mod card;
pub mod dataset;
mod error;
pub mod fact;
mod files;
pub mod flaky;
pub mod frame;
pub mod gradings;
pub mod instances;
pub mod journal;
pub mod manifest;
pub mod merge;
pub mod predictions;
mod redo;
pub mod rerun;
pub mod row;
pub mod run_dir;
pub mod seal;
pub mod sealed;
pub mod seek;
pub mod shard;
pub mod spool;
mod spooler;
pub mod state;
pub mod summary;
pub mod verify;
mod view;
mod writer;

pub use dataset::DatasetError;
pub use error::StoreError;
pub use fact::{Location, Stream};
pub use files::Disk;
pub use flaky::Flaky;
pub use gradings::{Gradings, GradingsDir};
pub use instances::Instances;
pub use manifest::Manifest;
pub use run_dir::{Layout, Plan, RunDir, RunInfo};
pub use seal::{Counting, SealError, seal};
pub use sealed::{CountedBy, Sealed};
pub use spool::SpoolWriter;
pub use state::State;
pub use summary::Summary;
pub use view::View;

use crate::domain::{Attempt, AttemptId, Entry, EpisodeId, Failure, InstanceId, Trajectory, event::Outcome};
use fact::Fact;
use journal::{JOURNAL_FORMAT, Journal};
use serde::{Deserialize, Serialize};
use spooler::Spooler;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot};
use writer::{Commit, Job, Writer};

/// Sizes and counts of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A shard that would grow over this, before compression, is followed by another.
    pub shard_bytes: u64,
    /// A longer record, before compression, is refused.
    pub max_record_bytes: u64,
    /// Commits that may wait for the disk; beyond them `commit` waits to be taken.
    pub queue: usize,
    /// Time between two writings of the manifest, where anything is committed at all.
    pub manifest_seconds: u64,
    /// Milliseconds from one sync of the live attempts' entries to the next, where they come so fast: one sync serves all of them.
    /// Twice as many where sixteen come in that time: replies wait for it while their calls run.
    pub spool_sync_ms: u64,
    /// Bytes of the logs of the spool, sixteen at most. One is removed once its attempts are committed; beyond these bytes the
    /// oldest is given up, once its live attempts have files of their own. 10,000 live ones with contexts of 30,000 tokens take 2 GB.
    pub spool_log_bytes: u64,
    /// Files that are written and synced at the same time then.
    pub spool_syncs: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            shard_bytes: 512 << 20,
            max_record_bytes: 256 << 20,
            queue: 64,
            manifest_seconds: 30,
            spool_sync_ms: 20,
            spool_log_bytes: 4 << 30,
            spool_syncs: 32,
        }
    }
}

/// zstd level of the shards: 3.9x at 308 MB/s on trajectories of 167 KB.
const LEVEL: i32 = 3;
/// Bytes of a line's memory that a thread keeps for the next.
const LINE_KEPT: usize = 64 << 10;
/// Entries that may wait for the disk; beyond them `append` waits to be taken.
const SPOOL_QUEUE: usize = 1024;

/// A run, open for work by this process alone.
pub struct Store {
    dir: RunDir,
    settings: Settings,
    instances: Arc<Instances>,
    state: Arc<Mutex<State>>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    spools: mpsc::Sender<spooler::Job>,
    spooler: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens a run, new or not: folds the journal, cuts what a crash left behind the last committed frame, drops spools of
    /// committed attempts. Blocks on the disk.
    ///
    /// # Errors
    /// Where the directory is damaged or cannot be written.
    pub fn open(dir: RunDir, settings: Settings) -> Result<Self, StoreError> {
        Self::open_on(dir, settings, Disk::default())
    }

    /// As [`Self::open`], on a disk that can be made to fail.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(dir: RunDir, settings: Settings, disk: Disk) -> Result<Self, StoreError> {
        let (layout, run) = (dir.layout().clone(), dir.info().run.clone());
        let instances = Arc::new(Instances::open(&layout)?);
        let mut state = State::new(instances.ids(), dir.info().plan.samples);
        let journal_path = layout.journal();
        if !journal_path.exists() {
            refuse_orphans(&layout)?;
        }
        let mut journal = Journal::open(&journal_path, &disk, &mut fold(&journal_path, &run, &mut state))?;
        if journal.is_empty() {
            refuse_orphans(&layout)?;
        }
        let opened = Fact::Opened { format: JOURNAL_FORMAT, run: run.clone(), at_ms: now_ms() };
        journal.append([&opened])?;
        state.apply(&opened)?;

        shard::tidy(&layout, &disk, state.shards())?;
        let mut live = BTreeMap::new();
        for stream in Stream::ALL {
            if let Some(((_, number), committed)) = state.shards().range((stream, 0)..=(stream, u32::MAX)).next_back() {
                live.insert(stream, shard::LiveShard::open(&layout, &disk, stream, *number, *committed)?);
            }
        }
        let is_live = |(stream, number): &(Stream, u32)| live.get(stream).is_some_and(|shard| shard.number == *number);
        let sealed = manifest::digests(&layout, &run, &state, |key| !is_live(key))?;
        redo::replay(&layout, &disk, settings.spool_syncs, |id| state.is_committed(id))?;
        for id in spool::list(&layout, &redo::Index::default())? {
            let path = spool::path(&layout, &id);
            if state.is_committed(&id) || fs::metadata(&path).is_ok_and(|meta| meta.len() == 0) {
                files::remove_if_there(&path)?;
            } else {
                // Its number is taken, even where the journal has no word of it.
                state.apply(&Fact::Started { id, at_ms: opened.at_ms() })?;
            }
        }

        let state = Arc::new(Mutex::new(state));
        let (jobs, waiting) = mpsc::channel(settings.queue.max(1));
        let writer = Writer {
            frames: frame::FrameWriter::new(LEVEL).map_err(|e| StoreError::io("compress for", &layout.shards(), &e))?,
            durable: journal.len(),
            layout,
            disk: disk.clone(),
            settings: settings.clone(),
            run,
            journal,
            live,
            full: Vec::new(),
            sealed,
            state: state.clone(),
            manifest_at: Instant::now(),
        };
        let (spools, entries) = mpsc::channel(SPOOL_QUEUE);
        let own_spooler = Spooler {
            layout: writer.layout.clone(),
            disk: disk.clone(),
            state: Arc::clone(&state),
            log_bytes: settings.spool_log_bytes,
            rest: Duration::from_millis(settings.spool_sync_ms),
            syncs: settings.spool_syncs.max(1),
            max_entry_bytes: settings.max_record_bytes,
            log: None,
            full: BTreeSet::new(),
            index: redo::Index::default(),
            crowded: spooler::MANY,
            number: 0,
            retiring: None,
        };
        let failed = |e| StoreError::io("start the writer of", dir.layout().root(), &e);
        let spawned = std::thread::Builder::new().name("spool".into()).spawn(move || own_spooler.run(entries));
        let spooler = spawned.map_err(failed)?;
        let spawned = std::thread::Builder::new().name("store".into()).spawn(move || writer.run(waiting));
        let thread = spawned.map_err(failed)?;
        Ok(Store { dir, settings, instances, state, jobs: Some(jobs), thread: Some(thread), spools, spooler: Some(spooler) })
    }

    /// Writes the record and its outcome. Once it returns, they survive a crash and the attempt's spool is gone. After an error
    /// nothing of the attempt is committed, and it may be tried again.
    ///
    /// # Errors
    /// A full or broken disk; an attempt that is committed already or is none of this run's; a record over the limit.
    pub async fn commit(&self, trajectory: &Trajectory, outcome: Outcome, stream: Stream) -> Result<Location, StoreError> {
        self.commit_as(trajectory, outcome, stream, None).await
    }

    /// As [`Self::commit`], of an attempt that is another one with a new grade: in totals it is not paid for again.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn commit_regrade(
        &self,
        trajectory: &Trajectory,
        outcome: Outcome,
        stream: Stream,
        of: Attempt,
    ) -> Result<Location, StoreError> {
        self.commit_as(trajectory, outcome, stream, Some(of)).await
    }

    async fn commit_as(
        &self,
        trajectory: &Trajectory,
        outcome: Outcome,
        stream: Stream,
        regrade_of: Option<Attempt>,
    ) -> Result<Location, StoreError> {
        self.write(Record::new(trajectory, outcome, stream, self.settings.max_record_bytes)?, regrade_of).await
    }

    /// As [`Self::commit`], of a record that was made elsewhere.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn commit_record(&self, record: Record) -> Result<Location, StoreError> {
        self.write(record, None).await
    }

    async fn write(&self, record: Record, regrade_of: Option<Attempt>) -> Result<Location, StoreError> {
        let Record { id, line, stream, outcome, loss_tokens } = record;
        self.ask(|answer| Job::Commit(Commit { id, record: line, stream, outcome, loss_tokens, regrade_of, answer })).await
    }

    /// Journals that the attempt is about to use what costs time or money.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn started(&self, id: AttemptId) -> Result<(), StoreError> {
        self.fact(Fact::Started { id, at_ms: now_ms() }).await
    }

    /// Makes the episodes outstanding again, and lifts the quarantine of their instances.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn reopen(&self, episodes: Vec<EpisodeId>, reason: &str) -> Result<(), StoreError> {
        self.fact(Fact::Reopened { episodes, reason: reason.to_owned(), at_ms: now_ms() }).await
    }

    /// Leaves the episodes out, until they are reopened.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn waive(&self, episodes: Vec<EpisodeId>, reason: &str) -> Result<(), StoreError> {
        self.fact(Fact::Waived { episodes, reason: reason.to_owned(), at_ms: now_ms() }).await
    }

    /// No other episode of the instance is to be begun.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn quarantine(&self, instance: InstanceId, failure: Failure) -> Result<(), StoreError> {
        self.fact(Fact::Quarantined { instance, failure: clip(failure), at_ms: now_ms() }).await
    }

    async fn fact(&self, fact: Fact) -> Result<(), StoreError> {
        self.ask(|answer| Job::Fact(fact, answer)).await
    }

    async fn ask<T>(&self, job: impl FnOnce(writer::Answer<T>) -> Job) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send(job(answer)).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// For the entries of a new attempt.
    #[must_use]
    pub fn spool(&self, id: &AttemptId) -> SpoolWriter {
        SpoolWriter::new(id.clone(), self.spools.clone(), self.settings.max_record_bytes)
    }

    /// Attempts that a crash interrupted, right after opening: those that have a spool and are not committed.
    ///
    /// # Errors
    /// Where the spool cannot be read.
    pub fn spooled(&self) -> Result<Vec<AttemptId>, StoreError> {
        let ids = spool::list(self.dir.layout(), &redo::Index::default())?;
        Ok(self.with_state(|state| ids.into_iter().filter(|id| !state.is_committed(id)).collect()))
    }

    /// The entries of an attempt that is not at work any more; [`crate::domain::Transcript::replay`] makes its transcript of them. Empty
    /// where it has none, as where a crash came before the first was whole: [`Self::discard_spool`] then. Of a damaged spool, those
    /// before the damage; the whole is kept beside it.
    ///
    /// # Errors
    /// Where the spool cannot be read.
    pub async fn recover(&self, id: &AttemptId) -> Result<Vec<Entry>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.spools.send(spooler::Job::Recover(id.clone(), answer)).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Removes a spool that holds nothing worth a record.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn discard_spool(&self, id: &AttemptId) -> Result<(), StoreError> {
        files::remove_if_there(&spool::path(self.dir.layout(), id))
    }

    /// Looks at the state as it is durable now. Keep it short: the writer waits meanwhile.
    pub fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[must_use]
    pub fn summary(&self) -> Summary {
        self.with_state(|state| Summary::new(self.dir.info(), state))
    }

    #[must_use]
    pub fn instances(&self) -> &Arc<Instances> {
        &self.instances
    }

    #[must_use]
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// Writes the manifest and lets go of the run.
    ///
    /// # Errors
    /// Where the last writes fail; nothing committed is touched by that.
    pub async fn close(mut self) -> Result<Manifest, StoreError> {
        let closed = self.ask(Job::Close).await;
        self.join();
        closed
    }

    fn join(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(spooler) = self.spooler.take() {
            // Writers of spools may outlive the store: it does not wait for them.
            let mut close = spooler::Job::Close;
            while let Err(mpsc::error::TrySendError::Full(job)) = self.spools.try_send(close) {
                close = job;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let _ = spooler.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.join();
    }
}

/// A trajectory as its line of a shard, with what the journal says of it. Made on any thread.
pub struct Record {
    id: AttemptId,
    line: Vec<u8>,
    stream: Stream,
    outcome: Outcome,
    loss_tokens: i64,
}

impl Record {
    /// # Errors
    /// Where the line is longer than `max_bytes` ([`Settings::max_record_bytes`]).
    pub fn new(trajectory: &Trajectory, outcome: Outcome, stream: Stream, max_bytes: u64) -> Result<Self, StoreError> {
        let outcome = fit(outcome);
        let line = if trajectory.cost_usd.is_finite() {
            json_line(trajectory)
        } else {
            json_line(&Trajectory { cost_usd: outcome.cost_usd, ..trajectory.clone() })
        };
        let (bytes, limit) = (line.len() as u64, max_bytes);
        if bytes > limit {
            return Err(StoreError::TooLarge { what: format!("the record of {}", trajectory.trajectory_id), bytes, limit });
        }
        Ok(Record { id: trajectory.trajectory_id.clone(), line, stream, outcome, loss_tokens: trajectory.num_loss_tokens })
    }
}

/// A journal line must stay readable: its numbers finite, its texts short. The whole message is in the record.
fn fit(outcome: Outcome) -> Outcome {
    let cost_usd = if outcome.cost_usd.is_finite() { outcome.cost_usd } else { 0.0 };
    Outcome { cost_usd, failure: outcome.failure.map(clip), ..outcome }
}

const MAX_MESSAGE_BYTES: usize = 4 << 10;

fn clip(mut failure: Failure) -> Failure {
    failure.message.truncate(failure.message.floor_char_boundary(MAX_MESSAGE_BYTES));
    failure
}

/// Applies the facts of a journal to `state`.
fn fold<'a>(path: &'a Path, run: &'a str, state: &'a mut State) -> impl FnMut(u64, Fact) -> Result<(), StoreError> + 'a {
    move |line, fact| {
        let damaged = |problem: String| StoreError::damaged(path, format!("line {line}"), problem);
        match &fact {
            Fact::Opened { run: other, .. } if other != run => Err(damaged(format!("it is the journal of run {other}"))),
            fact => state.apply(fact).map_err(|e| damaged(e.to_string())),
        }
    }
}

/// Shards without a journal are no leavings of a crash: the journal is durable before the first of them.
fn refuse_orphans(layout: &Layout) -> Result<(), StoreError> {
    let dir = layout.shards();
    let entries = fs::read_dir(&dir).map_err(|e| StoreError::io("read", &dir, &e))?;
    let filled = entries.flatten().any(|entry| entry.metadata().is_ok_and(|meta| meta.len() > 0));
    if filled { Err(StoreError::damaged(&layout.journal(), "line 1", "it is empty or missing, but there are shards")) } else { Ok(()) }
}

/// One line of JSON.
fn json_line<T: Serialize>(value: &T) -> Vec<u8> {
    // Grown once a thread, not once a line.
    thread_local!(static LINE: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) });
    LINE.with_borrow_mut(|line| {
        line.clear();
        write_line(line, value);
        let exact = line.as_slice().to_vec();
        line.shrink_to(LINE_KEPT);
        exact
    })
}

fn write_line<T: Serialize>(into: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(&mut *into, value).unwrap_or_else(|e| unreachable!("plain data with string keys: {e}"));
    into.push(b'\n');
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl From<state::Contradiction> for StoreError {
    fn from(contradiction: state::Contradiction) -> Self {
        use state::Contradiction;
        match contradiction {
            Contradiction::Unknown(id) => StoreError::Unknown { id },
            Contradiction::Twice(id) => StoreError::Twice { id },
            Contradiction::Place(id, ..) => StoreError::Unknown { id: id.to_string() },
        }
    }
}
