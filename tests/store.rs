//! The store on real files: commit, read back, resume, broken disks and crashes.

use proptest::prelude::*;
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
    sync::Arc,
};
use sweroll::{
    domain::{
        Attempt, AttemptId, Entry, EpisodeId, ExitReason, Failure, Instance, InstanceId, Kind, Message, Resolved, Role, ToolCall,
        Trajectory,
        event::Outcome,
        trajectory::Facts,
        transcript::{Begun, Ended, Observation, Response, Transcript, Usage},
    },
    store::{
        Disk, Instances, Layout, Location, Manifest, Plan, RunDir, Settings, State, Store, StoreError, Stream, View,
        dataset::{self, Options},
        frame::Frames,
        instances::{self, InstancesWriter},
        journal::{self, Committed, Fact, Journal},
        rerun,
        run_dir::differences,
        shard,
    },
};

const LIMIT: u64 = 1 << 30;

fn instance(name: &str) -> Instance {
    Instance {
        instance_id: name.parse().unwrap(),
        repo: "o/n".into(),
        language: "python".into(),
        workdir: "/testbed".into(),
        image: "x:1".into(),
        problem_statement: "mend it".into(),
        base_commit: String::new(),
        fix_commit: String::new(),
        patch: String::new(),
        test_patch: String::new(),
        test_script: String::new(),
        fail_to_pass: vec!["t.py::a".into()],
        pass_to_pass: Vec::new(),
        pre_commands: String::new(),
        url: String::new(),
    }
}

fn new_run(path: &Path, instances: &[&str], samples: u32) -> RunDir {
    RunDir::create(path, &toml::Table::new(), |layout| -> Result<Plan, StoreError> {
        let mut writer = InstancesWriter::create(layout)?;
        for name in instances {
            writer.push(&instance(name))?;
        }
        writer.finish()?;
        Ok(Plan { model: "m".into(), scaffold: "s".into(), instances: instances.len() as u64, samples, digests: BTreeMap::new() })
    })
    .unwrap()
}

fn attempt(text: &str) -> AttemptId {
    text.parse().unwrap()
}

fn episode(text: &str) -> EpisodeId {
    text.parse().unwrap()
}

