//! Images from the local Docker daemon: exported into a file, many at once, so that the layers they share come once.

use super::files::{Files, Found, Packed};
use super::image::canonical;
use super::pull::Pulled;
use super::{ImageError, Store, archive};
use crate::domain::Kind;
use bollard::Docker as Client;
use bollard::errors::Error;
use futures_util::TryStreamExt;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// Images of one export: enough to share layers, few enough for the disk.
const AT_ONCE: usize = 16;
/// Seconds for a daemon to answer at all.
const GREETING: Duration = Duration::from_secs(10);
/// Seconds without a byte in the middle of an export; before the first byte the daemon reads the layers.
const SILENCE: Duration = Duration::from_secs(300);

/// What was asked for, by name, and what came of it.
pub type Outcomes = Vec<(String, Result<Pulled, ImageError>)>;

#[derive(Debug)]
pub struct Daemon {
    client: Client,
}

/// An image that the daemon has.
#[derive(Debug)]
struct Present {
    name: String,
    id: String,
    /// `name@sha256:...`, else empty.
    digest: String,
}

impl Daemon {
    /// The daemon at `DOCKER_HOST`, else the local one.
    ///
    /// # Errors
    /// `Daemon` where none answers.
    pub async fn connect() -> Result<Self, ImageError> {
        let absent = |error: &dyn std::fmt::Display| ImageError {
            kind: Kind::Daemon,
            message: format!(
                "no Docker daemon answers ({error}); is dockerd running, and may this user open it? Set DOCKER_HOST to use another"
            ),
        };
        let client = Client::connect_with_defaults().map_err(|error| absent(&error))?;
        match tokio::time::timeout(GREETING, client.negotiate_version()).await {
            Ok(Ok(client)) => Ok(Daemon { client }),
            Ok(Err(error)) => Err(absent(&error)),
            Err(_) => Err(absent(&format_args!("silent for {GREETING:?}"))),
        }
    }

    /// Takes these images into the store; one that the daemon does not have is `ImageMissing`.
    pub async fn import(&self, store: &Store, names: &[String]) -> Outcomes {
        let mut outcomes = Vec::new();
        let mut present = Vec::new();
        for name in names {
            match self.find(name).await {
                Ok(found) => present.push(found),
                Err(error) => outcomes.push((name.clone(), Err(error))),
            }
        }
        for some in present.chunks(AT_ONCE) {
            outcomes.extend(self.take(store, some).await);
        }
        outcomes
    }

    async fn find(&self, name: &str) -> Result<Present, ImageError> {
        // A name stands in the path of a request.
        let is_odd = |c: char| !(c.is_ascii_alphanumeric() || "._-/:@".contains(c));
        if name.is_empty() || name.contains(is_odd) || name.contains("..") || name.contains("//") || name.starts_with(['/', '-']) {
            return Err(ImageError { kind: Kind::ImageMissing, message: format!("{name:?} is no name of an image") });
        }
        match tokio::time::timeout(SILENCE, self.client.inspect_image(name)).await {
            Ok(Ok(image)) => {
                let digest = image.repo_digests.and_then(|all| all.into_iter().next()).unwrap_or_default();
                Ok(Present { name: name.to_owned(), id: image.id.unwrap_or_default(), digest })
            }
            Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => {
                let message = format!("image {name} is not on the Docker daemon; check its name, or pull or build it there");
                Err(ImageError { kind: Kind::ImageMissing, message })
            }
            Ok(Err(error)) => Err(broken(name, &error)),
            Err(_) => Err(broken(name, &format_args!("silent for {SILENCE:?}"))),
        }
    }

    /// Exports all of them, then adds one after the other.
    async fn take(&self, store: &Store, images: &[Present]) -> Outcomes {
        let exported = self.export(store, images).await;
        let store = store.clone();
        let wanted: Vec<(String, String, String)> =
            images.iter().map(|one| (one.name.clone(), one.id.clone(), one.digest.clone())).collect();
        let added = tokio::task::spawn_blocking(move || {
            let archive = exported.and_then(|packed| archive::images(&packed).map(|found| (packed, found)));
            let all = wanted.into_iter().map(|(name, id, digest)| {
                let outcome = match &archive {
                    Ok((packed, found)) => add(&store, packed, found, &name, &id, &digest),
                    Err(error) => Err(ImageError { kind: error.kind, message: error.message.clone() }),
                };
                (name, outcome)
            });
            all.collect()
        });
        let given_up = |error| (String::new(), Err(broken("", &error)));
        added.await.unwrap_or_else(|error| vec![given_up(error)])
    }

    /// The archive, in a file that has no name any more.
    async fn export(&self, store: &Store, images: &[Present]) -> Result<Packed, ImageError> {
        let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
        let all = names.join(", ");
        let most = store.settings.pull.max_bytes.saturating_mul(images.len() as u64);
        let disk = |error: &io::Error| super::store::failed(error, &format!("images {all} could not be taken from the Docker daemon"));
        let path = store.scratch().map_err(|error| disk(&error))?.join(format!("export-{}", store.number()));
        let mut file = File::create_new(&path).map_err(|error| disk(&error))?;
        let packed = async {
            let mut stream = self.client.export_images(&names);
            let mut written = 0;
            loop {
                let next = tokio::time::timeout(SILENCE, stream.try_next()).await;
                let Some(piece) =
                    next.map_err(|_| broken(&all, &format_args!("silent for {SILENCE:?}")))?.map_err(|error| broken(&all, &error))?
                else {
                    break;
                };
                written += piece.len() as u64;
                if written > most {
                    return Err(broken(&all, &format_args!("more than {most} bytes (images.pull.max_bytes for each)")));
                }
                file.write_all(&piece).map_err(|error| disk(&error))?;
            }
            Packed::open(&path, || Err(io::Error::other("it is compressed")), most).map_err(|error| disk(&error))
        };
        let packed = packed.await;
        // Gone, it goes with whoever reads it.
        let _ = std::fs::remove_file(&path);
        packed
    }
}

fn add(store: &Store, packed: &Packed, found: &[Found], name: &str, id: &str, digest: &str) -> Result<Pulled, ImageError> {
    let named = |one: &&Found| one.names.iter().any(|other| canonical(other) == canonical(name));
    let found = found.iter().find(|one| one.id() == id).or_else(|| found.iter().find(named));
    let found = found.ok_or_else(|| broken(name, &"it is not in the archive that the daemon made"))?;
    let offer = super::Offer { digest: digest.to_owned(), ..found.offer.clone() };
    let before = layers_of(&store.layers());
    let image = store.add(name, &offer, &|n| packed.open(found.layers.get(n).map_or("", String::as_str)))?;
    let layers_fetched = image.layers.iter().filter(|&layer| !before.contains(layer)).count();
    Ok(Pulled { layers_fetched, layers_present: image.layers.len() - layers_fetched, image })
}

fn layers_of(dir: &Path) -> HashSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn broken(name: &str, error: &dyn std::fmt::Display) -> ImageError {
    ImageError { kind: Kind::ImagePull, message: format!("image {name} could not be taken from the Docker daemon: {error}; see its log") }
}
