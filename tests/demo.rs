//! The demo as a user sees it.

mod common;

use common::{expect, stdout, sweroll};
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
