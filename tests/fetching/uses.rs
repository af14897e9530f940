//! An image in use does not go, whoever uses it.

use crate::common::docker;
use crate::registry::Registry;
use std::path::PathBuf;
use sweroll::{
    domain::{Attempt, AttemptId, EpisodeId},
    images,
    sandbox::{
        Docker, FetchError, Limits, Native, Provider, Purpose, Spec,
        docker::{self, images::PullSettings},
        native,
    },
};

fn registry() -> Option<Registry> {
    let mut registry = Registry::start()?;
    registry.add(&["one", "two"], 1 << 16);
    Some(registry)
}

fn spec(image: &str) -> Spec {
    let episode = EpisodeId { instance: "one".parse().unwrap(), sample: 0 };
    Spec {
        run: "fetching-test".to_owned(),
        attempt: AttemptId { episode, attempt: Attempt::FIRST },
        purpose: Purpose::Agent,
        image: image.to_owned(),
        workdir: "/repo".to_owned(),
        limits: Limits::default(),
        keep: false,
        upon: None,
    }
}

fn program() -> Option<PathBuf> {
    Some(env!("CARGO_BIN_EXE_sweroll").into())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_from_a_store_with_the_last_sandbox_and_the_last_snapshot() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: this takes root");
        return;
    }
    let Some(registry) = registry() else { return };
    let dir = tempfile::tempdir().unwrap();
    let images = images::Settings { dir: Some(dir.path().join("store")), ..images::Settings::default() };
    let native = Native::start_up(native::Settings { toolbox_path: program(), ..native::Settings::default() }, images).await.unwrap();
    let names = ["one", "two"].map(|name| registry.name(name));
    let [one, two] = [&names[0], &names[1]];
    assert_eq!(native.missing(&names).await.unwrap(), names);
    let (first, second) = (native.fetch(one).await.unwrap(), native.fetch(two).await.unwrap());
    assert!(first.pulled && first.bytes > 1 << 20 && second.bytes < 1 << 20, "{first:?} {second:?}: the lower layer was there");
    assert!(!native.fetch(one).await.unwrap().pulled);
    assert!(native.missing(&names).await.unwrap().is_empty());

    let sandbox = native.start(&Spec { keep: true, ..spec(one) }).await.unwrap();
    assert!(!native.evict(one).await.unwrap(), "a sandbox has it");
    let base = sandbox.keep().await.unwrap();
    assert!(!native.evict(one).await.unwrap(), "a prepared base has it");
    let upon = native.start(&Spec { upon: Some(base.clone()), ..spec(one) }).await.unwrap();
    drop(base);
    assert!(!native.evict(one).await.unwrap(), "the base has a sandbox");
    upon.destroy().await.unwrap();
    assert!(native.evict(one).await.unwrap());
    assert_eq!(native.missing(&names).await.unwrap(), std::slice::from_ref(one));
    assert!(native.start(&spec(two)).await.is_ok(), "what it shared with another is there");
    assert!(native.evict(one).await.unwrap(), "it is gone already");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_from_a_daemon_with_the_last_container() {
    if !docker() {
        return;
    }
    let Some(registry) = registry() else { return };
    let settings = docker::Settings { toolbox_path: program(), ..docker::Settings::default() };
    let docker = Docker::connect(settings).await.unwrap();
    let names = ["one", "two"].map(|name| registry.name(name));
    let one = &names[0];
    assert_eq!(docker.missing(&names).await.unwrap(), names);
    assert!(docker.fetch(one).await.unwrap().pulled && !docker.fetch(one).await.unwrap().pulled);
    // More than are looked up one by one, and one by its id.
    let id = id_of(one);
    let many: Vec<String> = (0..20).map(|n| registry.name(&format!("none-{n}"))).chain([one.clone(), id]).collect();
    assert_eq!(docker.missing(&many).await.unwrap(), many[..20]);

    let sandbox = docker.start(&spec(one)).await.unwrap();
    assert!(!docker.evict(one).await.unwrap(), "a container has it");
    sandbox.destroy().await.unwrap();
    assert!(docker.evict(one).await.unwrap());
    assert_eq!(docker.missing(&names).await.unwrap(), names);

    registry.moods(|_| crate::Mood::Busy(7));
    let refused = docker.fetch(one).await.unwrap_err();
    assert!(matches!(refused, FetchError::Busy { .. }), "{refused}");
    let patient = docker::Settings {
        toolbox_path: program(),
        pull: PullSettings { backoff_s: 0, tries: 2, ..PullSettings::default() },
        ..docker::Settings::default()
    };
    assert!(Docker::connect(patient).await.unwrap().start(&spec(one)).await.is_err());
}

fn id_of(image: &str) -> String {
    let output = std::process::Command::new("docker").args(["image", "inspect", "-f", "{{.Id}}", image]).output().unwrap();
    crate::common::stdout(&output).trim().to_owned()
}
