//! The demo as a user sees it.

mod common;
#[path = "common/schema.rs"]
mod schema_file;

use common::{expect, records, stderr, stdout, sweroll};
use schema_file::Schema;
use serde_json::Value;
use std::{fs, path::Path};

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
    assert!(stderr(&refused).contains("10 episodes are in more than one input"), "{}", stderr(&refused));
    let renumbered = json(sweroll().arg("merge").args([&demo, &merged]).arg("--out").arg(&twice).args(["--on-duplicate", "renumber"]));
    assert_eq!((rows(&renumbered), &renumbered["renumbered"]), (vec![16, 4], &10.into()));
    let other = folder.path().join("other");
    expect(sweroll().arg("merge").arg(&merged).args(["--target", "qwen3", "--out"]).arg(&other), 2);
    let recounted = json(sweroll().arg("merge").arg(&merged).args(["--target", "qwen3", "--recount", "--out"]).arg(&other));
    assert_eq!((&recounted["sealed"]["target"], rows(&recounted)), (&"qwen3".into(), vec![8, 2]));
    assert_eq!(json(sweroll().arg("tokens").arg(&other))["target"], "qwen3", "the dataset's own");
    // What all inputs were counted for is kept.
    let kept = json(sweroll().arg("merge").arg(&other).arg("--out").arg(folder.path().join("kept")));
    assert_eq!(kept["sealed"], recounted["sealed"]);
    let mixed = expect(sweroll().arg("merge").args([&merged, &other]).arg("--out").arg(folder.path().join("mixed")), 2);
    assert!(stderr(&mixed).contains("--recount"), "{}", stderr(&mixed));
    expect(sweroll().arg("verify").args([&demo, &twice, &other]), 0);
    // What the run counts for is what is merged for.
    let toml = demo.join("run.toml");
    fs::write(&toml, fs::read_to_string(&toml).unwrap().replace("target = \"qwen3-instruct-2507\"", "target = \"qwen3\"")).unwrap();
    let own = json(sweroll().arg("merge").arg(&demo).args(["--recount", "--out"]).arg(folder.path().join("own")));
    assert_eq!(own["sealed"]["target"], "qwen3");
}

/// A run as it is committed, and its sealed dataset: every record is of the schema, and both prove sound.
#[test]
fn what_a_run_leaves_is_of_the_contract() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    expect(sweroll().arg("demo").arg("--out").arg(&run), 0);
    expect(sweroll().args(["seal", "--quiet"]).arg(&run), 0);

    let schema = Schema::read();
    let sealed = |stream: &str| {
        let file = fs::File::open(run.join(format!("data/{stream}-00000.jsonl.zst"))).unwrap();
        let text = String::from_utf8(zstd::decode_all(file).unwrap()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let mut seen = 0;
    for record in records(&run, "").iter().chain(&sealed("trajectories")).chain(&sealed("attempts")) {
        assert_eq!(schema.errors(record), [] as [&str; 0], "{}", record["trajectory_id"]);
        assert_eq!(schema.disorder(record, &schema.document), None, "{}", record["trajectory_id"]);
        seen += 1;
    }
    assert_eq!(seen, 20);

    let verify = |dir: &Path, code| {
        let output = expect(sweroll().args(["verify", "--format", "json"]).arg(dir), code);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let report = verify(&run, 0);
    assert_eq!((&report["schema_version"], &report["sound"], &report["warnings"]), (&1.into(), &true.into(), &0.into()), "{report:#}");
    assert_eq!(report["dirs"][0]["sealed"]["rows"], 10);

    // The dataset alone shows the same as the run.
    let alone = temp.path().join("alone");
    fs::create_dir_all(alone.join("data")).unwrap();
    for entry in fs::read_dir(run.join("data")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, alone.join("data").join(path.file_name().unwrap())).unwrap();
    }
    fs::copy(run.join("README.md"), alone.join("README.md")).unwrap();
    assert_eq!(verify(&alone, 0)["dirs"][0]["run"]["run"], "");
    let show = |dir: &Path, more: &[&str], code| expect(sweroll().arg("show").arg(dir).args(more), code);
    let text = stdout(&show(&alone, &["demo_greet@0"], 0));
    assert!(text.contains("--- assistant (trained)") && text.contains(" trained  submitted"), "{text}");
    assert_eq!(text, stdout(&show(&run, &["demo_greet@0"], 0)));
    assert!(stdout(&show(&alone, &["demo_setup@1"], 0)).starts_with("demo_setup@1.1"));
    assert!(stderr(&show(&alone, &["demo_greet@0", "--attempt", "7"], 1)).contains("it has 1"));
    assert!(stderr(&show(&alone, &["demo_greet@9"], 1)).contains("it has none"));

    // One byte.
    let shard = alone.join("data/trajectories-00000.jsonl.zst");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[1000] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let report = verify(&alone, 1);
    assert_eq!(report["dirs"][0]["findings"][0]["file"], "data/trajectories-00000.jsonl.zst");
    let table = stdout(&expect(sweroll().args(["verify", "--max-problems", "1"]).arg(&alone), 1));
    assert!(table.contains("problem: data/trajectories-00000.jsonl.zst") && table.contains("more (--max-problems)"), "{table}");
    assert!(stderr(&expect(sweroll().arg("verify").arg(temp.path()), 2)).contains("neither a run.toml nor a data/sealed.json"));
}
