//! Starts that only a daemon knows: pulls, replaced images, programs that no container can begin with.

use super::*;
use crate::image::archive;
use bollard::query_parameters::RemoveImageOptions;
use serde_json::json;
use sweroll::domain::Kind;
use sweroll::sandbox::Provider;

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_is_told() {
    if !daemon_answers().await {
        return;
    }
    let never =
        docker::Settings { pull: PullSettings { when: Pull::Missing, tries: 1, ..PullSettings::default() }, ..settings(Stream::Auto) };
    let unreachable = Docker::connect(never).await.unwrap().start(&spec("pull", "localhost:1/absent:1")).await.err().unwrap();
    assert_eq!(unreachable.kind, Kind::ImagePull, "{unreachable}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_no_toolbox_is_told() {
    if !daemon_answers().await {
        return;
    }
    let dynamic = docker::Settings { toolbox_path: Some("/bin/sh".into()), ..settings(Stream::Auto) };
    let failure = Docker::connect(dynamic).await.unwrap_err();
    assert!(failure.kind == Kind::SandboxStart && failure.message.contains("crt-static"), "{failure}");
    let foreign = docker::Settings { toolbox_path: Some(std::env::current_exe().unwrap()), ..settings(Stream::Auto) };
    let spec = spec("foreign", EMPTY);
    let failure = Docker::connect(foreign).await.unwrap().start(&spec).await.err().unwrap();
    assert!(failure.kind == Kind::SandboxStart && failure.message.contains("code"), "{failure}");
    assert!(gone_within(&spec.run, Duration::from_secs(30)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_replaced_is_looked_up_again() {
    if !daemon_answers().await {
        return;
    }
    let name = "sweroll-test/replaced:1";
    let docker = docker(Stream::Auto).await;
    let spec = spec("replaced", name);
    let mut digests: Vec<String> = Vec::new();
    for label in ["first", "second"] {
        load(archive(name, json!({"Labels": {"sweroll.test": label}}))).await;
        if let Some(old) = digests.last() {
            client().remove_image(old, None::<RemoveImageOptions>, None).await.unwrap();
        }
        let sandbox = docker.start(&spec).await.unwrap();
        digests.push(sandbox.image_digest().to_owned());
        sandbox.destroy().await.unwrap();
    }
    assert_ne!(digests[0], digests[1]);
    client().remove_image(name, None::<RemoveImageOptions>, None).await.unwrap();
}
