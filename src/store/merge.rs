//! Merging: the records of many runs and sealed datasets as one sealed dataset, by the rules of sealing.

use super::{
    Disk, Manifest, RunDir, Sealed, Settings as StoreSettings, StoreError, View, card,
    fact::Stream,
    files,
    frame::Span,
    manifest::MANIFEST_FORMAT,
    run_dir::{Layout, lock_file},
    seal::{
        Counting, Progress, Records, Report, SealError, Settings, already, place,
        plan::{Place, Ref},
        unhex,
    },
    sealed::CountedBy,
    seek::IndexLines,
};
use crate::domain::{EpisodeId, InstanceId};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    fs, io,
    path::{Path, PathBuf},
};

/// What becomes of an episode that more than one input has. Its attempts stay together: two inputs' would make it count twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDuplicate {
    #[default]
    Refuse,
    /// That of the first input in which an attempt of it counts is taken, else of the first.
    First,
    /// As `First`, from the last.
    Last,
    /// Samples of an instance that an earlier input has too are counted on from there: two runs over the same instances become one
    /// with the samples of both.
    Renumber,
}

/// What a merge left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Records of episodes that were taken from another input.
    pub dropped: u64,
    /// Records whose sample has a new number.
    pub renumbered: u64,
}

/// For what the records of a sealed dataset were counted; none where `dir` is a run, whose settings say so.
///
/// # Errors
/// Where `dir` is neither.
pub fn counted_by(dir: &Path) -> Result<Option<CountedBy>, StoreError> {
    if RunDir::exists(dir) {
        return Ok(None);
    }
    let sealed = Sealed::read(dir)?.ok_or_else(|| neither(dir))?;
    Ok(Some(sealed.counts))
}

fn neither(dir: &Path) -> StoreError {
    StoreError::NotARun { path: dir.to_owned(), why: "it has neither run.toml nor data/sealed.json".into() }
}

/// Makes one sealed dataset in `out` of all that is committed to runs and of sealed datasets.
///
/// # Errors
/// See [`SealError`]. Repeating an interrupted merge of the same inputs goes on where it stopped.
pub fn merge(
    inputs: &[PathBuf],
    out: &Path,
    on_duplicate: OnDuplicate,
    settings: &Settings,
    counting: &Counting<'_>,
    disk: &Disk,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Report, Merged), SealError> {
    settings.check().map_err(SealError::Setting)?;
    vacant(out)?;
    let mut all = Records::default();
    let mut parts = Vec::new();
    for input in inputs {
        let part = part(input)?;
        let first = all.sources.len() as u32;
        all.sources.extend(part.sources);
        all.runs.extend(part.runs);
        let records = part.streams.into_iter().flat_map(|(stream, records)| records.into_iter().map(move |record| (stream, record)));
        parts.push(records.map(|(stream, record)| (stream, moved(record, first))).collect());
    }
    let mut known = HashSet::new();
    all.runs.retain(|run| known.insert(run.clone()));
    let (records, merged) = join(parts, on_duplicate)?;
    for (stream, record) in records {
        all.streams.entry(stream).or_default().push(record);
    }
    if all.is_empty() {
        return Err(SealError::Empty(out.to_owned()));
    }
    files::create_dir(out)?;
    let layout = Layout::new(out);
    let _lock = lock_file(&layout.data_lock(), &Sealed::data(out))?;
    vacant(out)?;
    place::prepare(out)?;
    let report = match already(out, &mut all, settings, counting)? {
        // It was interrupted in its last steps.
        Some(sealed) => Report { sealed, made: false, kept: 0, card: true },
        None if Sealed::data(out).exists() => return Err(occupied(out, "a merge of other inputs that was interrupted").into()),
        None => {
            let (sealed, kept) = all.make(out, settings, counting, disk, progress)?;
            Report { sealed, made: true, kept, card: true }
        }
    };
    let card = card::write(out, &report.sealed, disk)?;
    let manifest = Manifest { format: MANIFEST_FORMAT, run: String::new(), shards: Vec::new(), sealed: Some(report.sealed.clone()) };
    manifest.write(&layout, disk)?;
    place::tidy(out)?;
    Ok((Report { card, ..report }, merged))
}

fn occupied(out: &Path, what: &str) -> StoreError {
    StoreError::Occupied { path: out.to_owned(), why: format!("it holds {what}, and a merge makes a dataset of its own") }
}

