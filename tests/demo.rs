//! The demo as a user sees it.

mod common;

use common::{expect, stderr, stdout, sweroll};
use std::fs;

#[test]
fn the_demo_writes_its_directory_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (mine, temp, out) = (folder.path().join("mine"), folder.path().join("temp"), folder.path().join("mine/demo"));
    [&mine, &temp].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let file = mine.join("demo.instances.jsonl");
    fs::write(&file, "mine").unwrap();
    let output = stdout(&expect(sweroll().arg("demo").arg("--out").arg(&out).env("TMPDIR", &temp), 0));
    assert!(output.contains("target qwen3-instruct-2507"), "{output}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(fs::read_dir(&mine).unwrap().count(), 2);
    let left: Vec<_> = fs::read_dir(&temp).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("instances")), "{left:?}");
    // The run needs the file no more.
    expect(sweroll().arg("rerun").arg(&out).args(["--episode", "demo_greet@0", "--quiet", "--dry-run"]), 0);
}

#[test]
fn its_run_is_sealed_and_can_be_merged() {
    let folder = tempfile::tempdir().unwrap();
    let [demo, merged, twice] = ["demo", "merged", "twice"].map(|name| folder.path().join(name));
    let output = stdout(&expect(sweroll().arg("demo").arg("--out").arg(&demo), 0));
    assert!(output.contains("sealed 10 records"), "{output}");
    let json = |command: &mut std::process::Command| -> serde_json::Value {
        serde_json::from_str(&stdout(&expect(command.args(["--format", "json"]), 0))).unwrap()
    };
    let rows = |report: &serde_json::Value| -> Vec<u64> {
        report["sealed"]["files"].as_array().unwrap().iter().map(|file| file["rows"].as_u64().unwrap()).collect()
    };
    let sealed = json(sweroll().arg("seal").arg(&demo));
    assert_eq!((&sealed["made"], rows(&sealed)), (&false.into(), vec![8, 2]));
    assert_eq!(json(sweroll().arg("seal").arg(&demo).arg("--force"))["made"], true);
    expect(sweroll().arg("seal").arg(&demo).args(["--force", "--level", "20"]), 2);

    assert_eq!(rows(&json(sweroll().arg("merge").arg(&demo).arg("--out").arg(&merged))), [8, 2]);
    let occupied = expect(sweroll().arg("merge").arg(&demo).arg("--out").arg(&merged), 2);
    assert!(stderr(&occupied).contains("choose another directory"), "{}", stderr(&occupied));
    let refused = expect(sweroll().arg("merge").args([&demo, &merged]).arg("--out").arg(&twice), 2);
    assert!(stderr(&refused).contains("10 trajectories are in more than one input"), "{}", stderr(&refused));
    let renumbered = json(sweroll().arg("merge").args([&demo, &merged]).arg("--out").arg(&twice).args(["--on-duplicate", "renumber"]));
    assert_eq!((rows(&renumbered), &renumbered["renumbered"]), (vec![16, 4], &10.into()));
    let other = folder.path().join("other");
    expect(sweroll().arg("merge").arg(&merged).args(["--target", "qwen3", "--out"]).arg(&other), 2);
    let recounted = json(sweroll().arg("merge").arg(&merged).args(["--target", "qwen3", "--recount", "--out"]).arg(&other));
    assert_eq!((&recounted["sealed"]["target"], rows(&recounted)), (&"qwen3".into(), vec![8, 2]));
    // What all inputs were counted for is kept.
    let kept = json(sweroll().arg("merge").arg(&other).arg("--out").arg(folder.path().join("kept")));
    assert_eq!(kept["sealed"], recounted["sealed"]);
    let mixed = expect(sweroll().arg("merge").args([&merged, &other]).arg("--out").arg(folder.path().join("mixed")), 2);
    assert!(stderr(&mixed).contains("--recount"), "{}", stderr(&mixed));
    expect(sweroll().arg("verify").args([&demo, &twice, &other]), 0);
}
