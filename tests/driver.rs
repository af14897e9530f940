//! The driver around the scheduler's core: panics stay in their episode, and what cannot be graded or committed is said.

use futures_util::future::BoxFuture;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use sweroll::{
    domain::{Attempt, AttemptId, EpisodeId, Failure, InstanceId, Kind},
    scheduler::{
        budget::Spend,
        core::{Action, Core, Todo},
        driver::{End, Stop, Work, drive},
        policy::Policy,
    },
};
use tokio::sync::mpsc;

/// Does what the instance's name says, and remembers what was committed.
#[derive(Default)]
struct Told {
    commits: Mutex<BTreeMap<String, bool>>,
    failures: Mutex<BTreeMap<String, Kind>>,
}

impl Work for Told {
    fn agent(&self, id: AttemptId) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            match id.episode.instance.as_str() {
                "panics" => panic!("a fixture of the test"),
                "panics-once" if id.attempt == Attempt::FIRST => panic!("a fixture of the test"),
                "slow" => tokio::time::sleep(std::time::Duration::from_secs(3600)).await,
                _ => {}
            }
            Ok(())
        })
    }

    fn spent(&self, _: &AttemptId) -> Spend {
        Spend::default()
    }

    fn grade(&self, id: AttemptId) -> BoxFuture<'_, Result<bool, Failure>> {
        Box::pin(async move {
            match id.episode.instance.as_str() {
                "no-sandbox" => Err(Failure::new(Kind::SandboxLost, "gone")),
                _ => Ok(true),
            }
        })
    }

    fn commit(&self, id: AttemptId, counts: bool) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            if id.episode.instance.as_str() == "no-space" {
                return Err(Failure::new(Kind::RunDir, "the disk is full"));
            }
            assert_ne!(id.episode.instance.as_str(), "no-record", "a fixture of the test");
            self.commits.lock().unwrap().insert(id.to_string(), counts);
            Ok(())
        })
    }

    fn skip(&self, id: AttemptId, _: Failure) -> BoxFuture<'_, Result<(), Failure>> {
        self.commit(id, true)
    }

    fn waive(&self, _: Vec<EpisodeId>) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { panic!("a fixture of the test") })
    }

    fn quarantine(&self, _: InstanceId, _: Failure) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn panicked(&self, id: &AttemptId, failure: &Failure) {
        self.failures.lock().unwrap().insert(id.to_string(), failure.kind);
    }

    fn notice(&self, _: Action) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

async fn run(instances: &[&str], stop: mpsc::Receiver<Stop>) -> (End, Arc<Told>) {
    let todo =
        |name: &&str| Todo { episode: EpisodeId { instance: name.parse().unwrap(), sample: 0 }, attempt: Attempt::FIRST, ended: false };
    let policy = Policy { retry_base_ms: 1, retry_cap_ms: 2, ..Policy::default() };
    play(Core::new(policy, instances.iter().map(todo), None), stop).await
}

async fn play(core: Core, stop: mpsc::Receiver<Stop>) -> (End, Arc<Told>) {
    let work = Arc::new(Told::default());
    (drive(core, Arc::clone(&work), stop, mpsc::channel(1).1).await, work)
}

fn never() -> (mpsc::Sender<Stop>, mpsc::Receiver<Stop>) {
    mpsc::channel(2)
}

#[tokio::test]
async fn a_panic_costs_its_episode_one_more_attempt_and_no_other_anything() {
    let (_keep, stop) = never();
    let (end, work) = run(&["fine", "panics", "panics-once"], stop).await;
    assert_eq!(end, End::Done);
    let commits = work.commits.lock().unwrap().clone();
    let expected = [("fine@0.1", true), ("panics-once@0.1", false), ("panics-once@0.2", true), ("panics@0.1", false), ("panics@0.2", true)];
    assert_eq!(commits, expected.map(|(id, counts)| (id.to_owned(), counts)).into());
    assert!(work.failures.lock().unwrap().values().all(|kind| *kind == Kind::Panic));
}

#[tokio::test]
async fn what_is_left_over_is_said_even_if_nothing_is_pending() {
    let (_keep, stop) = never();
    let (end, work) = run(&["no-space"], stop).await;
    assert_eq!(end, End::Drained("the disk is full".to_owned()));
    assert!(work.commits.lock().unwrap().is_empty());

    let (_keep, stop) = never();
    let (end, work) = run(&["fine", "no-sandbox"], stop).await;
    assert!(matches!(end, End::Drained(reason) if reason.contains("1 attempts could not be graded")));
    assert_eq!(work.commits.lock().unwrap().keys().collect::<Vec<_>>(), ["fine@0.1"], "what was paid for is not thrown away");
}

#[tokio::test]
async fn kill_ends_at_once() {
    let (stops, stop) = never();
    stops.send(Stop::Kill).await.unwrap();
    let (end, _) = run(&["slow", "slow-too"], stop).await;
    assert_eq!(end, End::Killed);
}

#[tokio::test]
async fn a_panic_over_a_record_leaves_that_attempt_and_no_other() {
    let (_keep, stop) = never();
    let (end, work) = run(&["no-record", "fine", "fine-too"], stop).await;
    assert!(matches!(&end, End::Drained(reason) if reason.contains("1 attempts could not be graded or recorded")), "{end:?}");
    assert_eq!(work.commits.lock().unwrap().keys().collect::<Vec<_>>(), ["fine-too@0.1", "fine@0.1"]);
}

#[tokio::test]
async fn a_panic_over_waived_episodes_ends_the_run_and_leaves_them() {
    let (_keep, stop) = never();
    let todo = |sample| Todo { episode: EpisodeId { instance: "i".parse().unwrap(), sample }, attempt: Attempt::FIRST, ended: false };
    let policy = Policy { concurrency: 1, until_resolved: 1, grade_backlog: 1, ..Policy::default() };
    let (end, work) = play(Core::new(policy, (0..9).map(todo), None), stop).await;
    assert!(matches!(&end, End::Drained(reason) if reason.contains("panic in waiving")), "{end:?}");
    assert!((1..9).contains(&work.commits.lock().unwrap().len()));
}
