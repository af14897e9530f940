//! Sandboxes on a real Docker daemon, and the same on plain processes. Without a daemon the tests say that they were
//! skipped, unless `CI` is set: then they fail.

use bollard::query_parameters::{CreateImageOptions, KillContainerOptions, ListContainersOptionsBuilder};
use futures_util::{StreamExt, TryStreamExt};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use sweroll::domain::Kind;
use sweroll::sandbox::docker::{Settings, Stream};
use sweroll::sandbox::images::{Pull, PullSettings};
use sweroll::sandbox::{Docker, Limits, Local, Provider, Purpose, Sandbox, Spec, local};
use sweroll::toolbox::client::{Toolbox, ToolboxError};
use sweroll::toolbox::protocol::{Answer, Command, End, Op, Run};
use tokio::sync::OnceCell;

/// Imported from an archive of directories: there is nothing in it to run, and its entry point does not exist.
const EMPTY: &str = "sweroll-test/empty:1";
/// A Debian with Python, from the real set's build.
const DEBIAN: &str = "sdist/base:1";

fn client() -> bollard::Docker {
    bollard::Docker::connect_with_local_defaults().unwrap()
}

/// Whether there is a daemon, with the empty image on it.
async fn daemon_answers() -> bool {
    static ANSWERS: OnceCell<bool> = OnceCell::const_new();
    let find = || async {
        let answers = match bollard::Docker::connect_with_local_defaults() {
            Ok(client) => client.ping().await.is_ok(),
            Err(_) => false,
        };
        if answers {
            import_empty_image().await;
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

async fn import_empty_image() {
    let mut archive = tar::Builder::new(Vec::new());
    for path in ["tmp/", "work/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o777);
        header.set_size(0);
        archive.append_data(&mut header, path, std::io::empty()).unwrap();
    }
    let (repo, tag) = EMPTY.split_once(':').unwrap();
    let options = CreateImageOptions {
        from_src: Some("-".into()),
        repo: Some(repo.into()),
        tag: Some(tag.into()),
        changes: vec!["ENTRYPOINT [\"/no/such/program\"]".into(), "WORKDIR /work".into(), "LABEL sweroll.test=1".into()],
        ..CreateImageOptions::default()
    };
    let body = bollard::body_full(archive.into_inner().unwrap().into());
    client().create_image(Some(options), Some(body), None).try_for_each(|_| async { Ok(()) }).await.unwrap();
}

async fn has_debian() -> bool {
    let present = daemon_answers().await && client().inspect_image(DEBIAN).await.is_ok();
    assert!(present || std::env::var_os("CI").is_none(), "{DEBIAN} is not built, and CI is set");
    if !present {
        eprintln!("skipped: {DEBIAN} is not built");
    }
    present
}

fn toolbox_path() -> Option<PathBuf> {
    Some(env!("CARGO_BIN_EXE_sweroll").into())
}

fn settings(stream: Stream) -> Settings {
    let pull = PullSettings { when: Pull::Never, ..PullSettings::default() };
    Settings { stream, pull, toolbox_path: toolbox_path(), ..Settings::default() }
}

async fn docker(stream: Stream) -> Docker {
    Docker::connect(settings(stream)).await.unwrap()
}

fn spec(test: &str, image: &str) -> Spec {
    Spec {
        run: format!("test-{test}-{}", std::process::id()),
        attempt: "test__one-1@0.1".parse().unwrap(),
        purpose: Purpose::Agent,
        image: image.into(),
        workdir: "/work".into(),
        limits: Limits { memory: 256 << 20, cpus: 1.0, pids: 64, ..Limits::default() },
    }
}

fn debian(test: &str) -> Spec {
    Spec { workdir: "/tmp".into(), ..spec(test, DEBIAN) }
}

/// Ids of the run's containers, in whatever state.
async fn containers(run: &str) -> Vec<String> {
    let filters = HashMap::from([("label", vec![format!("sweroll.run={run}")])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    client().list_containers(Some(options)).await.unwrap().into_iter().filter_map(|found| found.id).collect()
}

async fn gone_within(run: &str, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while !containers(run).await.is_empty() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}

fn run(what: Command) -> Op {
    Op::Run(Run { what, session: false, cwd: None, env: Vec::new(), deadline_ms: 60_000, output_cap: 1 << 20 })
}

fn shell(text: &str) -> Op {
    run(Command::Shell(text.into()))
}

async fn output(toolbox: &Toolbox, op: Op) -> (End, String) {
    match toolbox.call(op, b"").await.unwrap() {
        (Answer::Ran(ran), blob) => (ran.end, String::from_utf8_lossy(&blob).into_owned()),
        other => panic!("{other:?}"),
    }
}

async fn read(toolbox: &Toolbox, path: &str) -> String {
    let (_, blob) = toolbox.call(Op::Read { path: path.into(), offset: 0, max: 1 << 20 }, b"").await.unwrap();
    String::from_utf8_lossy(&blob).into_owned()
}

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
    assert_eq!(docker.sweep(&spec.run).await.unwrap(), 0);
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
async fn a_sandbox_is_closed_but_for_the_toolbox() {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let sandbox = docker.start(&spec("closed", EMPTY)).await.unwrap();
    let toolbox = sandbox.toolbox();

    let mounts = read(toolbox, "/proc/self/mountinfo").await;
    let from_disk =
        mounts.lines().filter(|line| !["proc", "tmpfs", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "overlay"].contains(&kind(line)));
    let points: BTreeSet<&str> = from_disk.map(|line| line.split(' ').nth(4).unwrap()).collect();
    let docker_files = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
    let ours: Vec<&&str> = points.iter().filter(|point| !docker_files.contains(point)).collect();
    assert!(ours.iter().all(|point| point.starts_with("/.sweroll/")), "{mounts}");
    let read_only = |line: &str| line.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro");
    assert!(mounts.lines().filter(|line| line.contains(" /.sweroll/")).all(read_only), "{mounts}");
    let files = toolbox.call(Op::Find { pattern: "**/*".into(), path: "/.sweroll/io".into(), max_results: 9 }, b"").await.unwrap();
    assert!(matches!(files.0, Answer::Found { total: 0, .. }), "the socket is still there: {files:?}");

    let environment = read(toolbox, "/proc/1/environ").await;
    let names: BTreeSet<&str> = environment.split('\0').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name).collect();
    assert_eq!(names, BTreeSet::from(["HOME", "HOSTNAME", "PATH"]), "{environment}");

    let devices = read(toolbox, "/proc/net/dev").await;
    let devices: Vec<&str> = devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    assert_eq!(devices, ["lo"]);

    let status = read(toolbox, "/proc/1/status").await;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    // Bits 0, 1, 3, 4, 5, 6, 7: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID.
    for set in ["CapEff:", "CapBnd:", "CapPrm:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0b1111_1011, "{set}");
    }
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    sandbox.destroy().await.unwrap();
}

fn kind(mountinfo: &str) -> &str {
    mountinfo.split(" - ").nth(1).unwrap().split(' ').next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_suite_finds_what_it_needs() {
    if !has_debian().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let sandbox = docker.start(&debian("suite")).await.unwrap();
    let checks = [
        ("another user", "su -s /bin/sh nobody -c 'id -un'", "nobody"),
        ("another user's file", "touch /tmp/x && chown nobody /tmp/x && chmod 0 /tmp/x && echo y >> /tmp/x && cat /tmp/x", "y"),
        (
            "a low port on its own name",
            "python3 -c \"import socket as s; a=s.socket(); a.bind((s.gethostname(), 80)); a.listen(); s.create_connection(('localhost', 80)); print('up')\"",
            "up",
        ),
        (
            "no way out",
            "python3 -c \"import socket; socket.create_connection(('1.1.1.1', 53), 5)\" 2>&1 | tail -1",
            "Network is unreachable",
        ),
        ("a name of no one", "hostname", "sandbox"),
        ("no core files", "ulimit -c", "0"),
    ];
    for (what, command, wanted) in checks {
        let (end, text) = output(sandbox.toolbox(), shell(command)).await;
        assert!(end == End::Exited(0) && text.trim().contains(wanted), "{what}: {end:?} {text}");
    }
    sandbox.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_from_outside_is_told() {
    if !daemon_answers().await {
        return;
    }
    for (stream, test) in [(Stream::Socket, "killed-socket"), (Stream::Attach, "killed-attach")] {
        let docker = docker(stream).await;
        let spec = spec(test, EMPTY);
        let sandbox = docker.start(&spec).await.unwrap();
        let id = containers(&spec.run).await.pop().unwrap();
        client().kill_container(&id, None::<KillContainerOptions>).await.unwrap();
        let call = async {
            loop {
                match sandbox.toolbox().call(Op::Usage, b"").await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    Err(error) => return error,
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(30), call).await.unwrap();
        assert!(matches!(error, ToolboxError::Lost(_)), "{error}");
        let fate = sandbox.fate().await;
        assert_eq!((fate.gone, fate.oom, fate.exit_code), (true, false, Some(137)));
        sandbox.destroy().await.unwrap();
        assert!(containers(&spec.run).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_memory_that_takes_the_sandbox_down_is_told() {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let mut spec = spec("oom", EMPTY);
    spec.limits = Limits { memory: 64 << 20, shm: 1 << 30, ..spec.limits };
    let sandbox = docker.start(&spec).await.unwrap();
    let block = vec![1; 20 << 20];
    let mut outcome = Ok(());
    for n in 0..10 {
        let written = sandbox.toolbox().call(Op::Write { path: format!("/dev/shm/{n}"), mode: 0o644 }, &block).await;
        if let Err(error) = written {
            outcome = Err(error);
            break;
        }
    }
    assert!(matches!(outcome, Err(ToolboxError::Lost(_))), "{outcome:?}");
    let fate = sandbox.fate().await;
    assert!(fate.gone && fate.oom, "{fate:?}");
    sandbox.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_memory_of_a_command_is_counted() {
    if !has_debian().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let sandbox = docker.start(&debian("oom-child")).await.unwrap();
    let (end, text) = output(sandbox.toolbox(), shell("python3 -c 'x = bytearray(1 << 30)'; echo $?")).await;
    assert!(matches!(end, End::Exited(0)) && text.contains("137"), "{end:?} {text}");
    let (usage, _) = sandbox.toolbox().call(Op::Usage, b"").await.unwrap();
    assert!(matches!(usage, Answer::Usage(ref usage) if usage.oom_kills > 0), "{usage:?}");
    sandbox.destroy().await.unwrap();
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
async fn a_command_deaf_to_sigterm_costs_no_wait() {
    if !has_debian().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let sandbox = docker.start(&debian("deaf")).await.unwrap();
    output(sandbox.toolbox(), shell("(trap '' TERM INT HUP; setsid sleep 1000) > /dev/null 2>&1 &")).await;
    let start = Instant::now();
    sandbox.destroy().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_sandbox_goes_by_itself() {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let spec = spec("dropped", EMPTY);
    drop(docker.start(&spec).await.unwrap());
    assert!(gone_within(&spec.run, Duration::from_secs(30)).await);

    // A caller that gives up in the middle of a start leaves nothing either.
    for patience in [1, 20, 80, 200] {
        let _ = tokio::time::timeout(Duration::from_millis(patience), docker.start(&spec)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(gone_within(&spec.run, Duration::from_secs(30)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_leaves_a_live_run_alone() {
    if !daemon_answers().await {
        return;
    }
    let (one, two) = (docker(Stream::Auto).await, docker(Stream::Auto).await);
    let (mine, theirs) = (spec("sweep-mine", EMPTY), spec("sweep-theirs", EMPTY));
    let forgotten = one.start(&mine).await.unwrap();
    let live = two.start(&theirs).await.unwrap();
    std::mem::forget(forgotten);
    assert_eq!(one.sweep(&mine.run).await.unwrap(), 1);
    assert!(containers(&mine.run).await.is_empty());
    live.toolbox().call(Op::Usage, b"").await.unwrap();
    live.destroy().await.unwrap();
}

/// Not a test by itself: the engine that is killed by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn dead_engine_child() {
    let Ok(test) = std::env::var("SWEROLL_TEST_CHILD") else { return };
    let _sandbox = docker(Stream::Auto).await.start(&spec_of_run(&test)).await.unwrap();
    println!("started");
    tokio::time::sleep(Duration::from_secs(600)).await;
}

fn spec_of_run(run: &str) -> Spec {
    Spec { run: run.into(), ..spec("", EMPTY) }
}

fn engine(run: &str) -> std::process::Child {
    use std::io::{BufRead, BufReader};
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "dead_engine_child", "--nocapture"])
        .env("SWEROLL_TEST_CHILD", run)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("started")), "the child engine did not start its sandbox");
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engine_leaves_nothing() {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let run = format!("test-dead-{}", std::process::id());
    let mut child = engine(&run);
    assert_eq!(docker.sweep("test-another").await.unwrap(), 0, "its engine lives");
    assert_eq!(containers(&run).await.len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(gone_within(&run, Duration::from_secs(30)).await, "the toolbox must end with its stream");

    // One that is frozen cannot end by itself: it takes a sweep, be it that of another run.
    let mut child = engine(&run);
    let id = containers(&run).await.pop().unwrap();
    client().pause_container(&id).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(docker.sweep("test-another").await.unwrap(), 1);
    assert!(containers(&run).await.is_empty());
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
async fn a_local_sandbox_serves_and_goes_with_all_it_started() {
    let base = tempfile::tempdir().unwrap();
    let local = Local::new(local::Settings { toolbox_path: toolbox_path(), private_dir: Some(base.path().into()) });
    local.check().await.unwrap();
    let sandbox = local.start(&Spec { workdir: "/workspace/repo".into(), ..spec("local", "") }).await.unwrap();
    let workdir = PathBuf::from(sandbox.workdir());
    assert!(workdir.starts_with(base.path()) && workdir.ends_with("workspace/repo"));
    assert_eq!(std::fs::read_dir(&workdir).unwrap().count(), 0);

    let (_, environment) = output(sandbox.toolbox(), run(Command::Exec(vec!["env".into()]))).await;
    let names: BTreeSet<&str> = environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let wanted = BTreeSet::from(["HOME", "LANG", "PATH", "TMPDIR"]);
    assert!(names.is_superset(&wanted) && !names.iter().any(|name| name.starts_with("CARGO")), "{environment}");
    let (_, text) = output(sandbox.toolbox(), shell("setsid sleep 1000 > /dev/null 2>&1 & echo $!")).await;
    let escapee = format!("/proc/{}/cmdline", text.trim());
    assert!(std::fs::read_to_string(&escapee).unwrap().contains("sleep"));

    sandbox.destroy().await.unwrap();
    assert!(!std::fs::read_to_string(&escapee).unwrap_or_default().contains("sleep"));
    assert!(!workdir.exists());
    let climbing = local.start(&Spec { workdir: "/../../etc".into(), ..spec("local", "") }).await;
    assert_eq!(climbing.err().unwrap().kind, Kind::Workdir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_sandbox_that_was_killed_is_told() {
    let base = tempfile::tempdir().unwrap();
    let local = Local::new(local::Settings { toolbox_path: toolbox_path(), private_dir: Some(base.path().into()) });
    let sandbox = local.start(&spec("local-killed", "")).await.unwrap();
    let killed = sandbox.toolbox().call(shell("kill -9 $PPID; sleep 1"), b"").await;
    assert!(matches!(killed, Err(ToolboxError::Lost(_))), "{killed:?}");
    let fate = sandbox.fate().await;
    assert_eq!((fate.gone, fate.exit_code), (true, Some(137)));
    drop(sandbox);
    let stale = base.path().join("sweroll-stale");
    std::fs::create_dir(&stale).unwrap();
    assert_eq!(local.sweep("any").await.unwrap(), 1);
    assert!(!stale.exists());
}

/// Start to the first command's result, and destruction, against what the docker CLI takes for the same command.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: run with --ignored --nocapture on a quiet machine"]
async fn start_speed() {
    if !has_debian().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let spec = debian("speed");
    let ours = || async {
        let start = Instant::now();
        let sandbox = docker.start(&spec).await.unwrap();
        output(sandbox.toolbox(), run(Command::Exec(vec!["true".into()]))).await;
        let first = start.elapsed();
        sandbox.destroy().await.unwrap();
        (first, start.elapsed())
    };
    let theirs = || async {
        let start = Instant::now();
        let done =
            tokio::process::Command::new("docker").args(["run", "--rm", "--network", "none", DEBIAN, "true"]).output().await.unwrap();
        assert!(done.status.success());
        (start.elapsed(), start.elapsed())
    };
    ours().await;
    for concurrency in [1, 8] {
        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        let (mut our_wall, mut their_wall) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..4 {
            let start = Instant::now();
            our_times.extend(futures_util::stream::iter(0..8).map(|_| ours()).buffer_unordered(concurrency).collect::<Vec<_>>().await);
            our_wall += start.elapsed();
            let start = Instant::now();
            their_times.extend(futures_util::stream::iter(0..8).map(|_| theirs()).buffer_unordered(concurrency).collect::<Vec<_>>().await);
            their_wall += start.elapsed();
        }
        let median = |times: Vec<Duration>| {
            let mut times = times;
            times.sort();
            times[times.len() / 2].as_secs_f64() * 1e3
        };
        let (first, whole) = (our_times.iter().map(|t| t.0).collect(), our_times.iter().map(|t| t.1).collect());
        let (first, whole, cli) = (median(first), median(whole), median(their_times.iter().map(|t| t.0).collect()));
        println!(
            "concurrency {concurrency}: first result {first:.0} ms, with removal {whole:.0} ms, docker run {cli:.0} ms: ratios {:.2} and {:.2}; wall of 32: {:.2} s to {:.2} s, ratio {:.2}",
            first / cli,
            whole / cli,
            our_wall.as_secs_f64(),
            their_wall.as_secs_f64(),
            our_wall.as_secs_f64() / their_wall.as_secs_f64()
        );
    }
}
