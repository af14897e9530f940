//! Merging runs and sealed datasets.

use super::{
    seals::{SMALL, by, check, commit, count_for, seal_on},
    *,
};
use std::path::PathBuf;
use sweroll::store::{
    Counting, SealError, Sealed,
    merge::{self, Merged, OnDuplicate},
    seal::Report,
};

fn merge_on(inputs: &[&Path], out: &Path, on_duplicate: OnDuplicate, disk: &Disk) -> Result<(Report, Merged), SealError> {
    let count = count_for("a");
    let counting = Counting { by: by("a"), count: Some(&count), recount: false };
    let inputs: Vec<PathBuf> = inputs.iter().map(|path| path.to_path_buf()).collect();
    merge::merge(&inputs, out, on_duplicate, &SMALL, &counting, disk, &mut |_| {})
}

fn run(dir: &Path, instances: &[&str], samples: u32, ids: &[&str]) {
    let store = Store::open(new_run(dir, instances, samples), Settings::default()).unwrap();
    commit(&store, ids);
    runtime().block_on(store.close()).unwrap();
}

fn ids(dir: &Path, stream: Stream) -> Vec<String> {
    check(dir).keys().filter(|(of, _)| *of == stream).map(|(_, id)| id.to_string()).collect()
}

struct Dirs {
    _temp: tempfile::TempDir,
    first: PathBuf,
    second: PathBuf,
    out: PathBuf,
}

fn dirs() -> Dirs {
    let temp = quick_dir();
    let [first, second, out] = ["first", "second", "out"].map(|name| temp.path().join(name));
    Dirs { _temp: temp, first, second, out }
}

#[test]
fn a_run_and_a_sealed_dataset_become_one() {
    let Dirs { first, second, out, _temp } = dirs();
    run(&first, &["a", "c"], 2, &["a@0.1", "a@1.1", "c@0.1!", "c@0.2"]);
    run(&second, &["b", "c"], 2, &["b@0.1", "c@1.1", "b@1.1!"]);
    seal_on(&second, &Disk::default(), false).unwrap();
    // Only what was sealed is left of it.
    for name in ["run.toml", "journal.jsonl", "lock"] {
        fs::remove_file(second.join(name)).unwrap();
    }
    fs::remove_dir_all(second.join("shards")).unwrap();
    let (report, merged) = merge_on(&[&first, &second], &out, OnDuplicate::Refuse, &Disk::default()).unwrap();
    assert_eq!(
        (ids(&out, Stream::Trajectories), merged),
        (["a@0.1", "a@1.1", "b@0.1", "c@0.2", "c@1.1"].map(String::from).into(), Merged::default())
    );
    assert_eq!(ids(&out, Stream::Attempts), ["b@1.1", "c@0.1"]);
    assert_eq!(report.sealed.runs.iter().map(|run| run.attempts).collect::<Vec<_>>(), [4, 3]);
    let manifest = Manifest::read(&Layout::new(&out)).unwrap();
    assert_eq!((manifest.run.as_str(), manifest.shards.len(), manifest.sealed), ("", 0, Some(report.sealed)));
    assert!(fs::read_to_string(out.join("README.md")).unwrap().contains("| rows | 5 | 2 |"));
    // What was merged can be merged.
    let again = out.with_file_name("again");
    merge_on(&[&out], &again, OnDuplicate::Refuse, &Disk::default()).unwrap();
    assert_eq!(check(&again), check(&out));
    assert_eq!(Sealed::read(&again).unwrap(), Sealed::read(&out).unwrap());
}

