//! The export of shards: read once to decide, once more to write.

use super::{
    Container, Format, Reasoning,
    facts::{Facts, Row, Seen},
    hash::hash,
    report::{EXPORT_FORMAT, FileReport, Report, SourceReport, SplitReport, Tally, UnfitReport},
    row,
    select::{Dropped, Rules, Why},
    split::Splits,
    write::{self, Building, Encoding, Files, Settings, Shards, Stream},
};
use crate::{
    domain::{Role, Trajectory},
    tokens::{
        CountError, Counter, FeedError, FeedSettings, LossPolicy, Settings as TokenSettings, Source, Target, feed, feed::Batch, loss,
    },
};
use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    thread,
};

/// What to export, and how.
pub struct Options {
    pub form: Format,
    pub container: Container,
    pub reasoning: Reasoning,
    pub rules: Rules,
    pub splits: Splits,
    /// Set anew which messages are trained on; none: as the records say.
    pub loss: Option<LossPolicy>,
    pub out: PathBuf,
    /// An earlier export may be there and is replaced.
    pub overwrite: bool,
    pub write: Settings,
    pub feed: FeedSettings,
    /// As they were given, for the report.
    pub shown: serde_json::Value,
}

/// How far an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// 1: deciding; 2: writing.
    pub pass: u8,
    /// Records read in this pass.
    pub records: u64,
    /// Records in all; 0 while they are not known.
    pub total: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error("cannot write the export to {}: {why}", .out.display())]
    Occupied { out: PathBuf, why: String },
    #[error("cannot {doing} {}: {source}", .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("rows cannot be encoded: {why}")]
    Encode { why: String },
    #[error("the form {form} has no columns: export it as lines, with --container jsonl.zst")]
    NoTable { form: Format },
    #[error("this sweroll was built without Parquet: build it with the feature `parquet`, or choose --container jsonl.zst")]
    NoParquet,
    #[error("of {read} records none is left to be written: {}", reasons(.dropped))]
    NothingLeft { read: u64, dropped: Dropped },
    #[error("{splits} splits and {buckets} buckets make more than {MAX_STREAMS} streams of files")]
    TooManyStreams { splits: usize, buckets: usize },
    #[error("record {record} of {} is another than when it was read first: leave the files alone while they are exported", .path.display())]
    Changed { path: PathBuf, record: u64 },
    #[error("{records} records of the sources were not there when they were read again: give files, not pipes, and leave them alone")]
    Gone { records: u64 },
}

fn reasons(dropped: &Dropped) -> String {
    let reasons: Vec<String> = dropped.iter().map(|(why, count)| format!("{} {count}", why.as_str())).collect();
    if reasons.is_empty() { "the sources are empty".to_owned() } else { reasons.join(", ") }
}

/// Streams of files at once.
const MAX_STREAMS: usize = 64;
/// Records that a form cannot hold, and entries that nothing matched: so many are named.
const NAMED: usize = 20;

