//! Runs of the sweroll that wrote records of version 1 or 2 are read as they lie; records of a newer version are refused.

use super::{
    seals::{copy, seal_on},
    *,
};
use sweroll::{
    domain::{TestStatus, trajectory::SCHEMA_VERSION},
    store::{Layout, frame::FrameWriter, shard},
    tokens::{Counter, ScanSettings, Source, scan},
};

const OLD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store/v1");
/// As the last sweroll wrote it that knew version 2: greet resolved, upper not, hang past its deadline.
const OLD_2: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store/v2");

fn shard_file() -> std::path::PathBuf {
    Path::new(OLD).join("shards/trajectories-00000.jsonl.zst")
}

#[test]
fn records_of_version_1_are_read_by_all() {
    let bytes = zstd::decode_all(fs::File::open(shard_file()).unwrap()).unwrap();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert!(line.starts_with(b"{\"schema_version\":1,"));
        let row = Trajectory::parse(line).unwrap();
        assert_eq!((row.schema_version, row.suspect.as_str()), (SCHEMA_VERSION, "[]"));
        assert!(row.messages.iter().all(|m| m.loss == (m.role == Role::Assistant)));
        assert_eq!(row.meta().unwrap().counted, None);
    }
    let dir = quick_dir();
    copy(Path::new(OLD), dir.path());
    let report = verify::check(dir.path());
    assert_eq!((report.findings, report.run.attempts), (vec![], 2));
    let source = Source::from(shard_file());
    let counted = scan(&[source], &Counter::default(), &ScanSettings::default()).unwrap();
    assert_eq!((counted.total.trajectories, counted.total.tokens), (2, 5239));
    let view = View::open(dir.path()).unwrap();
    let place = &view.attempts(&episode("demo_greet@0")).unwrap()[0];
    assert_eq!(view.read(&place.location).unwrap().schema_version, SCHEMA_VERSION);
}

/// The keys that later versions brought are in the JSON in strings too.
#[test]
fn a_run_of_version_1_is_sealed_as_a_dataset_of_this_version() {
    let dir = quick_dir();
    copy(Path::new(OLD), dir.path());
    let report = seal_on(dir.path(), &Disk::default(), false).unwrap();
    assert_eq!((report.sealed.schema_version, report.sealed.files[0].rows), (SCHEMA_VERSION, 2));
    assert_eq!(verify::check(dir.path()).findings, vec![]);
}

#[test]
fn a_run_of_version_2_is_read_with_the_verdicts_it_had_words_for_and_sealed() {
    let dir = quick_dir();
    copy(Path::new(OLD_2), dir.path());
    assert_eq!(verify::check(dir.path()).findings, vec![]);
    let view = View::open(dir.path()).unwrap();
    let read = |view: &View, id: &str| view.read(&view.attempts(&episode(id)).unwrap()[0].location).unwrap();
    let of = |view: &View, id: &str| read(view, id).meta().unwrap().grade.map(|grade| (grade.verdict, grade.tests));
    let (verdict, tests) = of(&view, "demo_greet@0").unwrap();
    assert_eq!((verdict, tests.len(), tests["tests/name.sh"].tries), (Verdict::Resolved, 3, 1));
    let (verdict, tests) = of(&view, "demo_upper@0").unwrap();
    assert_eq!((verdict, tests["tests/fuzz.sh"].status), (Verdict::Unresolved, TestStatus::Failed));
    assert_eq!((of(&view, "demo_hang@0"), read(&view, "demo_hang@0").resolved), (None, Resolved::Unknown));
    let summary = view.summary();
    let graded: Vec<u64> = summary.verdicts.values().copied().collect();
    assert_eq!((summary.resolved, summary.unresolved, graded), (1, 1, vec![1, 1, 0, 0, 0]));

    let report = seal_on(dir.path(), &Disk::default(), false).unwrap();
    let rows: u64 = report.sealed.files.iter().map(|file| file.rows).sum();
    assert_eq!((report.sealed.schema_version, rows), (SCHEMA_VERSION, 3));
    assert_eq!(verify::check(dir.path()).findings, vec![]);
}

#[test]
fn records_of_a_newer_version_are_refused_by_all() {
    let dir = quick_dir();
    fs::create_dir(dir.path().join("shards")).unwrap();
    let mut row = trajectory(&attempt("a@0.1"), 1);
    row.schema_version = SCHEMA_VERSION + 1;
    let record = [serde_json::to_vec(&row).unwrap(), b"\n".to_vec()].concat();
    let frame = FrameWriter::new(3).unwrap().frame(&record).unwrap();
    let location = Location { stream: Stream::Trajectories, shard: 0, offset: 0, len: frame.len() as u64 };
    let path = dir.path().join("shards/trajectories-00000.jsonl.zst");
    fs::write(&path, frame).unwrap();
    let said = [
        Trajectory::parse(&record).unwrap_err().to_string(),
        shard::read_at(&Layout::new(dir.path()), &location, LIMIT).unwrap_err().to_string(),
        scan(&[Source::from(path)], &Counter::default(), &ScanSettings::default()).unwrap_err().to_string(),
    ];
    for text in said {
        assert!(text.contains(&format!("version {}", SCHEMA_VERSION + 1)) && text.contains("use a newer one"), "{text}");
    }
}
