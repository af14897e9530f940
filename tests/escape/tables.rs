//! The tables: attempts that need nothing from outside.

use crate::support::*;
use std::path::Path;

/// Tables whose attempts are made in one sandbox, one after the other, and what they are about.
const TABLES: [(&str, &str); 4] = [
    ("kernel", "The kernel's interfaces"),
    ("host", "The host"),
    ("setuid", "Programs that are more than their caller"),
    ("stream", "The toolbox and its stream"),
];

/// Those that other files make.
const OTHERS: [(&str, &str); 3] = [
    ("sealed", "A toolbox that has taken a report, as in every grading"),
    ("neighbours", "Another episode's sandbox"),
    ("resources", "What sandboxes share"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_is_refused() {
    for place in places().await {
        let sandbox = place.start("tables").await;
        let attempts: Vec<Attempt> = TABLES.iter().flat_map(|(name, _)| table(name)).collect();
        hold(place.backend, sandbox.toolbox(), &attempts).await;
        assert_serves(sandbox.toolbox()).await;
        sandbox.destroy().await.unwrap();
    }
}

/// A refusal tells something only where the attempt would else succeed.
#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_succeeds_where_nothing_refuses_it() {
    if !has_debian().await {
        return;
    }
    let all: Vec<Attempt> = TABLES.iter().flat_map(|(name, _)| table(name)).collect();
    let proven: Vec<&Attempt> = all.iter().filter(|attempt| attempt.unproven.is_empty()).collect();
    let endings = make_privileged(&proven).await;
    let reached = |attempt: &Attempt| {
        let ending = &endings[&attempt.name];
        ending.starts_with("reached") || is_one_of(ending, &attempt.absent)
    };
    let failed: Vec<String> =
        proven.iter().filter(|attempt| !reached(attempt)).map(|attempt| format!("{}: {}", attempt.name, endings[&attempt.name])).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// What users read is what is held here.
#[test]
fn the_docs_tell_what_is_held() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/escape-table.md");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let (before, _) = text.split_once(MARK).unwrap_or((&text, ""));
    let wanted = before.to_owned() + MARK + &TABLES.into_iter().chain(OTHERS).map(section).collect::<String>();
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(&path, &wanted).unwrap();
    } else {
        assert!(text == wanted, "docs/escape-table.md is not what the tables say: INSTA_UPDATE=always cargo test --test escape docs");
    }
}

/// What follows is written by the test.
const MARK: &str = "<!-- By tests/escape/tables.rs from tests/escape/*.toml. -->\n";

fn section((name, about): (&str, &str)) -> String {
    let row = |attempt: &Attempt| {
        let cell = |backend| {
            let wanted = attempt.wanted(backend);
            let words: Vec<&str> = wanted.iter().map(String::as_str).filter(|word| !["reached", "broken"].contains(word)).collect();
            if words.len() < wanted.len() && wanted.iter().any(|word| word == "reached") {
                format!("may succeed: {}", attempt.note)
            } else {
                words.join(", ")
            }
        };
        format!("| {} | {} | {} |\n", attempt.name, cell(Backend::Docker), cell(Backend::Native))
    };
    let rows: String = table(name).iter().map(row).collect();
    format!("\n### {about}\n\n| attempt | Docker | native |\n| --- | --- | --- |\n{rows}")
}
