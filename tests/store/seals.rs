//! Sealing: all that was paid for is in the dataset once, a crash leaves the old one or the new one, and repeating finishes.

use super::*;
use sha2::{Digest, Sha256};
use std::{io::Read, os::unix::fs::MetadataExt, path::PathBuf, sync::atomic::AtomicBool};
use sweroll::{
    domain::trajectory::Counted,
    store::{
        CountedBy, Counting, SealError, Sealed,
        frame::FrameWriter,
        seal::{self, Report},
        sealed::IndexLine,
        seek,
    },
};

pub fn by(target: &str) -> CountedBy {
    CountedBy {
        target: target.into(),
        template_digest: "t".into(),
        tokenizer: "q".into(),
        tokenizer_digest: "q".into(),
        loss: String::new(),
    }
}

/// Ten tokens a message, one of them trained on; it says for which target.
pub fn count_for(target: &'static str) -> impl Fn(&mut Trajectory) + Sync {
    move |trajectory| {
        trajectory.num_tokens = 10 * trajectory.messages.len() as i64;
        trajectory.num_loss_tokens = trajectory.messages.len() as i64;
        let mut meta = trajectory.meta().unwrap();
        meta.counted = Some(Counted { target: target.into(), tokenizer_digest: "q".into(), loss: "all".into() });
        trajectory.meta = serde_json::to_string(&meta).unwrap();
    }
}

/// A record that is counted, as a run commits it.
pub fn counted(id: &AttemptId, turns: usize, target: &'static str) -> Trajectory {
    let mut trajectory = trajectory(id, turns);
    count_for(target)(&mut trajectory);
    trajectory
}

pub const SMALL: seal::Settings =
    seal::Settings { at_end: true, frame_bytes: 8_000, shard_bytes: 30_000, level: 9, window_log: 27, threads: 3, memory_bytes: 1 << 30 };

pub fn seal_on(dir: &Path, disk: &Disk, force: bool) -> Result<Report, SealError> {
    let count = count_for("a");
    let counting = Counting { by: by("a"), count: Some(&count), recount: true };
    seal::seal(dir, &SMALL, &counting, force, disk, &mut |_| {})
}

fn seal(dir: &Path) -> Report {
    seal_on(dir, &Disk::default(), false).unwrap()
}

/// Commits attempts of a run; those with a `!` do not count.
pub fn commit(store: &Store, ids: &[&str]) {
    let runtime = runtime();
    for (turns, text) in ids.iter().enumerate() {
        let (id, counts) = text.strip_suffix('!').map_or((*text, true), |id| (id, false));
        let id = attempt(id);
        let outcome = if counts { resolved() } else { outcome(false, Resolved::Unknown, Some(Kind::SandboxLost)) };
        let stream = if counts { Stream::Trajectories } else { Stream::Attempts };
        runtime.block_on(store.commit(&counted(&id, 1 + turns % 7, "a"), outcome, stream)).unwrap();
    }
}

/// A run of three instances with five samples, one superseded attempt and two that never counted.
fn run(dir: &Path) {
    let store = Store::open(new_run(dir, &["b", "a", "c"], 5), Settings { shard_bytes: 40_000, ..Settings::default() }).unwrap();
    let samples: Vec<String> =
        (0..5).flat_map(|sample| ["b", "a", "c"].map(|name| format!("{name}@{sample}.1"))).filter(|id| id != "a@1.1").collect();
    commit(&store, &samples.iter().map(String::as_str).collect::<Vec<_>>());
    runtime().block_on(store.reopen(vec![episode("c@2")], "")).unwrap();
    commit(&store, &["a@1.1!", "a@1.2!", "a@1.3", "c@2.2"]);
    runtime().block_on(store.close()).unwrap();
}

/// Every record that the journal knows, as it lies.
fn live(dir: &Path) -> BTreeMap<AttemptId, Vec<u8>> {
    let view = View::open(dir).unwrap();
    let mut records = BTreeMap::new();
    for (stream, number) in view.state.shards().keys() {
        let mut frames = Frames::open(&view.layout.shards().join(stream.file(*number)), LIMIT).unwrap();
        while let Some((_, record)) = frames.next().unwrap() {
            records.insert(Trajectory::parse(record).unwrap().trajectory_id, record.to_vec());
        }
    }
    records
}

