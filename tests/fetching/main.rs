//! Images that are not there: fetched from a registry by a run, once each, while it works, and removed where they fill the disk.

#[path = "../common/mod.rs"]
mod common;
mod made;
mod place;
mod registry;
mod uses;

use common::{records, summary};
use place::{Backend, Place};
use registry::Mood;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    sync::OnceLock,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// More bytes than any disk has free.
const ALL: &str = "1_000_000_000_000_000";

fn once(names: &[&str]) -> BTreeMap<String, usize> {
    names.iter().map(|name| ((*name).to_owned(), 1)).collect()
}

fn instance(event: &Value) -> String {
    event["id"].as_str().unwrap().split('@').next().unwrap().to_owned()
}

/// Samples of an instance begin next to each other, but for those admitted at the same moment; images come before they are wanted.
fn begins_in_order_and_ahead(place: &Place, names: &[&str], concurrency: usize) {
    let begun: Vec<String> = place.events("attempt_started").iter().map(instance).collect();
    for name in &begun {
        let (first, last) = (begun.iter().position(|other| other == name), begun.iter().rposition(|other| other == name));
        let between = last.unwrap() - first.unwrap() - (begun.iter().filter(|other| *other == name).count() - 1);
        assert!(between < concurrency, "{between} others began between the samples of {name}: {begun:?}");
    }
    let ended: BTreeMap<String, u64> =
        place.events("committed").iter().map(|event| (instance(event), event["at_ms"].as_u64().unwrap())).collect();
    let asked = |name: &str| {
        let at = place.registry.seen(place.registry.own_layer(name))[0].at;
        at.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
    };
    let ahead = names.windows(2).filter(|pair| asked(pair[1]) < ended[pair[0]]).count();
    assert!(ahead + 1 >= names.len() - 1, "{ahead} images came while the one before was at work");
}

/// Every image goes once it is needed no more: the disk is always lower than it should be. One was there by the user's own doing.
#[test]
fn a_daemon_fetches_each_image_once_and_removes_it() {
    let names = ["a", "b", "c", "d", "mine"];
    let Some(place) = Place::new(Backend::Docker, &names, 1 << 20) else { return };
    place.pull("mine");
    place.run(0, 2, &["scheduler.concurrency=2", "scheduler.images.prefetch=2", &format!("scheduler.images.disk_low={ALL}")]);
    assert_eq!(summary(&place.out())["resolved"], 10);
    assert_eq!(place.registry.pulls(), once(&names));
    assert_eq!(place.registry.seen(place.registry.base_layer()).len(), 1, "an image that stays has it");
    assert_eq!(place.there(), ["mine"]);
    begins_in_order_and_ahead(&place, &names[..4], 2);
}

/// All of them together do not fit, nor does any once the disk is full of what they left.
#[test]
fn a_store_on_a_small_disk_holds_one_image_after_the_other() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let Some(place) = Place::new(Backend::Native, &names, 6 << 20) else { return };
    let _disk = place.small_disk(56);
    let settings = [
        "scheduler.concurrency=3",
        "scheduler.images.prefetch=2",
        "scheduler.images.pulls_in_flight=2",
        "scheduler.images.expected_bytes=8_000_000",
        "scheduler.images.disk_high=10_000_000",
        "scheduler.images.disk_low=20_000_000",
    ];
    place.run(0, 2, &settings);
    assert_eq!(summary(&place.out())["resolved"], 16);
    assert_eq!(summary(&place.out())["attempts"], 16, "none failed for want of room");
    assert_eq!(place.registry.pulls(), once(&names));
    let there = place.there();
    assert!(!there.is_empty() && there.len() < 6, "{there:?}");
    begins_in_order_and_ahead(&place, &names, 3);
}

