//! Counts whole shards on all cores. Records are handed out in batches, so memory is bounded by the threads, not by the shards.

use super::{
    Counter, TemplateError,
    report::{Report, Tally},
};
use crate::domain::{Message, Resolved};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    borrow::Cow,
    collections::HashSet,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

/// How a scan uses the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScanSettings {
    /// Threads that count; 0: one per core.
    pub threads: usize,
    /// A longer record is an error, bytes.
    pub max_record_bytes: usize,
    /// What a thread takes at a time, bytes; a longer record goes alone.
    pub batch_bytes: usize,
}

impl Default for ScanSettings {
    fn default() -> Self {
        ScanSettings { threads: 0, max_record_bytes: 256 << 20, batch_bytes: 1 << 20 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds no shards: give a run directory (with shards/trajectories-*.jsonl.zst), or shard files")]
    NoShards { path: PathBuf },
    #[error("{path} is damaged after record {record}, near byte {offset} of the file: {source}; verify or restore the shard")]
    Damaged { path: PathBuf, record: u64, offset: u64, source: io::Error },
    #[error("record {record} of {path} is longer than {limit} bytes")]
    TooLong { path: PathBuf, record: u64, limit: usize },
    #[error("record {record} of {path}{} is no trajectory: {why}", shown(.id))]
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
pub fn shards(paths: &[PathBuf]) -> Result<Vec<Source>, ScanError> {
    let mut files = Vec::new();
    for path in paths {
        let read = |source| ScanError::Read { path: path.clone(), source };
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
            if name.starts_with("trajectories-") && name.contains(".jsonl") && !name.ends_with(".tmp") {
                found.push(entry.path());
            }
        }
        if found.is_empty() {
            return Err(ScanError::NoShards { path: path.clone() });
        }
        found.sort();
        files.extend(found.into_iter().map(Source::from));
    }
    Ok(files)
}

/// Counts every trajectory of the sources.
///
/// # Errors
/// Of the first shard in order that cannot be read or holds what is no trajectory.
pub fn scan(files: &[Source], counter: &Counter, settings: &ScanSettings) -> Result<Report, ScanError> {
    let threads = match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let feed = Feed::new(files, threads, settings);
    let work = |first: usize| move |feed: &Feed<'_>| feed.work(first, counter);
    let results: Vec<_> = std::thread::scope(|scope| {
        let feed = &feed;
        let workers: Vec<_> = (0..threads).map(|at| scope.spawn(move || work(at)(feed))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut tallies = vec![Tally::default(); files.len()];
    let mut error: Option<(usize, ScanError)> = None;
    for (tally, failed) in results {
        tally.iter().zip(&mut tallies).for_each(|(tally, sum)| sum.merge(tally));
        error = error.into_iter().chain(failed).min_by_key(|(file, _)| *file);
    }
    if let Some((_, error)) = error {
        return Err(error);
    }
    let mut total = Tally::default();
    tallies.iter().for_each(|tally| total.merge(tally));
    Ok(Report {
        target: counter.target.to_string(),
        tokenizer: counter.tokenizer.name().to_owned(),
        tokenizer_digest: counter.tokenizer.digest().to_owned(),
        total: total.finish("total".into()),
        shards: tallies.into_iter().zip(files).map(|(tally, file)| tally.finish(file.path.display().to_string())).collect(),
    })
}

/// The shards as a source of batches. A lane reads one file after another; several keep a single decompressor from being the limit.
struct Feed<'s> {
    files: &'s [Source],
    settings: &'s ScanSettings,
    next_file: AtomicUsize,
    lanes: Vec<Mutex<Option<Shard>>>,
    stop: AtomicBool,
}

/// A decompressor keeps about this many counting threads busy.
const THREADS_PER_LANE: usize = 6;

/// Whole lines of one file.
struct Batch {
    file: usize,
    /// Number of the first record, from 1.
    first: u64,
    lines: Vec<u8>,
}

type Failed = Option<(usize, ScanError)>;

impl<'s> Feed<'s> {
    fn new(files: &'s [Source], threads: usize, settings: &'s ScanSettings) -> Self {
        let lanes = threads.div_ceil(THREADS_PER_LANE).min(files.len());
        let lanes = (0..lanes).map(|_| Mutex::new(None)).collect();
        Feed { files, settings, next_file: AtomicUsize::new(0), lanes, stop: AtomicBool::new(false) }
    }

    fn work(&self, first_lane: usize, counter: &Counter) -> (Vec<Tally>, Failed) {
        let mut tallies = vec![Tally::default(); self.files.len()];
        for at in 0..self.lanes.len() {
            let lane = &self.lanes[(first_lane + at) % self.lanes.len()];
            while !self.stop.load(Ordering::Relaxed) {
                let counted = match self.batch(lane) {
                    Ok(None) => break,
                    Ok(Some(batch)) => self.count(&batch, counter, &mut tallies[batch.file]).map_err(|error| (batch.file, error)),
                    Err(failed) => Err(failed),
                };
                if let Err(failed) = counted {
                    self.stop.store(true, Ordering::Relaxed);
                    return (tallies, Some(failed));
                }
            }
        }
        (tallies, None)
    }

    /// The next lines of the lane; none once no file is left.
    fn batch(&self, lane: &Mutex<Option<Shard>>) -> Result<Option<Batch>, (usize, ScanError)> {
        let mut lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if lane.is_none() {
                let file = self.next_file.fetch_add(1, Ordering::Relaxed);
                let Some(source) = self.files.get(file) else { return Ok(None) };
                *lane = Some(Shard::open(source, file).map_err(|error| (file, error))?);
            }
            let Some(shard) = lane.as_mut() else { continue };
            let batch = shard.read(self.settings).map_err(|error| (shard.file, error))?;
            if !batch.lines.is_empty() {
                return Ok(Some(batch));
            }
            *lane = None;
        }
    }

    fn count(&self, batch: &Batch, counter: &Counter, tally: &mut Tally) -> Result<(), ScanError> {
        let Source { path, leave_out, .. } = &self.files[batch.file];
        for (record, line) in (batch.first..).zip(batch.lines.split_inclusive(|byte| *byte == b'\n')) {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let fail = |id: String, why: String| ScanError::Record { path: path.clone(), record, id, why };
            let row: Row = serde_json::from_slice(line).map_err(|e| fail(String::new(), e.to_string()))?;
            if leave_out.contains(row.trajectory_id.as_ref()) {
                tally.leave_out();
                continue;
            }
            let counts = row.count(counter).map_err(|e| fail(row.trajectory_id.to_string(), e.to_string()))?;
            tally.add(&counts, row.resolved);
        }
        Ok(())
    }
}

/// What of a record is needed; the rest is skipped unread.
#[derive(Deserialize)]
struct Row<'l> {
    #[serde(borrow, default)]
    trajectory_id: Cow<'l, str>,
    messages: Vec<Message>,
    /// A JSON array in a string, or the array itself.
    #[serde(borrow, default)]
    tools: Option<&'l RawValue>,
    #[serde(default = "no_verdict")]
    resolved: Resolved,
}

fn no_verdict() -> Resolved {
    Resolved::Unknown
}

impl Row<'_> {
    fn count(&self, counter: &Counter) -> Result<super::Counts, TemplateError> {
        let tools = self.tools.map_or("", RawValue::get);
        if !tools.starts_with('"') {
            return counter.count(&self.messages, tools);
        }
        let tools: Cow<'_, str> = serde_json::from_str::<String>(tools).map(Cow::Owned).unwrap_or(Cow::Borrowed(tools));
        counter.count(&self.messages, &tools)
    }
}

/// One file being read: plain, gzip or zstd, told by its first bytes.
struct Shard {
    path: PathBuf,
    file: usize,
    records: u64,
    offset: Arc<AtomicU64>,
    reader: Box<dyn BufRead + Send>,
}

impl Shard {
    fn open(Source { path, bytes, .. }: &Source, file: usize) -> Result<Self, ScanError> {
        let read = |source| ScanError::Read { path: path.clone(), source };
        let inner = File::open(path).map_err(read)?;
        if let Some(bytes) = bytes {
            let found = inner.metadata().map_err(read)?.len();
            if found < *bytes {
                let source =
                    io::Error::new(io::ErrorKind::UnexpectedEof, format!("{bytes} bytes are committed, the file has only {found}"));
                return Err(ScanError::Damaged { path: path.clone(), record: 0, offset: found, source });
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
        Ok(Shard { path: path.clone(), file, records: 0, offset, reader })
    }

    /// Whole lines, about a batch of them; empty at the end.
    fn read(&mut self, settings: &ScanSettings) -> Result<Batch, ScanError> {
        let mut batch = Batch { file: self.file, first: self.records + 1, lines: Vec::with_capacity(settings.batch_bytes) };
        while batch.lines.len() < settings.batch_bytes {
            let before = batch.lines.len();
            let limit = settings.max_record_bytes as u64 + 1;
            let read = (&mut self.reader).take(limit).read_until(b'\n', &mut batch.lines);
            let length = read.map_err(|source| ScanError::Damaged {
                path: self.path.clone(),
                record: self.records,
                offset: self.offset.load(Ordering::Relaxed),
                source,
            })?;
            if length == 0 {
                break;
            }
            self.records += 1;
            if batch.lines.len() - before > settings.max_record_bytes {
                return Err(ScanError::TooLong { path: self.path.clone(), record: self.records, limit: settings.max_record_bytes });
            }
        }
        Ok(batch)
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
