//! What is Docker's own: its daemon, pulls, streams and labels.

mod ends;
mod proxy;
mod speed;
mod starts;
mod weather;

use crate::backend::Image;
use crate::image::{self, DEBIAN, EMPTY};
use crate::support::{spec, toolbox_path};
use bollard::query_parameters::{ImportImageOptions, ListContainersOptionsBuilder};
use futures_util::TryStreamExt;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sweroll::sandbox::docker::Stream;
use sweroll::sandbox::docker::images::{Pull, PullSettings};
use sweroll::sandbox::{Docker, docker};
use tokio::sync::OnceCell;

/// Address of the daemon's socket.
pub fn daemon_socket() -> String {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").to_owned()
}

pub fn client() -> bollard::Docker {
    bollard::Docker::connect_with_local_defaults().unwrap()
}

/// Why there is no daemon with that image; the empty one is given to it.
pub async fn why_not(image: Image) -> Option<String> {
    static ANSWERS: OnceCell<bool> = OnceCell::const_new();
    let find = || async {
        let answers = match bollard::Docker::connect_with_local_defaults() {
            Ok(client) => client.ping().await.is_ok(),
            Err(_) => false,
        };
        if answers {
            load(image::empty()).await;
        }
        answers
    };
    if !*ANSWERS.get_or_init(find).await {
        return Some("no Docker daemon answers".to_owned());
    }
    (image == Image::Debian && client().inspect_image(DEBIAN).await.is_err()).then(|| format!("{DEBIAN} is not built"))
}

/// Whether there is a daemon, with the empty image on it; if not, that is said.
pub async fn daemon_answers() -> bool {
    let why_not = why_not(Image::Empty).await;
    assert!(why_not.is_none() || std::env::var_os("CI").is_none(), "{why_not:?}, and CI is set");
    why_not.iter().for_each(|why| eprintln!("skipped: {why}"));
    why_not.is_none()
}

/// Gives the daemon an archive of images; a name goes from the image that had it.
pub async fn load(archive: Vec<u8>) {
    let body = bollard::body_full(archive.into());
    client().import_image(ImportImageOptions::default(), body, None).try_for_each(|_| async { Ok(()) }).await.unwrap();
}

/// The program without its symbols, which are most of one that is not optimized and take long to pack for each upload.
pub async fn small(program: &Path) -> PathBuf {
    static SMALL: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    if program != toolbox_path() {
        return program.to_owned();
    }
    let strip = || async {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("toolbox-{}", std::process::id()));
        let done = std::process::Command::new("strip").arg("-o").arg(&path).arg(program).status();
        // One file for all, taken by those who run at the same time as they find it.
        let small = path.with_file_name("toolbox");
        done.is_ok_and(|status| status.success()).then(|| std::fs::rename(&path, &small).unwrap())?;
        Some(small)
    };
    SMALL.get_or_init(strip).await.clone().unwrap_or_else(|| program.to_owned())
}

pub fn settings(stream: Stream) -> docker::Settings {
    let pull = PullSettings { when: Pull::Never, ..PullSettings::default() };
    docker::Settings { stream, pull, toolbox_path: Some(toolbox_path()), ..docker::Settings::default() }
}

pub async fn docker(stream: Stream) -> Docker {
    Docker::connect(settings(stream)).await.unwrap()
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
