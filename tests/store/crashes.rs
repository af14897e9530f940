//! Crashes at any byte, and damage that no crash makes.

use super::*;

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
                append(&mut spool, &entry).await.unwrap();
            }
        }
        store.commit(&trajectory(&done, 3), resolved(), Stream::Trajectories).await.unwrap();
    });
    drop(store);
    let path = dir.path().join("spool").join(cut.to_string());
    let whole = fs::read(&path).unwrap();
    fs::write(dir.path().join("spool").join(done.to_string()), &whole).unwrap();
    fs::write(dir.path().join("spool").join(empty.to_string()), "").unwrap();

    let store = Store::open(RunDir::open(dir.path()).unwrap(), Settings::default()).unwrap();
    assert_eq!(store.spooled().unwrap(), std::slice::from_ref(&cut));
    assert_eq!(store.with_state(|s| s.episode(&cut.episode).unwrap().next()), Attempt(2));
    assert!(runtime.block_on(append(&mut store.spool(&cut), &all[0])).is_err());
    for end in 0..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        let kept = whole[..end].iter().filter(|b| **b == b'\n').count();
        assert_eq!(recovered(&store, &cut), all[..kept], "cut at {end}");
    }
    let mut holes = whole.clone();
    let last = holes.len() - 20;
    holes[last..].fill(0);
    fs::write(&path, &holes).unwrap();
    assert_eq!(recovered(&store, &cut), all[..all.len() - 1]);
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let transcript = Transcript::replay(recovered(&store, &cut)).unwrap();
    assert_eq!((transcript.usage.prompt_tokens, transcript.cost_usd), (30, 0.75));
    let facts = Facts { repo: "o/n", base_commit: "", image: "x:1", url: "", dataset_digest: "d" };
    let interrupted = Some(Failure::new(Kind::Interrupted, "the engine died"));
    let partial = Trajectory::new(transcript, None, interrupted, facts);
    let place =
        runtime.block_on(store.commit(&partial, outcome(false, Resolved::Unknown, Some(Kind::Interrupted)), Stream::Attempts)).unwrap();
    assert_eq!(View::open(dir.path()).unwrap().read(&place).unwrap(), partial);
    assert!(!path.exists());
    assert_eq!(store.with_state(outstanding), [episode("a@0")]);
}

#[test]
fn a_damaged_spool_gives_what_comes_before_the_damage_and_is_kept() {
    let dir = quick_dir();
    let store = Store::open(new_run(dir.path(), &["a"], 1), Settings::default()).unwrap();
    let id = attempt("a@0.1");
    let all = entries(&id, 3);
    let lines: Vec<String> = all.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n").collect();
    let path = dir.path().join("spool").join(id.to_string());
    for (number, damaged) in [(1, 2), (2, 0)] {
        let mut lines = lines.clone();
        lines[damaged] = "\0\0\0\n".into();
        fs::write(&path, lines.concat()).unwrap();
        // The second time, too: the prefix is a whole spool then.
        for _ in 0..2 {
            assert_eq!(recovered(&store, &id), all[..damaged]);
        }
        let aside = |number| dir.path().join("spool").join(format!("a@0.1.damaged-{number}"));
        assert_eq!(fs::read_to_string(aside(number)).unwrap(), lines.concat());
        assert!(!aside(number + 1).exists());
        assert_eq!(store.spooled().unwrap(), std::slice::from_ref(&id));
    }
    drop(store);
    let store = Store::open(RunDir::open(dir.path()).unwrap(), Settings::default()).unwrap();
    assert!(store.spooled().unwrap().is_empty(), "nothing was left of it to recover");
    assert_eq!(fs::read_dir(dir.path().join("spool")).unwrap().count(), 2);
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
    for journal in [None, Some(""), Some("{\"ope")] {
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
    manifest: Vec<u8>,
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
    drop(Arc::into_inner(store).unwrap());
    let journal = fs::read(root.path().join("journal.jsonl")).unwrap();
    let manifest = fs::read(root.path().join("manifest.json")).unwrap();
    let shards = fs::read_dir(root.path().join("shards")).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    });
    Written { ids, journal, manifest, shards: shards.collect(), root }
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
            if with_manifest {
                fs::write(root.join("manifest.json"), &written.manifest).unwrap();
            } else {
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
        assert_eq!(manifest_of(&view), good);
    }
    let store = Store::open(RunDir::open(written.root.path()).unwrap(), Settings::default()).unwrap();
    assert_eq!(runtime().block_on(store.close()).unwrap(), good);
}

