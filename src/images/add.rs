//! An image comes into the store: its layers are unpacked in parallel, each once.

use super::image::{EMPTY_LAYER, Kept, canonical, layer_name, read_config};
use super::store::{Named, Store, failed, missing};
use super::{Ids, Image, ImageError, Offer, compression, digest, lock, tree, unpack};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Threads that unpack at most, where the settings name no number: more wait for one disk.
const THREADS_MAX: usize = 8;
/// What tar closes an archive with.
const END: u64 = 1024;

/// Gives the n-th layer's archive, the lowest first, compressed or not.
pub type Open<'a> = dyn Fn(usize) -> io::Result<Box<dyn Read + Send>> + Sync + 'a;

/// A layer's `layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub diff_id: String,
    pub bytes: u64,
    pub files: u64,
}

impl Store {
    /// Unpacks the layers that are not there yet, in parallel, and gives the image its name. `open` gives the n-th layer's
    /// archive, lowest first, compressed or not; what is unpacked must have the digest that the configuration tells. A layer that is
    /// there already, or that another process is just unpacking, is not asked for.
    ///
    /// # Errors
    /// `ImagePull` for a broken archive, `NoSpace`; `ImageMissing` where the store is no place for files of this process.
    pub fn add(&self, name: &str, offer: &Offer, open: &Open) -> Result<Image, ImageError> {
        let (all, mut kept) = read_config(&offer.config)?;
        self.prepare()?;
        let _wanted = self.want(&kept.diff_ids).map_err(|error| self.unwritable(&error))?;
        let layers = self.unpack_all(&all, &kept.diff_ids, open)?;
        kept.bytes = layers.iter().map(|layer| layer.bytes).sum();
        self.keep(&canonical(name), kept, &offer.digest)
    }

    /// Notes layers that no image names yet, so that nobody removes them.
    fn want(&self, diff_ids: &[String]) -> io::Result<Note> {
        let note = self.scratch()?.join(format!("{}{}", Wanted::PREFIX, self.number()));
        let _lock = lock::shared(&self.lock_path())?;
        fs::write(&note, serde_json::to_vec(&Wanted { diff_ids: diff_ids.to_vec() })?)?;
        Ok(Note(note))
    }

    fn unpack_all(&self, all: &[String], diff_ids: &[String], open: &Open) -> Result<Vec<Layer>, ImageError> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = match self.settings.unpack.threads {
            0 => cores.min(THREADS_MAX),
            threads => threads,
        };
        let next = AtomicUsize::new(0);
        let outcome: Mutex<Result<Vec<(usize, Layer)>, ImageError>> = Mutex::new(Ok(Vec::new()));
        let work = || {
            while let Some(diff_id) = diff_ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                let at = all.iter().position(|id| id == diff_id).unwrap_or_default();
                let archive = || if diff_id == EMPTY_LAYER { Ok(empty()) } else { open(at) };
                let what = || format!("layer {} of {} ({diff_id}) could not be unpacked", at + 1, all.len());
                let layer = self.layer(diff_id, archive).map_err(|error| failed(&error, &what()));
                let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                match (layer, outcome.as_mut()) {
                    (Ok(layer), Ok(layers)) => layers.push((at, layer)),
                    (Err(error), Ok(_)) => *outcome = Err(error),
                    (_, Err(_)) => {}
                }
                if outcome.is_err() {
                    return;
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..threads.min(diff_ids.len()) {
                scope.spawn(work);
            }
        });
        Ok(outcome.into_inner().unwrap_or_else(PoisonError::into_inner)?.into_iter().map(|(_, layer)| layer).collect())
    }

    /// The layer, unpacked unless it is there. One process at a time unpacks it; others wait for that.
    fn layer(&self, diff_id: &str, open: impl FnOnce() -> io::Result<Box<dyn Read + Send>>) -> io::Result<Layer> {
        let place = self.layers().join(layer_name(diff_id));
        if let Some(layer) = present(&place, diff_id)? {
            return Ok(layer);
        }
        let _turn = Turn::take(self.tmp().join(format!("{}.turn", layer_name(diff_id))))?;
        if let Some(layer) = present(&place, diff_id)? {
            return Ok(layer);
        }
        let new = self.scratch()?.join(format!("layer-{}", self.number()));
        fs::create_dir(&new)?;
        let unpacked = self.unpack(diff_id, &new, open()?).and_then(|layer| {
            fs::rename(&new, &place)?;
            Ok(layer)
        });
        if unpacked.is_err() {
            // What is left goes with the scratch directory.
            let _ = fs::remove_dir_all(&new);
        }
        unpacked
    }

    fn unpack(&self, diff_id: &str, place: &Path, archive: Box<dyn Read + Send>) -> io::Result<Layer> {
        let ids = self.ids().unwrap_or_else(|| Ids::ours(&self.settings));
        let mark = tree::opaque_mark(!ids.are_roots());
        let mut tree = tree::Tree::create(&place.join("fs"), (ids.outside(0), ids.outside(0)), mark, self.settings.unpack.depth)?;
        let mut archive = digest::Digesting::new(compression::plain(archive)?);
        let tally = unpack::unpack(&mut archive, &mut tree, ids, &self.settings.unpack)?;
        let found = archive.finish();
        if found != diff_id {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("its digest is {found}: the archive was changed or cut")));
        }
        let layer = Layer { diff_id: diff_id.to_owned(), bytes: tally.bytes, files: tally.files };
        fs::write(place.join("layer.json"), serde_json::to_vec(&layer)?)?;
        // What is renamed into place must be whole after a loss of power too.
        tree.sync()?;
        Ok(layer)
    }

    /// Writes the image and its name, with all its layers there.
    fn keep(&self, name: &str, kept: Kept, digest: &str) -> Result<Image, ImageError> {
        let _lock = lock::exclusive(&self.lock_path()).map_err(|error| self.unwritable(&error))?;
        let path = self.image_path(&kept.id);
        // Whoever holds it holds this very file.
        if !path.exists() {
            self.write(&path, &kept)?;
        }
        let digest = if digest.is_empty() { kept.id.clone() } else { digest.to_owned() };
        let named = Named { id: kept.id, digest };
        let mut names = self.names()?;
        if names.get(name) != Some(&named) {
            names.insert(name.to_owned(), named.clone());
            self.set_names(&names)?;
        }
        self.held(&named)?.ok_or_else(|| missing(format!("{name} went from the image store as it came: its files were removed by hand")))
    }
}

/// A note of layers that are about to be needed, in a scratch directory.
#[derive(Debug, Serialize, Deserialize)]
pub struct Wanted {
    pub diff_ids: Vec<String>,
}

impl Wanted {
    pub const PREFIX: &str = "wanted-";
}

/// A [`Wanted`] on the disk, while somebody is at it.
struct Note(PathBuf);

impl Drop for Note {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// At one layer one process is at work.
struct Turn {
    path: PathBuf,
    _lock: fs::File,
}

impl Turn {
    fn take(path: PathBuf) -> io::Result<Self> {
        let lock = lock::exclusive(&path)?;
        Ok(Turn { path, _lock: lock })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn empty() -> Box<dyn Read + Send> {
    Box::new(io::repeat(0).take(END))
}

fn present(place: &Path, diff_id: &str) -> io::Result<Option<Layer>> {
    let bytes = match fs::read(place.join("layer.json")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let layer: Layer = serde_json::from_slice(&bytes)?;
    if layer.diff_id == diff_id { Ok(Some(layer)) } else { Err(io::Error::other(format!("its place is taken by {}", layer.diff_id))) }
}