/// Exports what the options select of the sources. Nothing is left at `out` but a whole export.
///
/// # Errors
/// Where a source is damaged, nothing is left, or the files cannot be written.
pub fn export(sources: &[Source], options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Report, ExportError> {
    let rules = &options.rules;
    let buckets = rules.bucket_names();
    let splits = options.splits.names();
    let streams: Vec<Stream> = splits
        .iter()
        .flat_map(|split| buckets.iter().map(|bucket| Stream { split: (*split).to_owned(), bucket: bucket.clone() }))
        .collect();
    if streams.len() > MAX_STREAMS {
        return Err(ExportError::TooManyStreams { splits: splits.len(), buckets: buckets.len() });
    }
    let encoding = Encoding::new(options.form, options.container, &options.write)?;
    let building = Building::begin(&options.out, options.overwrite)?;

    let Read { records, instances, matched, mut dropped } = read(sources, options, progress)?;
    let flat: Vec<&Facts> = records.iter().flatten().flatten().collect();
    let total = flat.len() as u64 + dropped.get(&Why::Superseded).copied().unwrap_or(0);
    let fates = rules.choose(&flat);
    fates.iter().flatten().for_each(|why| *dropped.entry(*why).or_default() += 1);
    if fates.iter().all(Option::is_some) {
        return Err(ExportError::NothingLeft { read: total, dropped });
    }
    let split_of = options.splits.assign(&instances, rules.seed);
    let stream = |facts: &Facts| split_of[facts.instance as usize] as usize * buckets.len() + rules.bucket(facts.tokens);
    let mut fate = fates.iter();
    let places: Vec<Vec<Option<Place>>> = records
        .iter()
        .map(|source| {
            let place = |facts: &Option<Facts>| {
                let facts = facts.as_ref()?;
                let chosen = fate.next().is_some_and(Option::is_none);
                chosen.then(|| Place { id: facts.id, instance: facts.instance, stream: stream(facts) as u8 })
            };
            source.iter().map(place).collect()
        })
        .collect();
    let counts: Vec<u64> = records.iter().map(|source| source.iter().flatten().count() as u64).collect();
    let writing = Writing { sources, options, places: &places, streams: &streams, buckets: buckets.len(), total };
    let mut written = Written { tallies: vec![Tally::default(); splits.len()], ..Written::default() };
    let mut files = writing.run(&encoding, &building, &mut written, progress)?;
    if written.unfit > 0 {
        dropped.insert(Why::Unfit, written.unfit);
    }
    let mut sum = Tally::default();
    written.tallies.iter().for_each(|tally| sum += *tally);
    let chosen = fates.iter().filter(|fate| fate.is_none()).count() as u64;
    if sum.rows + written.unfit < chosen {
        return Err(ExportError::Gone { records: chosen - sum.rows - written.unfit });
    }
    if sum.rows == 0 {
        return Err(ExportError::NothingLeft { read: total, dropped });
    }
    files.extend(companions(options, &splits, &files, &building)?);
    let entries = rules.exclude.entries();
    let report = Report {
        schema_version: EXPORT_FORMAT,
        engine_version: env!("CARGO_PKG_VERSION"),
        form: options.form.as_str(),
        options: options.shown.clone(),
        seed: rules.seed,
        sources: sources
            .iter()
            .zip(counts)
            .map(|(source, records)| SourceReport { path: source.path.display().to_string(), records })
            .collect(),
        read: total,
        dropped,
        exclusions: entries.len() as u64,
        unmatched: entries.iter().zip(&matched).filter(|(_, matched)| !**matched).map(|(entry, _)| entry.clone()).collect(),
        written: sum,
        splits: splits
            .iter()
            .enumerate()
            .map(|(at, name)| SplitReport {
                name: (*name).to_owned(),
                instances: written.instances.iter().filter(|instance| split_of[**instance as usize] as usize == at).count() as u64,
                tally: written.tallies[at],
            })
            .collect(),
        files,
        unfit: written.named,
    };
    let mut json = serde_json::to_vec_pretty(&report).map_err(|e| ExportError::Encode { why: e.to_string() })?;
    json.push(b'\n');
    write::companion(building.path(), write::REPORT, &json)?;
    building.finish(options.overwrite)?;
    Ok(report)
}

/// What the first reading found.
struct Read {
    /// By source and number of the record, from 0; none where it is superseded or no record.
    records: Vec<Vec<Option<Facts>>>,
    instances: Vec<String>,
    /// Of the entries of the exclusions.
    matched: Vec<bool>,
    dropped: Dropped,
}

fn read(sources: &[Source], options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Read, ExportError> {
    let rules = &options.rules;
    let mut records: Vec<Vec<Option<Facts>>> = vec![Vec::new(); sources.len()];
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut instances = Vec::new();
    let mut matched = vec![false; rules.exclude.entries().len()];
    let mut dropped = Dropped::new();
    let mut count = 0;
    let counter = Counter::default();
    let work = |batch: &Batch<'_>| {
        let mut seen = Vec::new();
        for (record, line) in batch.records() {
            let row = Row::parse(line).map_err(|e| batch.wrong(record, "", e))?;
            let left_out = batch.source.leave_out.contains(row.trajectory_id.as_ref());
            let found =
                if left_out { None } else { Some(row.seen(rules, &counter).map_err(|e| batch.wrong(record, &row.trajectory_id, e))?) };
            seen.push((record, found));
        }
        Ok((batch.index, seen))
    };
    feed(sources, &options.feed, work, |(source, seen): (usize, Vec<(u64, Option<Seen>)>)| {
        for (record, seen) in seen {
            let list = &mut records[source];
            list.resize_with(record as usize, || None);
            count += 1;
            let Some(Seen { instance, matches, mut facts }) = seen else {
                *dropped.entry(Why::Superseded).or_default() += 1;
                continue;
            };
            matches.iter().flatten().for_each(|entry| matched[*entry as usize] = true);
            facts.instance = *numbers.entry(instance).or_insert_with_key(|instance| {
                instances.push(instance.clone());
                instances.len() as u32 - 1
            });
            list[record as usize - 1] = Some(facts);
        }
        progress(Progress { pass: 1, records: count, total: 0 });
        Ok::<_, ExportError>(())
    })?;
    Ok(Read { records, instances, matched, dropped })
}

/// Where a chosen record goes.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Stands for the trajectory's id.
    id: u64,
    instance: u32,
    stream: u8,
}

