//! Starts that succeed, and starts that cannot.

use crate::backend::{Backend, On};
use crate::image::{self, EMPTY, archive};
use crate::support::*;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use sweroll::domain::{Failure, Kind};
use sweroll::sandbox::{Limits, Provider, Sandbox, Spec};
use sweroll::toolbox::client::ToolboxError;
use sweroll::toolbox::protocol::{Answer, End, Op};

const ABSENT: &str = "sweroll-test/absent:1";

async fn refused(provider: &dyn Provider, spec: &Spec) -> Failure {
    provider.start(spec).await.err().expect("it cannot start")
}

pub async fn serves(backend: &Backend) {
    backend.provider.check().await.unwrap();
    let spec = backend.spec();
    let sandbox = backend.start(&spec).await;
    let (workdir, digest) = (sandbox.workdir().to_owned(), sandbox.image_digest());
    assert!(workdir.ends_with("/work") && (backend.on == On::Local) == (workdir != "/work"), "{workdir}");
    assert!(if backend.on == On::Local { digest == "local" } else { digest.starts_with("sha256:") }, "{digest}");
    let big = vec![7; 3 << 20];
    let path = format!("{workdir}/big");
    sandbox.toolbox().call(Op::Write { path: path.clone(), mode: 0o644 }, &big).await.unwrap();
    let (answer, back) = sandbox.toolbox().call(Op::Read { path, offset: 0, max: 4 << 20 }, b"").await.unwrap();
    assert_eq!((answer, back.as_ref() == big), (Answer::Read { size: 3 << 20 }, true));
    let (end, _) = output(sandbox.toolbox(), exec(&["/proc/self/exe", "--version"])).await;
    assert!(matches!(end, End::Exited(_)), "{end:?}");

    assert!(!backend.left(&spec.run).await.is_empty(), "what lives can be seen");
    let toolbox = sandbox.toolbox().clone();
    sandbox.destroy().await.unwrap();
    assert_eq!(backend.left(&spec.run).await, Vec::<String>::new(), "destroyed is gone");
    assert!(matches!(toolbox.call(Op::Usage, b"").await, Err(ToolboxError::Lost(_))));
    backend.provider.sweep(&spec.run).await.unwrap();
}

pub async fn a_missing_image_is_told(backend: &Backend) {
    let failure = refused(&*backend.provider, &Spec { image: ABSENT.into(), ..backend.spec() }).await;
    assert!(matches!(failure.kind, Kind::ImageMissing | Kind::ImagePull), "{failure}");
    assert!(failure.message.contains(ABSENT) && failure.message.contains("pull"), "{failure}");
    let failure = refused(&*backend.provider, &Spec { image: "../containers/json?x".into(), ..backend.spec() }).await;
    assert!(matches!(failure.kind, Kind::ImageMissing | Kind::ImagePull), "{failure}");
}

pub async fn missing_images_are_listed(backend: &Backend) {
    let images = [ABSENT, EMPTY, "no reference"].map(str::to_owned);
    assert_eq!(backend.provider.missing(&images).await.unwrap(), [ABSENT, "no reference"]);
}

pub async fn a_missing_workdir_is_told(backend: &Backend) {
    let spec = Spec { workdir: "/work/nowhere".into(), ..backend.spec() };
    let failure = refused(&*backend.provider, &spec).await;
    assert_eq!(failure.kind, Kind::Workdir, "{failure}");
    assert!(failure.message.contains("/work/nowhere") && failure.message.contains(EMPTY), "{failure}");
    assert!(backend.left(&spec.run).await.is_empty());
}

pub async fn a_relative_workdir_is_told(backend: &Backend) {
    for workdir in ["work", "/../../etc"] {
        let failure = refused(&*backend.provider, &Spec { workdir: workdir.into(), ..backend.spec() }).await;
        assert_eq!(failure.kind, Kind::Workdir, "{failure}");
    }
}

