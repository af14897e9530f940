//! `sweroll verify`: what is sound passes, what is damaged is named, and nothing is changed.

use super::*;
use sha2::{Digest, Sha256};
use std::{io::Read, path::PathBuf};
use sweroll::domain::trajectory::SCHEMA_VERSION;
use sweroll::store::{
    Sealed,
    sealed::{CountedBy, IndexLine, SEALED_FORMAT, SealedFile, SealedRun},
    verify::{self, Options, Progress, Report, Severity},
};
use zstd::{bulk::Compressor, stream::raw::CParameter};

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn line(value: &impl serde::Serialize) -> Vec<u8> {
    [serde_json::to_vec(value).unwrap(), b"\n".to_vec()].concat()
}

pub fn check(root: &Path) -> Report {
    verify::verify(root, &Options { threads: 2, max_findings: 1000, ..Options::default() }, &Progress::default()).unwrap()
}

/// A counted record, and the outcome that goes with it.
fn counted(id: &AttemptId, turns: usize) -> (Trajectory, Outcome) {
    let mut row = trajectory(id, turns);
    (row.num_tokens, row.num_loss_tokens) = (100, 40);
    let mut meta = row.meta().unwrap();
    let by = serde_json::json!({"target": "t", "tokenizer_digest": "d", "loss": "all"});
    meta.counted = Some(serde_json::from_value(by).unwrap());
    row.meta = serde_json::to_string(&meta).unwrap();
    let outcome = Outcome { turns: row.num_turns, ..outcome(true, Resolved::Unknown, None) };
    (row, outcome)
}

/// Two instances with two samples each, one of them run again, and an attempt that does not count.
pub fn run_with_reruns(root: &Path) {
    let store = Store::open(new_run(root, &["b", "a"], 2), Settings { shard_bytes: 8000, ..Settings::default() }).unwrap();
    runtime().block_on(async {
        let commit = async |id: &str, counts: bool, stream| {
            let (row, outcome) = counted(&attempt(id), 3);
            store.started(row.trajectory_id.clone()).await.unwrap();
            store.commit(&row, Outcome { counts, ..outcome }, stream).await.unwrap();
        };
        for id in ["b@0.1", "a@1.1", "a@0.1", "b@1.1"] {
            commit(id, true, Stream::Trajectories).await;
        }
        store.reopen(vec![episode("a@0")], "").await.unwrap();
        commit("a@0.2", false, Stream::Attempts).await;
        commit("a@0.3", true, Stream::Trajectories).await;
        store.close().await.unwrap();
    });
}

/// A dataset as `seal` writes it, by hand, two records a frame.
pub fn seal(root: &Path) {
    let view = View::open(root).unwrap();
    let superseded = view.superseded().unwrap();
    let mut commits = Vec::new();
    for fact in read_facts(&view.layout.journal()).unwrap() {
        if let Fact::Committed(committed) = fact {
            commits.push(committed);
        }
    }
    commits.sort_by(|a, b| a.id.cmp(&b.id));
    fs::create_dir(root.join("data")).unwrap();
    let mut files = Vec::new();
    for stream in Stream::ALL {
        let of = |c: &&Committed| {
            (c.location.stream == stream && !superseded.contains(&c.id)) || (stream == Stream::Attempts && superseded.contains(&c.id))
        };
        let rows: Vec<&Committed> = commits.iter().filter(of).collect();
        files.push(shard(root, &view, stream, &rows));
    }
    let sealed = Sealed {
        format: SEALED_FORMAT,
        schema_version: SCHEMA_VERSION,
        runs: vec![SealedRun {
            run: view.info.run.clone(),
            model: "m".into(),
            scaffold: "s".into(),
            dataset_digest: "d".into(),
            attempts: commits.len() as u64,
        }],
        counts: CountedBy { target: "t".into(), tokenizer_digest: "d".into(), loss: "all".into(), ..CountedBy::default() },
        files,
    };
    manifest_of(&view).with(Some(sealed.clone())).write(&view.layout, &Disk::default()).unwrap();
    fs::write(root.join("data/sealed.json"), line(&sealed)).unwrap();
    let card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/trajectories-*.jsonl.zst\n---\n";
    fs::write(root.join("README.md"), card).unwrap();
}

