//! What the tests share: the daemon, images that need no network, and short ways to say things to a toolbox.

use bollard::query_parameters::{CreateImageOptions, ListContainersOptionsBuilder};
use futures_util::TryStreamExt;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use sweroll::sandbox::docker::images::{Pull, PullSettings};
use sweroll::sandbox::docker::{Settings, Stream};
use sweroll::sandbox::{Docker, Limits, Purpose, Spec};
use sweroll::toolbox::client::Toolbox;
use sweroll::toolbox::protocol::{Answer, Command, End, Op, Run};
use tokio::sync::OnceCell;

/// Imported from an archive of directories: there is nothing in it to run, and its entry point does not exist.
pub const EMPTY: &str = "sweroll-test/empty:1";
/// A Debian with Python, from the real set's build.
pub const DEBIAN: &str = "sdist/base:1";

/// Address of the daemon's socket.
pub fn daemon_socket() -> String {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").to_owned()
}

pub fn client() -> bollard::Docker {
    bollard::Docker::connect_with_local_defaults().unwrap()
}

/// Whether there is a daemon, with the empty image on it.
pub async fn daemon_answers() -> bool {
    static ANSWERS: OnceCell<bool> = OnceCell::const_new();
    let find = || async {
        let answers = match bollard::Docker::connect_with_local_defaults() {
            Ok(client) => client.ping().await.is_ok(),
            Err(_) => false,
        };
        if answers {
            import_empty_image(EMPTY, "1").await;
        }
        answers
    };
    let answers = *ANSWERS.get_or_init(find).await;
    assert!(answers || std::env::var_os("CI").is_none(), "no Docker daemon answers, and CI is set");
    if !answers {
        eprintln!("skipped: no Docker daemon answers");
    }
    answers
}

/// An image of that name with that label; a second import of the same name takes the name from the first.
pub async fn import_empty_image(name: &str, label: &str) {
    let mut archive = tar::Builder::new(Vec::new());
    for path in ["tmp/", "work/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o777);
        header.set_size(0);
        archive.append_data(&mut header, path, std::io::empty()).unwrap();
    }
    let (repo, tag) = name.split_once(':').unwrap();
    let options = CreateImageOptions {
        from_src: Some("-".into()),
        repo: Some(repo.into()),
        tag: Some(tag.into()),
        changes: vec!["ENTRYPOINT [\"/no/such/program\"]".into(), "WORKDIR /work".into(), format!("LABEL sweroll.test={label}")],
        ..CreateImageOptions::default()
    };
    let body = bollard::body_full(archive.into_inner().unwrap().into());
    client().create_image(Some(options), Some(body), None).try_for_each(|_| async { Ok(()) }).await.unwrap();
}

pub async fn has_debian() -> bool {
    let present = daemon_answers().await && client().inspect_image(DEBIAN).await.is_ok();
    assert!(present || std::env::var_os("CI").is_none(), "{DEBIAN} is not built, and CI is set");
    if !present {
        eprintln!("skipped: {DEBIAN} is not built");
    }
    present
}

pub fn toolbox_path() -> Option<PathBuf> {
    Some(env!("CARGO_BIN_EXE_sweroll").into())
}

pub fn settings(stream: Stream) -> Settings {
    let pull = PullSettings { when: Pull::Never, ..PullSettings::default() };
    Settings { stream, pull, toolbox_path: toolbox_path(), ..Settings::default() }
}

pub async fn docker(stream: Stream) -> Docker {
    Docker::connect(settings(stream)).await.unwrap()
}

pub fn spec(test: &str, image: &str) -> Spec {
    Spec {
        run: format!("test-{test}-{}", std::process::id()),
        attempt: "test__one-1@0.1".parse().unwrap(),
        purpose: Purpose::Agent,
        image: image.into(),
        workdir: "/work".into(),
        limits: Limits { memory: 256 << 20, cpus: 1.0, pids: 64, ..Limits::default() },
    }
}

pub fn debian(test: &str) -> Spec {
    Spec { workdir: "/tmp".into(), ..spec(test, DEBIAN) }
}

/// Ids of the run's containers, in whatever state.
pub async fn containers(run: &str) -> Vec<String> {
    let filters = HashMap::from([("label", vec![format!("sweroll.run={run}")])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    client().list_containers(Some(options)).await.unwrap().into_iter().filter_map(|found| found.id).collect()
}

pub async fn gone_within(run: &str, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while !containers(run).await.is_empty() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}

pub fn run(what: Command) -> Op {
    Op::Run(Run { what, session: false, cwd: None, env: Vec::new(), deadline_ms: 60_000, output_cap: 1 << 20, report_cap: 0 })
}

pub fn shell(text: &str) -> Op {
    run(Command::Shell(text.into()))
}

pub async fn output(toolbox: &Toolbox, op: Op) -> (End, String) {
    match toolbox.call(op, b"").await.unwrap() {
        (Answer::Ran(ran), blob) => (ran.end, String::from_utf8_lossy(&blob).into_owned()),
        other => panic!("{other:?}"),
    }
}

pub async fn read(toolbox: &Toolbox, path: &str) -> String {
    let (_, blob) = toolbox.call(Op::Read { path: path.into(), offset: 0, max: 1 << 20 }, b"").await.unwrap();
    String::from_utf8_lossy(&blob).into_owned()
}
