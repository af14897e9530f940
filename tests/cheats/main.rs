//! No trick is resolved, and every honest twin is: in local sandboxes and in containers.

mod tricks;

use futures_util::StreamExt;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use sweroll::domain::{AttemptId, Failure, Grade, Reason, TestStatus, Verdict};
use sweroll::grading::{self, Case, Runners, Settings};
use sweroll::sandbox::{Docker, Limits, Local, Provider, Purpose, Spec, docker, local};
use tricks::{Trick, tricks};

/// A Debian with pytest, from the real set's build.
const IMAGE: &str = "sdist/base:1";
/// Gradings at once.
const AT_ONCE: usize = 3;

/// Whether what a test needs is here; in CI it must be.
fn or_skip(there: bool, wanted: &str) -> bool {
    assert!(there || std::env::var_os("CI").is_none(), "{wanted}, and CI is set");
    if !there {
        eprintln!("skipped: {wanted}");
    }
    there
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// The first of the host's Pythons that imports pytest.
fn host_python() -> Option<&'static str> {
    let python = ["python", "python3"].into_iter().find(|python| succeeds(python, &["-c", "import pytest"]));
    or_skip(python.is_some(), "no python3 here imports pytest");
    python
}

fn local() -> Local {
    Local::new(local::Settings { toolbox_path: Some(PathBuf::from(env!("CARGO_BIN_EXE_sweroll"))), ..local::Settings::default() })
}

async fn containers() -> Option<Docker> {
    let there = succeeds("docker", &["image", "inspect", IMAGE]);
    if !or_skip(there, "the image sdist/base:1 is not built") {
        return None;
    }
    let toolbox_path = Some(PathBuf::from(env!("CARGO_BIN_EXE_sweroll")));
    Some(Docker::connect(docker::Settings { toolbox_path, ..docker::Settings::default() }).await.unwrap())
}

async fn graded(provider: &dyn Provider, trick: &Trick, runners: &Runners) -> Result<Grade, Failure> {
    let played = trick.play(IMAGE);
    let attempt: AttemptId = format!("{}@0.1", played.instance.instance_id).parse().unwrap();
    let limits = Limits { memory: 1 << 30, ..Limits::default() };
    let (image, workdir) = (IMAGE.to_owned(), played.instance.workdir.clone());
    let spec = Spec {
        run: format!("test-cheats-{}", std::process::id()),
        attempt,
        purpose: Purpose::Grade,
        image,
        workdir,
        limits,
        keep: false,
        upon: None,
    };
    let settings = Settings { tests_timeout_s: 120, ..Settings::default() };
    grading::grade(provider, &spec, &Case { instance: &played.instance, diff: &played.diff, flaky: &[] }, &settings, runners).await
}

/// What is wrong with the grade, if anything is.
fn fault(trick: &Trick, graded: &Result<Grade, Failure>) -> Option<String> {
    let grade = match graded {
        Ok(grade) => grade,
        Err(failure) => return Some(format!("no grade: {:?}: {failure}", failure.kind)),
    };
    let reasons: Vec<Reason> = grade.suspect.iter().map(|suspicion| suspicion.reason).collect();
    let unsaid: Vec<&str> = trick.suspect.iter().filter(|reason| !reasons.contains(reason)).map(|reason| reason.as_str()).collect();
    if !trick.verdicts.contains(&grade.verdict) {
        let not_passed = grade.tests.iter().filter(|(_, result)| result.status != TestStatus::Passed);
        let statuses: Vec<String> = not_passed.map(|(id, result)| format!("{id}: {:?} {}", result.status, result.message)).collect();
        let wanted: Vec<&str> = trick.verdicts.iter().map(|verdict| verdict.as_str()).collect();
        return Some(format!("{}, wanted {wanted:?}; not passed: {statuses:#?}; suspect {:#?}", grade.verdict, grade.suspect));
    }
    (!unsaid.is_empty()).then(|| format!("{unsaid:?} is not among its reasons: {:?}", grade.suspect))
}

