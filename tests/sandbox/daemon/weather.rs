//! A daemon that is away, and one that does not see our files.

use super::proxy::{ANSWERED_LATE, Proxy};
use super::*;
use crate::support::*;
use futures_util::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::Duration;
use sweroll::domain::Kind;
use sweroll::sandbox::docker::images::PullSettings;
use sweroll::sandbox::docker::{Settings, Stream};
use sweroll::sandbox::{Docker, Provider, Sandbox};
use sweroll::toolbox::protocol::Op;

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_away_for_a_while_is_waited_for() {
    if !daemon_answers().await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut proxy = Proxy::new(dir.path(), None);
    let with_wait = |daemon_wait_s| Settings { host: proxy.host(), daemon_wait_s, ..settings(Stream::Auto) };
    let (patient, impatient) = (with_wait(60), with_wait(0));
    let (patient, impatient) = (Docker::connect(patient).await.unwrap(), Docker::connect(impatient).await.unwrap());
    let spec = spec("away", EMPTY);
    let early = patient.start(&spec).await.unwrap();

    proxy.down().await;
    let failure = impatient.start(&spec).await.err().unwrap();
    assert!(failure.kind == Kind::Daemon && failure.message.contains("docker.sock"), "{failure}");
    let starting = tokio::spawn(async move { patient.start(&spec).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!starting.is_finished());
    early.toolbox().call(Op::Read { path: "/proc/1/comm".into(), offset: 0, max: 99 }, b"").await.unwrap();
    proxy.up();
    starting.await.unwrap().unwrap().destroy().await.unwrap();
    early.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_does_not_share_our_files_is_noticed() {
    if !daemon_answers().await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(dir.path(), Some("/.sweroll/io"));
    let docker = Docker::connect(Settings { host: proxy.host(), ..settings(Stream::Auto) }).await.unwrap();
    for _ in 0..2 {
        let sandbox = docker.start(&spec("unshared", EMPTY)).await.unwrap();
        let mounts = read(sandbox.toolbox(), "/proc/self/mountinfo").await;
        assert!(!mounts.contains(" /.sweroll"), "{mounts}");
        sandbox.destroy().await.unwrap();
    }
    let socket = Docker::connect(Settings { host: proxy.host(), ..settings(Stream::Socket) }).await.unwrap();
    assert_eq!(socket.start(&spec("unshared", EMPTY)).await.err().unwrap().kind, Kind::SandboxStart);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_across_the_network_serves_too() {
    if !daemon_answers().await {
        return;
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("tcp://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = tokio::net::UnixStream::connect(daemon_socket()).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let docker = Docker::connect(Settings { host, ..settings(Stream::Auto) }).await.unwrap();
    docker.check().await.unwrap();
    let sandbox = docker.start(&spec("tcp", EMPTY)).await.unwrap();
    assert!(!read(sandbox.toolbox(), "/proc/self/mountinfo").await.contains(" /.sweroll"));
    sandbox.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_starts_look_an_image_up_once() {
    if !daemon_answers().await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(dir.path(), None);
    let docker = Docker::connect(Settings { host: proxy.host(), ..settings(Stream::Auto) }).await.unwrap();
    let spec = spec("lookups", EMPTY);
    let starts = futures_util::stream::iter(0..8).map(|_| docker.start(&spec)).buffer_unordered(8);
    let started: Vec<Box<dyn Sandbox>> = starts.try_collect().await.unwrap();
    assert_eq!((started.len(), proxy.count("/images/"), proxy.count("/containers/create")), (8, 1, 8));
    futures_util::stream::iter(started).for_each_concurrent(None, |sandbox| async { sandbox.destroy().await.unwrap() }).await;
    assert!(containers(&spec.run).await.is_empty());
    // A failure is not remembered.
    for tries in 1..=2 {
        let missing = docker.start(&super::spec("lookups", "sweroll-test/absent:1")).await.err().unwrap();
        assert_eq!((missing.kind, proxy.count("absent")), (Kind::ImageMissing, tries));
    }
}

/// The engine has a runtime of its own, which ends with all that still goes on in it, as its process would.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_being_created_does_not_outlive_the_sweep() {
    if !daemon_answers().await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let proxy = Arc::new(Proxy::slow(dir.path(), "/containers/create", Duration::from_secs(2)));
    // Without mounts: the directory that a socket is in goes with the engine, and its container cannot be created.
    let settings = Settings { host: proxy.host(), ..settings(Stream::Attach) };
    let spec = spec("created", EMPTY);
    let run = spec.run.clone();
    let engine = tokio::runtime::Runtime::new().unwrap();
    let asking = proxy.clone();
    let killed = engine.spawn(async move {
        let docker = Docker::connect(settings).await.unwrap();
        tokio::select! {
            _ = docker.start(&spec) => panic!("it cannot be so quick"),
            () = asking.counts("/containers/create") => {}
        }
        docker.sweep(&spec.run).await.unwrap();
    });
    killed.await.unwrap();
    engine.shutdown_background();
    tokio::time::timeout(Duration::from_secs(60), proxy.counts(ANSWERED_LATE)).await.unwrap();
    let left = containers(&run).await;
    for id in &left {
        client().remove_container(id, None::<bollard::query_parameters::RemoveContainerOptions>).await.unwrap();
    }
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_waits_for_makes_room() {
    if !daemon_answers().await {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::slow(dir.path(), "fromImage=localhost%3A1%2Fhangs", Duration::from_secs(3600));
    let pull = PullSettings { in_flight: 1, tries: 1, ..PullSettings::default() };
    let docker = Docker::connect(Settings { host: proxy.host(), pull, ..settings(Stream::Auto) }).await.unwrap();
    let hanging = spec("hangs", "localhost:1/hangs:1");
    assert!(tokio::time::timeout(Duration::from_secs(2), docker.start(&hanging)).await.is_err());
    assert_eq!(proxy.count("/images/create"), 1);
    let other = spec("hangs", "localhost:1/absent:1");
    let refused = tokio::time::timeout(Duration::from_secs(60), docker.start(&other)).await.expect("the slot is free").err().unwrap();
    assert_eq!(refused.kind, Kind::ImagePull);
    assert!(refused.message.contains("docker pull localhost:1/absent:1"), "{refused}");
    assert_eq!(proxy.count("/images/create"), 2);
}