fn shard(root: &Path, view: &View, stream: Stream, rows: &[&Committed]) -> SealedFile {
    let mut compressor = Compressor::new(9).unwrap();
    compressor.set_parameter(CParameter::ChecksumFlag(true)).unwrap();
    let (mut bytes, mut index, mut table) = (Vec::new(), Vec::new(), Vec::new());
    let mut raw_bytes = 0;
    for pair in rows.chunks(2) {
        let records: Vec<Vec<u8>> = pair.iter().map(|c| line(&view.read(&c.location).unwrap())).collect();
        let content = records.concat();
        let frame = compressor.compress(&content).unwrap();
        let mut offset = 0;
        for (committed, record) in pair.iter().zip(&records) {
            index.extend(line(&IndexLine {
                id: committed.id.clone(),
                frame_offset: bytes.len() as u64,
                frame_len: frame.len() as u64,
                offset,
                len: record.len() as u64,
                resolved: committed.outcome.resolved,
                tokens: 100,
                loss_tokens: 40,
                digest: hex(record),
            }));
            offset += record.len() as u64;
        }
        let checksum = u32::from_le_bytes(frame[frame.len() - 4..].try_into().unwrap());
        table.extend([frame.len() as u32, content.len() as u32, checksum]);
        raw_bytes += content.len() as u64;
        bytes.extend(frame);
    }
    let frames = table.len() as u32 / 3;
    let head = [0x184D_2A5E, table.len() as u32 * 4 + 9];
    bytes.extend(head.into_iter().chain(table).chain([frames]).flat_map(u32::to_le_bytes));
    bytes.push(0x80);
    bytes.extend(0x8F92_EAB1_u32.to_le_bytes());
    let count = rows.len() as u64;
    let file = SealedFile {
        file: stream.file(0),
        stream,
        rows: count,
        resolved: 0,
        frames: frames.into(),
        bytes: bytes.len() as u64,
        raw_bytes,
        sha256: hex(&bytes),
        index_sha256: hex(&index),
        tokens: 100 * count,
        loss_tokens: 40 * count,
        uncounted: 0,
        exit_reasons: [(ExitReason::Submitted, count)].into(),
    };
    fs::write(root.join("data").join(&file.file), bytes).unwrap();
    fs::write(root.join("data").join(file.index()), index).unwrap();
    file
}

fn files_below(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            let mut bytes = Vec::new();
            fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
            found.insert(path, bytes);
        }
    }
}

fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    files_below(dir, &mut found);
    found
}

#[test]
fn what_is_sound_passes_and_is_not_touched() {
    let dir = quick_dir();
    run_with_reruns(dir.path());
    let run_alone = check(dir.path());
    assert_eq!((&run_alone.findings[..], run_alone.sound, run_alone.sealed.there), (&[][..], true, false));
    assert_eq!((run_alone.run.attempts, run_alone.run.superseded), (6, 1));
    let rows = |report: &Report, name: &str| report.files.iter().filter(|f| f.file.starts_with(name)).map(|f| f.rows).sum::<u64>();
    assert_eq!((rows(&run_alone, "shards/trajectories"), rows(&run_alone, "shards/attempts")), (5, 1));

    seal(dir.path());
    let before = snapshot(dir.path());
    let report = check(dir.path());
    assert_eq!(report.findings, []);
    assert_eq!((report.sealed.rows, report.sealed.runs, report.sealed.current), (6, 1, true));
    assert_eq!((rows(&report, "data/trajectories"), rows(&report, "data/attempts")), (4, 2));
    assert!(snapshot(dir.path()) == before);

    // The dataset alone, as it is given to others.
    let alone = quick_dir();
    fs::rename(dir.path().join("data"), alone.path().join("data")).unwrap();
    fs::rename(dir.path().join("README.md"), alone.path().join("README.md")).unwrap();
    let report = check(alone.path());
    assert_eq!((report.findings, report.run.run.as_str(), report.sealed.rows), (vec![], "", 6));
}

#[test]
fn a_flipped_bit_anywhere_in_the_records_is_found_in_its_file() {
    let dir = quick_dir();
    run_with_reruns(dir.path());
    seal(dir.path());
    let root = dir.path();
    for (path, bytes) in snapshot(root) {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if !name.starts_with("shards/") && !name.starts_with("data/trajectories") && !name.starts_with("data/attempts") {
            continue;
        }
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 60).chain([bytes.len() - 1]) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).unwrap();
            let report = check(root);
            assert!(
                report.findings.iter().any(|f| f.severity == Severity::Problem && f.file == name),
                "{name}, byte {at}: {:?}",
                report.findings
            );
        }
        for len in [0, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..len]).unwrap();
            assert!(check(root).findings.iter().any(|f| f.severity == Severity::Problem && f.file == name), "{name} cut to {len}");
        }
        fs::write(&path, bytes).unwrap();
    }
    assert!(check(root).sound);
}

