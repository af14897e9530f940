//! What the suite asks of every backend, and where it looks for what one leaves behind.

use crate::daemon;
use crate::host;
use crate::image::{DEBIAN, EMPTY};
use crate::store;
use crate::support::{said, spec, toolbox_path};
use bollard::query_parameters::KillContainerOptions;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use sweroll::domain::Failure;
use sweroll::sandbox::docker::Stream;
use sweroll::sandbox::native::{self, Native};
use sweroll::sandbox::{Docker, Limits, Local, Provider, Sandbox, Spec, docker, local};
use tempfile::TempDir;

/// Longer than any case takes.
const PATIENCE: Duration = Duration::from_secs(300);
/// Set for the process that a case has to itself.
const ALONE: &str = "SWEROLL_TEST_ALONE";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Docker,
    Attach,
    Native,
    Local,
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            On::Docker => "docker",
            On::Attach => "attach",
            On::Native => "native",
            On::Local => "local",
        })
    }
}

impl std::str::FromStr for On {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        [On::Docker, On::Attach, On::Native, On::Local].into_iter().find(|on| on.to_string() == name).ok_or(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    Empty,
    Debian,
}

impl Image {
    pub fn name(self) -> &'static str {
        match self {
            Image::Empty => EMPTY,
            Image::Debian => DEBIAN,
        }
    }
}

/// A backend with a directory of its own for one case.
pub struct Backend {
    pub on: On,
    pub provider: Arc<dyn Provider>,
    case: &'static str,
    image: Image,
    dir: TempDir,
    /// By which the kernel's lists tell what is this backend's: names of engines' directories and numbers of launchers, once seen.
    signs: Mutex<BTreeSet<String>>,
}

impl Backend {
    /// None where it, or the image, is not to be had, which is said.
    pub async fn start_up(on: On, image: Image, case: &'static str) -> Option<Self> {
        let why_not = match on {
            On::Docker | On::Attach => daemon::why_not(image).await,
            On::Native => store::why_not(image).await,
            On::Local => None,
        };
        let dir = tempfile::tempdir().unwrap();
        let provider = match why_not {
            Some(why_not) => Err(why_not),
            None => on.provide(dir.path(), toolbox_path()).await.map_err(|failure| failure.to_string()),
        };
        match provider {
            Ok(provider) => Some(Backend { on, provider, case, image, dir, signs: Mutex::default() }),
            Err(why_not) => {
                assert!(std::env::var_os("CI").is_none(), "{why_not}, and CI is set");
                eprintln!("skipped: {why_not}");
                None
            }
        }
    }

    /// Another engine's, with the same directory.
    pub async fn another(&self) -> Arc<dyn Provider> {
        self.on.provide(self.dir.path(), toolbox_path()).await.unwrap()
    }

    /// One whose sandboxes begin with another program.
    pub async fn with_program(&self, program: &Path) -> Result<Arc<dyn Provider>, Failure> {
        self.on.provide(self.dir.path(), program.to_owned()).await
    }

