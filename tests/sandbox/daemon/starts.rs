//! Starts that succeed over either stream, and starts that cannot.

use crate::support::*;
use bollard::query_parameters::RemoveImageOptions;
use futures_util::{StreamExt, TryStreamExt};
use std::time::Duration;
use sweroll::domain::Kind;
use sweroll::sandbox::docker::images::{Pull, PullSettings};
use sweroll::sandbox::docker::{Settings, Stream};
use sweroll::sandbox::{Docker, Local, Provider, Sandbox, Spec, local};
use sweroll::toolbox::client::ToolboxError;
use sweroll::toolbox::protocol::{Answer, Command, End, Op};

async fn serves_and_goes(stream: Stream, test: &str) {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(stream).await;
    docker.check().await.unwrap();
    let spec = spec(test, EMPTY);
    let sandbox = docker.start(&spec).await.unwrap();
    assert_eq!(sandbox.workdir(), "/work");
    assert!(sandbox.image_digest().starts_with("sha256:"), "{}", sandbox.image_digest());
    let big = vec![7; 3 << 20];
    sandbox.toolbox().call(Op::Write { path: "/work/big".into(), mode: 0o644 }, &big).await.unwrap();
    let (answer, back) = sandbox.toolbox().call(Op::Read { path: "/work/big".into(), offset: 0, max: 4 << 20 }, b"").await.unwrap();
    assert_eq!((answer, back.as_ref() == big), (Answer::Read { size: 3 << 20 }, true));
    let (end, _) = output(sandbox.toolbox(), run(Command::Exec(vec!["/proc/self/exe".into(), "--version".into()]))).await;
    assert!(matches!(end, End::Exited(_)), "{end:?}");

    assert_eq!(containers(&spec.run).await.len(), 1);
    let toolbox = sandbox.toolbox().clone();
    sandbox.destroy().await.unwrap();
    assert!(containers(&spec.run).await.is_empty());
    assert!(matches!(toolbox.call(Op::Usage, b"").await, Err(ToolboxError::Lost(_))));
    docker.sweep(&spec.run).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_sandbox_serves_and_goes() {
    serves_and_goes(Stream::Socket, "socket").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_sandbox_serves_and_goes() {
    serves_and_goes(Stream::Attach, "attach").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_program_does_not_disturb_a_run() {
    if !daemon_answers().await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sweroll");
    std::fs::copy(env!("CARGO_BIN_EXE_sweroll"), &path).unwrap();
    let docker = Docker::connect(Settings { toolbox_path: Some(path.clone()), ..settings(Stream::Auto) }).await.unwrap();
    std::fs::remove_file(path).unwrap();
    docker.start(&spec("rebuilt", EMPTY)).await.unwrap().destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_start_at_once() {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let spec = spec("many", EMPTY);
    let started: Vec<Box<dyn Sandbox>> =
        futures_util::stream::iter(0..12).map(|_| docker.start(&spec)).buffer_unordered(12).try_collect().await.unwrap();
    assert_eq!(containers(&spec.run).await.len(), 12);
    futures_util::stream::iter(started).for_each_concurrent(None, |sandbox| async { sandbox.destroy().await.unwrap() }).await;
    assert!(containers(&spec.run).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_is_told_apart() {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let start = |spec: Spec| {
        let docker = docker.clone();
        async move { docker.start(&spec).await.err().unwrap() }
    };
    let missing = start(spec("missing", "sweroll-test/absent:1")).await;
    assert_eq!(missing.kind, Kind::ImageMissing);
    assert!(missing.message.contains("sweroll-test/absent:1") && missing.message.contains("pull"), "{missing}");
    assert_eq!(start(spec("missing", "../containers/json?x")).await.kind, Kind::ImageMissing);

    let nowhere = Spec { workdir: "/work/nowhere".into(), ..spec("workdir", EMPTY) };
    let failure = start(nowhere.clone()).await;
    assert_eq!(failure.kind, Kind::Workdir);
    assert!(failure.message.contains("/work/nowhere") && failure.message.contains(EMPTY), "{failure}");
    assert_eq!(start(Spec { workdir: "work".into(), ..nowhere.clone() }).await.kind, Kind::Workdir);
    assert!(containers(&nowhere.run).await.is_empty());

    let never = Settings { pull: PullSettings { when: Pull::Missing, tries: 1, ..PullSettings::default() }, ..settings(Stream::Auto) };
    let unreachable = Docker::connect(never).await.unwrap().start(&spec("pull", "localhost:1/absent:1")).await.err().unwrap();
    assert_eq!(unreachable.kind, Kind::ImagePull, "{unreachable}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_images_are_listed() {
    let images = ["sweroll-test/absent:1", EMPTY, "no reference"].map(str::to_owned);
    assert!(Local::new(local::Settings::default()).missing(&images).await.unwrap().is_empty());
    if !daemon_answers().await {
        return;
    }
    assert_eq!(docker(Stream::Auto).await.missing(&images).await.unwrap(), ["sweroll-test/absent:1", "no reference"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_no_toolbox_is_told() {
    if !daemon_answers().await {
        return;
    }
    let dynamic = Settings { toolbox_path: Some("/bin/sh".into()), ..settings(Stream::Auto) };
    let failure = Docker::connect(dynamic).await.unwrap_err();
    assert!(failure.kind == Kind::SandboxStart && failure.message.contains("crt-static"), "{failure}");
    let foreign = Settings { toolbox_path: Some(std::env::current_exe().unwrap()), ..settings(Stream::Auto) };
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
        import_empty_image(name, label).await;
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
