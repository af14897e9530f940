//! A daemon that can go away, refuse, and be counted at.

use super::daemon_socket;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Stands between an engine and the real daemon.
pub struct Proxy {
    address: PathBuf,
    serving: Option<tokio::task::JoinHandle<()>>,
    refuse: Option<&'static str>,
    /// Requests whose head or body holds the text reach the daemon this much later, be the asker there or not.
    delay: Option<(&'static str, Duration)>,
    requests: Requests,
}

/// Stands among the requests for the daemon's answer to one that was delayed.
pub const ANSWERED_LATE: &str = "answered late";

/// First line of each request, as it came.
type Requests = Arc<Mutex<Vec<String>>>;

impl Proxy {
    /// With `refuse`, a container whose request holds that text cannot be created: its mounts do not exist.
    pub fn new(dir: &Path, refuse: Option<&'static str>) -> Self {
        Self::with(dir, refuse, None)
    }

    /// Requests that hold `sign` reach the daemon late.
    pub fn slow(dir: &Path, sign: &'static str, late: Duration) -> Self {
        Self::with(dir, None, Some((sign, late)))
    }

    fn with(dir: &Path, refuse: Option<&'static str>, delay: Option<(&'static str, Duration)>) -> Self {
        let mut proxy = Proxy { address: dir.join("docker.sock"), serving: None, refuse, delay, requests: Requests::default() };
        proxy.up();
        proxy
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.address.display())
    }

    pub fn up(&mut self) {
        let listener = tokio::net::UnixListener::bind(&self.address).unwrap();
        let (refuse, delay, requests) = (self.refuse, self.delay, self.requests.clone());
        self.serving = Some(tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(relay(stream, refuse, delay, requests.clone()));
            }
        }));
    }

    /// How many requests so far hold this in their first line.
    pub fn count(&self, sign: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|line| line.contains(sign)).count()
    }

    /// Returns once such a request was seen.
    pub async fn counts(&self, sign: &str) {
        while self.count(sign) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes every open connection with it.
    pub async fn down(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
        std::fs::remove_file(&self.address).unwrap();
    }
}

async fn relay(
    mut near: tokio::net::UnixStream,
    refuse: Option<&'static str>,
    delay: Option<(&'static str, Duration)>,
    requests: Requests,
) {
    let mut request = vec![0; 64 << 10];
    let mut length = 0;
    // The head and the body of a create request may come in two parts.
    while length == 0 || (request.starts_with(b"POST") && !String::from_utf8_lossy(&request[..length]).contains("\r\n\r\n{")) {
        match tokio::time::timeout(Duration::from_millis(200), near.read(&mut request[length..])).await {
            Ok(Ok(count)) if count > 0 => length += count,
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&request[..length]);
    requests.lock().unwrap().push(text.lines().next().unwrap_or_default().to_owned());
    if refuse.is_some_and(|sign| text.contains("/containers/create") && text.contains(sign)) {
        let body = r#"{"message":"invalid mount config for type \"bind\": bind source path does not exist: /x"}"#;
        let answer = format!("HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        near.write_all(answer.as_bytes()).await.unwrap();
        return;
    }
    let mut far = tokio::net::UnixStream::connect(daemon_socket()).await.unwrap();
    if let Some((_, late)) = delay.filter(|(sign, _)| text.contains(sign)) {
        tokio::time::sleep(late).await;
        far.write_all(&request[..length]).await.unwrap();
        let mut answer = vec![0; 64 << 10];
        let length = far.read(&mut answer).await.unwrap();
        requests.lock().unwrap().push(ANSWERED_LATE.to_owned());
        let _ = near.write_all(&answer[..length]).await;
    } else {
        far.write_all(&request[..length]).await.unwrap();
    }
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}
