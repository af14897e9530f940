//! The run: every committed frame against the journal, the manifest against both, what lies beside them.

use super::{
    Check, RunReport,
    findings::{Findings, Note, Place},
    pool,
    record::{self, Read},
    seekable::{Header, MAX_WINDOW},
};
use crate::{
    domain::{
        AttemptId, EpisodeId,
        trajectory::{Counted, SCHEMA_VERSION},
    },
    store::{
        Manifest, StoreError, Stream, View,
        fact::{Committed, Fact},
        frame, journal,
        manifest::{MANIFEST_FORMAT, ShardEntry},
        redo,
        sealed::CountedBy,
        shard, spool,
    },
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

const AGAIN: &str = "restore the shard from a copy, or generate it anew: `sweroll rerun DIR --episode` with the id up to the point";
const DERIVED: &str = "remove manifest.json: it is made again when the run is next opened";

/// What the run has committed, for the sealed dataset to be held against.
pub(super) struct Live {
    pub run: String,
    pub model: String,
    pub scaffold: String,
    /// In the order of the commits.
    pub commits: Vec<Committed>,
    /// By their place in `commits`.
    pub lies: Vec<Lies>,
    pub meanings: Vec<Counted>,
    pub manifest: Option<Manifest>,
    /// No process has the run open, and none died in it.
    pub closed: bool,
}

/// What a live record is to sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lies {
    /// Of an older version, or it cannot be read.
    Otherwise,
    Uncounted,
    /// As a place in `meanings` says.
    Counted(usize),
}

impl Live {
    /// Whether sealing takes the record as it lies: it brings one of an older version up to this one, and counts one that was
    /// counted otherwise or not at all. `tokens`: of the sealed record.
    pub fn as_it_lies(&self, at: usize, by: &CountedBy, tokens: i64) -> bool {
        match self.lies[at] {
            Lies::Otherwise => false,
            Lies::Uncounted => tokens < 0,
            Lies::Counted(meaning) => by.is_of(&self.meanings[meaning]),
        }
    }

    /// Attempts that count when only the first commits are taken, and are trajectories.
    pub fn counting(&self, commits: usize) -> HashMap<&EpisodeId, &AttemptId> {
        let mut counting: HashMap<&EpisodeId, &Committed> = HashMap::new();
        for committed in self.commits.iter().take(commits).filter(|c| c.outcome.counts) {
            let latest = counting.entry(&committed.id.episode).or_insert(committed);
            if latest.id.attempt < committed.id.attempt {
                *latest = committed;
            }
        }
        let trajectories = counting.into_iter().filter(|(_, c)| c.location.stream == Stream::Trajectories);
        trajectories.map(|(episode, c)| (episode, &c.id)).collect()
    }
}

pub(super) fn check(check: &Check<'_>, view: &View, report: &mut RunReport, findings: &mut Findings) -> Live {
    report.run.clone_from(&view.info.run);
    let (commits, closed) = match commits(view) {
        Ok(read) => read,
        Err(e) => {
            findings.error(check.dir, &e);
            (Vec::new(), true)
        }
    };
    report.attempts = commits.len() as u64;
    report.superseded = view.state.shards().values().map(|shard| shard.superseded.rows).sum();
    let (run, plan) = (view.info.run.clone(), &view.info.plan);
    let (model, scaffold) = (plan.model.clone(), plan.scaffold.clone());
    let mut live =
        Live { run, model, scaffold, lies: vec![Lies::Otherwise; commits.len()], meanings: Vec::new(), manifest: None, closed, commits };
    let manifest = manifest(check, view, closed, findings);
    frames(check, view, &mut live, manifest.as_ref(), findings);
    live.manifest = manifest;
    beside(check, view, findings);
    spools(check, view, report, findings);
    live
}

