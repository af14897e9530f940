//! Shards as a stream of batches of records, for all cores. Memory is bounded by the threads, not by the shards.

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// How shards are read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeedSettings {
    /// Threads that work, at most [`MAX_THREADS`]; 0: one per core.
    pub threads: usize,
    /// A longer record is an error, bytes.
    pub max_record_bytes: usize,
    /// What a thread takes at a time, bytes; a longer record goes alone.
    pub batch_bytes: usize,
}

/// Threads at most, whatever is asked for.
pub const MAX_THREADS: usize = 256;

impl FeedSettings {
    /// How many threads there are to be.
    #[must_use]
    pub fn thread_count(&self) -> usize {
        let threads = match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        threads.min(MAX_THREADS)
    }
}

impl Default for FeedSettings {
    fn default() -> Self {
        FeedSettings { threads: 0, max_record_bytes: 256 << 20, batch_bytes: 1 << 20 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error("cannot read {path}: {source}; give a file or directory that can be read")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds no shards: give a run directory (with shards/trajectories-*.jsonl.zst), or shard files")]
    NoShards { path: PathBuf },
    #[error("{path} is damaged after record {record}, near byte {offset} of the file: {source}; verify or restore the shard")]
    Damaged { path: PathBuf, record: u64, offset: u64, source: io::Error },
    #[error("record {record} of {path} is longer than {limit} bytes, which no run writes; cut it out of the shard")]
    TooLong { path: PathBuf, record: u64, limit: usize },
    #[error("record {record} of {path}{} is no trajectory that can be used: {why}", shown(.id))]
    Record { path: PathBuf, record: u64, id: String, why: String },
}

fn shown(id: &str) -> String {
    if id.is_empty() { String::new() } else { format!(" ({id})") }
}

/// A shard file, and what of it is counted.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: PathBuf,
    /// Only so many bytes from its beginning; a shorter file is damaged. None: all.
    pub bytes: Option<u64>,
    /// Trajectories that are not counted but as superseded, by their ids.
    pub leave_out: Arc<HashSet<String>>,
}

impl From<PathBuf> for Source {
    /// The file as it lies.
    fn from(path: PathBuf) -> Self {
        Source { path, bytes: None, leave_out: Arc::default() }
    }
}

/// The shard files that the paths stand for, as they lie: a directory's trajectories, a file itself, in order.
///
/// # Errors
/// Where a path cannot be read, or a directory has none.
pub fn shards(paths: &[PathBuf]) -> Result<Vec<Source>, FeedError> {
    let mut files = Vec::new();
    for path in paths {
        let read = |source| FeedError::Read { path: path.clone(), source };
        if !std::fs::metadata(path).map_err(read)?.is_dir() {
            files.push(path.clone().into());
            continue;
        }
        let folder = Some(path.join("shards")).filter(|shards| shards.is_dir()).unwrap_or_else(|| path.clone());
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if is_shard(&name) {
                found.push(entry.path());
            }
        }
        if found.is_empty() {
            return Err(FeedError::NoShards { path: path.clone() });
        }
        found.sort();
        files.extend(found.into_iter().map(Source::from));
    }
    Ok(files)
}

/// Trajectories, not the index beside them or what is being written.
fn is_shard(name: &str) -> bool {
    name.starts_with("trajectories-")
        && [".jsonl", ".jsonl.zst", ".jsonl.gz"].iter().any(|end| name.ends_with(end))
        && !name.ends_with(".index.jsonl")
}

/// Whole lines of one source.
pub struct Batch<'s> {
    pub source: &'s Source,
    /// The source's place in the list.
    pub index: usize,
    /// Number of the first record in its source, from 1.
    first: u64,
    lines: Vec<u8>,
}

impl Batch<'_> {
    /// Each record with its number in the source, from 1; blank lines are passed over.
    pub fn records(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let lines = self.lines.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        (self.first..).zip(lines).filter(|(_, line)| !line.is_empty())
    }

    /// What is wrong with a record of this batch. `id`: empty where it is not known.
    #[must_use]
    pub fn wrong(&self, record: u64, id: &str, why: impl ToString) -> FeedError {
        FeedError::Record { path: self.source.path.clone(), record, id: id.to_owned(), why: why.to_string() }
    }
}

/// Hands all batches to `work` on many threads, and what comes of each to `sink`, on this thread and in their order.
///
/// # Errors
/// The first in order, of reading, `work` or `sink`; nothing behind it reaches `sink`.
pub fn feed<T: Send, E: From<FeedError>>(
    sources: &[Source],
    settings: &FeedSettings,
    work: impl Fn(&Batch<'_>) -> Result<T, FeedError> + Sync,
    mut sink: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = settings.thread_count();
    let line =
        Line { reader: Mutex::new(Reader { sources, index: 0, shard: None, taken: 0 }), done: Mutex::default(), moved: Condvar::new() };
    let (line, work) = (&line, &work);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(line);
        for _ in 0..threads {
            scope.spawn(move || {
                let _stop = StopOnPanic(line);
                while let Some((number, batch)) = line.take(settings, WAITING_PER_THREAD * threads as u64) {
                    line.put(number, batch.and_then(|batch| work(&batch)));
                }
            });
        }
        while let Some(result) = line.next() {
            sink(result?)?;
        }
        Ok(())
    })
}

/// Batches that may be at work or wait for an earlier one, a thread.
const WAITING_PER_THREAD: u64 = 3;

/// Batches between reader, workers and sink.
struct Line<'s, T> {
    reader: Mutex<Reader<'s>>,
    done: Mutex<Done<T>>,
    moved: Condvar,
}

struct Reader<'s> {
    sources: &'s [Source],
    index: usize,
    shard: Option<Shard>,
    taken: u64,
}