/// By name and by number, with the groups and the home that the image's own lists tell.
pub async fn the_images_user_and_variables_hold(backend: &Backend) {
    let cases: [(&str, &str, &str, &str); 7] = [
        // user, its number and group, supplementary groups, home
        ("", "0 0", "0", "/root"),
        ("app", "1000 50", "50 77", "/home/app"),
        ("1000", "1000 50", "50 77", "/home/app"),
        ("app:helpers", "1000 77", "77", "/home/app"),
        ("1000:0", "1000 0", "0", "/home/app"),
        ("4242", "4242 0", "0", "/"),
        ("4242:77", "4242 77", "77", "/"),
    ];
    for (n, (user, numbers, groups, home)) in cases.into_iter().enumerate() {
        let name = format!("sweroll-test/user-{n}:1");
        let env = json!(["PATH=/opt/tools:/bin", "GREETING=two words = one", "EMPTY="]);
        backend.load(archive(&name, json!({"User": user, "Env": env}))).await;
        let sandbox = backend.start(&Spec { image: name, ..backend.spec() }).await;
        let status = read(sandbox.toolbox(), "/proc/1/status").await;
        let field = |name: &str| {
            let values = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            values.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(format!("{} {}", field("Uid:")[0], field("Gid:")[0]), numbers, "{user:?}");
        assert_eq!(field("Groups:").join(" "), groups, "{user:?}");
        let environment = read(sandbox.toolbox(), "/proc/1/environ").await;
        let mut variables: Vec<&str> = environment.split_terminator('\0').collect();
        variables.sort_unstable();
        let home = format!("HOME={home}");
        assert_eq!(variables, ["EMPTY=", "GREETING=two words = one", &home, "HOSTNAME=sandbox", "PATH=/opt/tools:/bin"], "{user:?}");
        sandbox.destroy().await.unwrap();
    }
}

pub async fn an_unknown_user_is_told(backend: &Backend) {
    let name = "sweroll-test/user-unknown:1";
    backend.load(archive(name, json!({"User": "nobody-knows"}))).await;
    let spec = Spec { image: name.into(), ..backend.spec() };
    let failure = refused(&*backend.provider, &spec).await;
    assert!(failure.kind == Kind::SandboxStart && failure.message.contains("nobody-knows"), "{failure}");
    assert!(backend.goes(&spec.run).await);
}

/// A program where providers look for theirs.
fn program(backend: &Backend, bytes: &[u8]) -> PathBuf {
    let path = backend.dir().join("program");
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Whose sandboxes begin with that program, or why there can be none.
async fn start_with(backend: &Backend, program: PathBuf, limits: Limits) -> Failure {
    let spec = backend.spec_with(limits);
    let failure = match backend.with_program(&program).await {
        Ok(provider) => refused(&*provider, &spec).await,
        Err(failure) => failure,
    };
    assert_eq!(failure.kind, Kind::SandboxStart, "{failure}");
    assert!(backend.goes(&spec.run).await);
    failure
}

/// It ends at once, and says nothing that a toolbox would.
pub async fn a_foreign_program_is_told(backend: &Backend) {
    let ours = std::env::current_exe().unwrap();
    start_with(backend, ours, backend.spec().limits).await;
}

pub async fn silence_is_told(backend: &Backend) {
    let mute = program(backend, &image::mute_program());
    let failure = start_with(backend, mute, Limits { start_timeout_s: 1, ..backend.spec().limits }).await;
    assert!(failure.message.contains("within 1"), "{failure}");
}

pub async fn many_start_at_once(backend: &Backend) {
    let count = if backend.on == On::Docker { 8 } else { 64 };
    let spec = backend.spec();
    let starts = futures_util::stream::iter(0..count).map(|_| backend.provider.start(&spec)).buffer_unordered(count);
    let started: Vec<Box<dyn Sandbox>> = starts.try_collect().await.unwrap();
    let answers = futures_util::stream::iter(&started).then(|sandbox| sandbox.toolbox().call(Op::Usage, b""));
    assert_eq!(answers.filter(|answer| std::future::ready(answer.is_ok())).count().await, count);
    futures_util::stream::iter(started).for_each_concurrent(None, |sandbox| async { sandbox.destroy().await.unwrap() }).await;
    assert_eq!(backend.left(&spec.run).await, Vec::<String>::new());
}

/// The caller may lose its patience at any step.
pub async fn a_start_given_up_leaves_nothing(backend: &Backend) {
    let spec = backend.spec();
    let patience: &[u64] = match backend.on {
        On::Docker | On::Attach => &[1_000, 20_000, 80_000, 200_000],
        _ => &[0, 100, 300, 1_000, 2_000, 3_000, 5_000, 10_000],
    };
    for micros in patience {
        let _ = tokio::time::timeout(Duration::from_micros(*micros), backend.provider.start(&spec)).await;
    }
    // Only what was begun can be seen to go.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(backend.goes(&spec.run).await, "{:?}", backend.left(&spec.run).await);
    backend.sandbox().await.destroy().await.unwrap();
}

pub async fn a_rebuilt_program_does_not_disturb(backend: &Backend) {
    let path = program(backend, &std::fs::read(toolbox_path()).unwrap());
    let provider = backend.with_program(&path).await.unwrap();
    std::fs::remove_file(path).unwrap();
    provider.start(&backend.spec()).await.unwrap().destroy().await.unwrap();
}
