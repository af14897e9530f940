//! The sealed dataset: files against `sealed.json`, indexes and seek tables against frames and records, all against the run.

use super::{
    Check, SealedReport, card,
    findings::{Findings, Note, Place},
    index::{AGAIN, Shard},
    live::{Live, record_mend, unframe},
    pool,
    record::{self, Read},
    seekable::Seek,
};
use crate::{
    domain::{AttemptId, ExitReason},
    store::{Layout, Manifest, Sealed, Stream, sealed::IndexLine, shard},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

/// No `sealed.json`: then there may be no `data/` either.
pub(super) fn absent(check: &Check<'_>, findings: &mut Findings) {
    if Sealed::data(check.dir).exists() {
        findings
            .add("data", Note::problem(Place::File, "it has no sealed.json", "it is no sealed dataset: move it away and seal once more"));
    }
}

pub(super) fn check(check: &Check<'_>, sealed: &Sealed, live: Option<&Live>, report: &mut SealedReport, findings: &mut Findings) {
    *report = SealedReport { there: true, runs: sealed.runs.len() as u64, rows: 0, current: true };
    let mut shards = Vec::new();
    pool::each(
        check.options.threads,
        &sealed.files,
        |file| Shard::open(check.dir, file),
        |_, (shard, notes)| {
            notes.into_iter().for_each(|(file, note)| findings.add(&file, note));
            shards.extend(shard);
        },
    );
    shards.sort_by(|a, b| a.name.cmp(&b.name));
    for shard in &shards {
        findings.file(&shard.name).bytes = shard.file.bytes;
        report.rows += shard.lines.len() as u64;
    }
    frames(check, sealed.schema_version, &shards, findings);
    order(&shards, findings);
    names(check, sealed, findings);
    manifest(check, sealed, live, findings);
    if let Some(live) = live {
        against(sealed, &shards, live, report, findings);
    }
}

enum Job<'j> {
    Checksum(&'j Shard<'j>),
    Frame(&'j Shard<'j>, &'j Range<usize>),
}

fn frames(check: &Check<'_>, version: u32, shards: &[Shard<'_>], findings: &mut Findings) {
    let mut jobs: Vec<Job<'_>> = shards.iter().map(Job::Checksum).collect();
    jobs.extend(shards.iter().flat_map(|shard| shard.frames.iter().map(move |frame| Job::Frame(shard, frame))));
    let bytes = |job: &Job<'_>| match job {
        Job::Checksum(shard) => shard.file.bytes,
        Job::Frame(shard, frame) => shard.lines[frame.start].frame_len,
    };
    jobs.iter().for_each(|job| check.progress.expect(bytes(job)));
    let mut exits: HashMap<&str, BTreeMap<ExitReason, u64>> = HashMap::new();
    pool::each(
        check.options.threads,
        &jobs,
        |job| {
            let done = match job {
                Job::Checksum(shard) => (Vec::new(), 0, checksum(check.dir, shard).into_iter().collect()),
                Job::Frame(shard, lines) => frame(check, version, shard, lines),
            };
            check.progress.advance(bytes(job));
            done
        },
        |job, (reads, raw_bytes, notes): (Vec<Read>, u64, Vec<Note>)| {
            let (Job::Checksum(shard) | Job::Frame(shard, _)) = job;
            let file = findings.file(&shard.name);
            file.rows += reads.len() as u64;
            file.raw_bytes += raw_bytes;
            for read in reads {
                *exits.entry(&shard.name).or_default().entry(read.exit_reason).or_default() += 1;
            }
            notes.into_iter().for_each(|note| findings.add(&shard.name, note));
        },
    );
    for shard in shards {
        let found = exits.remove(shard.name.as_str()).unwrap_or_default();
        // Of a file with damaged records the figures cannot be told.
        if found.values().sum::<u64>() == shard.lines.len() as u64 && found != shard.file.exit_reasons {
            findings.add(&shard.name, Note::problem(Place::File, "exit_reasons in sealed.json are not those of the records", AGAIN));
        }
    }
}

fn checksum(dir: &Path, shard: &Shard<'_>) -> Option<Note> {
    let what = match shard::prefix_sha256(&dir.join(&shard.name), shard.file.bytes) {
        Ok(digest) if digest == shard.file.sha256 => return None,
        Ok(_) => "it has another SHA-256 than sealed.json says".to_owned(),
        Err(e) => e.to_string(),
    };
    Some(Note::problem(Place::File, what, AGAIN))
}