/// Grades them all, prints a table, and fails where one is not graded as it should be.
async fn play(provider: &dyn Provider, name: &str, tricks: Vec<Trick>) {
    let runners = Runners::default();
    let all = futures_util::stream::iter(&tricks).map(async |trick| (trick, graded(provider, trick, &runners).await));
    let graded: Vec<_> = all.buffered(AT_ONCE).collect().await;
    let mut faults = Vec::new();
    for (trick, graded) in &graded {
        let fault = fault(trick, graded);
        let (verdict, reasons, seconds) = match graded {
            Ok(grade) => {
                let reasons: BTreeSet<&str> = grade.suspect.iter().map(|s| s.reason.as_str()).collect();
                (grade.verdict.to_string(), reasons.into_iter().collect::<Vec<_>>().join(" "), grade.duration_ms as f64 / 1000.0)
            }
            Err(failure) => (format!("{:?}", failure.kind), String::new(), 0.0),
        };
        let mark = if fault.is_some() { "WRONG" } else { "" };
        println!("{name:9} {:34} {verdict:12} {mark:5} {seconds:5.1} s  {reasons}", trick.name);
        if let Some(fault) = fault {
            let tail = graded.as_ref().map(|grade| grade.output_tail.as_str()).unwrap_or_default();
            faults.push(format!("{} ({}): {fault}\n{tail}", trick.name, trick.about));
        }
    }
    assert!(faults.is_empty(), "{name}: {} of {} are wrong\n\n{}", faults.len(), graded.len(), faults.join("\n\n"));
}

async fn play_locally(file: &str) {
    if host_python().is_some() {
        play(&local(), "local", tricks(file).into_iter().filter(|trick| !trick.container).collect()).await;
    }
}

async fn play_in_containers(file: &str) {
    if let Some(docker) = containers().await {
        play(&docker, "container", tricks(file)).await;
    }
}

#[tokio::test]
async fn no_trick_is_resolved_locally() {
    play_locally("tricks.toml").await;
}

#[tokio::test]
async fn no_trick_is_resolved_in_a_container() {
    play_in_containers("tricks.toml").await;
}

#[tokio::test]
async fn what_cannot_be_stopped_is_flagged_locally() {
    play_locally("flagged.toml").await;
}

#[tokio::test]
async fn what_cannot_be_stopped_is_flagged_in_a_container() {
    play_in_containers("flagged.toml").await;
}

#[tokio::test]
async fn every_honest_twin_is_resolved_locally() {
    play_locally("honest.toml").await;
}

#[tokio::test]
async fn every_honest_twin_is_resolved_in_a_container() {
    play_in_containers("honest.toml").await;
}

/// What a plain pytest says of the listed ids where nothing is put back; none: that all is well.
fn plain_pytest(python: &str, trick: &Trick) -> Option<String> {
    let (field, instance) = (trick.play_unguarded(), trick.play("").instance);
    let mut command = Command::new("timeout");
    command.args(["60", python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]).args(instance.test_ids());
    let output = command.current_dir(field.path()).output().unwrap();
    let said = || format!("{}: {}\n{}", trick.name, output.status, String::from_utf8_lossy(&output.stdout));
    (!output.status.success()).then(said)
}

/// A trick that fools nobody proves nothing.
#[test]
fn tricks_fool_a_plain_pytest() {
    let Some(python) = host_python() else { return };
    let fooling = tricks("tricks.toml").into_iter().chain(tricks("flagged.toml")).filter(|trick| trick.fools);
    let duds: Vec<String> = fooling.filter_map(|trick| plain_pytest(python, &trick)).collect();
    assert!(duds.is_empty(), "{}", duds.join("\n\n"));
}

#[test]
fn honest_twins_pass_a_plain_pytest() {
    let Some(python) = host_python() else { return };
    let of_pytest = tricks("honest.toml").into_iter().filter(|trick| !trick.name.starts_with("unittest-ids"));
    let wrong: Vec<String> = of_pytest.filter_map(|trick| plain_pytest(python, &trick)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn names_are_unique_and_only_honest_and_flagged_diffs_may_resolve() {
    let mut names = BTreeSet::new();
    for (file, may_resolve) in [("tricks.toml", false), ("flagged.toml", true), ("honest.toml", true)] {
        for trick in tricks(file) {
            assert!(names.insert(trick.name.clone()), "{} is there twice", trick.name);
            assert!(!trick.verdicts.is_empty(), "{}", trick.name);
            assert!(may_resolve || !trick.verdicts.contains(&Verdict::Resolved), "{}", trick.name);
        }
    }
}
