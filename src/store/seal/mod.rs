//! Sealing: the committed records of a run as a dataset that trainers load as it lies. The live shards and the journal stay the
//! truth; the dataset in `data/` is derived, appears as a whole, and can be made again.

mod build;
mod ordered;
pub(super) mod place;
pub(super) mod plan;
mod record;
mod seek_table;
mod settings;

pub use settings::Settings;

use super::{
    Disk, Layout, Manifest, RunDir, Sealed, StoreError, View, card,
    fact::{Committed, Fact, Stream},
    files,
    frame::Span,
    journal, json_line, manifest,
    run_dir::{RunInfo, lock_file},
    sealed::{CountedBy, SEALED_FORMAT, SealedRun},
    state::Episode,
};
use crate::domain::{AttemptId, Trajectory, trajectory::SCHEMA_VERSION};
use build::{Log, Work};
use plan::{Place, PlannedShard, Ref};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What the counts of the dataset are to mean, and how a record is given them.
pub struct Counting<'a> {
    pub by: CountedBy,
    /// Fills in counts and loss mask, and says so in `meta.counted`; what cannot be counted it leaves with -1. None: records that
    /// are not counted stay so.
    pub count: Option<&'a (dyn Fn(&mut Trajectory) + Sync)>,
    /// Count what was counted otherwise anew. If not, such a record is an error.
    pub recount: bool,
}

/// Why there is no new dataset. The old one, where there is one, is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{} has no committed attempt yet: there is nothing to seal", .0.display())]
    Empty(PathBuf),
    #[error("{0}")]
    Setting(String),
    #[error("{id} in {} was counted for {found}, the rest for {wanted}: give --recount to count all for {wanted}", path.display())]
    Counted { path: PathBuf, id: AttemptId, found: String, wanted: String },
    #[error("{count} episodes are in more than one input, such as {}: say with --on-duplicate whether the first or the last is taken, or samples are renumbered", shown.join(", "))]
    Duplicates { count: u64, shown: Vec<String> },
    #[error("{0} cannot be renumbered, since samples end at {max}: take the first or the last with --on-duplicate", max = u32::MAX)]
    Samples(AttemptId),
}

/// Bytes of records, of those that have to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

/// What came of sealing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub sealed: Sealed,
    /// False where the dataset was current already.
    pub made: bool,
    /// Shards that an earlier, interrupted sealing had finished.
    pub kept: usize,
    /// False where `README.md` is the user's own and stays as it is.
    pub card: bool,
}

