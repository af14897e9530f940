//! A registry in the test: it serves what it was given, misbehaves as it is told, and remembers what it was asked.

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper::{Request, Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// One request, as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub query: String,
    /// What it was sent to, as its sender has it.
    pub host: String,
    pub range: Option<u64>,
    pub authorization: Option<String>,
    /// How many came before it for the same path.
    pub earlier: usize,
}

#[derive(Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The connection breaks after so many bytes.
    pub cut: Option<usize>,
    /// No length is told.
    pub chunked: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Reply { status, ..Reply::default() }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

type Mood = Box<dyn Fn(&Seen) -> Option<Reply> + Send + Sync>;

/// What it has, by path; a mood answers before it.
#[derive(Default)]
pub struct Content(HashMap<String, (String, Vec<u8>)>);

pub struct Fake {
    pub addr: SocketAddr,
    log: Arc<Mutex<Vec<Seen>>>,
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

pub fn config(layers: &[&[u8]]) -> Vec<u8> {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    // The archives here are not compressed at all: what they are called and what they unpack to have one digest.
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    json!({"architecture": architecture, "os": "linux", "config": {"Env": ["A=b"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
        .into_bytes()
}

pub fn manifest(layers: &[&[u8]]) -> Value {
    let layers_told: Vec<Value> = layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config(layers)), "layers": layers_told})
}

impl Content {
    /// An image of these layers; its manifest's digest.
    pub fn image(&mut self, repository: &str, tag: &str, layers: &[&[u8]]) -> String {
        let config = config(layers);
        self.blob(repository, &config);
        layers.iter().for_each(|layer| self.blob(repository, layer));
        self.manifest(repository, tag, MANIFEST, &manifest(layers))
    }

    pub fn manifest(&mut self, repository: &str, tag: &str, media_type: &str, manifest: &Value) -> String {
        let text = manifest.to_string().into_bytes();
        let name = digest(&text);
        for version in [tag, &name] {
            self.0.insert(format!("/v2/{repository}/manifests/{version}"), (media_type.to_owned(), text.clone()));
        }
        name
    }

    pub fn blob(&mut self, repository: &str, bytes: &[u8]) {
        let path = format!("/v2/{repository}/blobs/{}", digest(bytes));
        self.0.insert(path, ("application/octet-stream".to_owned(), bytes.to_vec()));
    }

    fn serve(&self, seen: &Seen) -> Reply {
        let Some((media_type, bytes)) = self.0.get(&seen.path) else { return Reply::status(404) };
        let reply = Reply::status(200).with("content-type", media_type);
        match seen.range {
            Some(from) if from as usize >= bytes.len() => Reply::status(416),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Reply { status: 206, ..reply }.with("content-range", range).body(&bytes[from as usize..])
            }
            None => reply.body(bytes.clone()),
        }
    }

    /// Serves on a free port of this machine.
    pub async fn start(self, mood: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> Fake {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (content, mood, kept) = (Arc::new(self), Arc::new(Box::new(mood) as Mood), log.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (content, mood, log) = (content.clone(), mood.clone(), kept.clone());
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let seen = note(&log, &request);
                    let reply = mood(&seen).unwrap_or_else(|| content.serve(&seen));
                    async move { Ok::<_, io::Error>(response(reply)) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Fake { addr, log }
    }
}

fn note(log: &Mutex<Vec<Seen>>, request: &Request<hyper::body::Incoming>) -> Seen {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let path = request.uri().path().to_owned();
    let mut log = log.lock().unwrap();
    let seen = Seen {
        query: request.uri().query().unwrap_or_default().to_owned(),
        host: header("host").unwrap_or_default(),
        range: header("range").map(|text| text.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap()),
        authorization: header("authorization"),
        earlier: log.iter().filter(|earlier: &&Seen| earlier.path == path).count(),
        path,
    };
    log.push(seen.clone());
    seen
}

fn response(reply: Reply) -> Response<UnsyncBoxBody<Bytes, io::Error>> {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    let length = reply.body.len();
    let whole = Bytes::from(reply.body);
    let broken = || Err(io::Error::other("cut"));
    let frames: Vec<io::Result<Frame<Bytes>>> = match reply.cut {
        None if reply.chunked => vec![Ok(Frame::data(whole))],
        None => return response.body(Full::new(whole).map_err(|never| match never {}).boxed_unsync()).unwrap(),
        Some(at) => vec![Ok(Frame::data(whole.slice(..at))), broken()],
    };
    if !reply.chunked {
        response = response.header("content-length", length);
    }
    // A pause before the break lets what was written leave.
    let frames = stream::unfold(frames.into_iter(), |mut frames| async {
        let next = frames.next()?;
        if next.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Some((next, frames))
    });
    response.body(StreamBody::new(frames).boxed_unsync()).unwrap()
}

impl Fake {
    /// What was asked for below `/v2/`, in its order.
    pub fn seen(&self, part: &str) -> Vec<Seen> {
        self.log.lock().unwrap().iter().filter(|seen| seen.path.contains(part)).cloned().collect()
    }

    pub fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.addr)
    }
}