/// A row, ready to be written.
struct Rendered {
    id: String,
    stream: usize,
    row: Vec<u8>,
    /// Of the file, where the form names it; else empty.
    name: String,
    /// Where the row is a file.
    sha256: String,
    tally: Tally,
    instance: u32,
}

#[derive(Default)]
struct Written {
    /// By split.
    tallies: Vec<Tally>,
    instances: HashSet<u32>,
    unfit: u64,
    named: Vec<UnfitReport>,
}

impl Written {
    fn leave_out(&mut self, unfit: UnfitReport) {
        self.unfit += 1;
        if self.named.len() < NAMED {
            self.named.push(unfit);
        }
    }
}

/// The second reading.
struct Writing<'a> {
    sources: &'a [Source],
    options: &'a Options,
    /// By source and number of the record, from 0.
    places: &'a [Vec<Option<Place>>],
    streams: &'a [Stream],
    /// Streams of a split.
    buckets: usize,
    total: u64,
}

impl Writing<'_> {
    fn run(
        &self,
        encoding: &Encoding,
        building: &Building,
        written: &mut Written,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<FileReport>, ExportError> {
        let options = self.options;
        let threads = options.feed.thread_count();
        let mut count = 0;
        thread::scope(|scope| {
            let mut files = Files::new(building.path(), self.streams);
            let mut shards = Shards::new(scope, threads, building.path(), self.streams, encoding, &options.write);
            feed(
                self.sources,
                &options.feed,
                |batch| self.render(batch),
                |(source, read, rows): Batched| {
                    for (record, outcome) in rows {
                        match outcome {
                            Outcome::Row(Rendered { id, stream, row, name, sha256, tally, instance }) => {
                                match options.container {
                                    Container::Files => files.push(stream, &name, &row, sha256, tally)?,
                                    _ if name.is_empty() => shards.push(stream, &row, tally)?,
                                    _ if files.append(stream, &name, instance, &row, tally)? => {}
                                    _ => {
                                        let why = format!(
                                            "{name} has a row of its instance already, and its reader takes one: export the runs apart"
                                        );
                                        written.leave_out(UnfitReport { id, why });
                                        continue;
                                    }
                                }
                                written.tallies[stream / self.buckets] += tally;
                                written.instances.insert(instance);
                            }
                            Outcome::Unfit(unfit) => written.leave_out(unfit),
                            Outcome::Changed => return Err(ExportError::Changed { path: self.sources[source].path.clone(), record }),
                        }
                    }
                    count += read;
                    progress(Progress { pass: 2, records: count, total: self.total });
                    Ok(())
                },
            )?;
            let mut reports = shards.finish()?;
            reports.extend(files.finish()?);
            Ok(reports)
        })
    }

    fn render(&self, batch: &Batch<'_>) -> Result<Batched, FeedError> {
        let mut rows = Vec::new();
        let mut count = 0;
        for (record, line) in batch.records() {
            count += 1;
            let place = self.places[batch.index].get(record as usize - 1).copied().flatten();
            if let Some(place) = place {
                rows.push((record, render(line, place, self.options).map_err(|why| batch.wrong(record, "", why))?));
            }
        }
        Ok((batch.index, count, rows))
    }
}

