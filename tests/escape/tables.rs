//! The tables: attempts that need nothing from outside.

use crate::support::*;

/// Every table, and what it is about.
const TABLES: [(&str, &str); 4] = [
    ("kernel", "The kernel's interfaces"),
    ("host", "The host"),
    ("setuid", "Programs that are more than their caller"),
    ("stream", "The toolbox and its stream"),
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
