//! The run directory: lock, settings, and what is no run.

use super::*;

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
    again.check_settings(&again.info().settings, &old, &[]).unwrap();
    let text = again.check_settings(&again.info().settings, &new, &["endpoint.url", "endpoint.timeouts"]).unwrap_err().to_string();
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