/// The committed facts, and whether the run was closed in good order. A failure's message is let go: it may be long.
fn commits(view: &View) -> Result<(Vec<Committed>, bool), StoreError> {
    let (mut commits, mut closed) = (Vec::new(), true);
    let path = view.layout.journal();
    if !path.exists() {
        return Ok((commits, closed));
    }
    journal::read(&path, &mut |_, fact| {
        closed = matches!(fact, Fact::Closed { .. });
        match fact {
            // A live run has gone on since.
            Fact::Committed(mut committed) if view.state.is_committed(&committed.id) => {
                committed.outcome.failure = None;
                commits.push(committed);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok((commits, closed))
}

/// Work on a shard: its checksum, or one frame.
enum Job<'j> {
    Checksum { shard: &'j Shard, bytes: u64, sha256: &'j str },
    Frame { shard: &'j Shard, at: usize, committed: &'j Committed },
}

struct Shard {
    /// Name within the directory.
    name: String,
    file: File,
}

fn frames(check: &Check<'_>, view: &View, live: &mut Live, manifest: Option<&Manifest>, findings: &mut Findings) {
    let mut shards = BTreeMap::new();
    for ((stream, number), committed) in view.state.shards() {
        let name = format!("shards/{}", stream.file(*number));
        match open(&check.dir.join(&name), committed.bytes) {
            Ok((file, len)) => {
                findings.file(&name).bytes = len;
                if len > committed.bytes {
                    let what = format!("{} bytes lie behind the last committed frame", len - committed.bytes);
                    findings.add(
                        &name,
                        Note::warning(Place::Byte(committed.bytes), what, "none needed: they are cut off when the run is next opened"),
                    );
                }
                shards.insert((*stream, *number), Shard { name, file });
            }
            Err(what) => findings.add(&name, Note::problem(Place::File, what, "restore the shard from a copy")),
        }
    }
    let mut jobs = Vec::new();
    for (key, shard) in &shards {
        let mut entries = manifest.iter().flat_map(|m| &m.shards);
        // A prefix that the manifest of a live run speaks of can be read; a longer one is its problem already.
        let known = |entry: &&ShardEntry| entry.file == key.0.file(key.1) && entry.bytes <= view.state.shards()[key].bytes;
        if let Some(entry) = entries.find(known) {
            check.progress.expect(entry.bytes);
            jobs.push(Job::Checksum { shard, bytes: entry.bytes, sha256: &entry.sha256 });
        }
    }
    for (at, committed) in live.commits.iter().enumerate() {
        if let Some(shard) = shards.get(&(committed.location.stream, committed.location.shard)) {
            check.progress.expect(committed.location.len);
            jobs.push(Job::Frame { shard, at, committed });
        }
    }
    let (lies, meanings) = (&mut live.lies, &mut live.meanings);
    pool::each(
        check.options.threads,
        &jobs,
        |job| match job {
            Job::Checksum { shard, bytes, sha256 } => {
                let note = checksum(&check.dir.join(&shard.name), *bytes, sha256);
                check.progress.advance(*bytes);
                (None, note.into_iter().collect())
            }
            Job::Frame { shard, committed, .. } => {
                let read = one(&shard.file, committed, check.options.max_record_bytes);
                check.progress.advance(committed.location.len);
                read
            }
        },
        |job, (read, notes): (Option<Read>, Vec<Note>)| {
            let (Job::Checksum { shard, .. } | Job::Frame { shard, .. }) = job;
            if let (Job::Frame { at, committed, .. }, Some(read)) = (job, read) {
                lies[*at] = match read.counted {
                    _ if read.version != SCHEMA_VERSION => Lies::Otherwise,
                    None => Lies::Uncounted,
                    Some(counted) => Lies::Counted(meanings.iter().position(|known| *known == counted).unwrap_or_else(|| {
                        meanings.push(counted);
                        meanings.len() - 1
                    })),
                };
                let file = findings.file(&shard.name);
                file.rows += 1;
                file.raw_bytes += committed.raw_bytes;
            }
            notes.into_iter().for_each(|note| findings.add(&shard.name, note));
        },
    );
}

fn open(path: &Path, committed: u64) -> Result<(File, u64), String> {
    let file = File::open(path).map_err(|e| format!("it cannot be read: {e}"))?;
    let len = file.metadata().map_err(|e| format!("it cannot be read: {e}"))?.len();
    if len < committed { Err(format!("the journal knows {committed} bytes, the file has only {len}")) } else { Ok((file, len)) }
}

fn checksum(path: &Path, bytes: u64, sha256: &str) -> Option<Note> {
    let what = match shard::prefix_sha256(path, bytes) {
        Ok(digest) if digest == sha256 => return None,
        Ok(_) => format!("its first {bytes} bytes have another SHA-256 than manifest.json says"),
        Err(e) => e.to_string(),
    };
    Some(Note::problem(Place::File, what, "restore the shard from a copy; where all its records are sound, remove manifest.json instead"))
}

/// One committed frame, its record, and the fact.
fn one(file: &File, committed: &Committed, max_record_bytes: u64) -> (Option<Read>, Vec<Note>) {
    let place = Place::Byte(committed.location.offset);
    let mut notes = Vec::new();
    let record = match raw(file, committed, max_record_bytes, &mut |what| notes.push(Note::problem(place, what, AGAIN))) {
        Ok(record) => record,
        Err(what) => {
            notes.push(Note::problem(place, what, AGAIN));
            return (None, notes.into_iter().map(|note| note.of(&committed.id)).collect());
        }
    };
    if format!("{:x}", Sha256::digest(&record)) != committed.digest {
        notes.push(Note::problem(place, "the record has another SHA-256 than the journal says", AGAIN));
    }
    let (read, wrong) = record::check(&record);
    notes.extend(wrong.into_iter().map(|(severity, what)| Note { severity, ..Note::problem(place, what, record_mend(severity)) }));
    if let Some(read) = &read {
        let outcome = &committed.outcome;
        let mut same = |name: &str, record: String, journal: String| {
            if record != journal {
                notes.push(Note::problem(place, format!("{name} is {record} in the record and {journal} in the journal"), AGAIN));
            }
        };
        same("the attempt", read.id.to_string(), committed.id.to_string());
        same("resolved", i8::from(read.resolved).to_string(), i8::from(outcome.resolved).to_string());
        same("exit_reason", format!("{:?}", read.exit_reason), format!("{:?}", outcome.exit_reason));
        same("num_turns", read.turns.to_string(), outcome.turns.to_string());
        same("num_tokens", read.tokens.to_string(), outcome.tokens.to_string());
        same("num_loss_tokens", read.loss_tokens.to_string(), committed.loss_tokens.to_string());
    }
    (read, notes.into_iter().map(|note| note.of(&committed.id)).collect())
}

/// What is done about a record that is whole but not as it should be.
pub(super) fn record_mend(severity: super::Severity) -> &'static str {
    match severity {
        super::Severity::Problem => AGAIN,
        super::Severity::Warning => "look at it with `sweroll show` before you train on it",
    }
}

fn raw(file: &File, committed: &Committed, max_record_bytes: u64, wrong: &mut dyn FnMut(String)) -> Result<Vec<u8>, String> {
    let (offset, len) = (committed.location.offset, committed.location.len);
    if len > max_record_bytes {
        return Err(format!("a frame of {len} bytes is over the limit of {max_record_bytes}"));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset).map_err(|e| format!("the frame cannot be read: {e}"))?;
    unframe(&bytes, max_record_bytes, committed.raw_bytes, wrong)
}

/// Decompresses a frame that is to stand alone and be readable by all.
pub(super) fn unframe(frame: &[u8], max_bytes: u64, raw_bytes: u64, wrong: &mut dyn FnMut(String)) -> Result<Vec<u8>, String> {
    let header = Header::parse(frame).ok_or("there is no zstd frame")?;
    if zstd::zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err("the zstd frame is of another length, or damaged".into());
    }
    if !header.checksum {
        wrong("the frame has no checksum".into());
    }
    if header.dictionary {
        wrong("the frame needs a dictionary".into());
    }
    if header.window > MAX_WINDOW {
        wrong(format!("the frame needs a window of {} bytes, over the {MAX_WINDOW} that readers take", header.window));
    }
    let content = frame::decompress(frame, max_bytes).map_err(|e| format!("the frame cannot be read: {e}"))?;
    if content.len() as u64 != raw_bytes {
        wrong(format!("the frame holds {} bytes, not {raw_bytes}", content.len()));
    }
    Ok(content)
}

/// The manifest, with all that is wrong with it named.
fn manifest(check: &Check<'_>, view: &View, closed: bool, findings: &mut Findings) -> Option<Manifest> {
    let name = "manifest.json";
    let mut add = |note| findings.add(name, note);
    let text = match fs::read(check.dir.join(name)) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            add(Note::warning(
                Place::File,
                "it is not there, so that the shards' checksums cannot be compared",
                "none needed: it is made again when the run is next opened",
            ));
            return None;
        }
        Err(e) => {
            add(Note::problem(Place::File, format!("it cannot be read: {e}"), DERIVED));
            return None;
        }
    };
    let manifest: Manifest = match serde_json::from_slice(&text) {
        Ok(manifest) => manifest,
        Err(e) => {
            add(Note::problem(Place::Line(e.line() as u64), format!("it is no manifest: {e}"), DERIVED));
            return None;
        }
    };
    if manifest.format > MANIFEST_FORMAT {
        let what = format!("it has format {}, this sweroll knows up to {MANIFEST_FORMAT}", manifest.format);
        add(Note::problem(Place::File, what, "use the newer sweroll that wrote it"));
        return None;
    }
    if manifest.run != view.info.run {
        add(Note::problem(Place::File, format!("it is of run {}, run.toml of {}", manifest.run, view.info.run), DERIVED));
        return None;
    }
    let digests = view.state.shards().keys().map(|key| (*key, String::new())).collect();
    let wanted = Manifest::new(&view.info.run, &view.state, &digests);
    for shard in &wanted.shards {
        let entry = manifest.shards.iter().find(|entry| entry.file == shard.file);
        let what = match entry {
            Some(entry) if ShardEntry { sha256: String::new(), ..entry.clone() } == *shard => continue,
            Some(_) => format!("its figures of {} are not those of the journal", shard.file),
            None => format!("it does not name {}", shard.file),
        };
        // While the run goes on, and after a crash, the manifest is behind.
        add(if closed {
            Note::problem(Place::File, what, DERIVED)
        } else {
            Note::warning(Place::File, what, "none needed: the run is still open, or a crash ended it")
        });
    }
    for entry in manifest.shards.iter().filter(|entry| !wanted.shards.iter().any(|shard| shard.file == entry.file)) {
        add(Note::problem(Place::File, format!("it names {}, which the journal does not know", entry.file), DERIVED));
    }
    Some(manifest)
}

