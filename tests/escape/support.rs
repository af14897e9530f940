//! What the attempts share: the backends, the tables, and ways to have attempts made.

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{AttachContainerOptionsBuilder, CreateContainerOptions, RemoveContainerOptionsBuilder};
use futures_util::TryStreamExt;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use sweroll::images;
use sweroll::sandbox::docker::images::{Pull, PullSettings};
use sweroll::sandbox::native::{self, Native};
use sweroll::sandbox::{Docker, Limits, Provider, Purpose, Sandbox, Spec, docker};
use sweroll::toolbox::client::Toolbox;
use sweroll::toolbox::protocol::{Answer, Command, End, Op, Run};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;

/// A Debian with Python, from the real set's build.
pub const DEBIAN: &str = "sdist/base:1";
/// The program that makes attempts.
const ATTEMPT: &str = include_str!("attempt.py");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Docker,
    Native,
}

/// A backend that this host has.
pub struct Place {
    pub backend: Backend,
    pub provider: Box<dyn Provider>,
    /// Where a native one keeps what its sandboxes write.
    pub scratch: Option<TempDir>,
}

/// Every backend that this host has; the others are told, and fail the test where `CI` is set.
pub async fn places() -> Vec<Place> {
    places_with(native::Settings::default()).await
}

/// The same where little can be written: see `resources.toml`.
pub async fn small_places() -> Vec<Place> {
    places_with(native::Settings { upper_bytes: 64 << 20, upper_files: 1000, tmp_bytes: 16 << 20, ..native::Settings::default() }).await
}

async fn places_with(settings: native::Settings) -> Vec<Place> {
    let native = settings;
    let mut places = Vec::new();
    if has_debian().await {
        let pull = PullSettings { when: Pull::Never, ..PullSettings::default() };
        let settings = docker::Settings { pull, toolbox_path: toolbox_path(), ..docker::Settings::default() };
        places.push(Place { backend: Backend::Docker, provider: Box::new(Docker::connect(settings).await.unwrap()), scratch: None });
    }
    if let Some(images) = images().await {
        let scratch = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir_in("/var/tmp").unwrap();
        let settings = native::Settings { scratch: Some(scratch.path().to_owned()), toolbox_path: toolbox_path(), ..native };
        match Native::start_up(settings, images).await {
            Ok(provider) => places.push(Place { backend: Backend::Native, provider: Box::new(provider), scratch: Some(scratch) }),
            Err(failure) if std::env::var_os("CI").is_none() => eprintln!("skipped: {failure}"),
            Err(failure) => panic!("no native sandboxes, and CI is set: {failure}"),
        }
    }
    places
}

