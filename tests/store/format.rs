//! `docs/format.md` names every key that is written.

use super::*;
use serde_json::Value;

/// All keys of objects, at any depth, but for those below `but`, which are data.
fn keys(value: &Value, but: &[&str], found: &mut HashSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                found.insert(key.clone());
                if !but.contains(&key.as_str()) {
                    keys(inner, but, found);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| keys(inner, but, found)),
        _ => {}
    }
}

#[test]
fn the_document_names_every_key() {
    use sweroll::domain::{Grade, grade::Tally};
    let tally = Tally { passed: 1, total: 2 };
    let grade = Grade {
        resolved: false,
        tests: BTreeMap::new(),
        fail_to_pass: tally,
        pass_to_pass: tally,
        duration_ms: 1,
        tests_ms: 1,
        regrades: 0,
        output_tail: String::new(),
    };
    let dir = quick_dir();
    let settings = Settings::default();
    let store = Store::open(new_run(dir.path(), &["a"], 1), settings).unwrap();
    let id = attempt("a@0.1");
    let facts = Facts { repo: "o/n", base_commit: "", image: "x:1", url: "", dataset_digest: "d" };
    let failure = Failure::new(Kind::GradeTimeout, "");
    let row = Trajectory::new(Transcript::replay(entries(&id, 1)).unwrap(), Some(grade), Some(failure.clone()), facts);
    runtime().block_on(async {
        store.started(id.clone()).await.unwrap();
        store.commit(&row, Outcome { failure: Some(failure.clone()), ..resolved() }, Stream::Attempts).await.unwrap();
        store.reopen(vec![id.episode.clone()], "").await.unwrap();
        store.quarantine("a".parse().unwrap(), failure).await.unwrap();
        store.close().await.unwrap();
    });
    let mut written = HashSet::new();
    let mut add = |value: Value| keys(&value, &["tests", "sampling", "extra"], &mut written);
    add(serde_json::to_value(&row).unwrap());
    add(serde_json::from_str(&row.usage).unwrap());
    add(serde_json::from_str(&row.meta).unwrap());
    add(serde_json::to_value(entries(&id, 1)).unwrap());
    add(serde_json::to_value(instance("a")).unwrap());
    for file in ["journal.jsonl", "manifest.json"] {
        let text = fs::read_to_string(dir.path().join(file)).unwrap();
        text.lines().for_each(|line| add(serde_json::from_str(line).unwrap()));
    }
    assert!(written.len() > 100);
    let document = include_str!("../../docs/format.md");
    let words: HashSet<&str> = document.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let missing: Vec<&String> = written.iter().filter(|key| !words.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "docs/format.md does not name {missing:?}");
}
