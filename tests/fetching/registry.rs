//! A real registry, and before it a door that counts, and refuses or breaks off what it is told to.

use super::made;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant, SystemTime},
};
use tempfile::TempDir;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A request that came to the door.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub at: SystemTime,
    /// How many came before it for the same path by the same method.
    pub earlier: usize,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Pass,
    /// 429, with so many seconds to wait.
    Busy(u64),
    /// The connection ends after so many bytes of the reply.
    Cut(u64),
    /// The reply's bytes stop there, and the connection stays open.
    Stall(u64),
}

type Moods = Box<dyn Fn(&Seen) -> Mood + Send + Sync>;

pub struct Registry {
    child: Child,
    inside: SocketAddr,
    door: SocketAddr,
    moods: Arc<Mutex<Moods>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Digest of each image's own layer, by its name.
    own: BTreeMap<String, String>,
    base: String,
    _dir: TempDir,
}

impl Registry {
    /// None, with a word, where there is no `docker-registry`; CI must have one.
    pub fn start() -> Option<Registry> {
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let inside = free.local_addr().unwrap();
        drop(free);
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {inside}}}\n",
            dir.path().display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).env("OTEL_TRACES_EXPORTER", "none");
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                assert!(env::var_os("CI").is_none(), "docker-registry: {error}");
                eprintln!("skipped: no docker-registry ({error})");
                return None;
            }
        };
        let began = Instant::now();
        while TcpStream::connect(inside).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "docker-registry does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        let (moods, seen) = (Arc::new(Mutex::new(Box::new(|_: &Seen| Mood::Pass) as Moods)), Arc::<Mutex<Vec<Seen>>>::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = listener.local_addr().unwrap();
        let (to_moods, to_seen) = (Arc::clone(&moods), Arc::clone(&seen));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (moods, seen) = (Arc::clone(&to_moods), Arc::clone(&to_seen));
                // A client may go whenever it wants.
                thread::spawn(move || drop(pass(client, inside, &moods, &seen)));
            }
        });
        Some(Registry { child, inside, door, moods, seen, own: BTreeMap::new(), base: String::new(), _dir: dir })
    }

    pub fn moods(&self, moods: impl Fn(&Seen) -> Mood + Send + Sync + 'static) {
        *self.moods.lock().unwrap() = Box::new(moods);
    }

    /// An image's name with the address of the door.
    pub fn name(&self, image: &str) -> String {
        format!("{}/t/{image}:1", self.door)
    }

    /// Lays in images with `bytes` of their own, past the door. No other registry has the same layers.
    pub fn add(&mut self, names: &[&str], bytes: usize) {
        let salt = format!("{} {:?}", self.door, SystemTime::now());
        let base = made::base(&salt);
        for image in names.iter().map(|name| made::image(&base, name, &salt, bytes)) {
            let layers: Vec<_> = image.layers.iter().map(|layer| self.blob(&image.name, LAYER, &layer.packed)).collect();
            let config = self.blob(&image.name, CONFIG, image.config().to_string().as_bytes());
            let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}).to_string();
            let (status, head) = self.ask("PUT", &format!("/v2/t/{}/manifests/1", image.name), MANIFEST, manifest.as_bytes());
            assert_eq!(status, 201, "{head}");
            let own = layers.last().unwrap()["digest"].as_str().unwrap().to_owned();
            self.own.insert(image.name.clone(), own);
            self.base = layers[0]["digest"].as_str().unwrap().to_owned();
        }
    }

    fn blob(&self, image: &str, media_type: &str, bytes: &[u8]) -> serde_json::Value {
        let digest = format!("sha256:{:x}", Sha256::digest(bytes));
        let (status, _) = self.ask("HEAD", &format!("/v2/t/{image}/blobs/{digest}"), "", b"");
        if status != 200 {
            let (status, head) = self.ask("POST", &format!("/v2/t/{image}/blobs/uploads/"), "", b"");
            assert_eq!(status, 202, "{head}");
            let at = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
            let path = &at[at.find("/v2/").unwrap()..];
            let (status, head) = self.ask("PUT", &format!("{path}&digest={digest}"), "application/octet-stream", bytes);
            assert_eq!(status, 201, "{head}");
        }
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Status and head of the reply.
    fn ask(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.inside).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.inside,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        let text = String::from_utf8_lossy(&reply).into_owned();
        (text.split(' ').nth(1).unwrap().parse().unwrap(), text)
    }

    pub fn seen(&self, part: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path.contains(part)).cloned().collect()
    }

    /// How often each image's own layer was fetched.
    pub fn pulls(&self) -> BTreeMap<String, usize> {
        let count = |digest: &String| self.seen(digest).iter().filter(|seen| seen.method == "GET").count();
        self.own.iter().map(|(name, digest)| (name.clone(), count(digest))).collect()
    }

    /// Digest of the layer that all have.
    pub fn base_layer(&self) -> &str {
        &self.base
    }

    pub fn own_layer(&self, image: &str) -> &str {
        &self.own[image]
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request a connection: the registry is told to close it.
fn pass(mut client: TcpStream, inside: SocketAddr, moods: &Mutex<Moods>, log: &Mutex<Vec<Seen>>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        // 0x16 begins a TLS handshake, with which a daemon tries first.
        if client.read(&mut byte)? == 0 || (head.is_empty() && byte == [0x16]) {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let seen = {
        let mut log = log.lock().unwrap();
        let earlier = log.iter().filter(|seen| (&seen.method, &seen.path) == (&method, &path)).count();
        log.push(Seen { method, path, at: SystemTime::now(), earlier });
        log.last().unwrap().clone()
    };
    let mood = moods.lock().unwrap()(&seen);
    if let Mood::Busy(seconds) = mood {
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"too many requests"}]}"#;
        let told = format!("Retry-After: {seconds}\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        let body = if seen.method == "HEAD" { "" } else { body };
        client.write_all(format!("HTTP/1.1 429 Too Many Requests\r\n{told}\r\nConnection: close\r\n\r\n{body}").as_bytes())?;
        return client.shutdown(Shutdown::Write);
    }
    let lines = head.trim_end().split("\r\n").filter(|line| !line.to_lowercase().starts_with("connection:"));
    let mut registry = TcpStream::connect(inside)?;
    registry.write_all(format!("{}\r\nConnection: close\r\n\r\n", lines.collect::<Vec<_>>().join("\r\n")).as_bytes())?;
    match mood {
        Mood::Cut(bytes) | Mood::Stall(bytes) => {
            io::copy(&mut registry.take(bytes), &mut client)?;
            if let Mood::Stall(_) = mood {
                let _ = client.read(&mut [0]);
            }
        }
        _ => drop(io::copy(&mut registry, &mut client)?),
    }
    client.shutdown(Shutdown::Both)
}
