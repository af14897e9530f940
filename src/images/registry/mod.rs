//! Images from registries, as the OCI distribution specification has it: found by name, their layers fetched at need.

mod blob;
mod challenge;
mod client;
mod credentials;
mod manifest;
mod patience;
pub mod reference;
mod settings;

pub use reference::Reference;
pub use settings::Settings;

use super::{ImageError, Offer, digest};
use crate::domain::Kind;
use blob::Blob;
use client::{Client, Source};
use manifest::{Config, Descriptor, Document};
use patience::{Patience, Trouble};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Instant, SystemTime};
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// Indexes that may lead to one another.
const MAX_DEPTH: usize = 3;

/// All registries, and what is on its way from them.
#[derive(Debug)]
pub struct Registries {
    client: Client,
    settings: Settings,
    /// Where layers are written, for all processes of this store.
    dir: PathBuf,
    slots: Semaphore,
    blobs: Mutex<HashMap<String, Weak<Blob>>>,
}

/// An image that a registry has.
#[derive(Debug)]
pub struct Found {
    pub offer: Offer,
    /// Digests of its layers' archives unpacked, the lowest first.
    pub diff_ids: Vec<String>,
    layers: Vec<Arc<Blob>>,
    /// The one that had it first, then those not asked yet.
    sources: Vec<Arc<Source>>,
    name: String,
}

impl Registries {
    /// Layers are written below `dir`, which is made.
    ///
    /// # Errors
    /// `ImagePull` where that or an HTTP client cannot be had.
    pub fn new(settings: Settings, dir: &Path) -> Result<Self, ImageError> {
        let fail = |message: String| ImageError { kind: Kind::ImagePull, message };
        std::fs::create_dir_all(dir).and_then(|()| blob::sweep(dir, SystemTime::now())).map_err(|error| {
            let message = format!("{}: {error}; see that this user may write the image store", dir.display());
            fail(message)
        })?;
        let client = Client::new(&settings).map_err(|why| fail(format!("cannot make an HTTP client: {why}")))?;
        let slots = Semaphore::new(settings.layers_in_flight.max(1));
        Ok(Registries { client, slots, settings, dir: dir.to_owned(), blobs: Mutex::default() })
    }

    /// Finds the image by its mirrors, then by its registry. No layer is fetched yet.
    ///
    /// # Errors
    /// `ImageMissing` where there is none for us or for this machine, `ImagePull`.
    pub async fn find(&self, name: &str) -> Result<Found, ImageError> {
        let usage = |message| ImageError { kind: Kind::ImageMissing, message };
        let reference = Reference::parse(name).map_err(usage)?;
        let sources = Source::all(&reference, &self.settings).map_err(usage)?;
        let sources: Vec<Arc<Source>> = sources.into_iter().map(Arc::new).collect();
        for (n, source) in sources.iter().enumerate() {
            let is_last = n + 1 == sources.len();
            match self.find_at(source, &reference, is_last).await {
                Ok((offer, diff_ids, layers)) => {
                    let layers = layers.into_iter().map(|layer| self.blob(layer)).collect();
                    return Ok(Found { offer, diff_ids, layers, sources: sources[n..].to_vec(), name: name.to_owned() });
                }
                Err(trouble) if is_last => return Err(error(name, &source.host, trouble)),
                Err(trouble) => tracing::warn!(mirror = source.host, image = name, ?trouble, "the mirror failed; asking the next"),
            }
        }
        Err(usage(format!("image {name}: no registry is named")))
    }

    async fn find_at(
        &self,
        source: &Source,
        reference: &Reference,
        is_last: bool,
    ) -> Result<(Offer, Vec<String>, Vec<Descriptor>), Trouble> {
        let architecture = crate::images::architecture();
        let (mut content_type, mut body) = self.manifest(source, reference.version(), is_last).await?;
        let top = reference.digest.clone().unwrap_or_else(|| digest::of(&body));
        for _ in 0..MAX_DEPTH {
            match Document::read(&content_type, &body, architecture).map_err(Trouble::refused)? {
                Document::Index(ours) => (content_type, body) = self.manifest(source, &ours.digest, is_last).await?,
                Document::Manifest { config, layers } => {
                    let bytes = layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
                    if bytes > self.settings.max_bytes {
                        let text = format!("its layers are {bytes} bytes, over images.pull.max_bytes ({})", self.settings.max_bytes);
                        return Err(Trouble::refused(text));
                    }
                    let config = self.config(source, &config, is_last).await?;
                    let Config { diff_ids } = Config::read(&config, architecture, layers.len()).map_err(Trouble::refused)?;
                    let digest = format!("{}@{top}", reference.familiar());
                    return Ok((Offer { config, digest }, diff_ids, layers));
                }
            }
        }
        Err(Trouble::refused(format!("its index leads to indexes, more than {MAX_DEPTH} of them")))
    }

