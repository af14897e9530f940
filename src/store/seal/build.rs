//! Builds the shards of a plan in `data.new`, one after the other; those that a killed seal had finished are kept.

use super::{
    Counting, Progress, SealError,
    ordered::{Bounds, ordered},
    place,
    plan::{PlannedShard, Ref},
    record::{Packed, Packer},
    seek_table::SeekTable,
    settings::Settings,
};
use crate::store::{
    StoreError,
    fact::Stream,
    files::{self, AppendFile, Disk},
    json_line,
    sealed::{SealedFile, index_of},
    shard::prefix_sha256,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    ops::Range,
    path::{Path, PathBuf},
};

/// What is to be built, of what.
pub struct Work<'a> {
    /// Files that the records lie in.
    pub sources: &'a [PathBuf],
    /// By stream, in order.
    pub records: &'a BTreeMap<Stream, Vec<Ref>>,
    pub shards: &'a [PlannedShard],
    pub digest: &'a str,
    pub settings: &'a Settings,
    pub counting: &'a Counting<'a>,
}

/// A frame to be made.
struct Job {
    shard: usize,
    records: Range<usize>,
    raw_bytes: u64,
    /// Of its shard.
    last: bool,
}

impl Work<'_> {
    /// Makes all shards that are not finished in `new`, and says what is in it. The number is of those that were kept.
    ///
    /// # Errors
    /// Where a record cannot be read or a file cannot be written; what is finished stays.
    pub fn build(&self, new: &Path, disk: &Disk, progress: &mut dyn FnMut(Progress)) -> Result<(Vec<SealedFile>, usize), SealError> {
        let (mut log, mut done) = Log::open(new, disk, self.digest)?;
        place::sweep(new, |name| name == Log::NAME || done.iter().any(|file| file.file == name || file.index() == name))?;
        let kept = done.len();
        let named = |file: &SealedFile, shard: &PlannedShard| file.file == shard.stream.file(shard.number);
        let missing = |shard: &PlannedShard| !done.iter().any(|file| named(file, shard));
        let jobs: Vec<Job> =
            (0..).zip(self.shards).filter(|(_, shard)| missing(shard)).flat_map(|(i, shard)| self.jobs(i, shard)).collect();
        let bounds = Bounds { threads: self.settings.workers(), budget: self.settings.budget() };
        let mut told = Progress { done: 0, total: jobs.iter().map(|job| job.raw_bytes).sum() };
        let mut open: Option<ShardWriter> = None;
        ordered(
            &jobs,
            bounds,
            |job| Settings::need(job.raw_bytes),
            || Packer::new(self.sources, self.counting, self.settings),
            |packer, job| packer.pack(&self.records[&self.shards[job.shard].stream][job.records.clone()]),
            |job, packed| {
                let planned = &self.shards[job.shard];
                let writer = match &mut open {
                    Some(writer) => writer,
                    none => none.insert(ShardWriter::create(new, disk, planned)?),
                };
                writer.push(packed)?;
                if let Some(writer) = open.take_if(|_| job.last) {
                    let file = writer.finish()?;
                    log.push(&file)?;
                    done.push(file);
                }
                told.done += job.raw_bytes;
                progress(told);
                Ok(())
            },
        )?;
        done.sort_by(|a, b| (a.stream, &a.file).cmp(&(b.stream, &b.file)));
        Ok((done, kept))
    }

    fn jobs(&self, shard: usize, planned: &PlannedShard) -> impl Iterator<Item = Job> {
        let records = &self.records[&planned.stream];
        let count = planned.frames.len();
        (1..).zip(&planned.frames).map(move |(n, range)| Job {
            shard,
            raw_bytes: records[range.clone()].iter().map(|record| record.len).sum(),
            records: range.clone(),
            last: n == count,
        })
    }
}

/// Which shards are finished: the plan's digest, then a line a shard. It goes last of all, once the dataset is in its place.
pub struct Log(AppendFile);

#[derive(Serialize, Deserialize)]
struct Of {
    plan: String,
}

impl Log {
    pub const NAME: &str = "progress.jsonl";