#[test]
fn duplicates_are_refused_dropped_or_renumbered() {
    let Dirs { first, second, out, _temp } = dirs();
    run(&first, &["a", "b"], 2, &["a@0.1", "a@1.1", "b@0.1"]);
    run(&second, &["a"], 2, &["a@0.1!", "a@0.2", "a@1.1"]);
    let refused = merge_on(&[&first, &second], &out, OnDuplicate::Refuse, &Disk::default()).unwrap_err();
    assert!(matches!(&refused, SealError::Duplicates { count: 2, shown } if shown.contains(&"a@1".to_owned())), "{refused}");
    assert!(!out.exists(), "nothing was begun");
    // Of an episode the attempts of one input alone: it counts once.
    let firsts = out.with_file_name("firsts");
    let (_, merged) = merge_on(&[&first, &second], &firsts, OnDuplicate::First, &Disk::default()).unwrap();
    assert_eq!(merged, Merged { dropped: 3, renumbered: 0 });
    assert_eq!(
        (ids(&firsts, Stream::Trajectories), ids(&firsts, Stream::Attempts)),
        (["a@0.1", "a@1.1", "b@0.1"].map(String::from).into(), vec![])
    );
    let (_, merged) = merge_on(&[&first, &second], &out, OnDuplicate::Last, &Disk::default()).unwrap();
    assert_eq!(merged, Merged { dropped: 2, renumbered: 0 });
    assert_eq!(
        (ids(&out, Stream::Trajectories), ids(&out, Stream::Attempts)),
        (["a@0.2", "a@1.1", "b@0.1"].map(String::from).into(), vec!["a@0.1".into()])
    );

    let all = out.with_file_name("all");
    let (_, merged) = merge_on(&[&first, &second], &all, OnDuplicate::Renumber, &Disk::default()).unwrap();
    assert_eq!(merged, Merged { dropped: 0, renumbered: 3 });
    // `check` holds the ids in the records to those of the index.
    assert_eq!(ids(&all, Stream::Trajectories), ["a@0.1", "a@1.1", "a@2.2", "a@3.1", "b@0.1"]);
    assert_eq!(ids(&all, Stream::Attempts), ["a@2.1"]);
}

#[test]
fn what_is_in_the_way_is_refused() {
    let Dirs { first, second, out, _temp } = dirs();
    run(&first, &["a"], 1, &["a@0.1"]);
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "").unwrap();
    for (target, part) in [(&out, "it holds thesis.tex"), (&first, "it holds ")] {
        let refused = merge_on(&[&first], target, OnDuplicate::Refuse, &Disk::default()).unwrap_err().to_string();
        assert!(refused.contains(part), "{refused}");
    }
    let refused = merge_on(&[&second], &second, OnDuplicate::Refuse, &Disk::default()).unwrap_err().to_string();
    assert!(refused.contains("neither run.toml nor data/sealed.json"), "{refused}");
}

#[test]
fn an_interrupted_merge_goes_on_with_the_same_inputs_alone() {
    let master = dirs();
    let samples: Vec<String> = (0..30).map(|n| format!("a@{n}.1")).collect();
    run(&master.first, &["a"], 30, &samples.iter().map(String::as_str).collect::<Vec<_>>());
    run(&master.second, &["b"], 1, &["b@0.1"]);
    let whole = merge_on(&[&master.first, &master.second], &master.out, OnDuplicate::Refuse, &Disk::default()).unwrap().0;
    let expected = check(&master.out);
    let (mut broke, mut finished_late) = (0, 0);
    for good in 0.. {
        let out = master.out.with_file_name(format!("out{good}"));
        let disk = Disk::default();
        disk.fail_syncs(good, 1);
        if merge_on(&[&master.first, &master.second], &out, OnDuplicate::Refuse, &disk).is_ok() {
            break;
        }
        broke += 1;
        if Sealed::read(&out).unwrap().is_some() {
            let other = merge_on(&[&master.first], &out, OnDuplicate::Refuse, &Disk::default()).unwrap_err().to_string();
            assert!(other.contains("merge of other inputs"), "{other}");
            finished_late += 1;
        }
        let (report, _) = merge_on(&[&master.first, &master.second], &out, OnDuplicate::Refuse, &Disk::default()).unwrap();
        assert_eq!((report.sealed, check(&out)), (whole.sealed.clone(), expected.clone()));
        let names = ["README.md", "data", "data.lock", "manifest.json"];
        let mut found: Vec<String> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        assert_eq!(found, names);
    }
    assert!(broke > 6 && finished_late == 2, "{broke} {finished_late}");
    let again = merge_on(&[&master.first, &master.second], &master.out, OnDuplicate::Refuse, &Disk::default()).unwrap_err().to_string();
    assert!(again.contains("it holds "), "{again}");
}