/// The process that the next test kills: spools and commits without end.
#[test]
#[ignore = "works where STORE_CHILD says, until it is killed"]
fn child() {
    let root = std::path::PathBuf::from(std::env::var_os("STORE_CHILD").unwrap());
    let store = Arc::new(Store::open(RunDir::open(&root).unwrap(), Settings { shard_bytes: 100_000, ..Settings::default() }).unwrap());
    runtime().block_on(async {
        let mut workers = Vec::new();
        for episodes in store.with_state(outstanding).chunks(400) {
            let (store, episodes) = (store.clone(), episodes.to_vec());
            workers.push(tokio::spawn(async move {
                for episode in episodes {
                    let attempt = store.with_state(|s| s.episode(&episode).unwrap().next());
                    let id = AttemptId { episode, attempt };
                    let mut spool = store.spool(&id);
                    for entry in entries(&id, 2) {
                        append(&mut spool, &entry).await.unwrap();
                    }
                    store.commit(&trajectory(&id, 2), resolved(), Stream::Trajectories).await.unwrap();
                }
            }));
        }
        for worker in workers {
            worker.await.unwrap();
        }
    });
}

#[test]
fn a_killed_process_leaves_a_run_that_goes_on() {
    use std::{process::Command, time::Duration};
    let dir = tempfile::tempdir().unwrap();
    drop(new_run(dir.path(), &["a", "b", "c", "d"], 5000));
    let mut before = HashSet::new();
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child.args(["--exact", "crashes::child", "--ignored"]).env("STORE_CHILD", dir.path());
        let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
        let journal = dir.path().join("journal.jsonl");
        let length = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        let begin = length(&journal);
        while length(&journal) < begin + 3000 {
            std::thread::sleep(Duration::from_millis(1));
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        }
        match RunDir::open(dir.path()) {
            Err(StoreError::Locked { holder, .. }) => assert_eq!(holder, child.id().to_string()),
            other => panic!("the lock does not hold: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(7 * round));
        child.kill().unwrap();
        child.wait().unwrap();

        let store = Store::open(RunDir::open(dir.path()).unwrap(), Settings { shard_bytes: 100_000, ..Settings::default() }).unwrap();
        let now = check_run(dir.path());
        assert!(now.is_superset(&before) && now.len() > before.len());
        before = now;
        for id in store.spooled().unwrap() {
            assert!(!before.contains(&id));
            match Transcript::replay(recovered(&store, &id)) {
                Some(transcript) => {
                    let facts = Facts { repo: "", base_commit: "", image: "", url: "", dataset_digest: "" };
                    let partial = Trajectory::new(transcript, None, Some(Failure::new(Kind::Interrupted, "")), facts);
                    let outcome = outcome(false, Resolved::Unknown, Some(Kind::Interrupted));
                    runtime().block_on(store.commit(&partial, outcome, Stream::Attempts)).unwrap();
                    before.insert(id);
                }
                None => store.discard_spool(&id).unwrap(),
            }
        }
        assert!(store.spooled().unwrap().is_empty());
    }
}

#[test]
fn entries_that_were_not_on_the_disk_yet_come_back_from_the_redo_log() {
    let dir = quick_dir();
    let runtime = runtime();
    let (cut, lost, done) = (attempt("a@0.1"), attempt("a@1.1"), attempt("a@2.1"));
    let spool = |id: &AttemptId| dir.path().join("spool").join(id.to_string());
    let log = dir.path().join("spool/redo-0.log");
    let store = Store::open(new_run(dir.path(), &["a"], 3), Settings::default()).unwrap();
    runtime.block_on(async {
        for id in [&cut, &lost, &done] {
            let mut spool = store.spool(id);
            for entry in entries(id, 3) {
                append(&mut spool, &entry).await.unwrap();
            }
        }
        store.commit(&trajectory(&done, 3), resolved(), Stream::Trajectories).await.unwrap();
    });
    let kept = fs::read(&log).unwrap();
    assert_eq!(recovered(&store, &cut), entries(&cut, 3), "though no file has them yet");
    assert!(!spool(&cut).exists());
    drop(store);
    assert!(!log.exists(), "a run that is closed in good order needs none");
    assert!(!spool(&done).exists(), "what is committed gets no file");
    let whole = fs::read(spool(&cut)).unwrap();
    // As the machine may leave it: of one file half, of another nothing; the log with a torn end.
    fs::write(spool(&cut), &whole[..whole.len() / 2]).unwrap();
    fs::remove_file(spool(&lost)).unwrap();
    fs::write(&log, [&kept[..], b"{\"id\":\"a@0.1\",\"offset\":0,\"bytes\":9,\"sip\":1}\nhalf"].concat()).unwrap();
    let store = Store::open(RunDir::open(dir.path()).unwrap(), Settings::default()).unwrap();
    assert_eq!(store.spooled().unwrap(), [cut.clone(), lost.clone()]);
    assert_eq!((recovered(&store, &cut), recovered(&store, &lost)), (entries(&cut, 3), entries(&lost, 3)));
    assert!(!log.exists());
}

#[test]
fn a_log_that_is_long_enough_is_given_up_and_nothing_is_lost() {
    let dir = quick_dir();
    let settings = Settings { spool_log_bytes: 2000, ..Settings::default() };
    let store = Store::open(new_run(dir.path(), &["a"], 9), settings.clone()).unwrap();
    let ids: Vec<AttemptId> = (0..9).map(|sample| attempt(&format!("a@{sample}.1"))).collect();
    runtime().block_on(async {
        let mut spools: Vec<_> = ids.iter().map(|id| (store.spool(id), entries(id, 24))).collect();
        for at in 0..49 {
            let appends = spools.iter_mut().map(|(spool, entries)| append(spool, &entries[at]));
            for appended in futures_util::future::join_all(appends).await {
                appended.unwrap();
            }
        }
    });
    let logs = fs::read_dir(dir.path().join("spool")).unwrap().flatten();
    let logs: Vec<String> =
        logs.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with("redo-")).collect();
    // Sixteen, the one that is written, and one that is being given up.
    assert!(logs.len() <= 18 && !logs.contains(&"redo-0.log".to_owned()), "{logs:?}");
    for id in &ids {
        assert_eq!(recovered(&store, id), entries(id, 24), "{id}, of its file and the logs");
    }
    drop(store);
    let store = Store::open(RunDir::open(dir.path()).unwrap(), settings).unwrap();
    for id in &ids {
        assert_eq!(recovered(&store, id), entries(id, 24), "{id}");
    }
}