/// Lengths of a file's frames by its seek table, read as the format says.
fn seek_table(bytes: &[u8]) -> Vec<(u32, u32)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let end = bytes.len();
    assert_eq!((word(end - 4), bytes[end - 5] & 0b1111_1100), (0x8F92_EAB1, 0));
    let count = word(end - 9) as usize;
    let start = end - 9 - 8 * count;
    assert_eq!((word(start - 8), word(start - 4)), (0x184D_2A5E, (8 * count + 9) as u32));
    (0..count).map(|i| (word(start + 8 * i), word(start + 8 * i + 4))).collect()
}

/// The dataset is whole: files, checksums, seek tables, indexes and figures agree. Its records by stream and id.
pub fn check(dir: &Path) -> BTreeMap<(Stream, AttemptId), Vec<u8>> {
    let sealed = Sealed::read(dir).unwrap().unwrap();
    let mut records = BTreeMap::new();
    let mut names = vec!["sealed.json".to_owned()];
    for file in &sealed.files {
        names.extend([file.file.clone(), file.index()]);
        let bytes = fs::read(Sealed::data(dir).join(&file.file)).unwrap();
        assert_eq!((bytes.len() as u64, format!("{:x}", Sha256::digest(&bytes))), (file.bytes, file.sha256.clone()));
        // As a plain reader does it, which knows nothing of skippable frames.
        let mut content = Vec::new();
        let mut reader = zstd::Decoder::new(&bytes[..]).unwrap();
        reader.window_log_max(27).unwrap();
        reader.read_to_end(&mut content).unwrap();
        assert_eq!(content.len() as u64, file.raw_bytes);

        let table = seek_table(&bytes);
        assert_eq!(table.len() as u64, file.frames);
        let mut frames = BTreeMap::new();
        let (mut offset, mut raw_offset) = (0u64, 0u64);
        for (len, raw_len) in &table {
            frames.insert(offset, (u64::from(*len), raw_offset));
            let frame = &bytes[offset as usize..][..*len as usize];
            assert_eq!(zstd::decode_all(frame).unwrap().len(), *raw_len as usize);
            (offset, raw_offset) = (offset + u64::from(*len), raw_offset + u64::from(*raw_len));
        }
        assert_eq!((offset + 17 + 8 * file.frames, raw_offset), (file.bytes, file.raw_bytes));

        let mut at = 0;
        let mut ids = Vec::new();
        let (mut tokens, mut loss_tokens) = (0, 0);
        for line in seek::IndexLines::open(dir, file).unwrap() {
            let line = line.unwrap();
            let (len, raw_start) = frames[&line.frame_offset];
            assert_eq!((line.frame_len, raw_start + line.offset), (len, at));
            let record = &content[at as usize..][..line.len as usize];
            at += line.len;
            assert_eq!((record.last(), record.iter().filter(|b| **b == b'\n').count()), (Some(&b'\n'), 1));
            assert_eq!(line.digest, format!("{:x}", Sha256::digest(record)));
            let row = Trajectory::parse(record).unwrap();
            assert_eq!(
                (&row.trajectory_id, row.num_tokens, row.num_loss_tokens, row.resolved),
                (&line.id, line.tokens, line.loss_tokens, line.resolved)
            );
            assert_eq!((&row.instance_id, row.sample), (&line.id.episode.instance, line.id.episode.sample));
            (tokens, loss_tokens) = (tokens + line.tokens as u64, loss_tokens + line.loss_tokens as u64);
            ids.push(line.id.clone());
            assert!(seek::attempts(dir, &sealed, &line.id.episode).unwrap().contains(&(file, line.clone())));
            assert_eq!(seek::read(dir, file, &line).unwrap(), record);
            assert!(records.insert((file.stream, line.id), record.to_vec()).is_none());
        }
        assert_eq!((at, ids.len() as u64, tokens, loss_tokens), (file.raw_bytes, file.rows, file.tokens, file.loss_tokens));
        assert!(ids.is_sorted(), "{ids:?}");
        assert_eq!(file.exit_reasons.values().sum::<u64>(), file.rows);
    }
    names.sort();
    let mut found: Vec<String> = fs::read_dir(Sealed::data(dir)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.retain(|name| name != "progress.jsonl");
    found.sort();
    assert_eq!(found, names);
    assert_eq!(seek::attempts(dir, &sealed, &episode("nobody@0")).unwrap(), []);
    records
}

fn ids(records: &BTreeMap<(Stream, AttemptId), Vec<u8>>, stream: Stream) -> Vec<String> {
    records.keys().filter(|(of, _)| *of == stream).map(|(_, id)| id.to_string()).collect()
}

#[test]
fn every_committed_attempt_is_sealed_once_as_it_lies() {
    let dir = quick_dir();
    run(dir.path());
    let report = seal(dir.path());
    let records = check(dir.path());
    let flat: BTreeMap<AttemptId, Vec<u8>> = records.iter().map(|((_, id), record)| (id.clone(), record.clone())).collect();
    assert_eq!((flat.len(), flat), (records.len(), live(dir.path())));
    assert_eq!(ids(&records, Stream::Attempts), ["a@1.1", "a@1.2", "c@2.1"]);
    assert_eq!(ids(&records, Stream::Trajectories).len(), 15);

    assert!(report.made && report.card && report.kept == 0);
    let trajectories: Vec<_> = report.sealed.files.iter().filter(|f| f.stream == Stream::Trajectories).collect();
    assert!(trajectories.len() > 1 && trajectories.iter().all(|f| f.raw_bytes <= SMALL.shard_bytes), "{trajectories:?}");
    assert!(trajectories.iter().all(|f| f.frames > 1));
    assert_eq!(report.sealed.runs[0].attempts, 18);

    let manifest = Manifest::read(&Layout::new(dir.path())).unwrap();
    assert_eq!((manifest.format, manifest.sealed), (2, Some(report.sealed.clone())));
    let view = View::open(dir.path()).unwrap();
    assert_eq!(manifest.shards, manifest_of(&view).shards);
    check_run(dir.path());
    let card = fs::read_to_string(dir.path().join("README.md")).unwrap();
    for part in
        ["path: data/trajectories-*.jsonl.zst", "- config_name: attempts", "| rows | 15 | 3 |", "3 instances, 0 of them resolved", "`m`"]
    {
        assert!(card.contains(part), "{part}\n{card}");
    }
}

/// What tells a file from another with the same content.
fn identity(dir: &Path, report: &Report) -> Vec<(String, u64, i64)> {
    let of = |name: String| {
        let meta = fs::metadata(Sealed::data(dir).join(&name)).unwrap();
        (name, meta.ino(), meta.mtime_nsec())
    };
    report.sealed.files.iter().map(|file| of(file.file.clone())).collect()
}

#[test]
fn a_current_dataset_is_left_alone_but_for_its_card_and_manifest() {
    let dir = quick_dir();
    run(dir.path());
    let first = seal(dir.path());
    let files = identity(dir.path(), &first);
    let card = dir.path().join("README.md");
    fs::remove_file(&card).unwrap();
    fs::remove_file(dir.path().join("manifest.json")).unwrap();
    let second = seal(dir.path());
    assert_eq!((second.made, identity(dir.path(), &second)), (false, files.clone()));
    assert!(card.exists());
    assert_eq!(Manifest::read(&Layout::new(dir.path())).unwrap().sealed, Some(first.sealed.clone()));
    let forced = seal_on(dir.path(), &Disk::default(), true).unwrap();
    assert!(forced.made && identity(dir.path(), &forced) != files);
    assert_eq!(forced.sealed, first.sealed, "the bytes are the same whenever it is made");
    // A file that is gone, or a run that went on, makes it anew.
    fs::remove_file(Sealed::data(dir.path()).join(&first.sealed.files[0].file)).unwrap();
    assert!(seal(dir.path()).made);
    let index = Sealed::data(dir.path()).join(first.sealed.files[0].index());
    fs::write(&index, fs::read_to_string(&index).unwrap().replacen("a@", "b@", 1)).unwrap();
    assert!(seal(dir.path()).made);
    check(dir.path());
    let store = Store::open(RunDir::open(dir.path()).unwrap(), Settings::default()).unwrap();
    runtime().block_on(store.reopen(vec![episode("b@0")], "")).unwrap();
    commit(&store, &["b@0.2"]);
    drop(store);
    assert!(seal(dir.path()).made);
    assert_eq!(ids(&check(dir.path()), Stream::Attempts), ["a@1.1", "a@1.2", "b@0.1", "c@2.1"]);
}

#[test]
fn the_users_own_card_and_files_stay() {
    let dir = quick_dir();
    run(dir.path());
    let card = dir.path().join("README.md");
    fs::write(&card, "mine\n").unwrap();
    assert!(!seal(dir.path()).card);
    assert_eq!(fs::read_to_string(&card).unwrap(), "mine\n");
    let note = Sealed::data(dir.path()).join("note.txt");
    fs::write(&note, "mine").unwrap();
    let refused = seal_on(dir.path(), &Disk::default(), true).unwrap_err().to_string();
    assert!(refused.contains("note.txt") && refused.contains("move it away"), "{refused}");
    assert!(note.exists());
    fs::remove_file(&note).unwrap();
    check(dir.path());
    // The link would take the new dataset's place beside it, and the files behind it would go.
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(Sealed::data(dir.path()), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, Sealed::data(dir.path())).unwrap();
    let refused = seal_on(dir.path(), &Disk::default(), true).unwrap_err().to_string();
    assert!(refused.contains("a link data") && refused.contains("move it away"), "{refused}");
    check(dir.path());
}

#[test]
fn a_dataset_names_no_file_outside_of_it() {
    let dir = quick_dir();
    run(dir.path());
    seal(dir.path());
    let path = Sealed::data(dir.path()).join("sealed.json");
    let text = fs::read_to_string(&path).unwrap();
    for name in ["../shards/trajectories-00000.jsonl.zst", "/etc/passwd", "attempts-00000.jsonl.zst"] {
        fs::write(&path, text.replacen("trajectories-00000.jsonl.zst", name, 1)).unwrap();
        let refused = Sealed::read(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(name) && refused.contains("sealed.json"), "{refused}");
    }
}

/// Seals with a disk that breaks at every possible point: the old dataset or the new one is there as a whole, and repeating ends well.
#[test]
fn a_seal_that_breaks_anywhere_leaves_a_whole_dataset_and_is_finished_by_repeating() {
    let master = quick_dir();
    run(master.path());
    let old = seal(master.path()).sealed;
    let store = Store::open(RunDir::open(master.path()).unwrap(), Settings::default()).unwrap();
    runtime().block_on(store.reopen(vec![episode("b@0")], "")).unwrap();
    commit(&store, &["b@0.2"]);
    runtime().block_on(store.close()).unwrap();
    let expected = live(master.path());
    let faults = (0..110).map(|n| (Some(n * 401), 0)).chain((0..30).map(|n| (None, n)));
    let (mut broke, mut went) = (0, HashSet::new());
    for (space, good_syncs) in faults {
        let dir = quick_dir();
        copy(master.path(), dir.path());
        let disk = Disk::default();
        match space {
            Some(bytes) => disk.set_space(bytes),
            None => disk.fail_syncs(good_syncs, 1),
        }
        match seal_on(dir.path(), &disk, false) {
            Ok(_) => {
                went.insert(space.is_some());
                continue;
            }
            Err(e) => assert!(space.is_none() || e.to_string().contains("make room"), "{e}"),
        }
        broke += 1;
        let there = Sealed::read(dir.path()).unwrap().unwrap();
        assert!(there == old || there.runs[0].attempts == 19);
        check(dir.path());
        let repeated = seal(dir.path());
        assert_eq!(repeated.sealed.runs[0].attempts, 19);
        let records = check(dir.path());
        assert_eq!(records.into_iter().map(|((_, id), record)| (id, record)).collect::<BTreeMap<_, _>>(), expected);
        assert_eq!(Manifest::read(&Layout::new(dir.path())).unwrap().sealed, Some(repeated.sealed));
        assert!(!dir.path().join("data.new").exists() && !Sealed::data(dir.path()).join("progress.jsonl").exists());
    }
    assert!(broke > 20 && went.len() == 2, "{broke} broke, {went:?}: the faults do not reach over the whole of a seal");
}

pub fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn shards_that_were_finished_are_kept() {
    let dir = quick_dir();
    run(dir.path());
    let disk = Disk::default();
    // Log, then per shard two files and the log: the third shard cannot be synced.
    disk.fail_syncs(1 + 3 + 3, 1);
    assert!(seal_on(dir.path(), &disk, false).is_err());
    let new = dir.path().join("data.new");
    let inode = |path: PathBuf| fs::metadata(path).map(|meta| meta.ino()).ok();
    let names: Vec<String> = (0..2).map(|n| Stream::Trajectories.file(n)).collect();
    let kept: Vec<u64> = names.iter().filter_map(|name| inode(new.join(name))).collect();
    assert_eq!(kept.len(), 2);
    // A shard that is not as the log says is made again.
    let report = seal(dir.path());
    assert_eq!(report.kept, 2);
    let data = Sealed::data(dir.path());
    assert_eq!(names.iter().filter_map(|name| inode(data.join(name))).collect::<Vec<_>>(), kept);
    check(dir.path());
}

#[test]
fn a_crash_between_the_last_steps_is_tidied_up() {
    let dir = quick_dir();
    run(dir.path());
    seal(dir.path());
    let (data, new, old) = (Sealed::data(dir.path()), dir.path().join("data.new"), dir.path().join("data.old"));
    // After the exchange: the old dataset lies in data.new, the log in data.
    fs::create_dir(&new).unwrap();
    copy(&data, &new);
    fs::write(data.join("progress.jsonl"), "{\"plan\":\"x\"}\n").unwrap();
    assert!(!seal(dir.path()).made);
    assert!(!new.exists() && !data.join("progress.jsonl").exists());
    // Between two renames, where names cannot be exchanged.
    fs::rename(&data, &old).unwrap();
    assert!(!seal(dir.path()).made);
    assert!(!old.exists());
    check(dir.path());
}

#[test]
fn one_process_seals_at_a_time_and_a_live_run_can_be_sealed() {
    let dir = quick_dir();
    let store = Store::open(new_run(dir.path(), &["a", "b"], 1), Settings::default()).unwrap();
    assert!(matches!(seal_on(dir.path(), &Disk::default(), false), Err(SealError::Empty(_))));
    runtime().block_on(store.commit(&trajectory(&attempt("a@0.1"), 1), resolved(), Stream::Trajectories)).unwrap();
    let refused = AtomicBool::new(false);
    let count = |_: &mut Trajectory| {
        let second = seal_on(dir.path(), &Disk::default(), false);
        refused.store(matches!(second, Err(SealError::Store(StoreError::Locked { .. }))), std::sync::atomic::Ordering::SeqCst);
    };
    let counting = Counting { by: by("a"), count: Some(&count), recount: true };
    let report = seal::seal(dir.path(), &SMALL, &counting, false, &Disk::default(), &mut |_| {}).unwrap();
    assert!(refused.into_inner());
    assert_eq!(report.sealed.files[0].uncounted, 1);
    assert!(!dir.path().join("manifest.json").exists(), "the manifest is the live process's");
    commit(&store, &["b@0.1"]);
    let manifest = runtime().block_on(store.close()).unwrap();
    assert_eq!(manifest.sealed, Some(report.sealed));
    assert_eq!(Manifest::read(&Layout::new(dir.path())), Some(manifest));
}

#[test]
fn manifests_of_format_1_are_read() {
    let dir = quick_dir();
    run(dir.path());
    let layout = Layout::new(dir.path());
    let mut old: serde_json::Value = serde_json::from_slice(&fs::read(layout.manifest()).unwrap()).unwrap();
    old["format"] = 1.into();
    old.as_object_mut().unwrap().shift_remove("sealed");
    fs::write(layout.manifest(), old.to_string()).unwrap();
    let read = Manifest::read(&layout).unwrap();
    assert_eq!((read.shards, read.sealed), (manifest_of(&View::open(dir.path()).unwrap()).shards, None));
}

/// Puts a record in the place of the run's only one, in shard and journal.
fn replace_record(dir: &Path, change: impl FnOnce(serde_json::Value) -> serde_json::Value, honest: bool) {
    let layout = Layout::new(dir);
    let shard = layout.shards().join(Stream::Trajectories.file(0));
    let record = zstd::decode_all(&fs::read(&shard).unwrap()[..]).unwrap();
    let mut changed = change(serde_json::from_slice(&record).unwrap()).to_string().into_bytes();
    changed.push(b'\n');
    let frame = FrameWriter::new(3).unwrap().frame(&changed).unwrap();
    fs::write(&shard, &frame).unwrap();
    let mut facts = read_facts(&layout.journal()).unwrap();
    for fact in &mut facts {
        if let Fact::Committed(committed) = fact {
            committed.location.len = frame.len() as u64;
            committed.raw_bytes = changed.len() as u64;
            if honest {
                committed.digest = format!("{:x}", Sha256::digest(&changed));
            }
        }
    }
    let lines: String = facts.iter().map(|fact| serde_json::to_string(fact).unwrap() + "\n").collect();
    fs::write(layout.journal(), lines).unwrap();
}

fn run_of_one(dir: &Path) {
    let store = Store::open(new_run(dir, &["a"], 1), Settings::default()).unwrap();
    commit(&store, &["a@0.1"]);
}

#[test]
fn records_of_version_1_are_brought_to_this_version_and_counted() {
    let dir = quick_dir();
    run_of_one(dir.path());
    let old = |mut record: serde_json::Value| {
        record["schema_version"] = 1.into();
        record["num_tokens"] = 7.into();
        record.as_object_mut().unwrap().shift_remove("suspect");
        for message in record["messages"].as_array_mut().unwrap() {
            message.as_object_mut().unwrap().shift_remove("loss");
        }
        let mut meta: serde_json::Value = serde_json::from_str(record["meta"].as_str().unwrap()).unwrap();
        meta.as_object_mut().unwrap().shift_remove("counted");
        record["meta"] = meta.to_string().into();
        record
    };
    replace_record(dir.path(), old, true);
    seal(dir.path());
    let records = check(dir.path());
    let expected = serde_json::to_string(&counted(&attempt("a@0.1"), 1, "a")).unwrap() + "\n";
    assert_eq!(String::from_utf8(records.into_values().next().unwrap()).unwrap(), expected);
}

#[test]
fn a_record_that_is_not_what_was_committed_is_never_sealed() {
    type Change = fn(serde_json::Value) -> serde_json::Value;
    let changes: [(&str, Change, bool); 3] = [
        (
            "is not the one that was committed",
            |mut r| {
                r["model"] = "x".into();
                r
            },
            false,
        ),
        (
            "calls itself b@0.1",
            |mut r| {
                r["trajectory_id"] = "b@0.1".into();
                r
            },
            true,
        ),
        (
            "cannot be read",
            |mut r| {
                r["resolved"] = 7.into();
                r
            },
            true,
        ),
    ];
    for (part, change, honest) in changes {
        let dir = quick_dir();
        run_of_one(dir.path());
        replace_record(dir.path(), change, honest);
        let error = seal_on(dir.path(), &Disk::default(), false).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("trajectories-00000.jsonl.zst"), "{error}");
        assert!(Sealed::read(dir.path()).unwrap().is_none());
    }
}