/// Refuses a directory that holds anything but an interrupted merge.
fn vacant(out: &Path) -> Result<(), StoreError> {
    let fail = |e: io::Error| StoreError::io("read", out, &e);
    let entries = match fs::read_dir(out) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(fail)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
    }
    let interrupted = place::is_unfinished(out);
    let ours = |name: &str| {
        let name = name.strip_suffix(".tmp").unwrap_or(name);
        name == "data.lock" || name == "data.new" || interrupted && ["data", "README.md", "manifest.json"].contains(&name)
    };
    match names.iter().find(|name| !ours(name)) {
        Some(name) => Err(occupied(out, name)),
        None => Ok(()),
    }
}

/// The records of one input: of a run what is committed, out of its live shards; else those of a sealed dataset.
fn part(dir: &Path) -> Result<Records, SealError> {
    if RunDir::exists(dir) {
        return Ok(Records::of_run(&View::open(dir)?)?);
    }
    let sealed = Sealed::read(dir)?.ok_or_else(|| neither(dir))?;
    let mut records = Records { runs: sealed.runs.clone(), ..Records::default() };
    let limit = StoreSettings::default().max_record_bytes;
    for file in &sealed.files {
        let number = records.sources.len() as u32;
        let path = Sealed::data(dir).join(&file.file);
        for line in IndexLines::open(dir, file)? {
            let line = line?;
            let damaged = |problem: &str| StoreError::damaged(&path, format!("the index, {}", line.id), problem);
            if line.len > limit {
                return Err(damaged(&format!("a record of {} bytes is over the limit of {limit}", line.len)).into());
            }
            let digest = unhex(&line.digest).ok_or_else(|| damaged("the digest is no SHA-256"))?;
            let frame = Span { offset: line.frame_offset, len: line.frame_len };
            let place = Place { file: number, frame, offset: line.offset };
            let record = Ref { sample: line.id.episode.sample, id: line.id, place, len: line.len, digest };
            records.streams.entry(file.stream).or_default().push(record);
        }
        records.sources.push(path);
    }
    Ok(records)
}

fn moved(mut record: Ref, first: u32) -> Ref {
    record.place.file += first;
    record
}

type Part = Vec<(Stream, Ref)>;

/// Episodes that are named.
const SHOWN: usize = 3;

/// All records of each episode of one input. Pure.
fn join(parts: Vec<Part>, on_duplicate: OnDuplicate) -> Result<(Part, Merged), SealError> {
    let mut merged = Merged::default();
    if on_duplicate == OnDuplicate::Renumber {
        return Ok((renumbered(parts, &mut merged)?, merged));
    }
    let mut taken: HashMap<EpisodeId, Taken> = HashMap::new();
    let mut duplicates = BTreeSet::new();
    for (from, part) in parts.iter().enumerate() {
        for (episode, counts) in episodes(part) {
            match taken.entry(episode.clone()) {
                Entry::Vacant(free) => {
                    free.insert(Taken { from, counts });
                }
                Entry::Occupied(mut earlier) => {
                    duplicates.insert(episode);
                    let is_better = match (earlier.get().counts, counts) {
                        (false, true) => true,
                        (true, false) => false,
                        _ => on_duplicate == OnDuplicate::Last,
                    };
                    if is_better {
                        earlier.insert(Taken { from, counts });
                    }
                }
            }
        }
    }
    if on_duplicate == OnDuplicate::Refuse && !duplicates.is_empty() {
        let shown = duplicates.iter().take(SHOWN).map(ToString::to_string).collect();
        return Err(SealError::Duplicates { count: duplicates.len() as u64, shown });
    }
    drop(duplicates);
    let mut all = Part::new();
    for (from, mut part) in parts.into_iter().enumerate() {
        let records = part.len();
        part.retain(|(_, record)| taken[&record.id.episode].from == from);
        merged.dropped += (records - part.len()) as u64;
        all.extend(part);
    }
    Ok((all, merged))
}

/// The input that an episode is taken from, and whether an attempt of it counts there.
struct Taken {
    from: usize,
    counts: bool,
}

/// The episodes of an input, and whether an attempt of each counts.
fn episodes(part: &Part) -> BTreeMap<&EpisodeId, bool> {
    let mut episodes = BTreeMap::new();
    for (stream, record) in part {
        *episodes.entry(&record.id.episode).or_default() |= *stream == Stream::Trajectories;
    }
    episodes
}