#[test]
fn a_log_goes_with_its_last_attempt() {
    let dir = quick_dir();
    // Any entry fills a log.
    let settings = Settings { spool_log_bytes: 400, ..Settings::default() };
    let store = Store::open(new_run(dir.path(), &["a"], 2), settings).unwrap();
    let logs = || fs::read_dir(dir.path().join("spool")).unwrap().flatten().filter(|e| e.path().extension().is_some()).count();
    let (done, live) = (attempt("a@0.1"), attempt("a@1.1"));
    runtime().block_on(async {
        let (mut ending, mut staying) = (store.spool(&done), store.spool(&live));
        for entry in &entries(&done, 5) {
            append(&mut ending, entry).await.unwrap();
        }
        append(&mut staying, &entries(&live, 2)[0]).await.unwrap();
        assert!(logs() > 5, "{}", logs());
        store.commit(&trajectory(&done, 5), resolved(), Stream::Trajectories).await.unwrap();
        for entry in &entries(&live, 2)[1..] {
            append(&mut staying, entry).await.unwrap();
        }
    });
    assert!(logs() <= 5, "those of the live one: {}", logs());
    assert_eq!(recovered(&store, &live), entries(&live, 2));
}

#[test]
fn what_is_in_the_next_log_is_not_durable_before_what_is_in_this_one() {
    let dir = quick_dir();
    // Any entry fills a log.
    let settings = Settings { spool_log_bytes: 400, ..Settings::default() };
    let store = Store::open(new_run(dir.path(), &["a"], 1), settings).unwrap();
    let id = attempt("a@0.1");
    runtime().block_on(async {
        let mut spool = store.spool(&id);
        for entry in &entries(&id, 2)[..4] {
            append(&mut spool, entry).await.unwrap();
        }
    });
    let records = |number| {
        let log = fs::read_to_string(dir.path().join(format!("spool/redo-{number}.log"))).unwrap_or_default();
        log.matches("\"sip\":").count()
    };
    assert_eq!([0, 1, 2, 3].map(records), [1, 1, 2, 0], "the observation, which is not synced, and the reply behind it");
}