/// Records that were read, their bytes, and what is wrong with them and their frame.
fn frame(check: &Check<'_>, version: u32, shard: &Shard<'_>, range: &Range<usize>) -> (Vec<Read>, u64, Vec<Note>) {
    let lines = &shard.lines[range.clone()];
    let (offset, len) = (lines[0].frame_offset, lines[0].frame_len);
    let raw_bytes: u64 = lines.iter().map(|line| line.len).sum();
    let mut notes = Vec::new();
    let mut add = |what| notes.push(Note::problem(Place::Byte(offset), what, AGAIN));
    let content = match content(check, shard, offset, len, raw_bytes, &mut add) {
        Ok(content) => content,
        Err(what) => {
            add(what);
            return (Vec::new(), 0, notes);
        }
    };
    let (mut reads, mut bytes) = (Vec::new(), 0);
    for (at, line) in range.clone().zip(lines) {
        let place = Place::Record(at as u64 + 1);
        let problem = |what: String| Note::problem(place, what, AGAIN).of(&line.id);
        let Some(record) = content.get(line.offset as usize..(line.offset + line.len) as usize) else {
            notes.push(problem("the frame ends before the record does".into()));
            continue;
        };
        bytes += line.len;
        if format!("{:x}", Sha256::digest(record)) != line.digest {
            notes.push(problem("the record has another SHA-256 than the index says".into()));
        }
        let (read, wrong) = record::check(record);
        notes.extend(wrong.into_iter().map(|(severity, what)| {
            let mend = if severity == super::Severity::Problem { AGAIN } else { record_mend(severity) };
            Note { severity, mend, ..problem(what) }
        }));
        notes.extend(read.iter().flat_map(|read| unlike(read, line, version)).map(problem));
        reads.extend(read);
    }
    (reads, bytes, notes)
}

fn content(
    check: &Check<'_>,
    shard: &Shard<'_>,
    offset: u64,
    len: u64,
    raw_bytes: u64,
    wrong: &mut dyn FnMut(String),
) -> Result<Vec<u8>, String> {
    let limit = check.options.max_frame_bytes;
    if len > limit || raw_bytes > limit {
        return Err(format!("a frame of {} bytes is over the limit of {limit}", len.max(raw_bytes)));
    }
    let mut frame = vec![0; len as usize];
    shard.data.read_exact_at(&mut frame, offset).map_err(|e| format!("the frame cannot be read: {e}"))?;
    let content = unframe(&frame, limit, raw_bytes, wrong)?;
    let checksum = frame.last_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    if let Some(Seek { checksum: Some(said), .. }) = shard.seeks.get(&offset)
        && Some(*said) != checksum
    {
        wrong("the frame's checksum is another than in the seek table".into());
    }
    Ok(content)
}

/// What the record says other than its index line or `sealed.json`.
fn unlike(read: &Read, line: &IndexLine, version: u32) -> Vec<String> {
    let pairs = [
        ("the attempt", read.id.to_string(), line.id.to_string()),
        ("resolved", i8::from(read.resolved).to_string(), i8::from(line.resolved).to_string()),
        ("num_tokens", read.tokens.to_string(), line.tokens.to_string()),
        ("num_loss_tokens", read.loss_tokens.to_string(), line.loss_tokens.to_string()),
    ];
    let differ = pairs.into_iter().filter(|(_, record, index)| record != index);
    let mut unlike: Vec<String> =
        differ.map(|(name, record, index)| format!("{name} is {record} in the record and {index} in the index")).collect();
    if read.version != version {
        unlike.push(format!("the record has schema_version {}, sealed.json says {version}", read.version));
    }
    unlike
}