fn renumbered(parts: Vec<Part>, merged: &mut Merged) -> Result<Part, SealError> {
    let mut all = Part::new();
    // Samples of each instance that the inputs so far have.
    let mut samples: HashMap<InstanceId, u32> = HashMap::new();
    for mut part in parts {
        for (_, record) in &mut part {
            let EpisodeId { instance, sample } = &record.id.episode;
            let earlier = samples.get(instance).copied().unwrap_or(0);
            let sample = sample.checked_add(earlier).filter(|sample| *sample < u32::MAX);
            record.id.episode.sample = sample.ok_or_else(|| SealError::Samples(record.id.clone()))?;
            merged.renumbered += u64::from(earlier > 0);
        }
        for (_, record) in &part {
            let EpisodeId { instance, sample } = &record.id.episode;
            let count = samples.entry(instance.clone()).or_default();
            *count = (*count).max(sample + 1);
        }
        all.extend(part);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::AttemptId;

    fn part(ids: &[&str], digest: u8) -> Part {
        let record = |id: &&str| {
            let id: AttemptId = id.parse().unwrap();
            let place = Place { file: 0, frame: Span { offset: 0, len: 1 }, offset: 0 };
            (Stream::Trajectories, Ref { sample: id.episode.sample, id, place, len: 1, digest: [digest; 32] })
        };
        ids.iter().map(record).collect()
    }

    fn names(part: &Part) -> Vec<(String, u32, u8)> {
        part.iter().map(|(_, record)| (record.id.to_string(), record.sample, record.digest[0])).collect()
    }

    fn named(rows: &[(&str, u32, u8)]) -> Vec<(String, u32, u8)> {
        rows.iter().map(|(id, sample, digest)| ((*id).to_owned(), *sample, *digest)).collect()
    }

    #[test]
    fn duplicates_are_refused_or_settled() {
        let parts = || vec![part(&["a@0.1", "b@0.1"], 1), part(&["a@0.1", "a@0.2", "c@0.1"], 2), part(&["a@0.1"], 3)];
        let refused = join(parts(), OnDuplicate::Refuse).unwrap_err().to_string();
        assert!(refused.contains("1 episodes are in more than one input, such as a@0:"), "{refused}");
        let (first, merged) = join(parts(), OnDuplicate::First).unwrap();
        assert_eq!(names(&first), named(&[("a@0.1", 0, 1), ("b@0.1", 0, 1), ("c@0.1", 0, 2)]));
        assert_eq!(merged, Merged { dropped: 3, renumbered: 0 });
        let (last, _) = join(parts(), OnDuplicate::Last).unwrap();
        assert_eq!(names(&last), named(&[("b@0.1", 0, 1), ("c@0.1", 0, 2), ("a@0.1", 0, 3)]));
        let (all, merged) = join(parts(), OnDuplicate::Renumber).unwrap();
        let expected = [("a@0.1", 0, 1), ("b@0.1", 0, 1), ("a@1.1", 0, 2), ("a@1.2", 0, 2), ("c@0.1", 0, 2), ("a@2.1", 0, 3)];
        assert_eq!((names(&all), merged), (named(&expected), Merged { dropped: 0, renumbered: 3 }));
    }

    #[test]
    fn inputs_without_a_duplicate_are_joined_as_they_are() {
        let (all, merged) = join(vec![part(&["b@0.1"], 1), part(&["a@3.2"], 2)], OnDuplicate::Refuse).unwrap();
        assert_eq!((names(&all), merged), (named(&[("b@0.1", 0, 1), ("a@3.2", 3, 2)]), Merged::default()));
    }

    #[test]
    fn an_episode_is_taken_from_where_it_counts() {
        let failed = |ids: &[&str], digest| part(ids, digest).into_iter().map(|(_, record)| (Stream::Attempts, record)).collect::<Part>();
        let parts = || vec![failed(&["a@0.1"], 1), part(&["a@0.2"], 2), part(&["a@0.1"], 3), failed(&["a@0.7"], 4)];
        let (first, _) = join(parts(), OnDuplicate::First).unwrap();
        let (last, _) = join(parts(), OnDuplicate::Last).unwrap();
        assert_eq!((names(&first), names(&last)), (named(&[("a@0.2", 0, 2)]), named(&[("a@0.1", 0, 3)])));
    }

    #[test]
    fn samples_end_where_their_numbers_do() {
        let last = format!("a@{}.1", u32::MAX);
        let refused = join(vec![part(&["a@0.1"], 1), part(&[last.as_str()], 2)], OnDuplicate::Renumber).unwrap_err().to_string();
        assert!(refused.contains(&last) && refused.contains("renumber"), "{refused}");
    }
}