    /// Native sandboxes with other settings; the rest are the same.
    pub async fn with_settings(&self, settings: native::Settings) -> Native {
        let settings = native::Settings { scratch: Some(self.dir().into()), toolbox_path: Some(toolbox_path()), ..settings };
        Native::start_up(settings, store::settings()).await.unwrap()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn spec(&self) -> Spec {
        spec(&format!("{}-{}", self.case.replace('_', "-"), self.on), self.image.name())
    }

    pub fn spec_with(&self, limits: Limits) -> Spec {
        Spec { limits, ..self.spec() }
    }

    pub async fn start(&self, spec: &Spec) -> Box<dyn Sandbox> {
        self.provider.start(spec).await.unwrap()
    }

    pub async fn sandbox(&self) -> Box<dyn Sandbox> {
        self.start(&self.spec()).await
    }

    /// An argument for `sleep` by which the host's process table tells it from all others.
    pub fn mark(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("1000.{}{:04}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The sandbox's first process, as the host numbers it: it adopts what its commands leave running. Needs a shell inside.
    pub async fn first_process(&self, sandbox: &dyn Sandbox) -> i32 {
        let mark = self.mark();
        said(sandbox.toolbox(), &format!("sleep {mark} > /dev/null 2>&1 &")).await;
        assert!(host::soon(async || !host::running(&mark).is_empty()).await);
        host::parent(host::running(&mark)[0])
    }

    /// Kills the run's one sandbox behind its engine's back: the first process, or as a daemon's client would.
    pub async fn kill(&self, run: &str, first_process: i32) {
        if self.on == On::Attach {
            let id = daemon::containers(run).await.pop().unwrap();
            return daemon::client().kill_container(&id, None::<KillContainerOptions>).await.unwrap();
        }
        kill_process(Pid::from_raw(first_process).unwrap(), Signal::KILL).unwrap();
    }

    /// Gives the backend an image.
    pub async fn load(&self, archive: Vec<u8>) {
        match self.on {
            On::Native => store::import(&archive),
            _ => daemon::load(archive).await,
        }
    }

    /// What the run's sandboxes have on the host now.
    pub async fn left(&self, run: &str) -> Vec<String> {
        match self.on {
            On::Docker | On::Attach => daemon::containers(run).await,
            On::Local => homes(self.dir()),
            On::Native => {
                let launchers = host::launchers(self.dir());
                let mut signs = self.signs.lock().unwrap();
                signs.extend(engines(self.dir()));
                signs.extend(launchers.iter().map(|pid| format!(".{pid}.")));
                let groups = |sign: &String| {
                    host::cgroups(sign).into_iter().flat_map(|group| host::groups_in(&group)).map(|group| group.display().to_string())
                };
                let processes = launchers.into_iter().flat_map(host::descendants).map(|pid| format!("process {pid}"));
                signs.iter().flat_map(|sign| host::mounts(sign).into_iter().chain(groups(sign))).chain(processes).collect()
            }
        }
    }

    pub async fn goes(&self, run: &str) -> bool {
        host::soon(async || self.left(run).await.is_empty()).await
    }

    /// The case within its time, and nothing of it is left.
    pub async fn holds(&self, case: impl Future<Output = ()>) {
        assert!(tokio::time::timeout(PATIENCE, case).await.is_ok(), "it takes longer than {PATIENCE:?}");
        let run = self.spec().run;
        assert!(self.goes(&run).await, "left behind: {:?}", self.left(&run).await);
    }

    /// Nothing of the engine is left either, once it has ended.
    pub async fn ends(self) {
        let Backend { provider, dir, signs, .. } = self;
        drop(provider);
        assert!(host::soon(async || host::launchers(dir.path()).is_empty()).await, "a launcher outlives its engine");
        let signs = signs.into_inner().unwrap();
        let left = || signs.iter().flat_map(|sign| host::cgroups(sign)).collect::<Vec<_>>();
        assert_eq!(left(), Vec::<PathBuf>::new());
        assert_eq!(engines(dir.path()), Vec::<String>::new());
    }

    /// Whether this is the process that the case has to itself. Else it was run there, and the case is done.
    pub fn is_alone(&self) -> bool {
        if std::env::var_os(ALONE).is_some() {
            return true;
        }
        let test = format!("table::{}::{}", self.on, self.case);
        let mut process = std::process::Command::new(std::env::current_exe().unwrap());
        let done = process.args(["--exact", &test, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let text = [done.stdout, done.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(done.status.success() && text.contains("1 passed"), "{text}");
        false
    }
}

/// Names of the engines' directories.
fn engines(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("sweroll-")).collect()
}

/// Directories of sandboxes, which have numbers for names, in those of their engines.
fn homes(dir: &Path) -> Vec<String> {
    let all = engines(dir).into_iter().flat_map(|engine| std::fs::read_dir(dir.join(engine)).into_iter().flatten().flatten());
    let is_number = |path: &PathBuf| path.file_name().unwrap().to_str().is_some_and(|name| name.parse::<u64>().is_ok());
    all.map(|entry| entry.path()).filter(is_number).map(|path| path.display().to_string()).collect()
}

impl On {
    /// An engine's provider, with its things in that directory and its sandboxes beginning with that program.
    pub async fn provide(self, dir: &Path, program: PathBuf) -> Result<Arc<dyn Provider>, Failure> {
        let of_daemon =
            |stream| docker::Settings { toolbox_path: Some(program.clone()), private_dir: Some(dir.into()), ..daemon::settings(stream) };
        Ok(match self {
            On::Docker => Arc::new(Docker::connect(of_daemon(Stream::Socket)).await?),
            On::Attach => {
                let settings = of_daemon(Stream::Attach);
                let toolbox_path = Some(daemon::small(&program).await);
                Arc::new(Docker::connect(docker::Settings { toolbox_path, ..settings }).await?)
            }
            On::Local => Arc::new(Local::new(local::Settings { toolbox_path: Some(program), private_dir: Some(dir.into()) })),
            On::Native => {
                let settings = native::Settings { scratch: Some(dir.into()), toolbox_path: Some(program), ..native::Settings::default() };
                Arc::new(Native::start_up(settings, store::settings()).await?)
            }
        })
    }
}