/// `b` is behind a limit at first, `c` breaks off once, `no-d` does not exist.
fn bad_weather(backend: Backend) {
    let names = ["a", "b", "c", "no-d"];
    let Some(place) = Place::new(backend, &names, 1 << 20) else { return };
    let cut = place.registry.own_layer("c").to_owned();
    let began = OnceLock::new();
    place.registry.moods(move |seen| {
        if seen.path.contains("/t/b/manifests/") && began.get_or_init(Instant::now).elapsed() < Duration::from_secs(2) {
            return Mood::Busy(1);
        }
        let breaks = seen.method == "GET" && seen.path.ends_with(&cut) && seen.earlier == 0;
        if breaks { Mood::Cut(300_000) } else { Mood::Pass }
    });
    place.run(0, 2, &["scheduler.concurrency=2", "scheduler.images.pulls_in_flight=1", "scheduler.images.backoff_s=1"]);
    let summary = summary(&place.out());
    assert_eq!((&summary["resolved"], &summary["failed"]["infra"]), (&6.into(), &2.into()), "{summary}");
    let failed: Vec<Value> = records(&place.out(), "attempts").iter().map(failure).filter(|failure| !failure.is_null()).collect();
    assert!(!failed.is_empty());
    for failure in &failed {
        assert_eq!(failure["kind"], "image_missing", "{failure}");
        assert!(failure["message"].as_str().unwrap().contains(&place.registry.name("no-d")), "{failure}");
    }
    assert!(place.log().contains("the registry wants fewer requests"), "{}", place.log());
    // Of each try a daemon makes several requests.
    let asked: Vec<SystemTime> = place.registry.seen("/t/b/manifests/").iter().map(|seen| seen.at).collect();
    assert!(asked.len() <= if backend == Backend::Docker { 9 } else { 3 }, "{asked:?}");
    let pauses = asked.windows(2).map(|pair| pair[1].duration_since(pair[0]).unwrap());
    assert!(pauses.max().unwrap() >= Duration::from_millis(950), "{asked:?}");
    let pulls = place.registry.pulls();
    assert_eq!((pulls["a"], pulls["b"]), (1, 1));
    assert!(pulls["c"] >= 2, "{pulls:?}");
}

fn failure(record: &Value) -> Value {
    serde_json::from_str::<Value>(record["meta"].as_str().unwrap()).unwrap()["failure"].clone()
}

#[test]
fn a_daemon_and_its_bad_registry() {
    bad_weather(Backend::Docker);
}

#[test]
fn a_store_and_its_bad_registry() {
    bad_weather(Backend::Native);
}

/// Killed while `b` is on its way, which then stops for good.
fn killed_over_a_pull(backend: Backend) {
    let names = ["a", "b", "c"];
    let Some(place) = Place::new(backend, &names, 1 << 20) else { return };
    let stalls = place.registry.own_layer("b").to_owned();
    let of = stalls.clone();
    place.registry.moods(move |seen| if seen.method == "GET" && seen.path.ends_with(&of) { Mood::Stall(100_000) } else { Mood::Pass });
    let settings = ["scheduler.concurrency=1", "images.pull.silence_s=2", &format!("scheduler.images.disk_low={ALL}")];
    let mut engine = place.command(2, &settings).spawn().unwrap();
    let began = Instant::now();
    while place.registry.seen(&stalls).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(120) && engine.try_wait().unwrap().is_none(), "{}", place.log());
        thread::sleep(Duration::from_millis(10));
    }
    engine.kill().unwrap();
    engine.wait().unwrap();
    place.registry.moods(|_| Mood::Pass);
    place.run(0, 2, &settings);
    assert_eq!(summary(&place.out())["resolved"], 6);
    assert!(place.there().is_empty(), "all of them are the run's own: {:?}", place.there());
}

#[test]
fn a_run_on_a_daemon_goes_on_after_it_was_killed_over_a_pull() {
    killed_over_a_pull(Backend::Docker);
}

#[test]
fn a_run_on_a_store_goes_on_after_it_was_killed_over_a_pull() {
    killed_over_a_pull(Backend::Native);
}

#[test]
fn a_run_that_finds_no_room_says_what_is_full_and_ends_and_goes_on_later() {
    let Some(place) = Place::new(Backend::Native, &["a"], 1 << 10) else { return };
    let said = place.run(3, 1, &[&format!("scheduler.images.disk_high={ALL}"), "scheduler.images.full_wait_s=1"]);
    let store = place.store();
    for part in [&*store.to_string_lossy(), "scheduler.images.disk_high", "scheduler.images.full_wait_s", "the same command resumes"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(place.registry.pulls(), BTreeMap::from([("a".to_owned(), 0)]));
    place.run(0, 1, &[]);
    assert_eq!(summary(&place.out())["resolved"], 1);
    assert!(place.there() == ["a"] && fs::metadata(place.out().join("images.jsonl")).is_ok(), "there is room: it stays");
}