/// Records lie in the order of their ids over all files of a stream, so that the samples of an instance are together; each id
/// lies in one stream alone.
fn order(shards: &[Shard<'_>], findings: &mut Findings) {
    let mut ids: HashSet<&AttemptId> = HashSet::new();
    for stream in Stream::ALL {
        let mut last: Option<&AttemptId> = None;
        for shard in shards.iter().filter(|shard| shard.file.stream == stream) {
            for (number, line) in (1..).zip(&shard.lines) {
                let what = match last {
                    _ if !ids.insert(&line.id) => Some("the record is in the dataset twice".to_owned()),
                    Some(last) if *last > line.id => Some(format!("it comes after {last}: records lie in the order of their ids")),
                    _ => None,
                };
                if let Some(what) = what {
                    findings.add(&shard.index, Note::problem(Place::Line(number), what, AGAIN).of(&line.id));
                }
                last = Some(&line.id);
            }
        }
    }
}

/// Nothing lies in `data/` but what `sealed.json` names, and the card names what is there.
fn names(check: &Check<'_>, sealed: &Sealed, findings: &mut Findings) {
    let known: HashSet<String> = sealed.files.iter().flat_map(|file| [file.file.clone(), file.index()]).collect();
    for entry in fs::read_dir(Sealed::data(check.dir)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "progress.jsonl" {
            let what = "the last sealing did not come to its end, though its dataset is in its place";
            findings.add(&format!("data/{name}"), Note::warning(Place::File, what, "repeat the same `sweroll seal` or `sweroll merge`"));
        } else if name != "sealed.json" && !known.contains(&name) {
            let what = "it is no file of the dataset, and a loader that takes all of data/ would take it";
            findings.add(&format!("data/{name}"), Note::problem(Place::File, what, "move it away"));
        }
    }
    let of =
        |stream: Stream| sealed.files.iter().filter(move |f| f.stream == stream).map(|f| format!("data/{}", f.file)).collect::<Vec<_>>();
    let wrong = match fs::read_to_string(check.dir.join("README.md")) {
        Ok(text) => card::check(&text, &of(Stream::Trajectories), &of(Stream::Attempts)),
        Err(e) => vec![format!("it cannot be read: {e}")],
    };
    for what in wrong {
        findings.add(
            "README.md",
            Note::problem(Place::File, what, "write its YAML anew by `sweroll seal` or `sweroll merge`, or mend it by hand"),
        );
    }
}

/// What `manifest.json` says of the dataset. A dataset that was given away may have none.
fn manifest(check: &Check<'_>, sealed: &Sealed, live: Option<&Live>, findings: &mut Findings) {
    let alone = live.is_none().then(|| Manifest::read(&Layout::new(check.dir))).flatten();
    let Some(manifest) = live.map_or(alone.as_ref(), |live| live.manifest.as_ref()) else { return };
    if manifest.sealed.as_ref() == Some(sealed) {
        return;
    }
    let what = "what it says of data/ is not what data/sealed.json says";
    let note = if live.is_none_or(|live| live.closed) {
        Note::problem(
            Place::File,
            what,
            "repeat `sweroll seal` or `sweroll merge`, which writes it anew; restore that of a merge from a copy",
        )
    } else {
        Note::warning(Place::File, what, "none needed: the run is still open, or a crash ended it")
    };
    findings.add("manifest.json", note);
}

/// The dataset against the run that it was sealed from: what was committed then, each once, and the very same bytes.
fn against(sealed: &Sealed, shards: &[Shard<'_>], live: &Live, report: &mut SealedReport, findings: &mut Findings) {
    const SEALED: &str = "data/sealed.json";
    let [of] = sealed.runs.as_slice() else {
        let what = format!("it is of {} runs, and lies in the directory of one", sealed.runs.len());
        return findings.add(SEALED, Note::problem(Place::File, what, "move data/ and README.md to a directory of their own"));
    };
    if of.run != live.run {
        let what = format!("it is of run {}, run.toml of {}", of.run, live.run);
        return findings.add(SEALED, Note::problem(Place::File, what, "move data/ away and seal once more"));
    }
    if (&of.model, &of.scaffold) != (&live.model, &live.scaffold) {
        let what = format!("it is of model {} and scaffold {}, run.toml of {} and {}", of.model, of.scaffold, live.model, live.scaffold);
        findings.add(SEALED, Note::problem(Place::File, what, "move data/ away and seal once more"));
    }
    let committed = live.commits.len() as u64;
    report.current = of.attempts == committed;
    if of.attempts > committed {
        let what = format!("it was sealed when {} attempts were committed; the journal has only {committed}", of.attempts);
        findings.add(SEALED, Note::problem(Place::File, what, "restore the journal from a copy"));
    } else if !report.current {
        let what = format!("it was sealed when {} attempts were committed; by now {committed} are", of.attempts);
        findings.add(SEALED, Note::warning(Place::File, what, "`sweroll seal` brings it up to date"));
    }
    let then = committed.min(of.attempts) as usize;
    let counting = live.counting(then);
    let mut missing: BTreeMap<&AttemptId, usize> = live.commits[..then].iter().enumerate().map(|(at, c)| (&c.id, at)).collect();
    for shard in shards {
        for (number, line) in (1..).zip(&shard.lines) {
            let mut add = |what: String| findings.add(&shard.index, Note::problem(Place::Line(number), what, AGAIN).of(&line.id));
            let Some(at) = missing.remove(&line.id) else {
                add("the run had no such attempt when it was sealed, or it is here twice".into());
                continue;
            };
            let counts = counting.get(&line.id.episode) == Some(&&line.id);
            if counts != (shard.file.stream == Stream::Trajectories) {
                add(format!("it {} and lies in {}", if counts { "counts" } else { "does not count" }, shard.file.stream.as_str()));
            }
            if live.as_it_lies(at, &sealed.counts, line.tokens) && live.commits[at].digest != line.digest {
                add("the record is another than the run's".into());
            }
        }
    }
    for id in missing.into_keys() {
        findings.add(SEALED, Note::problem(Place::File, "the attempt is in no file of the dataset", AGAIN).of(id));
    }
}