/// Source, records read, and what became of those that were chosen, by their numbers.
type Batched = (usize, u64, Vec<(u64, Outcome)>);

enum Outcome {
    Row(Rendered),
    Unfit(UnfitReport),
    Changed,
}

fn render(line: &[u8], place: Place, options: &Options) -> Result<Outcome, String> {
    let mut trajectory = Trajectory::parse(line).map_err(|e| e.to_string())?;
    let id = trajectory.trajectory_id.to_string();
    if hash([&id]) != place.id {
        return Ok(Outcome::Changed);
    }
    let unfit = |why: String| Ok(Outcome::Unfit(UnfitReport { id: id.clone(), why }));
    if let Some(policy) = options.loss
        && let Err(why) = mask(policy, &mut trajectory)
    {
        return unfit(format!("the loss policy cannot be applied: {why}"));
    }
    if trajectory.num_tokens < 0
        && let Ok(counts) = Counter::default().count(&trajectory.messages, &trajectory.tools)
    {
        (trajectory.num_tokens, trajectory.num_loss_tokens) = (counts.total as i64, counts.loss as i64);
    }
    let mut row = Vec::with_capacity(line.len());
    if let Err(why) = options.form.write(&trajectory, options.reasoning, &mut row) {
        return unfit(why.to_string());
    }
    row.push(b'\n');
    let (tokens, loss_tokens) = row::counts(&trajectory, options.reasoning);
    let masked = trajectory.messages.iter().any(|message| message.role == Role::Assistant && !message.loss);
    let is_file = options.container == Container::Files;
    let names_files = is_file || (options.container, options.form.container()) == (Container::PlainLines, Container::PlainLines);
    Ok(Outcome::Row(Rendered {
        stream: place.stream.into(),
        name: if names_files { options.form.file_name(&trajectory) } else { String::new() },
        sha256: if is_file { write::sha256(&row) } else { String::new() },
        tally: Tally::new(trajectory.resolved, tokens, loss_tokens, masked, row.len()),
        instance: place.instance,
        row,
        id,
    }))
}

/// Masks by the policy and counts under the target that the record was counted under. Where that is a template of a file, what is
/// trained on is not known any more.
fn mask(policy: LossPolicy, trajectory: &mut Trajectory) -> Result<(), CountError> {
    let counted = trajectory.meta().ok().and_then(|meta| meta.counted);
    let Ok(target) = counted.map_or(Ok(Target::default()), |counted| counted.target.parse()) else {
        loss::apply(policy, trajectory)?;
        trajectory.num_loss_tokens = -1;
        return Ok(());
    };
    Counter::from(TokenSettings { target, loss: policy }).fill(trajectory)
}

/// Writes what the form wants beside the data.
fn companions(options: &Options, splits: &[&str], files: &[FileReport], building: &Building) -> Result<Vec<FileReport>, ExportError> {
    let of_split = |split: &str| files.iter().filter(|file| file.split == split).map(|file| file.file.clone()).collect();
    let files: Vec<(String, Vec<String>)> = splits.iter().map(|split| ((*split).to_owned(), of_split(split))).collect();
    let with_rows: Vec<_> = files.into_iter().filter(|(_, files)| !files.is_empty()).collect();
    let companions = options.form.companions(&with_rows).into_iter();
    companions.map(|(name, content)| write::companion(building.path(), &name, &content)).collect()
}