struct Done<T> {
    waiting: BTreeMap<u64, Result<T, FeedError>>,
    /// Number of the next batch for the sink.
    next: u64,
    /// Batches in all, once the reader has come to the end.
    total: Option<u64>,
    stopped: bool,
}

impl<T> Default for Done<T> {
    fn default() -> Self {
        Done { waiting: BTreeMap::new(), next: 0, total: None, stopped: false }
    }
}

type Numbered<T> = (u64, Result<T, FeedError>);

impl<'s, T> Line<'s, T> {
    fn done(&self) -> MutexGuard<'_, Done<T>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch, once few enough are under way; none at the end.
    fn take(&self, settings: &FeedSettings, under_way: u64) -> Option<Numbered<Batch<'s>>> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = self.done();
        while !done.stopped && done.total.is_none() && reader.taken >= done.next + under_way {
            done = self.moved.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
        if done.stopped || done.total.is_some() {
            return None;
        }
        drop(done);
        let batch = reader.batch(settings).transpose();
        let number = reader.taken;
        reader.taken += u64::from(batch.is_some());
        if batch.as_ref().is_none_or(Result::is_err) {
            self.done().total = Some(reader.taken);
            self.moved.notify_all();
        }
        batch.map(|batch| (number, batch))
    }

    fn put(&self, number: u64, result: Result<T, FeedError>) {
        self.done().waiting.insert(number, result);
        self.moved.notify_all();
    }

    /// What came of the next batch in order; none behind the last.
    fn next(&self) -> Option<Result<T, FeedError>> {
        let mut done = self.done();
        loop {
            let next = done.next;
            if let Some(result) = done.waiting.remove(&next) {
                done.next += 1;
                self.moved.notify_all();
                return Some(result);
            }
            if done.stopped || done.total == Some(next) {
                return None;
            }
            done = self.moved.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn stop(&self) {
        self.done().stopped = true;
        self.moved.notify_all();
    }
}

/// However the sink ends, the workers do too.
struct StopOnDrop<'l, 's, T>(&'l Line<'s, T>);

impl<T> Drop for StopOnDrop<'_, '_, T> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A worker's panic ends the sink's wait; the scope passes it on.
struct StopOnPanic<'l, 's, T>(&'l Line<'s, T>);

impl<T> Drop for StopOnPanic<'_, '_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

impl<'s> Reader<'s> {
    fn batch(&mut self, settings: &FeedSettings) -> Result<Option<Batch<'s>>, FeedError> {
        loop {
            let Some(source) = self.sources.get(self.index) else { return Ok(None) };
            let shard = match &mut self.shard {
                Some(shard) => shard,
                none => none.insert(Shard::open(source)?),
            };
            let (first, lines) = shard.read(settings)?;
            if !lines.is_empty() {
                return Ok(Some(Batch { source, index: self.index, first, lines }));
            }
            (self.shard, self.index) = (None, self.index + 1);
        }
    }
}

/// One file being read: plain, gzip or zstd, told by its first bytes.
struct Shard {
    path: PathBuf,
    records: u64,
    offset: Arc<AtomicU64>,
    reader: Box<dyn BufRead + Send>,
}

impl Shard {
    fn open(Source { path, bytes, .. }: &Source) -> Result<Self, FeedError> {
        let read = |source| FeedError::Read { path: path.clone(), source };
        let inner = File::open(path).map_err(read)?;
        if let Some(bytes) = bytes {
            let found = inner.metadata().map_err(read)?.len();
            if found < *bytes {
                let source =
                    io::Error::new(io::ErrorKind::UnexpectedEof, format!("{bytes} bytes are committed, the file has only {found}"));
                return Err(FeedError::Damaged { path: path.clone(), record: 0, offset: found, source });
            }
        }
        let offset = Arc::new(AtomicU64::new(0));
        let inner = inner.take(bytes.unwrap_or(u64::MAX));
        let mut raw = BufReader::with_capacity(1 << 17, Measured { inner, read: Arc::clone(&offset) });
        let reader: Box<dyn BufRead + Send> = match raw.fill_buf().map_err(read)? {
            [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(1 << 17, flate2::bufread::MultiGzDecoder::new(raw))),
            // A frame, or a skippable frame.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Box::new(BufReader::with_capacity(1 << 17, zstd::Decoder::with_buffer(raw).map_err(read)?))
            }
            _ => Box::new(raw),
        };
        Ok(Shard { path: path.clone(), records: 0, offset, reader })
    }

    /// Whole lines, about a batch of them, with the number of the first; empty at the end.
    fn read(&mut self, settings: &FeedSettings) -> Result<(u64, Vec<u8>), FeedError> {
        let (first, mut lines) = (self.records + 1, Vec::with_capacity(settings.batch_bytes));
        while lines.len() < settings.batch_bytes {
            let before = lines.len();
            let limit = (settings.max_record_bytes as u64).saturating_add(1);
            let read = (&mut self.reader).take(limit).read_until(b'\n', &mut lines);
            let length = read.map_err(|source| FeedError::Damaged {
                path: self.path.clone(),
                record: self.records,
                offset: self.offset.load(Ordering::Relaxed),
                source,
            })?;
            if length == 0 {
                break;
            }
            self.records += 1;
            if lines.len() - before > settings.max_record_bytes {
                return Err(FeedError::TooLong { path: self.path.clone(), record: self.records, limit: settings.max_record_bytes });
            }
        }
        Ok((first, lines))
    }
}

/// Counts what is read of the file.
struct Measured {
    inner: io::Take<File>,
    read: Arc<AtomicU64>,
}

impl Read for Measured {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}