/// A store with the image, taken from the daemon once in the life of a build.
async fn images() -> Option<images::Settings> {
    static READY: OnceCell<()> = OnceCell::const_new();
    if !has_debian().await {
        return None;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images-debian");
    let settings = images::Settings { dir: Some(dir.clone()), ..images::Settings::default() };
    let import = || async {
        let wanted = client().inspect_image(DEBIAN).await.unwrap().id.unwrap();
        let found = images::Store::open(&settings).and_then(|store| store.find(DEBIAN)).unwrap();
        if found.is_some_and(|image| image.id == wanted) {
            return;
        }
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sweroll"));
        command.args(["images", "import", "-", "--store"]).arg(&dir).stdin(Stdio::piped());
        let mut importing = command.spawn().unwrap();
        let mut archive = importing.stdin.take().unwrap();
        let client = client();
        let mut saved = client.export_image(DEBIAN);
        while let Some(part) = saved.try_next().await.unwrap() {
            archive.write_all(&part).await.unwrap();
        }
        drop(archive);
        assert!(importing.wait().await.unwrap().success());
    };
    READY.get_or_init(import).await;
    Some(settings)
}

pub fn toolbox_path() -> Option<PathBuf> {
    Some(env!("CARGO_BIN_EXE_sweroll").into())
}

pub fn client() -> bollard::Docker {
    bollard::Docker::connect_with_local_defaults().unwrap()
}

/// Whether there is a daemon with the image.
pub async fn has_debian() -> bool {
    static PRESENT: OnceCell<bool> = OnceCell::const_new();
    let find = || async {
        match bollard::Docker::connect_with_local_defaults() {
            Ok(client) => client.inspect_image(DEBIAN).await.is_ok(),
            Err(_) => false,
        }
    };
    let present = *PRESENT.get_or_init(find).await;
    assert!(present || std::env::var_os("CI").is_none(), "no Docker daemon with {DEBIAN} answers, and CI is set");
    if !present {
        eprintln!("skipped: no Docker daemon with {DEBIAN} answers");
    }
    present
}

impl Place {
    pub fn spec(&self, test: &str) -> Spec {
        Spec {
            run: format!("escape-{test}-{}", std::process::id()),
            attempt: "test__one-1@0.1".parse().unwrap(),
            purpose: Purpose::Agent,
            image: DEBIAN.into(),
            workdir: "/tmp".into(),
            limits: Limits { memory: 256 << 20, cpus: 1.0, pids: 128, ..Limits::default() },
            keep: false,
            upon: None,
        }
    }

    pub async fn start(&self, test: &str) -> Box<dyn Sandbox> {
        self.provider.start(&self.spec(test)).await.unwrap_or_else(|failure| panic!("{:?}: {failure}", self.backend))
    }
}

/// One thing that a sandbox must not be able to do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// In the words of a threat table.
    pub name: String,
    /// Python, for `attempt.py`.
    pub code: String,
    /// How it may be refused: names of errors, words of `refuse`, `killed`.
    #[serde(default)]
    pub refused: Vec<String>,
    /// The same for one backend alone; `reached`: it is not refused there, and `note` says why that is no way out.
    pub docker: Option<Vec<String>>,
    pub native: Option<Vec<String>>,
    #[serde(default)]
    pub note: String,
    /// Why the attempt is not shown to succeed in a privileged container: it would harm the host, or has no meaning there.
    #[serde(default)]
    pub unproven: String,
    /// What a kernel without that part says even to the privileged.
    #[serde(default)]
    pub absent: Vec<String>,
}

impl Attempt {
    pub fn wanted(&self, backend: Backend) -> &[String] {
        let own = match backend {
            Backend::Docker => &self.docker,
            Backend::Native => &self.native,
        };
        own.as_deref().unwrap_or(&self.refused)
    }
}

/// The attempts of `tests/escape/NAME.toml`.
pub fn table(name: &str) -> Vec<Attempt> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Table {
        attempt: Vec<Attempt>,
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/escape").join(name).with_extension("toml");
    let text = std::fs::read_to_string(&path).unwrap();
    toml::from_str::<Table>(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())).attempt
}

/// By name, how each attempt ended.
pub type Endings = BTreeMap<String, String>;

/// Whether an ending is one of `wanted`.
pub fn is_one_of(ending: &str, wanted: &[String]) -> bool {
    let (how, what) = ending.split_once(' ').unwrap_or((ending, ""));
    wanted.iter().any(|word| word == how || how == "refused" && word == what)
}

/// Holds what a table wants on that backend, in that sandbox.
pub async fn hold(backend: Backend, toolbox: &Toolbox, attempts: &[Attempt]) {
    let wrong = wrong(backend, &make(toolbox, attempts).await, attempts);
    assert!(wrong.is_empty(), "on {backend:?}:\n{}", wrong.join("\n"));
}

/// A line for each attempt that ended otherwise than it should.
pub fn wrong(backend: Backend, endings: &Endings, attempts: &[Attempt]) -> Vec<String> {
    let wrong = attempts.iter().filter(|attempt| !is_one_of(&endings[&attempt.name], attempt.wanted(backend)));
    wrong.map(|attempt| format!("{}: {}, wanted {:?}", attempt.name, endings[&attempt.name], attempt.wanted(backend))).collect()
}

pub async fn make(toolbox: &Toolbox, attempts: &[Attempt]) -> Endings {
    let pairs: Vec<(&str, &str)> = attempts.iter().map(|attempt| (attempt.name.as_str(), attempt.code.as_str())).collect();
    make_all(toolbox, &pairs).await
}