#[test]
fn a_log_that_cannot_be_given_up_is_given_up_later() {
    let dir = quick_dir();
    let settings = Settings { spool_log_bytes: 400, ..Settings::default() };
    let store = Store::open(new_run(dir.path(), &["a"], 1), settings).unwrap();
    let id = attempt("a@0.1");
    let all = entries(&id, 30);
    let in_the_way = dir.path().join("spool/a@0.1");
    let logs = || fs::read_dir(dir.path().join("spool")).unwrap().flatten().filter(|e| e.path().extension().is_some()).count();
    runtime().block_on(async {
        let mut spool = store.spool(&id);
        for (at, entry) in all.iter().enumerate() {
            append(&mut spool, entry).await.unwrap();
            match at {
                0 => fs::create_dir(&in_the_way).unwrap(),
                40 => {
                    assert!(logs() > 19, "{}", logs());
                    fs::remove_dir(&in_the_way).unwrap();
                }
                _ => {}
            }
        }
        assert_eq!(store.recover(&id).await.unwrap(), all);
    });
    assert!(logs() <= 18, "{}", logs());
}

#[test]
fn a_lower_limit_of_an_entry_costs_no_other_attempt_its_entries() {
    let dir = quick_dir();
    let (large, other) = (attempt("a@0.1"), attempt("a@1.1"));
    let log = dir.path().join("spool/redo-0.log");
    let store = Store::open(new_run(dir.path(), &["a"], 2), Settings::default()).unwrap();
    let filling = Entry::Reminder { content: "x".repeat(5000) };
    runtime().block_on(async {
        let mut spool = store.spool(&large);
        append(&mut spool, &entries(&large, 1)[0]).await.unwrap();
        append(&mut spool, &filling).await.unwrap();
        let mut spool = store.spool(&other);
        for entry in entries(&other, 3) {
            append(&mut spool, &entry).await.unwrap();
        }
    });
    let kept = fs::read(&log).unwrap();
    drop(store);
    // As if the process had been killed.
    [&large, &other].into_iter().for_each(|id| fs::remove_file(dir.path().join("spool").join(id.to_string())).unwrap());
    fs::write(&log, kept).unwrap();
    let settings = Settings { max_record_bytes: 4000, ..Settings::default() };
    let store = Store::open(RunDir::open(dir.path()).unwrap(), settings).unwrap();
    assert_eq!(recovered(&store, &other), entries(&other, 3));
    assert_eq!(recovered(&store, &large), entries(&large, 1)[..1]);
}