/// What is done to a directory, and a part of what is then said: file, place, words.
type Harm = (&'static str, fn(&Path), Severity, &'static str, &'static str);

fn edit(path: PathBuf, from: &str, to: &str) {
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{}: {from}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn each_damage_is_named_with_its_file_and_its_mend() {
    use Severity::{Problem, Warning};
    let harms: [Harm; 22] = [
        (
            "a line of the journal",
            |r| edit(r.join("journal.jsonl"), "{\"started\"", "{\"startled\""),
            Problem,
            "journal.jsonl",
            "line 2: no fact",
        ),
        (
            "a fact with another digest",
            |r| edit(r.join("journal.jsonl"), "\"digest\":\"", "\"digest\":\"f"),
            Problem,
            "shards/trajectories-00000.jsonl.zst",
            "another SHA-256 than the journal",
        ),
        (
            "a fact with other turns",
            |r| edit(r.join("journal.jsonl"), "\"turns\":3", "\"turns\":4"),
            Problem,
            "shards/trajectories-00000.jsonl.zst",
            "num_turns is 3 in the record and 4 in the journal",
        ),
        (
            "figures of the manifest",
            |r| edit(r.join("manifest.json"), "\"tokens\":", "\"tokens\":1"),
            Problem,
            "manifest.json",
            "not those of the journal",
        ),
        (
            "a checksum of the manifest",
            |r| edit(r.join("manifest.json"), "\"sha256\":\"", "\"sha256\":\"x"),
            Problem,
            "shards/",
            "SHA-256 than manifest.json",
        ),
        ("no manifest", |r| fs::remove_file(r.join("manifest.json")).unwrap(), Warning, "manifest.json", "not there"),
        (
            "no shard",
            |r| fs::remove_file(r.join("shards/attempts-00000.jsonl.zst")).unwrap(),
            Problem,
            "shards/attempts-00000.jsonl.zst",
            "cannot be read",
        ),
        (
            "a shard too many",
            |r| fs::write(r.join("shards/attempts-00009.jsonl.zst"), "x").unwrap(),
            Warning,
            "shards/attempts-00009.jsonl.zst",
            "nothing in it is committed",
        ),
        ("no run.toml that can be read", |r| fs::write(r.join("run.toml"), "format = 1\n").unwrap(), Problem, "run.toml", "its keys"),
        ("a run.toml that was cut off", |r| fs::write(r.join("run.toml"), "").unwrap(), Problem, "run.toml", "has no format"),
        ("a spool in disorder", |r| fs::write(r.join("spool/a@0.4"), "x\ny\n").unwrap(), Problem, "spool/a@0.4", "no entry"),
        (
            "no index",
            |r| fs::remove_file(r.join("data/attempts-00000.index.jsonl")).unwrap(),
            Problem,
            "data/attempts-00000.index.jsonl",
            "cannot be read",
        ),
        (
            "a row that is not there",
            |r| edit(r.join("data/sealed.json"), "\"rows\":4", "\"rows\":5"),
            Problem,
            "data/trajectories-00000.jsonl.zst",
            "rows is 5 in sealed.json and 4 by the index",
        ),
        (
            "tokens that are not there",
            |r| edit(r.join("data/sealed.json"), "\"loss_tokens\":160", "\"loss_tokens\":1"),
            Problem,
            "data/trajectories-00000.jsonl.zst",
            "loss_tokens is 1",
        ),
        (
            "a version that is not the records'",
            |r| edit(r.join("data/sealed.json"), "\"schema_version\":3", "\"schema_version\":2"),
            Problem,
            "data/trajectories-00000.jsonl.zst",
            "schema_version 3",
        ),
        ("another run", |r| edit(r.join("data/sealed.json"), "\"run\":\"", "\"run\":\"x"), Problem, "data/sealed.json", "run.toml of"),
        (
            "a run that has gone on",
            |r| edit(r.join("data/sealed.json"), "\"attempts\":6", "\"attempts\":4"),
            Warning,
            "data/sealed.json",
            "by now 6 are",
        ),
        (
            "a journal that has lost facts",
            |r| edit(r.join("data/sealed.json"), "\"attempts\":6", "\"attempts\":7"),
            Problem,
            "data/sealed.json",
            "the journal has only 6",
        ),
        ("no sealed.json", |r| fs::remove_file(r.join("data/sealed.json")).unwrap(), Problem, "data", "no sealed.json"),
        (
            "a stranger in data",
            |r| fs::write(r.join("data/more.jsonl"), "{}").unwrap(),
            Problem,
            "data/more.jsonl",
            "no file of the dataset",
        ),
        (
            "a card that names nothing",
            |r| edit(r.join("README.md"), "data/trajectories-*", "data/rows-*"),
            Problem,
            "README.md",
            "data/rows-*",
        ),
        ("no card", |r| fs::remove_file(r.join("README.md")).unwrap(), Problem, "README.md", "cannot be read"),
    ];
    let sound = quick_dir();
    run_with_reruns(sound.path());
    seal(sound.path());
    for (name, harm, severity, file, part) in harms {
        let dir = quick_dir();
        for (path, bytes) in snapshot(sound.path()) {
            let to = dir.path().join(path.strip_prefix(sound.path()).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, bytes).unwrap();
        }
        fs::create_dir_all(dir.path().join("spool")).unwrap();
        harm(dir.path());
        let report = check(dir.path());
        let said =
            |f: &&verify::Finding| f.severity == severity && f.file.starts_with(file) && format!("{} {}", f.place, f.what).contains(part);
        let found = report.findings.iter().find(said);
        assert!(found.is_some_and(|f| !f.mend.is_empty()), "{name}: {:#?}", report.findings);
        assert_eq!(report.sound, !report.findings.iter().any(|f| f.severity == Problem), "{name}");
    }
}

#[test]
fn a_dataset_that_leaves_attempts_out_or_puts_them_in_the_wrong_stream_is_found() {
    let dir = quick_dir();
    run_with_reruns(dir.path());
    seal(dir.path());
    // Sealed of six attempts, when by the journal the fourth was the last and a@0.1 still counted.
    edit(dir.path().join("data/sealed.json"), "\"attempts\":6", "\"attempts\":4");
    let report = check(dir.path());
    let said = |id: &str| {
        report.findings.iter().filter(|f| f.id == id && f.severity == Severity::Problem).map(|f| f.what.clone()).collect::<String>()
    };
    assert!(said("a@0.1").contains("counts and lies in attempts"), "{:#?}", report.findings);
    assert!(said("a@0.2").contains("no such attempt") && said("a@0.3").contains("no such attempt"));
    assert!(!report.sealed.current);

    // A file less: its attempts are missing.
    let dir = quick_dir();
    run_with_reruns(dir.path());
    seal(dir.path());
    let mut sealed = Sealed::read(dir.path()).unwrap().unwrap();
    sealed.files.pop();
    fs::write(dir.path().join("data/sealed.json"), line(&sealed)).unwrap();
    let report = check(dir.path());
    let missing: Vec<&str> =
        report.findings.iter().filter(|f| f.what.contains("no file of the dataset") && !f.id.is_empty()).map(|f| f.id.as_str()).collect();
    assert_eq!(missing, ["a@0.1", "a@0.2"]);
}

#[test]
fn what_a_crash_left_is_a_warning() {
    let dir = quick_dir();
    run_with_reruns(dir.path());
    let shard = dir.path().join("shards/attempts-00000.jsonl.zst");
    fs::OpenOptions::new().append(true).open(&shard).and_then(|mut file| std::io::Write::write_all(&mut file, b"torn")).unwrap();
    edit(dir.path().join("journal.jsonl"), "{\"closed\"", "{\"clo");
    let text = fs::read_to_string(dir.path().join("journal.jsonl")).unwrap();
    fs::write(dir.path().join("journal.jsonl"), text.trim_end()).unwrap();
    edit(dir.path().join("manifest.json"), "\"tokens\":", "\"tokens\":1");
    let entries: Vec<u8> = entries(&attempt("a@0.4"), 1).iter().flat_map(line).collect();
    fs::write(dir.path().join("spool/a@0.4"), [&entries[..], b"{\"torn"].concat()).unwrap();
    // An attempt that was committed since: its log is given up in time.
    let head = r#"{"id":"a@0.1","offset":0,"bytes":0,"sip":15130871412783076140}"#;
    fs::write(dir.path().join("spool/redo-0.log"), format!("{head}\n")).unwrap();
    let report = check(dir.path());
    assert!(report.sound, "{:#?}", report.findings);
    assert_eq!((report.warnings, report.run.spooled, report.run.spooled_entries), (2, 1, 3));
}

#[test]
fn findings_are_counted_beyond_those_that_are_named() {
    let dir = quick_dir();
    run_with_reruns(dir.path());
    let text = fs::read_to_string(dir.path().join("journal.jsonl")).unwrap().replace("\"turns\":3", "\"turns\":4");
    fs::write(dir.path().join("journal.jsonl"), text).unwrap();
    let report = verify::verify(dir.path(), &Options { max_findings: 2, ..Options::default() }, &Progress::default()).unwrap();
    assert_eq!((report.problems, report.findings.len(), report.sound), (6, 2, false));
    assert_eq!(report.files.iter().map(|f| f.problems).sum::<u64>(), 6);
}

#[test]
fn what_is_none_of_ours_or_newer_is_refused() {
    let dir = quick_dir();
    let refused = || verify::verify(dir.path(), &Options::default(), &Progress::default()).unwrap_err().to_string();
    assert!(refused().contains("neither a run.toml nor a data/sealed.json"));
    run_with_reruns(dir.path());
    seal(dir.path());
    edit(dir.path().join("data/sealed.json"), "\"format\":1", "\"format\":9");
    assert!(refused().contains("sealed.json has format 9"), "{}", refused());
    edit(dir.path().join("run.toml"), "format = 1", "format = 9");
    assert!(refused().contains("run.toml has format 9"), "{}", refused());
}