#[test]
fn records_that_were_counted_otherwise_are_counted_anew_or_refused() {
    let dir = quick_dir();
    run_of_one(dir.path());
    let count = count_for("z");
    let seal_for = |recount| {
        let counting = Counting { by: by("z"), count: Some(&count), recount };
        seal::seal(dir.path(), &SMALL, &counting, false, &Disk::default(), &mut |_| {})
    };
    let refused = seal_for(false).unwrap_err();
    assert!(matches!(&refused, SealError::Counted { found, wanted, .. } if found.starts_with('a') && wanted == "z"), "{refused}");
    seal_for(true).unwrap();
    let record = check(dir.path()).into_values().next().unwrap();
    assert_eq!(Trajectory::parse(&record).unwrap(), counted(&attempt("a@0.1"), 1, "z"));
    assert_eq!(Sealed::read(dir.path()).unwrap().unwrap().counts.target, "z");
}

#[test]
fn damage_in_a_sealed_dataset_is_told_with_its_place() {
    let dir = quick_dir();
    run(dir.path());
    let report = seal(dir.path());
    let file = report.sealed.files.iter().find(|file| file.stream == Stream::Trajectories).unwrap();
    let lines: Vec<_> = seek::IndexLines::open(dir.path(), file).unwrap().map(Result::unwrap).collect();
    let line = &lines[1];
    let data = Sealed::data(dir.path());
    let shard = data.join(&file.file);
    let good = fs::read(&shard).unwrap();
    let at = (line.frame_offset + line.frame_len / 2) as usize;
    fs::write(&shard, [&good[..at], &[good[at] ^ 1], &good[at + 1..]].concat()).unwrap();
    let last = lines.iter().rfind(|other| other.frame_offset == line.frame_offset).unwrap();
    let error = seek::read(dir.path(), file, last).unwrap_err().to_string();
    assert!(error.contains(&file.file) && error.contains(&format!("byte {}", line.frame_offset)), "{error}");
    fs::write(&shard, &good[..at]).unwrap();
    assert!(seek::read(dir.path(), file, last).is_err());
    fs::write(&shard, &good).unwrap();
    let other = IndexLine { digest: lines[0].digest.clone(), ..line.clone() };
    assert!(seek::read(dir.path(), file, &other).unwrap_err().to_string().contains("is not the one that the index knows"));
    let huge = IndexLine { len: u64::MAX, ..line.clone() };
    assert!(seek::read(dir.path(), file, &huge).is_err());
    // An index that is not the one that was written.
    let index = data.join(file.index());
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let error = seek::attempts(dir.path(), &report.sealed, &episode("nobody@0")).unwrap_err().to_string();
    assert!(error.contains("checksum") && error.contains(&file.index()), "{error}");
}