/// Files in `shards/` that the journal does not know.
fn beside(check: &Check<'_>, view: &View, findings: &mut Findings) {
    let dir = view.layout.shards();
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let (what, mend) = match Stream::parse(&name) {
            Some(key) if view.state.shards().contains_key(&key) => continue,
            Some(_) => ("nothing in it is committed", "none needed: it is removed when the run is next opened"),
            None => ("it is no file of the run", "move it away"),
        };
        let path = entry.path();
        findings.add(&path.strip_prefix(check.dir).unwrap_or(&path).display().to_string(), Note::warning(Place::File, what, mend));
    }
}

fn spools(check: &Check<'_>, view: &View, report: &mut RunReport, findings: &mut Findings) {
    let index = match redo::Index::read(&view.layout) {
        Ok((index, _)) => index,
        Err(_) if !view.layout.spool().exists() => return,
        Err(e) => return findings.error(check.dir, &e),
    };
    let ids = match spool::list(&view.layout, &index) {
        Ok(ids) => ids,
        Err(_) if !view.layout.spool().exists() => return,
        Err(e) => return findings.error(check.dir, &e),
    };
    // Of what is committed a file is a leaving; the logs have it until they are given up.
    let matters = |id: &AttemptId| !view.state.is_committed(id) || spool::path(&view.layout, id).exists();
    for id in ids.into_iter().filter(matters) {
        let name = format!("spool/{id}");
        match spool::count(&view.layout, &index, &id, check.options.max_record_bytes) {
            Ok((entries, damage)) => {
                report.spooled += 1;
                report.spooled_entries += entries;
                if let Some(damage) = damage {
                    let mend =
                        "none needed: when the run is next opened, the entries before the damage are used and the file is kept aside";
                    findings.add(&name, Note::problem(Place::File, damage.to_string(), mend).of(&id));
                } else if view.state.is_committed(&id) {
                    findings.add(
                        &name,
                        Note::warning(Place::File, "its attempt is committed", "none needed: it goes when the run is next opened").of(&id),
                    );
                }
            }
            Err(e) => findings.add(&name, Note::problem(Place::File, e.to_string(), "").of(&id)),
        }
    }
}