fn entries(id: &AttemptId, turns: usize) -> Vec<Entry> {
    let usage = Usage { prompt_tokens: 10, completion_tokens: 2, cached_tokens: 5, reasoning_tokens: 1 };
    let mut entries = vec![Entry::Begun(Begun {
        id: id.clone(),
        messages: vec![Message::new(Role::System, "sys"), Message::new(Role::User, "mend it")],
        tools: r#"[{"type":"function"}]"#.into(),
        model: "m".into(),
        scaffold: "s".into(),
        scaffold_digest: "d".into(),
        image_digest: "sha256:1".into(),
        base_tree: "t".into(),
        sampling: serde_json::json!({"temperature": 1.0}),
        at_ms: 1,
        setup_ms: 2,
    })];
    for turn in 0..turns {
        let call = format!("call_{turn}");
        let mut message = Message::new(Role::Assistant, format!("naïve \u{2028} turn {turn} of {id}"));
        message.tool_calls.push(ToolCall::new(&call, "bash", r#"{"command": "ls", "n": null}"#));
        entries.push(Entry::Response(Response {
            message,
            model: "m-1".into(),
            finish_reason: "tool_calls".into(),
            usage,
            cost_usd: 0.25,
            latency_ms: 3,
            tries: 1,
            extra: serde_json::json!({}),
        }));
        entries.push(Entry::Observation(Observation {
            message: Message::tool(&call, format!("out {turn}\n").repeat(turn + 1)),
            tool: "bash".into(),
            duration_ms: 4,
            exit_code: 0,
            truncated: false,
            timed_out: false,
            malformed: false,
        }));
    }
    entries
}

fn trajectory(id: &AttemptId, turns: usize) -> Trajectory {
    let mut entries = entries(id, turns);
    entries.push(Entry::Ended(Ended {
        exit_reason: ExitReason::Submitted,
        model_patch: "diff --git a/x b/x\n".into(),
        failure: None,
        duration_ms: 9,
        peak_memory: 1,
        cpu_ms: 1,
        oom_kills: 0,
    }));
    let facts = Facts { repo: "o/n", base_commit: "", image: "x:1", url: "", dataset_digest: "d" };
    Trajectory::new(Transcript::replay(entries).unwrap(), None, None, facts)
}

fn outcome(counts: bool, resolved: Resolved, failure: Option<Kind>) -> Outcome {
    Outcome {
        counts,
        exit_reason: if failure.is_some() { ExitReason::Failed } else { ExitReason::Submitted },
        resolved,
        failure: failure.map(|kind| Failure::new(kind, "because")),
        turns: 2,
        tokens: 100,
        usage: Usage { prompt_tokens: 20, completion_tokens: 4, cached_tokens: 10, reasoning_tokens: 2 },
        cost_usd: 0.5,
        duration_ms: 7,
    }
}

fn resolved() -> Outcome {
    outcome(true, Resolved::Yes, None)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

#[test]
fn the_real_set_is_frozen_and_loads() {
    let Ok(real) = std::env::var("SWEROLL_REALSET") else {
        assert!(std::env::var_os("CI").is_none(), "SWEROLL_REALSET must name the real set's instances.jsonl");
        eprintln!("skipped: SWEROLL_REALSET is not set");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let mut seen = Vec::new();
    let scan = dataset::scan(Path::new(&real), &Options::default(), &mut |instance| {
        seen.push(instance);
        Ok(())
    })
    .unwrap();
    assert!(scan.rows >= 20 && scan.bad_total == 0);
    assert_eq!(instances::freeze(&layout, Path::new(&real), &Options::default()).unwrap(), scan);
    let frozen = Instances::open(&layout).unwrap();
    assert_eq!(frozen.digest(), scan.digest);
    assert_eq!(frozen.ids(), seen.iter().map(|i| i.instance_id.clone()).collect::<Vec<_>>());
    for instance in &seen {
        assert_eq!(frozen.load(&instance.instance_id).unwrap(), *instance);
        assert!(!instance.pre_commands.ends_with("\\n") && instance.base_commit.len() == 40);
    }
    assert!(seen.iter().map(|i| i.test_ids().count()).max() > Some(20_000));
}

#[test]
fn commits_are_read_back_and_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("run");
    let runtime = runtime();
    let store = Store::open(new_run(&root, &["a", "b"], 2), Settings::default()).unwrap();
    assert_eq!(store.with_state(State::todo), ["a@0", "b@0", "a@1", "b@1"].map(episode));
    let ids = [attempt("a@0.1"), attempt("b@1.1")];
    let places: Vec<Location> = ids
        .iter()
        .map(|id| {
            runtime.block_on(async {
                store.started(id.clone()).await.unwrap();
                store.commit(&trajectory(id, 2), resolved(), Stream::Trajectories).await.unwrap()
            })
        })
        .collect();
    let twice = runtime.block_on(store.commit(&trajectory(&ids[0], 2), resolved(), Stream::Trajectories));
    assert_eq!(twice, Err(StoreError::Twice { id: ids[0].clone() }));
    let unknown = runtime.block_on(store.commit(&trajectory(&attempt("a@7.1"), 2), resolved(), Stream::Trajectories));
    assert_eq!(unknown, Err(StoreError::Unknown { id: "a@7".into() }));
    runtime.block_on(store.started(attempt("a@1.1"))).unwrap();
    let manifest = runtime.block_on(store.close()).unwrap();
    assert_eq!((manifest.shards[0].rows, manifest.shards[0].tokens, manifest.shards[0].uncounted), (2, 0, 2));

    let view = View::open(&root).unwrap();
    for (id, place) in ids.iter().zip(&places) {
        assert_eq!(view.read(place).unwrap(), trajectory(id, 2));
        assert_eq!(view.attempts(&id.episode).unwrap()[0].location, *place);
    }
    let summary = view.summary();
    assert_eq!((summary.episodes.total, summary.episodes.committed, summary.episodes.outstanding), (4, 2, 2));
    assert_eq!((summary.resolved, summary.unresolved, summary.attempts, summary.cost_usd), (2, 0, 2, 1.0));
    assert_eq!(summary.shards[0].file, "trajectories-00000.jsonl.zst");

    let store = Store::open(RunDir::open(&root).unwrap(), Settings::default()).unwrap();
    assert_eq!(store.with_state(State::todo), ["b@0", "a@1"].map(episode));
    assert_eq!(store.with_state(|s| s.episode(&episode("a@1")).unwrap().next()), Attempt(2));
    assert_eq!(store.instances().load(&"b".parse().unwrap()).unwrap(), instance("b"));
}

/// Memory where there is some, so that many syncs are quick.
fn quick_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

// Datasets

const COMMIT: &str = "6ce12bb9105d29d735c42989fce8949c18589519";

fn row(id: &str) -> serde_json::Value {
    serde_json::json!({
        "instance_id": id, "repo": "o/n", "base_commit": COMMIT, "patch": "", "test_patch": "", "problem_statement": "mend it",
        "FAIL_TO_PASS": ["a"], "PASS_TO_PASS": "[]",
    })
}

fn scan_bytes(bytes: &[u8], options: &Options) -> (Vec<String>, Result<dataset::Scan, dataset::DatasetError>) {
    let dir = quick_dir();
    let path = dir.path().join("rows");
    fs::write(&path, bytes).unwrap();
    let mut ids = Vec::new();
    let scan = dataset::scan(&path, options, &mut |instance| {
        ids.push(instance.instance_id.to_string());
        Ok(())
    });
    (ids, scan)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn compression_is_told_by_content_and_changes_nothing() {
    let plain: String = (0..50).map(|i| format!("{}\r\n", row(&format!("i{i}")))).collect();
    let (first, second) = plain.as_bytes().split_at(1000);
    let forms = [
        plain.clone().into_bytes(),
        plain.trim_end().as_bytes().to_vec(),
        format!("\u{feff}{plain}\n\n").into_bytes(),
        gzip(plain.as_bytes()),
        [gzip(first), gzip(second)].concat(),
        zstd::encode_all(plain.as_bytes(), 3).unwrap(),
        [zstd::encode_all(first, 1).unwrap(), zstd::encode_all(second, 19).unwrap()].concat(),
    ];
    let scans: Vec<_> = forms.iter().map(|bytes| scan_bytes(bytes, &Options::default())).collect();
    for (ids, scan) in &scans {
        let scan = scan.as_ref().unwrap();
        assert_eq!((ids.len(), scan.rows, ids[49].as_str()), (50, 50, "i49"));
        assert_eq!(scan.digest, scans[0].1.as_ref().unwrap().digest);
    }
}

#[test]
fn a_broken_archive_names_the_place() {
    let plain: String = (0..2000).map(|i| format!("{}\n", row(&format!("i{i}")))).collect();
    for whole in [gzip(plain.as_bytes()), zstd::encode_all(plain.as_bytes(), 1).unwrap()] {
        for skip_bad in [false, true] {
            let (_, scan) = scan_bytes(&whole[..whole.len() * 2 / 3], &Options { skip_bad, ..Options::default() });
            let text = scan.unwrap_err().to_string();
            assert!(text.contains("rows breaks off") && text.contains("line ") && !text.contains("line 1,"), "{text}");
        }
    }
    for (bytes, what) in [(&b"PAR1...."[..], "parquet"), (b"PK\x03\x04..", "zip"), (b"", "no row"), (b"\n\n", "no row")] {
        let text = scan_bytes(bytes, &Options::default()).1.unwrap_err().to_string();
        assert!(text.contains(what), "{text}");
    }
    let absent = dataset::scan(Path::new("/does/not/exist"), &Options::default(), &mut |_| Ok(()));
    assert!(absent.unwrap_err().to_string().contains("/does/not/exist"));
}

#[test]
fn bad_rows_are_all_found_and_named_or_skipped() {
    let mut null = row("null");
    null["problem_statement"] = serde_json::Value::Null;
    let mut none = row("none");
    none["FAIL_TO_PASS"] = serde_json::json!("[]");
    let long = serde_json::json!({"instance_id": "long", "x": "y".repeat(70_000)});
    let mut text = format!("{}\n{null}\n{{\"broken\": \n{}\n{none}\n{long}\n{}\n", row("good"), row("good"), row("last"));
    for _ in 0..30 {
        text.push_str("7\n");
    }
    let options = Options { max_row_bytes: 60_000, ..Options::default() };
    let (ids, scan) = scan_bytes(text.as_bytes(), &options);
    assert_eq!(ids, ["good"]);
    let message = scan.unwrap_err().to_string();
    for part in [
        "has 35 bad rows",
        "line 2 (null): problem_statement: is null; write a string",
        "line 3: row: is not a JSON object: EOF while parsing a value at column 11",
        "line 4 (good): instance_id: good is in line 1 already",
        "line 5 (none): FAIL_TO_PASS: names no test",
        "line 6: row: is 70029 bytes long, over the limit of 60000",
        "and 15 more",
        "--skip-bad",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let (ids, scan) = scan_bytes(text.as_bytes(), &Options { skip_bad: true, ..options.clone() });
    let scan = scan.unwrap();
    assert_eq!((ids, scan.rows, scan.bad_total, scan.bad.len()), (vec!["good".to_owned(), "last".to_owned()], 2, 35, 20));
    let at_limit = row("good").to_string();
    let exact = |limit| Options { max_row_bytes: limit, ..Options::default() };
    for end in ["", "\n"] {
        let line = format!("{at_limit}{end}");
        assert!(scan_bytes(line.as_bytes(), &exact(at_limit.len() as u64)).1.is_ok());
        assert!(scan_bytes(line.as_bytes(), &exact(at_limit.len() as u64 - 1)).1.is_err());
    }
}

#[test]
fn the_filter_comes_before_the_limit_and_before_the_checks() {
    let mut bad = row("b1");
    bad["patch"] = serde_json::json!(1);
    let text = format!("{}\n{bad}\n{}\n{}\nnot looked at", row("a1"), row("a2"), row("a3"));
    let options = |filter: &str, limit| Options { filter: Some(filter.into()), limit: Some(limit), ..Options::default() };
    let (ids, scan) = scan_bytes(text.as_bytes(), &options("^a", 2));
    assert_eq!((ids, scan.unwrap().rows), (vec!["a1".to_owned(), "a2".to_owned()], 2));
    assert!(scan_bytes(text.as_bytes(), &options("^b", 1)).1.is_err());
    assert!(scan_bytes(text.as_bytes(), &options("^c", 9)).1.unwrap_err().to_string().contains("line 5"));
    assert!(
        scan_bytes(row("a").to_string().as_bytes(), &options("^c", 9)).1.unwrap_err().to_string().contains("no row to run (1 rows read)")
    );
    assert!(scan_bytes(text.as_bytes(), &options("(", 1)).1.unwrap_err().to_string().contains("regular expression"));
}

#[test]
fn the_index_of_the_instances_is_made_again() {
    let dir = quick_dir();
    new_run(dir.path(), &["a", "b", "c"], 1);
    let layout = Layout::new(dir.path());
    let index = dir.path().join("instances.index.jsonl");
    let digest = Instances::open(&layout).unwrap().digest().to_owned();
    for content in [None, Some(""), Some("{}"), Some("{\"bytes\":1,\"rows\":0,\"digest\":\"\"}\n")] {
        match content {
            Some(text) => fs::write(&index, text).unwrap(),
            None => fs::remove_file(&index).unwrap(),
        }
        let instances = Instances::open(&layout).unwrap();
        assert_eq!((instances.digest(), instances.ids().len()), (digest.as_str(), 3));
        assert_eq!(instances.load(&"c".parse().unwrap()).unwrap(), instance("c"));
        assert!(fs::read_to_string(&index).unwrap().contains(&digest));
    }
    let unknown: InstanceId = "z".parse().unwrap();
    assert!(matches!(Instances::open(&layout).unwrap().load(&unknown), Err(StoreError::Unknown { .. })));
}

// The run directory

#[test]
fn a_run_is_locked_and_compared() {
    let dir = quick_dir();
    let root = dir.path().join("deep/run");
    let table = |text: &str| text.parse::<toml::Table>().unwrap();
    let old = table("samples = 3\nmodel = \"m\"\n[endpoint]\nurl = \"a\"\ntimeouts = { connect_s = 1 }\n");
    let fill = |_: &Layout| -> Result<Plan, StoreError> { Ok(Plan::default()) };
    let run = RunDir::create(&root, &old, fill).unwrap();
    let text = RunDir::open(&root).unwrap_err().to_string();
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
    let id = run.info().run.clone();
    drop(run);

    let again = RunDir::open(&root).unwrap();
    assert_eq!((again.info().run.as_str(), again.info().settings.clone()), (id.as_str(), old.clone()));
    let new = table("samples = 4\n[endpoint]\nurl = \"b\"\ntimeouts = { connect_s = 2 }\n");
    again.check_settings(&old, &[]).unwrap();
    let text = again.check_settings(&new, &["endpoint.url", "endpoint.timeouts"]).unwrap_err().to_string();
    assert!(text.contains("samples: 3 in the run, 4 now") && text.contains("model: \"m\" in the run, (not set) now"), "{text}");
    assert!(!text.contains("endpoint"), "{text}");
    assert_eq!(differences(&old, &new).len(), 4);
    assert!(matches!(RunDir::create(&root, &old, fill), Err(StoreError::Occupied { .. })));
}

#[test]
fn a_directory_that_is_no_run_says_so_and_is_left_alone() {
    let dir = quick_dir();
    let fill = |_: &Layout| -> Result<Plan, StoreError> { Ok(Plan::default()) };
    let settings = toml::Table::new();
    for path in [dir.path().to_owned(), dir.path().join("absent")] {
        assert!(matches!(RunDir::open(&path), Err(StoreError::NotARun { .. })));
    }
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = RunDir::create(dir.path(), &settings, fill).unwrap_err();
    assert!(error.to_string().contains("it holds file"), "{error}");
    let error = RunDir::create(&file.join("run"), &settings, fill).unwrap_err();
    assert_eq!(error.failure().kind, Kind::RunDir);
    assert!(error.to_string().contains("a part of the path is a file"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let newer = dir.path().join("newer");
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("run.toml"), "format = 2\nother = 1\n").unwrap();
    assert_eq!(RunDir::open(&newer).unwrap_err(), StoreError::Newer { path: newer.join("run.toml"), found: 2, known: 1 });
}

#[test]
fn a_run_that_could_not_be_made_leaves_nothing() {
    let dir = quick_dir();
    let root = dir.path().join("run");
    let refuse = |layout: &Layout| -> Result<Plan, StoreError> {
        InstancesWriter::create(layout)?.push(&instance("a"))?;
        Err(StoreError::Closed)
    };
    assert!(RunDir::create(&root, &toml::Table::new(), refuse).is_err());
    assert!(!root.exists());
    fs::create_dir(&root).unwrap();
    assert!(RunDir::create(&root, &toml::Table::new(), refuse).is_err());
    new_run(&root, &["a"], 1);
}

// The journal

fn any_fact() -> impl Strategy<Value = Fact> {
    let attempt = (0..3u32, 0..2u32, 1..70u32).prop_map(|(i, s, n)| attempt(&format!("i{i}@{s}.{n}")));
    let text = "[\\PC\n\"]{0,20}";
    prop_oneof![
        (attempt.clone(), any::<u64>()).prop_map(|(id, at_ms)| Fact::Started { id, at_ms }),
        (attempt, any::<bool>(), text).prop_map(|(id, counts, message)| {
            let failure = (!counts).then(|| Failure::new(Kind::SandboxLost, message));
            let location = Location { stream: Stream::Attempts, shard: 0, offset: 7, len: 9 };
            let outcome = Outcome { failure, ..outcome(counts, Resolved::No, None) };
            Fact::Committed(Committed { id, location, raw_bytes: 8, digest: "d".into(), loss_tokens: -1, outcome, at_ms: 5 })
        }),
        (proptest::collection::vec(0..3u32, 0..3), text).prop_map(|(episodes, reason)| {
            let episodes = episodes.into_iter().map(|i| episode(&format!("i{i}@0"))).collect();
            Fact::Reopened { episodes, reason, at_ms: 1 }
        }),
        text.prop_map(|message| Fact::Quarantined {
            instance: "i1".parse().unwrap(),
            failure: Failure::new(Kind::Leak, message),
            at_ms: 2
        }),
        Just(Fact::Closed { at_ms: 3 }),
    ]
}

fn read_facts(path: &Path) -> Result<Vec<Fact>, StoreError> {
    let mut facts = Vec::new();
    journal::read(path, &mut |_, fact| {
        facts.push(fact);
        Ok(())
    })?;
    Ok(facts)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_journal_cut_at_any_byte_keeps_the_facts_before_the_cut(facts in proptest::collection::vec(any_fact(), 0..6)) {
        let dir = quick_dir();
        let path = dir.path().join("journal.jsonl");
        let opened = Fact::Opened { format: journal::JOURNAL_FORMAT, run: "r".into(), at_ms: 0 };
        let facts: Vec<Fact> = std::iter::once(opened.clone()).chain(facts).collect();
        let mut journal = Journal::open(&path, &Disk::default(), &mut |_, _| Ok(())).unwrap();
        let mut ends = Vec::new();
        for fact in &facts {
            journal.append([fact]).unwrap();
            ends.push(journal.len());
        }
        drop(journal);
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let kept = ends.iter().filter(|end| **end <= cut as u64).count();
            let mut found = Vec::new();
            let mut journal = Journal::open(&path, &Disk::default(), &mut |_, fact| { found.push(fact); Ok(()) }).unwrap();
            prop_assert_eq!(&found, &facts[..kept]);
            let next = if kept == 0 { &opened } else { &Fact::Closed { at_ms: 4 } };
            journal.append([next]).unwrap();
            found.push(next.clone());
            prop_assert_eq!(read_facts(&path).unwrap(), found);
        }
    }
}

#[test]
fn damage_within_the_journal_is_named_by_its_line() {
    let dir = quick_dir();
    let path = dir.path().join("journal.jsonl");
    let opened = |format: u64| format!("{{\"fact\":\"opened\",\"format\":{format},\"run\":\"r\",\"at_ms\":1}}\n");
    for (text, wanted) in [
        (opened(1) + "garbage\n" + &opened(1), "line 2"),
        (opened(1) + "{\"fact\":\"closed\"}\n", "line 2"),
        ("{\"fact\":\"closed\",\"at_ms\":1}\n".to_owned(), "does not begin with its format"),
        (opened(2), "has format 2, this sweroll knows up to 1"),
        (opened(2).replace("\"run\"", "\"name\""), "has format 2"),
    ] {
        fs::write(&path, text).unwrap();
        let error = read_facts(&path).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("journal.jsonl"), "{error}");
    }
}

// State, rerun and summary

fn committed(id: &AttemptId, outcome: Outcome, offset: u64) -> Fact {
    let location = Location { stream: Stream::Trajectories, shard: 0, offset, len: 1 };
    Fact::Committed(Committed { id: id.clone(), location, raw_bytes: 1, digest: String::new(), loss_tokens: 4, outcome, at_ms: 1 })
}

/// What happens to a run of two instances with two samples, as a user would tell it.
#[derive(Debug, Clone)]
enum Step {
    Commit { episode: usize, counts: bool, failure: Option<Kind> },
    Reopen(usize),
    Quarantine(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let kinds = proptest::sample::select(vec![Kind::SandboxLost, Kind::PreCommands, Kind::DiffRejected, Kind::GradeTimeout]);
    prop_oneof![
        4 => (0..4usize, any::<bool>(), proptest::option::of(kinds))
            .prop_map(|(episode, counts, failure)| Step::Commit { episode, counts, failure }),
        1 => (0..4usize).prop_map(Step::Reopen),
        1 => (0..2usize).prop_map(Step::Quarantine),
    ]
}

proptest! {
    #[test]
    fn a_rerun_takes_what_a_naive_model_takes(
        steps in proptest::collection::vec(any_step(), 0..25),
        classes in proptest::sample::subsequence(sweroll::domain::Class::ALL.to_vec(), 0..3),
        named in proptest::sample::subsequence((0..4usize).collect::<Vec<_>>(), 0..3),
    ) {
        let names = ["a@0", "b@0", "a@1", "b@1"].map(episode);
        let instances: Vec<InstanceId> = ["a", "b"].map(|n| n.parse().unwrap()).to_vec();
        let mut state = State::new(&instances, 2);
        let mut history: Vec<Vec<(bool, Option<Kind>)>> = vec![Vec::new(); 4];
        let mut reopened_at: Vec<Option<usize>> = vec![None; 4];
        let mut quarantined = HashSet::new();
        for (offset, step) in steps.iter().scan(0, |offset, step| {
            let at = *offset;
            *offset += u64::from(matches!(step, Step::Commit { .. }));
            Some((at, step))
        }) {
            match step {
                Step::Commit { episode: e, counts, failure } => {
                    let next = state.episode(&names[*e]).unwrap().next();
                    prop_assert_eq!(next.0 as usize, history[*e].len() + 1);
                    let id = AttemptId { episode: names[*e].clone(), attempt: next };
                    state.apply(&committed(&id, outcome(*counts, Resolved::No, *failure), offset)).unwrap();
                    prop_assert!(state.is_committed(&id));
                    history[*e].push((*counts, *failure));
                }
                Step::Reopen(e) => {
                    state.apply(&Fact::Reopened { episodes: vec![names[*e].clone()], reason: String::new(), at_ms: 0 }).unwrap();
                    reopened_at[*e] = Some(history[*e].len());
                    quarantined.remove(&(e % 2));
                }
                Step::Quarantine(i) => {
                    let failure = Failure::new(Kind::Leak, "");
                    state.apply(&Fact::Quarantined { instance: instances[*i].clone(), failure, at_ms: 0 }).unwrap();
                    quarantined.insert(*i);
                }
            }
        }
        let naive: Vec<EpisodeId> = (0..4).filter(|e| {
            let since = &history[*e][reopened_at[*e].unwrap_or(0)..];
            let done = since.iter().any(|(counts, _)| *counts);
            let latest = history[*e].iter().rev().find(|(counts, _)| *counts).and_then(|(_, failure)| *failure);
            let fits = |class| classes.is_empty() || classes.contains(&class);
            let because = if done { latest.is_some_and(|kind| fits(kind.class())) }
                else { !quarantined.contains(&(e % 2)) || fits(sweroll::domain::Class::Task) };
            because && (named.is_empty() || named.contains(e))
        }).map(|e| names[e].clone()).collect();
        let wanted: Vec<EpisodeId> = named.iter().map(|e| names[*e].clone()).collect();
        prop_assert_eq!(rerun::select(&state, &classes, &wanted), naive);

        let info = sweroll::store::RunInfo {
            format: 1, run: "r".into(), version: String::new(), plan: Plan::default(), settings: toml::Table::new(),
        };
        let summary = sweroll::store::Summary::new(&info, &state);
        let episodes = summary.episodes;
        prop_assert_eq!(episodes.total, 4);
        prop_assert_eq!(episodes.total, episodes.committed + episodes.outstanding);
        prop_assert_eq!(episodes.committed, summary.resolved + summary.unresolved + summary.failed.values().sum::<u64>());
        prop_assert_eq!(episodes.committed, summary.exit_reasons.values().sum::<u64>());
        prop_assert_eq!(summary.attempts as usize, history.iter().map(Vec::len).sum::<usize>());
        prop_assert_eq!(state.todo().len() as u64, episodes.outstanding - episodes.quarantined);
    }
}

#[test]
fn contradictions_are_refused() {
    let mut state = State::new(&["a".parse().unwrap()], 1);
    state.apply(&committed(&attempt("a@0.1"), resolved(), 0)).unwrap();
    state.apply(&committed(&attempt("a@0.99"), resolved(), 1)).unwrap();
    assert!(state.is_committed(&attempt("a@0.99")) && !state.is_committed(&attempt("a@0.98")));
    for (id, offset) in [("a@0.1", 2), ("a@0.99", 2), ("b@0.1", 2), ("a@1.1", 2), ("a@0.2", 1), ("a@0.2", 3)] {
        assert!(state.apply(&committed(&attempt(id), resolved(), offset)).is_err(), "{id} at {offset}");
    }
    let shard = state.shards()[&(Stream::Trajectories, 0)];
    assert_eq!((shard.rows, shard.bytes, shard.tokens, shard.loss_tokens), (2, 2, 200, 8));
    assert_eq!(state.episode(&episode("a@0")).unwrap().next(), Attempt(100));
}

#[test]
fn the_summary_has_its_contract() {
    let dir = quick_dir();
    let runtime = runtime();
    let store = Store::open(new_run(dir.path(), &["a", "b", "c", "d"], 1), Settings::default()).unwrap();
    runtime.block_on(async {
        let commit = async |id: &str, outcome: Outcome, stream| store.commit(&trajectory(&attempt(id), 1), outcome, stream).await.unwrap();
        commit("a@0.1", outcome(false, Resolved::Unknown, Some(Kind::SandboxLost)), Stream::Attempts).await;
        commit("a@0.2", resolved(), Stream::Trajectories).await;
        commit("b@0.1", outcome(true, Resolved::No, None), Stream::Trajectories).await;
        commit("c@0.1", outcome(true, Resolved::No, Some(Kind::DiffRejected)), Stream::Trajectories).await;
        store.quarantine("d".parse().unwrap(), Failure::new(Kind::PreCommands, "exit 1")).await.unwrap();
    });
    let summary = serde_json::to_value(store.summary()).unwrap();
    assert_eq!(summary["episodes"], serde_json::json!({"total": 4, "committed": 3, "outstanding": 1, "quarantined": 1}));
    assert_eq!((summary["resolved"].as_u64(), summary["unresolved"].as_u64(), summary["attempts"].as_u64()), (Some(1), Some(1), Some(4)));
    let failed = serde_json::json!({"endpoint": 0, "infra": 0, "model": 1, "task": 0, "grader": 0, "run": 0, "bug": 0});
    assert_eq!(summary["failed"], failed);
    assert_eq!(summary["exit_reasons"], serde_json::json!({"submitted": 2, "failed": 1}));
    assert_eq!(summary["shards"][0]["trajectories"], 3);
    assert_eq!(summary["attempt_shards"][0]["file"], "attempts-00000.jsonl.zst");
    let again = store.with_state(|state| rerun::select(state, &[], &[]));
    assert_eq!(again, ["c@0", "d@0"].map(episode));
    runtime.block_on(store.reopen(again.clone(), "rerun")).unwrap();
    assert_eq!(store.with_state(State::todo), again);
    assert_eq!(store.summary().episodes.committed, 2);
}

// Broken disks

/// Every record that the journal knows is readable exactly once, the shards hold nothing else, and the manifest tells the truth.
fn check_run(root: &Path) -> HashSet<AttemptId> {
    use sha2::Digest;
    let view = View::open(root).unwrap();
    let mut places = BTreeMap::new();
    journal::read(&view.layout.journal(), &mut |_, fact| {
        if let Fact::Committed(c) = fact {
            assert!(places.insert(c.id.clone(), c).is_none());
        }
        Ok(())
    })
    .unwrap();
    let mut found = HashSet::new();
    for entry in fs::read_dir(view.layout.shards()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        zstd::decode_all(&bytes[..]).unwrap();
        let mut frames = Frames::open(&path, LIMIT).unwrap();
        while let Some((span, record)) = frames.next().unwrap() {
            let row: Trajectory = serde_json::from_slice(record).unwrap();
            assert!(found.insert(row.trajectory_id.clone()), "{} twice", row.trajectory_id);
            let fact = &places[&row.trajectory_id];
            assert_eq!((fact.location.offset, fact.location.len, fact.raw_bytes), (span.offset, span.len, record.len() as u64));
            assert_eq!(fact.digest, format!("{:x}", sha2::Sha256::digest(record)));
            assert_eq!(view.read(&fact.location).unwrap(), row);
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let manifest = Manifest::rebuild(&view.layout, &view.info.run, &view.state).unwrap();
        let entry = manifest.shards.iter().find(|s| s.file == name).unwrap();
        assert_eq!((entry.bytes, entry.sha256.clone()), (bytes.len() as u64, format!("{:x}", sha2::Sha256::digest(&bytes))));
    }
    assert_eq!(found, places.into_keys().collect());
    found
}

fn full(error: &StoreError) -> bool {
    error.failure().kind == Kind::RunDir && error.to_string().contains("make room")
}

#[test]
fn a_full_disk_damages_nothing_and_the_commit_can_be_tried_again() {
    let runtime = runtime();
    // Space that runs out in the shard, at its last byte, and in the journal.
    for space in [0, 1, 100, 700, 800, 900, 1000, 1200, 1400, 1600] {
        let dir = quick_dir();
        let disk = Disk::default();
        let store = Store::open_on(new_run(dir.path(), &["a", "b"], 9), Settings::default(), disk.clone()).unwrap();
        let commit = |id: &str| {
            let id = attempt(id);
            runtime.block_on(store.commit(&trajectory(&id, 1), resolved(), Stream::Trajectories))
        };
        commit("a@0.1").unwrap();
        disk.set_space(space);
        let mut committed = vec![attempt("a@0.1")];
        for sample in 1..4 {
            match commit(&format!("a@{sample}.1")) {
                Ok(_) => committed.push(attempt(&format!("a@{sample}.1"))),
                Err(e) => assert!(full(&e), "{e}"),
            }
        }
        assert!(committed.len() < 4);
        assert_eq!(check_run(dir.path()), committed.iter().cloned().collect());
        disk.set_space(u64::MAX);
        let failed = (1..4).map(|s| format!("a@{s}.1")).filter(|id| !committed.contains(&attempt(id)));
        for id in failed {
            commit(&id).unwrap();
        }
        assert_eq!(check_run(dir.path()).len(), 4);
        runtime.block_on(store.close()).unwrap();
        assert_eq!(check_run(dir.path()).len(), 4);
    }
}

#[test]
fn a_failed_sync_is_taken_back() {
    let runtime = runtime();
    // The first sync is the shard's, the second the journal's.
    for (good, bad) in [(0, 1), (1, 1), (0, 5)] {
        let dir = quick_dir();
        let disk = Disk::default();
        let store = Store::open_on(new_run(dir.path(), &["a"], 20), Settings::default(), disk.clone()).unwrap();
        let commit = |sample| {
            let id = attempt(&format!("a@{sample}.1"));
            runtime.block_on(store.commit(&trajectory(&id, 1), resolved(), Stream::Trajectories))
        };
        commit(0).unwrap();
        disk.fail_syncs(good, bad);
        let failed: Vec<u32> = (1..8).filter(|sample| commit(*sample).is_err()).collect();
        assert!(!failed.is_empty() && failed.len() < 7);
        assert_eq!(check_run(dir.path()).len(), 8 - failed.len());
        for sample in failed {
            commit(sample).unwrap();
        }
        drop(store);
        assert_eq!(check_run(dir.path()).len(), 8);
    }
}

#[test]
fn a_full_disk_under_the_spool_loses_only_the_entry_that_was_refused() {
    let dir = quick_dir();
    let disk = Disk::default();
    let store = Store::open_on(new_run(dir.path(), &["a"], 1), Settings::default(), disk.clone()).unwrap();
    let id = attempt("a@0.1");
    let all = entries(&id, 3);
    runtime().block_on(async {
        let mut spool = store.spool(&id);
        for (at, entry) in all.iter().enumerate() {
            disk.set_space(at as u64 * 7);
            assert!(full(&spool.append(entry).await.unwrap_err()));
            disk.set_space(u64::MAX);
            disk.fail_syncs(0, 1);
            assert!(spool.append(entry).await.is_err());
            assert_eq!(store.recover(&id).unwrap(), all[..at]);
            spool.append(entry).await.unwrap();
        }
    });
    assert_eq!(store.recover(&id).unwrap(), all);
}

#[test]
fn records_and_entries_over_the_limit_are_refused() {
    let dir = quick_dir();
    let store = Store::open(new_run(dir.path(), &["a"], 1), Settings { max_record_bytes: 500, ..Settings::default() }).unwrap();
    let id = attempt("a@0.1");
    let runtime = runtime();
    let refused = runtime.block_on(store.commit(&trajectory(&id, 1), resolved(), Stream::Trajectories));
    assert!(matches!(refused, Err(StoreError::TooLarge { limit: 500, .. })));
    let refused = runtime.block_on(store.spool(&id).append(&Entry::Reminder { content: "x".repeat(500) }));
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    assert!(store.spooled().unwrap().is_empty());
}

#[test]
fn what_cannot_be_said_in_json_does_not_reach_the_files() {
    let dir = quick_dir();
    let runtime = runtime();
    let store = Store::open(new_run(dir.path(), &["a"], 1), Settings::default()).unwrap();
    let id = attempt("a@0.1");
    let odd = Trajectory { cost_usd: f64::NAN, ..trajectory(&id, 1) };
    let failure = Some(Failure::new(Kind::DiffRejected, "é".repeat(1 << 20)));
    let outcome = Outcome { cost_usd: f64::INFINITY, failure, ..resolved() };
    let place = runtime.block_on(store.commit(&odd, outcome, Stream::Trajectories)).unwrap();
    assert_eq!(store.read(&place).unwrap().cost_usd, 0.0);
    drop(store);
    assert_eq!(check_run(dir.path()).len(), 1);
    assert!(fs::metadata(dir.path().join("journal.jsonl")).unwrap().len() < 10_000);
}

// Crashes

#[test]
fn an_interrupted_attempt_comes_back_from_its_spool() {
    let dir = quick_dir();
    let runtime = runtime();
    let store = Store::open(new_run(dir.path(), &["a", "b"], 1), Settings::default()).unwrap();
    let (cut, done, empty) = (attempt("a@0.1"), attempt("b@0.1"), attempt("b@0.2"));
    let all = entries(&cut, 3);
    runtime.block_on(async {
        for id in [&cut, &done] {
            let mut spool = store.spool(id);
            for entry in entries(id, 3) {
                spool.append(&entry).await.unwrap();
            }
        }
        store.commit(&trajectory(&done, 3), resolved(), Stream::Trajectories).await.unwrap();
    });
    assert_eq!(store.spooled().unwrap(), [cut.clone()]);
    drop(store);
    let path = dir.path().join("spool").join(cut.to_string());
    let whole = fs::read(&path).unwrap();
    fs::write(dir.path().join("spool").join(done.to_string()), &whole).unwrap();
    fs::write(dir.path().join("spool").join(empty.to_string()), "").unwrap();

    let store = Store::open(RunDir::open(dir.path()).unwrap(), Settings::default()).unwrap();
    assert_eq!(store.spooled().unwrap(), [cut.clone()]);
    assert_eq!(store.with_state(|s| s.episode(&cut.episode).unwrap().next()), Attempt(2));
    assert!(runtime.block_on(store.spool(&cut).append(&all[0])).is_err());
    for end in 0..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        let kept = whole[..end].iter().filter(|b| **b == b'\n').count();
        assert_eq!(store.recover(&cut).unwrap(), all[..kept], "cut at {end}");
    }
    let mut holes = whole.clone();
    let last = holes.len() - 20;
    holes[last..].fill(0);
    fs::write(&path, &holes).unwrap();
    assert_eq!(store.recover(&cut).unwrap(), all[..all.len() - 1]);
    holes[400..420].fill(0);
    fs::write(&path, &holes).unwrap();
    assert!(store.recover(&cut).unwrap_err().to_string().contains("line 1"));

    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let transcript = Transcript::replay(store.recover(&cut).unwrap()).unwrap();
    assert_eq!((transcript.usage.prompt_tokens, transcript.cost_usd), (30, 0.75));
    let facts = Facts { repo: "o/n", base_commit: "", image: "x:1", url: "", dataset_digest: "d" };
    let interrupted = Some(Failure::new(Kind::Interrupted, "the engine died"));
    let partial = Trajectory::new(transcript, None, interrupted, facts);
    let place =
        runtime.block_on(store.commit(&partial, outcome(false, Resolved::Unknown, Some(Kind::Interrupted)), Stream::Attempts)).unwrap();
    assert_eq!(store.read(&place).unwrap(), partial);
    assert!(!path.exists());
    assert_eq!(store.with_state(State::todo), [episode("a@0")]);
}

#[test]
fn a_lost_journal_or_a_short_shard_is_damage_not_a_crash() {
    let runtime = runtime();
    let made = || {
        let dir = quick_dir();
        let store = Store::open(new_run(dir.path(), &["a"], 1), Settings::default()).unwrap();
        runtime.block_on(store.commit(&trajectory(&attempt("a@0.1"), 1), resolved(), Stream::Trajectories)).unwrap();
        dir
    };
    let reopen =
        |dir: &tempfile::TempDir| Store::open(RunDir::open(dir.path()).unwrap(), Settings::default()).map(drop).unwrap_err().to_string();
    let dir = made();
    let shard = dir.path().join("shards/trajectories-00000.jsonl.zst");
    let whole = fs::read(&shard).unwrap();
    fs::write(&shard, &whole[..whole.len() - 1]).unwrap();
    let text = reopen(&dir);
    assert!(text.contains("trajectories-00000") && text.contains(&format!("byte {}", whole.len() - 1)), "{text}");
    fs::remove_file(&shard).unwrap();
    assert!(reopen(&dir).contains("the file has only 0"));
    for journal in [None, Some(""), Some("{\"fact\":\"ope")] {
        let dir = made();
        match journal {
            Some(text) => fs::write(dir.path().join("journal.jsonl"), text).unwrap(),
            None => fs::remove_file(dir.path().join("journal.jsonl")).unwrap(),
        }
        assert!(reopen(&dir).contains("but there are shards"));
        assert!(dir.path().join("shards/trajectories-00000.jsonl.zst").exists());
    }
    let dir = made();
    let journal = dir.path().join("journal.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, text.replace("\"run\":\"", "\"run\":\"x")).unwrap();
    assert!(reopen(&dir).contains("journal of run x"));
}

/// One run, written once: what is in its files, and where they may end after a crash.
struct Written {
    root: tempfile::TempDir,
    ids: Vec<AttemptId>,
    journal: Vec<u8>,
    /// By name.
    shards: BTreeMap<String, Vec<u8>>,
}

const SMALL: u64 = 6000;

fn write_run(turns: &[(usize, bool)]) -> Written {
    let root = quick_dir();
    let settings = Settings { shard_bytes: SMALL, ..Settings::default() };
    let store = Arc::new(Store::open(new_run(root.path(), &["a"], turns.len() as u32), settings).unwrap());
    let ids: Vec<AttemptId> = (0..turns.len()).map(|sample| attempt(&format!("a@{sample}.1"))).collect();
    runtime().block_on(async {
        let tasks: Vec<_> = std::iter::zip(&ids, turns)
            .map(|(id, (turns, counts))| {
                let (store, row) = (store.clone(), trajectory(id, *turns));
                let stream = if *counts { Stream::Trajectories } else { Stream::Attempts };
                let outcome = outcome(*counts, Resolved::No, None);
                tokio::spawn(async move { store.commit(&row, outcome, stream).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    let journal = fs::read(root.path().join("journal.jsonl")).unwrap();
    let shards = fs::read_dir(root.path().join("shards")).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    });
    Written { ids, journal, shards: shards.collect(), root }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_at_any_byte_loses_nothing_committed_and_doubles_nothing(
        turns in proptest::collection::vec((0..6usize, proptest::bool::weighted(0.7)), 1..9),
        cuts in proptest::collection::vec((0.0..=1.0, proptest::collection::vec(0.0..=1.0, 8), any::<bool>(), any::<bool>()), 6),
    ) {
        let written = write_run(&turns);
        let root = written.root.path();
        prop_assert_eq!(check_run(root).len(), turns.len());
        let first_line = written.journal.iter().position(|b| *b == b'\n').unwrap() + 1;
        let runtime = runtime();
        for (journal_cut, shard_cuts, garbage, with_manifest) in cuts {
            // The journal is cut anywhere behind its first line, which was durable before any shard began ...
            let journal_end = first_line + ((written.journal.len() - first_line) as f64 * journal_cut) as usize;
            fs::write(root.join("journal.jsonl"), &written.journal[..journal_end]).unwrap();
            let facts = read_facts(&root.join("journal.jsonl")).unwrap();
            let mut committed = HashSet::new();
            let mut ends: BTreeMap<String, u64> = BTreeMap::new();
            for fact in facts {
                if let Fact::Committed(c) = fact {
                    ends.insert(c.location.stream.file(c.location.shard), c.location.offset + c.location.len);
                    committed.insert(c.id);
                }
            }
            // ... and each shard anywhere behind what the journal knows, with or without garbage at its end.
            for ((name, bytes), share) in written.shards.iter().zip(&shard_cuts) {
                let durable = ends.get(name).map_or(0, |end| *end as usize);
                let end = durable + ((bytes.len() - durable) as f64 * share) as usize;
                let mut left = bytes[..end].to_vec();
                if garbage && end > durable {
                    let at = durable + (end - durable) / 2;
                    left[at..].fill(0xa5);
                }
                fs::write(root.join("shards").join(name), left).unwrap();
            }
            // A commit drops its spool last, so any attempt may still have one.
            for id in &written.ids {
                let spool = entries(id, 1).iter().map(|e| serde_json::to_string(e).unwrap() + "\n").collect::<String>();
                fs::write(root.join("spool").join(id.to_string()), spool).unwrap();
            }
            if !with_manifest {
                let _ = fs::remove_file(root.join("manifest.json"));
            }
            let settings = Settings { shard_bytes: SMALL, ..Settings::default() };
            let store = Store::open(RunDir::open(root).unwrap(), settings).unwrap();
            prop_assert_eq!(check_run(root), committed.clone());
            let open: Vec<AttemptId> = written.ids.iter().filter(|id| !committed.contains(*id)).cloned().collect();
            prop_assert_eq!(store.spooled().unwrap().into_iter().collect::<HashSet<_>>(), open.iter().cloned().collect());
            for id in &open {
                runtime.block_on(store.commit(&trajectory(id, 2), resolved(), Stream::Trajectories)).unwrap();
            }
            let manifest = runtime.block_on(store.close()).unwrap();
            prop_assert_eq!(manifest.shards.iter().map(|s| s.rows).sum::<u64>(), turns.len() as u64);
            prop_assert_eq!(Manifest::read(&Layout::new(root)).unwrap(), manifest);
            prop_assert_eq!(check_run(root), written.ids.iter().cloned().collect());
            for name in fs::read_dir(root.join("shards")).unwrap() {
                fs::remove_file(name.unwrap().path()).unwrap();
            }
        }
    }
}

#[test]
fn a_stale_or_foreign_manifest_is_made_again() {
    let written = write_run(&[(5, true); 8]);
    let layout = Layout::new(written.root.path());
    let good = Manifest::read(&layout).unwrap();
    assert!(good.shards.len() > 2);
    let mut stale = good.clone();
    stale.shards[0].rows -= 1;
    stale.shards[0].sha256 = "wrong".into();
    stale.shards.pop();
    let view = View::open(written.root.path()).unwrap();
    let mut foreign = good.clone();
    foreign.run = "other".into();
    foreign.shards[0].sha256 = "wrong".into();
    for text in [serde_json::to_string(&stale).unwrap(), serde_json::to_string(&foreign).unwrap(), "{".into()] {
        fs::write(layout.manifest(), text).unwrap();
        assert_eq!(Manifest::rebuild(&layout, &view.info.run, &view.state).unwrap(), good);
    }
    let store = Store::open(RunDir::open(written.root.path()).unwrap(), Settings::default()).unwrap();
    assert_eq!(runtime().block_on(store.close()).unwrap(), good);
}