/// Seals what is committed to the run in `dir`. Does nothing but mend `README.md` and `manifest.json` where the dataset is
/// current, unless `force`d. The run may be live: only its committed part is read, and its manifest is left to it.
///
/// # Errors
/// See [`SealError`]. Repeating it goes on where it stopped.
pub fn seal(
    dir: &Path,
    settings: &Settings,
    counting: &Counting<'_>,
    force: bool,
    disk: &Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, SealError> {
    settings.check().map_err(SealError::Setting)?;
    let layout = Layout::new(dir);
    RunInfo::read(&layout)?;
    let _lock = lock_file(&layout.data_lock(), &Sealed::data(dir))?;
    place::prepare(dir)?;
    let view = View::open(dir)?;
    let current = if force { None } else { current(dir, &view, &counting.by)? };
    let made = current.is_none();
    let (sealed, kept) = match current {
        Some(sealed) => (sealed, 0),
        None => {
            let records = Records::of_run(&view)?;
            if records.is_empty() {
                return Err(SealError::Empty(dir.to_owned()));
            }
            drop(view);
            records.make(dir, settings, counting, disk, progress)?
        }
    };
    let card = card::write(dir, &sealed, disk)?;
    write_manifest(&layout, &sealed, disk)?;
    place::tidy(dir)?;
    Ok(Report { sealed, made, kept, card })
}

/// The dataset that is there, where it is whole and holds what it should.
fn current(dir: &Path, view: &View, by: &CountedBy) -> Result<Option<Sealed>, StoreError> {
    let data = Sealed::data(dir);
    let is_current = |sealed: &Sealed| {
        sealed.is_current(&view.info.run, view.state.totals().attempts)
            && sealed.schema_version == SCHEMA_VERSION
            && sealed.counts == *by
            && sealed.files.iter().all(|file| build::is_whole(&data, file))
    };
    match Sealed::read(dir) {
        // It can be made again.
        Err(StoreError::Damaged { .. }) => Ok(None),
        read => Ok(read?.filter(is_current)),
    }
}

/// The dataset that an earlier making of the same plan had put in its place, and not come to its end.
pub(super) fn already(
    dir: &Path,
    records: &mut Records,
    settings: &Settings,
    counting: &Counting<'_>,
) -> Result<Option<Sealed>, StoreError> {
    let (_, digest) = records.plan(settings, counting);
    if Log::plan(&Sealed::data(dir)) == Some(digest) { Sealed::read(dir) } else { Ok(None) }
}

/// A live process writes its manifest itself, and takes up what is sealed.
fn write_manifest(layout: &Layout, sealed: &Sealed, disk: &Disk) -> Result<(), StoreError> {
    let _run = match RunDir::open(layout.root()) {
        Err(StoreError::Locked { .. }) => return Ok(()),
        opened => opened?,
    };
    let View { info, state, .. } = View::open(layout.root())?;
    let digests = manifest::digests(layout, &info.run, &state, |_| true)?;
    let manifest = Manifest::new(&info.run, &state, &digests).with(Some(sealed.clone()));
    if Manifest::read(layout).as_ref() == Some(&manifest) { Ok(()) } else { manifest.write(layout, disk) }
}

/// All records of a dataset to be made, by where they lie.
#[derive(Debug, Default)]
pub struct Records {
    pub runs: Vec<SealedRun>,
    /// Files that hold records.
    pub sources: Vec<PathBuf>,
    pub streams: BTreeMap<Stream, Vec<Ref>>,
}

impl Records {
    /// The committed attempts of a run: those that count and train are its trajectories, all others its attempts.
    pub fn of_run(view: &View) -> Result<Self, StoreError> {
        let plan = &view.info.plan;
        let run = SealedRun {
            run: view.info.run.clone(),
            model: plan.model.clone(),
            scaffold: plan.scaffold.clone(),
            dataset_digest: plan.digests.get("dataset").cloned().unwrap_or_default(),
            attempts: view.state.totals().attempts,
        };
        let mut records = Records { runs: vec![run], ..Records::default() };
        let mut files = BTreeMap::new();
        for (stream, number) in view.state.shards().keys() {
            files.insert((*stream, *number), records.sources.len() as u32);
            records.sources.push(view.layout.shards().join(stream.file(*number)));
        }
        let path = view.layout.journal();
        if !path.exists() {
            return Ok(records);
        }
        journal::read(&path, &mut |line, fact| {
            let Fact::Committed(Committed { id, location, raw_bytes, digest, .. }) = fact else { return Ok(()) };
            // A live run has gone on since.
            let Some(file) = files.get(&(location.stream, location.shard)).filter(|_| view.state.is_committed(&id)) else {
                return Ok(());
            };
            let digest = unhex(&digest).ok_or_else(|| StoreError::damaged(&path, format!("line {line}"), "the digest is no SHA-256"))?;
            let counting = view.state.episode(&id.episode).and_then(Episode::counting);
            let trains = location.stream == Stream::Trajectories && counting.is_some_and(|counting| counting.attempt == id.attempt);
            let stream = if trains { Stream::Trajectories } else { Stream::Attempts };
            let place = Place { file: *file, frame: Span { offset: location.offset, len: location.len }, offset: 0 };
            records.streams.entry(stream).or_default().push(Ref { sample: id.episode.sample, id, place, len: raw_bytes, digest });
            Ok(())
        })?;
        Ok(records)
    }

    pub fn is_empty(&self) -> bool {
        self.streams.values().all(Vec::is_empty)
    }

    /// Sorts and plans. The digest names all that decides about the bytes of the dataset.
    pub fn plan(&mut self, settings: &Settings, counting: &Counting<'_>) -> (Vec<PlannedShard>, String) {
        let plan = |(stream, records): (&Stream, &mut Vec<Ref>)| plan::plan(*stream, records, settings.frame_bytes, settings.shard_bytes);
        let shards = self.streams.iter_mut().flat_map(plan).collect();
        let mut digest = Sha256::new();
        let settings = (settings.frame_bytes, settings.shard_bytes, settings.level, settings.window_log);
        digest.update(format!(
            "{} {SEALED_FORMAT} {SCHEMA_VERSION} {settings:?} {:?} {:?}\n",
            env!("CARGO_PKG_VERSION"),
            counting.by,
            self.runs
        ));
        for (stream, records) in &self.streams {
            for record in records {
                digest.update(format!("{} {} {} {}\n", stream.as_str(), record.id, record.sample, record.len));
                digest.update(record.digest);
            }
        }
        (shards, format!("{:x}", digest.finalize()))
    }

    /// Builds the dataset beside the old one and puts it in its place. The number is of the shards that were there already.
    pub fn make(
        mut self,
        dir: &Path,
        settings: &Settings,
        counting: &Counting<'_>,
        disk: &Disk,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Sealed, usize), SealError> {
        let (shards, digest) = self.plan(settings, counting);
        let new = place::new_of(dir);
        files::create_dir(&new)?;
        files::sync_parent(&new)?;
        let work = Work { sources: &self.sources, records: &self.streams, shards: &shards, digest: &digest, settings, counting };
        let (files, kept) = work.build(&new, disk, progress)?;
        let sealed = Sealed { format: SEALED_FORMAT, schema_version: SCHEMA_VERSION, runs: self.runs, counts: counting.by.clone(), files };
        files::replace(&new.join("sealed.json"), disk, &json_line(&sealed))?;
        place::commit(dir)?;
        Ok((sealed, kept))
    }
}

pub(super) fn unhex(digest: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digest.len() != 64 || !digest.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digest[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}