/// Makes named attempts, one after the other.
pub async fn make_all(toolbox: &Toolbox, attempts: &[(&str, &str)]) -> Endings {
    let input = serde_json::to_vec(attempts).unwrap();
    let (answer, blob) = toolbox.call(run(python(ATTEMPT)), &input).await.unwrap();
    let text = String::from_utf8_lossy(&blob);
    let found = text.find('{').and_then(|from| serde_json::from_str(&text[from..]).ok());
    found.unwrap_or_else(|| panic!("{answer:?}: {text}"))
}

pub async fn make_one(toolbox: &Toolbox, code: &str) -> String {
    make_all(toolbox, &[("it", code)]).await.remove("it").unwrap()
}

/// Every capability that a machine's root surely has; of some virtual machines root has no `SYS_RESOURCE`.
const ALL: [&str; 37] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// What a host has and a container, however privileged, has not from its start.
const LIKE_A_HOST: &str = "\
for name, major, minor in (('kmsg', 1, 11), ('loop-control', 10, 237), ('fuse', 10, 229)):
    os.mknod('/dev/' + name, 0o600 | stat.S_IFCHR, os.makedev(major, minor))
";

/// Makes the attempts in a container that may do all that root may, on a kernel that is shared but in namespaces of its own.
pub async fn make_privileged(attempts: &[&Attempt]) -> Endings {
    let client = client();
    let body = ContainerCreateBody {
        image: Some(DEBIAN.into()),
        entrypoint: Some(["python3", "-c", ATTEMPT, "apart"].map(str::to_owned).to_vec()),
        cmd: Some(Vec::new()),
        open_stdin: Some(true),
        stdin_once: Some(true),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        host_config: Some(HostConfig {
            cap_add: Some(ALL.map(str::to_owned).to_vec()),
            security_opt: Some(["seccomp=unconfined", "apparmor=unconfined"].map(str::to_owned).to_vec()),
            device_cgroup_rules: Some(vec!["a *:* rwm".into()]),
            masked_paths: Some(Vec::new()),
            readonly_paths: Some(Vec::new()),
            network_mode: Some("none".into()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let id = client.create_container(None::<CreateContainerOptions>, body).await.unwrap().id;
    let options = AttachContainerOptionsBuilder::new().stdin(true).stdout(true).stderr(true).stream(true).build();
    let mut attached = client.attach_container(&id, Some(options)).await.unwrap();
    client.start_container(&id, None).await.unwrap();
    let pairs = attempts.iter().map(|attempt| (attempt.name.as_str(), attempt.code.as_str()));
    let pairs: Vec<(&str, &str)> = [("like a host", LIKE_A_HOST)].into_iter().chain(pairs).collect();
    attached.input.write_all(&serde_json::to_vec(&pairs).unwrap()).await.unwrap();
    attached.input.shutdown().await.unwrap();
    let output: Vec<_> = attached.output.try_collect().await.unwrap();
    let text: String = output.iter().map(ToString::to_string).collect();
    client.remove_container(&id, Some(RemoveContainerOptionsBuilder::new().force(true).build())).await.unwrap();
    let found: Option<Endings> = text.find('{').and_then(|from| serde_json::from_str(&text[from..]).ok());
    let endings = found.unwrap_or_else(|| panic!("{text}"));
    assert!(endings["like a host"].starts_with("reached"), "{}", endings["like a host"]);
    endings
}

pub fn python(code: &str) -> Command {
    Command::Exec(["python3", "-c", code].map(str::to_owned).to_vec())
}

pub fn run(what: Command) -> Op {
    Op::Run(Run { what, session: false, cwd: None, env: Vec::new(), deadline_ms: 120_000, output_cap: 1 << 20, report_cap: 0 })
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

/// That the sandbox still does as it is told.
pub async fn assert_serves(toolbox: &Toolbox) {
    assert_eq!(output(toolbox, shell("echo still there")).await, (End::Exited(0), "still there\n".to_owned()));
}