    /// The log in `dir`, begun anew where it is of another plan, and the shards that are finished and whole.
    fn open(dir: &Path, disk: &Disk, plan: &str) -> Result<(Self, Vec<SealedFile>), StoreError> {
        let path = dir.join(Self::NAME);
        let mut done: Vec<SealedFile> = Vec::new();
        let mut good = 0;
        if Self::plan(dir).as_deref() == Some(plan) {
            let file = fs::File::open(&path).map_err(|e| StoreError::io("read", &path, &e))?;
            let mut lines = BufReader::new(file);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).map_err(|e| StoreError::io("read", &path, &e))? > 0 && line.ends_with(b"\n") {
                if good > 0 {
                    let Ok(file) = serde_json::from_slice::<SealedFile>(&line) else { break };
                    done.retain(|other| other.file != file.file);
                    if is_whole(dir, &file) {
                        done.push(file);
                    }
                }
                good += line.len() as u64;
                line.clear();
            }
        }
        let mut log = Log(AppendFile::open(&path, disk)?);
        if log.0.len() > good {
            log.0.cut(good)?;
        }
        if good == 0 {
            log.0.append(&json_line(&Of { plan: plan.to_owned() }))?;
            log.0.sync()?;
        }
        Ok((log, done))
    }

    /// Digest of the plan that was being built in `dir`.
    #[must_use]
    pub fn plan(dir: &Path) -> Option<String> {
        let file = fs::File::open(dir.join(Self::NAME)).ok()?;
        let mut line = Vec::new();
        BufReader::new(file).read_until(b'\n', &mut line).ok()?;
        let of: Of = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
        Some(of.plan)
    }

    fn push(&mut self, file: &SealedFile) -> Result<(), StoreError> {
        self.0.append(&json_line(file))?;
        self.0.sync()
    }
}

/// A shard is there in its length, and its index as it was written.
pub fn is_whole(dir: &Path, file: &SealedFile) -> bool {
    let index = dir.join(file.index());
    let length = |path: &Path| fs::metadata(path).map(|meta| meta.len());
    let digest = || prefix_sha256(&index, length(&index).ok()?).ok();
    length(&dir.join(&file.file)).is_ok_and(|bytes| bytes == file.bytes) && digest().as_ref() == Some(&file.index_sha256)
}

/// The shard that is being written.
struct ShardWriter {
    dir: PathBuf,
    data: AppendFile,
    index: AppendFile,
    sha256: Sha256,
    index_sha256: Sha256,
    table: SeekTable,
    file: SealedFile,
}

impl ShardWriter {
    fn create(dir: &Path, disk: &Disk, planned: &PlannedShard) -> Result<Self, StoreError> {
        let name = planned.stream.file(planned.number);
        let create = |name: &str| AppendFile::open(&files::temp_of(&dir.join(name)), disk);
        Ok(ShardWriter {
            dir: dir.to_owned(),
            data: create(&name)?,
            index: create(&index_of(&name))?,
            sha256: Sha256::new(),
            index_sha256: Sha256::new(),
            table: SeekTable::default(),
            file: SealedFile::new(name, planned.stream),
        })
    }

    fn push(&mut self, packed: Packed) -> Result<(), StoreError> {
        let Packed { frame, raw_bytes, lines, exit_reasons } = packed;
        let offset = self.append(&frame)?;
        let too_long = |e| StoreError::io("write", &self.dir.join(&self.file.file), &e);
        self.table.push(frame.len() as u64, raw_bytes).map_err(too_long)?;
        let mut text = Vec::new();
        for mut line in lines {
            (line.frame_offset, line.frame_len) = (offset, frame.len() as u64);
            self.file.count(&line);
            text.extend(json_line(&line));
        }
        for reason in exit_reasons {
            *self.file.exit_reasons.entry(reason).or_default() += 1;
        }
        self.file.frames += 1;
        self.file.raw_bytes += raw_bytes;
        self.index_sha256.update(&text);
        self.index.append(&text).map(drop)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<u64, StoreError> {
        self.sha256.update(bytes);
        self.file.bytes += bytes.len() as u64;
        self.data.append(bytes)
    }

    /// Makes both files durable under their names.
    fn finish(mut self) -> Result<SealedFile, StoreError> {
        let table = self.table.frame();
        self.append(&table)?;
        self.data.sync()?;
        self.index.sync()?;
        for name in [self.file.index(), self.file.file.clone()] {
            let path = self.dir.join(name);
            files::put_in_place(&files::temp_of(&path), &path)?;
        }
        self.file.sha256 = format!("{:x}", self.sha256.finalize());
        self.file.index_sha256 = format!("{:x}", self.index_sha256.finalize());
        Ok(self.file)
    }
}
