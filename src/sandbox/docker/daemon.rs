//! The connection to the Docker daemon: found, spoken to through its short absences, its errors put into our words.

use crate::domain::{Failure, Kind};
use bollard::errors::Error;
use std::error::Error as _;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

const LOCAL: &str = "unix:///var/run/docker.sock";
/// First and longest pause between two tries while the daemon is away.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

#[derive(Debug)]
pub struct Daemon {
    pub client: bollard::Docker,
    pub host: String,
    /// How long an absence in mid-run is waited out.
    wait: Duration,
}

impl Daemon {
    /// `host` may be empty: `DOCKER_HOST`, else the local one.
    ///
    /// # Errors
    /// `Daemon` when none answers, or its address is of a kind that this build does not speak.
    pub async fn connect(host: &str, request_timeout_s: u64, wait_s: u64) -> Result<Self, Failure> {
        let host = address(host);
        let client = client(&host, request_timeout_s)?;
        let client = client.negotiate_version().await.map_err(|error| absent(&host, &error))?;
        Ok(Daemon { client, host, wait: Duration::from_secs(wait_s) })
    }

    /// Whether the daemon could share our file system.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host.starts_with("unix://")
    }

    /// Makes the request, and makes it again while the daemon is away.
    pub async fn ask<T, F: Future<Output = Result<T, Error>>>(&self, request: impl Fn() -> F) -> Result<T, Error> {
        let patience = Instant::now() + self.wait;
        let mut pause = PAUSE.0;
        loop {
            match request().await {
                Err(error) if is_away(&error) && Instant::now() + pause < patience => {
                    tracing::warn!(host = self.host, error = chain(&error), "the Docker daemon is away; waiting for it");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
                outcome => return outcome,
            }
        }
    }

    /// `error` as a failure of `kind`, unless it shows that the daemon is away or the disk is full.
    #[must_use]
    pub fn failure(&self, kind: Kind, doing: &str, error: &Error) -> Failure {
        if is_away(error) {
            let mut failure = absent(&self.host, error);
            failure.message = format!("{doing}: {}", failure.message);
            return failure;
        }
        said(kind, doing, &chain(error))
    }
}

/// What the daemon said in answer to `doing`, as a failure of `kind` unless it tells of a full disk.
#[must_use]
pub fn said(kind: Kind, doing: &str, text: &str) -> Failure {
    if is_full(text) {
        return Failure::new(Kind::NoSpace, format!("{doing}: {text}; free space where the Docker daemon keeps its data"));
    }
    Failure::new(kind, format!("{doing}: {text}"))
}

fn is_full(text: &str) -> bool {
    ["no space left on device", "disk quota exceeded"].iter().any(|sign| text.contains(sign))
}

/// Status code of the daemon's answer, where it gave one.
#[must_use]
pub fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Whether the request did not get an answer, so that it says nothing about what was asked.
fn is_away(error: &Error) -> bool {
    match error {
        Error::HyperLegacyError { .. }
        | Error::HyperResponseError { .. }
        | Error::IOError { .. }
        | Error::SocketNotFoundError(_)
        | Error::RequestTimeoutError => true,
        Error::DockerResponseServerError { status_code: 502..=504, .. } => true,
        Error::DockerResponseServerError { message, .. } => message.contains("containerd.sock"),
        _ => false,
    }
}

/// The error and its causes, once each, for hyper's own text ends before the reason.
#[must_use]
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

fn absent(host: &str, error: &Error) -> Failure {
    let message = format!(
        "no Docker daemon answers at {host} ({}); is dockerd running, and may this user open it? Set DOCKER_HOST to use another",
        chain(error)
    );
    Failure::new(Kind::Daemon, message)
}

fn address(chosen: &str) -> String {
    let set = std::env::var("DOCKER_HOST").unwrap_or_default();
    if let Some(host) = [chosen, &set].into_iter().find(|host| !host.is_empty()) {
        return host.to_owned();
    }
    let rootless = std::env::var("XDG_RUNTIME_DIR").map(|dir| format!("{dir}/docker.sock")).unwrap_or_default();
    if !Path::new("/var/run/docker.sock").exists() && Path::new(&rootless).exists() {
        return format!("unix://{rootless}");
    }
    LOCAL.to_owned()
}

fn client(host: &str, timeout_s: u64) -> Result<bollard::Docker, Failure> {
    let version = bollard::API_DEFAULT_VERSION;
    let client = match host.split_once("://") {
        Some(("unix", _)) => bollard::Docker::connect_with_unix(host, timeout_s, version),
        Some(("tcp" | "http", _)) => bollard::Docker::connect_with_http(host, timeout_s, version),
        _ => {
            let mend = "use unix:// or tcp://, and for a daemon behind ssh or TLS forward its socket: ssh -L /tmp/docker.sock:/var/run/docker.sock HOST";
            return Err(Failure::new(Kind::Daemon, format!("cannot speak to a Docker daemon at {host:?}; {mend}")));
        }
    };
    client.map_err(|error| absent(host, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status_code: u16, message: &str) -> Error {
        Error::DockerResponseServerError { status_code, message: message.to_owned() }
    }

    #[test]
    fn an_answer_is_not_an_absence() {
        assert!(is_away(&Error::RequestTimeoutError));
        assert!(is_away(&answer(503, "starting")));
        assert!(is_away(&answer(500, "connection error: dial unix /run/containerd/containerd.sock: connection refused")));
        assert!(!is_away(&answer(404, "No such image: x")));
        assert!(!is_away(&answer(500, "OCI runtime create failed")));
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        assert_eq!(said(Kind::ImagePull, "cannot pull x", "write /var/lib/docker/tmp/1: no space left on device").kind, Kind::NoSpace);
        assert_eq!(said(Kind::ImagePull, "cannot pull x", "EOF").kind, Kind::ImagePull);
    }

    #[tokio::test]
    async fn no_daemon_is_said_with_its_mend() {
        let failure = Daemon::connect("unix:///nonexistent/docker.sock", 1, 1).await.unwrap_err();
        assert_eq!(failure.kind, Kind::Daemon);
        assert!(failure.message.contains("/nonexistent/docker.sock") && failure.message.contains("DOCKER_HOST"), "{failure}");
        assert!(Daemon::connect("ssh://host", 1, 1).await.unwrap_err().message.contains("ssh -L"));
    }

    #[tokio::test]
    async fn a_short_absence_is_waited_out_and_a_long_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let host = format!("unix://{}", socket.display());
        let daemon = Daemon { client: client(&host, 1).unwrap(), host, wait: Duration::from_secs(60) };
        let impatient = Daemon { client: daemon.client.clone(), host: daemon.host.clone(), wait: Duration::from_millis(250) };
        let calls = std::cell::Cell::new(0);
        let back_after = |tries| {
            let calls = &calls;
            move || {
                calls.set(calls.get() + 1);
                let away = calls.get() <= tries;
                async move { if away { Err(Error::RequestTimeoutError) } else { Ok(7) } }
            }
        };
        assert_eq!(daemon.ask(back_after(2)).await.unwrap(), 7);
        assert_eq!(calls.replace(0), 3);
        assert!(impatient.ask(back_after(u32::MAX)).await.is_err());
        assert_eq!(daemon.ask(|| async { Err::<(), _>(answer(404, "no")) }).await.map_err(|e| status(&e)), Err(Some(404)));
    }
}