    /// Media type and text; one that is asked for by digest has it.
    async fn manifest(&self, source: &Source, version: &str, is_last: bool) -> Result<(String, Vec<u8>), Trouble> {
        self.document(source, &format!("manifests/{version}"), manifest::ACCEPT, manifest::MAX_MANIFEST, is_last, |body| {
            !reference::is_digest(version) || digest::of(body) == version
        })
        .await
    }

    async fn config(&self, source: &Source, told: &Descriptor, is_last: bool) -> Result<Vec<u8>, Trouble> {
        if told.size > manifest::MAX_CONFIG {
            return Err(Trouble::refused(format!("its configuration is {} bytes, over {}", told.size, manifest::MAX_CONFIG)));
        }
        let what = format!("blobs/{}", told.digest);
        self.document(source, &what, "*/*", told.size, is_last, |body| digest::of(body) == told.digest).await.map(|(_, body)| body)
    }

    async fn document(
        &self,
        source: &Source,
        what: &str,
        accept: &'static str,
        max: u64,
        is_last: bool,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<(String, Vec<u8>), Trouble> {
        let began = Instant::now();
        let mut patience = self.patience(is_last);
        loop {
            let once = async {
                let response = self.client.get(source, what, accept, 0).await?;
                let content_type =
                    response.headers().get("content-type").and_then(|text| text.to_str().ok()).unwrap_or_default().to_owned();
                let body = self.client.body(response, max).await?;
                let wrong = || Trouble::weather(format!("{} gives bytes of digest {} for {what}", source.host, digest::of(&body)));
                if is_right(&body) { Ok((content_type, body)) } else { Err(wrong()) }
            };
            let trouble = match once.await {
                Ok(found) => return Ok(found),
                Err(trouble) => trouble,
            };
            let Some(pause) = patience.next(&trouble, began.elapsed(), chance()) else { return Err(trouble) };
            sleep(pause).await;
        }
    }

    /// A layer fetched. At most so many at the same time; each once, whichever of its images wants it: true for the call that did.
    ///
    /// # Errors
    /// `ImageMissing`, `ImagePull`, `NoSpace`.
    pub async fn fetch(&self, image: &Found, layer: usize) -> Result<bool, ImageError> {
        let host = image.sources.last().map_or("", |source| &source.host);
        let closed = |_| ImageError { kind: Kind::ImagePull, message: format!("cannot pull image {}: it was given up", image.name) };
        let _slot = self.slots.acquire().await.map_err(closed)?;
        let fetched = image.layers[layer].fetch(&self.client, &image.sources, |is_last| self.patience(is_last)).await;
        fetched.map_err(|trouble| error(&image.name, host, trouble))
    }

    fn blob(&self, layer: Descriptor) -> Arc<Blob> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        // Two manifests may tell of two sizes: each is held to its own.
        let key = format!("{} {}", layer.digest, layer.size);
        if let Some(blob) = blobs.get(&key).and_then(Weak::upgrade) {
            return blob;
        }
        blobs.retain(|_, blob| blob.strong_count() > 0);
        let blob = Arc::new(Blob::new(layer, &self.dir));
        blobs.insert(key, Arc::downgrade(&blob));
        blob
    }

    /// A mirror has one try: the next source is better than a wait.
    fn patience(&self, is_last: bool) -> Patience {
        Patience::new(&self.settings, if is_last { self.settings.tries } else { 1 })
    }
}

impl Found {
    /// Reads a fetched layer's archive as it came.
    ///
    /// # Errors
    /// `NotFound` where it was not fetched.
    pub fn open(&self, layer: usize) -> io::Result<Box<dyn Read + Send>> {
        self.layers[layer].open()
    }
}

fn error(name: &str, host: &str, trouble: Trouble) -> ImageError {
    let (kind, text) = match trouble {
        Trouble::Weather { text, .. } | Trouble::Busy { text, .. } => (Kind::ImagePull, text),
        Trouble::Refused { kind, text } => (kind, text),
    };
    ImageError { kind, message: format!("cannot pull image {name} from {host}: {text}") }
}

/// A number in 0..1. The standard library's hasher keys are randomness enough to spread delays.
fn chance() -> f64 {
    (RandomState::new().hash_one(0u8) >> 11) as f64 / (1u64 << 53) as f64
}
