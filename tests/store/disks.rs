//! Disks that are full or fail.

use super::*;

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
            assert!(full(&append(&mut spool, entry).await.unwrap_err()));
            disk.set_space(u64::MAX);
            // What was not paid for is synced with the next that was.
            if !matches!(entry, Entry::Observation(_)) {
                disk.fail_syncs(0, 1);
                assert!(append(&mut spool, entry).await.is_err());
            }
            assert_eq!(store.recover(&id).await.unwrap(), all[..at]);
            append(&mut spool, entry).await.unwrap();
        }
    });
    assert_eq!(recovered(&store, &id), all);
}

#[test]
fn records_and_entries_over_the_limit_are_refused() {
    let dir = quick_dir();
    let store = Store::open(new_run(dir.path(), &["a"], 1), Settings { max_record_bytes: 500, ..Settings::default() }).unwrap();
    let id = attempt("a@0.1");
    let runtime = runtime();
    let refused = runtime.block_on(store.commit(&trajectory(&id, 1), resolved(), Stream::Trajectories));
    assert!(matches!(refused, Err(StoreError::TooLarge { limit: 500, .. })));
    let refused = runtime.block_on(append(&mut store.spool(&id), &Entry::Reminder { content: "x".repeat(500) }));
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
    assert_eq!(View::open(dir.path()).unwrap().read(&place).unwrap().cost_usd, 0.0);
    drop(store);
    assert_eq!(check_run(dir.path()).len(), 1);
    assert!(fs::metadata(dir.path().join("journal.jsonl")).unwrap().len() < 10_000);
}
