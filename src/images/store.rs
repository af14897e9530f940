//! The content-addressed store: layers unpacked once, images that name them.
//!
//! Whoever writes holds `lock`: alone for the moment in which names, images and layers come or go, shared while it notes which layers it
//! is about to need. An image's file is held, shared, by whoever uses the image; while it is there its layers are.

use super::image::{Kept, canonical, layer_name, read_config};
use super::lock::{self, Scratch};
use super::{Ids, Image, ImageError, Offer, Settings, compression, digest, tree, unpack};
use crate::domain::Kind;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

/// Of the files of a store; another version's are not read.
const VERSION: u32 = 1;
/// Threads that unpack at most, where the settings name no number: more wait for one disk.
const THREADS_MAX: usize = 8;
/// Times that a name is looked up whose image goes in the same moment.
const TRIES: usize = 3;

/// Gives the n-th layer's archive, the lowest first, compressed or not.
pub type Open<'a> = dyn Fn(usize) -> io::Result<Box<dyn Read + Send>> + Sync + 'a;

#[derive(Debug, Clone)]
pub struct Store {
    pub(super) dir: PathBuf,
    settings: Settings,
    scratch: Arc<OnceLock<Scratch>>,
    added: Arc<AtomicU64>,
}

/// The file `format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Format {
    version: u32,
    ids: Ids,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub id: String,
    /// As in [`Image::digest`].
    pub digest: String,
}

pub type Names = BTreeMap<String, Named>;

/// A layer's `layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub diff_id: String,
    pub bytes: u64,
    pub files: u64,
}

impl Store {
    /// Opens the store; where there is none, an empty one, whose files will have the owners that the first one to add to it gives.
    ///
    /// # Errors
    /// `ImageMissing` where it was written by another version, or there is no place for it.
    pub fn open(settings: &Settings) -> Result<Self, ImageError> {
        let dir = match &settings.dir {
            Some(dir) => dir.clone(),
            None => default_dir().ok_or_else(|| missing("there is no home directory to keep images in: name a place (--store)"))?,
        };
        let store = Store { dir, settings: settings.clone(), scratch: Arc::default(), added: Arc::default() };
        store.format()?;
        // What is below is of numbers that nobody has, and programs with setuid bits are among it: nobody else goes in.
        DirBuilder::new().recursive(true).mode(0o700).create(store.layers()).map_err(|error| store.unwritable(&error))?;
        Ok(store)
    }

    /// Whose numbers the files have.
    #[must_use]
    pub fn ids(&self) -> Ids {
        self.format().ok().flatten().map_or_else(|| Ids::ours(&self.settings), |format| format.ids)
    }

    #[must_use]
    pub fn layers(&self) -> PathBuf {
        self.dir.join("layers")
    }

    /// The image of that name, or of that id.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Image>, ImageError> {
        let name = canonical(name);
        for _ in 0..TRIES {
            let named = match self.names()?.remove(&name) {
                Some(named) => named,
                None if digest::digits(&name).is_some() => Named { id: name.clone(), digest: name.clone() },
                None => return Ok(None),
            };
            if let Some(image) = self.held(&named)? {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// Unpacks the layers that are not there yet, in parallel, and gives the image its name. `open` gives the n-th layer's
    /// archive, lowest first, compressed or not; what is unpacked must have the digest that the configuration tells. A layer that is
    /// there already, or that another process is just unpacking, is not asked for.
    ///
    /// # Errors
    /// `ImagePull` for a broken archive, `NoSpace`; `ImageMissing` where the store is no place for files of this process.
    pub fn add(&self, name: &str, offer: &Offer, open: &Open) -> Result<Image, ImageError> {
        let (all, mut kept) = read_config(&offer.config)?;
        self.prepare()?;
        let wanted = self.want(&kept.diff_ids).map_err(|error| self.unwritable(&error))?;
        let layers = self.unpack_all(&all, &kept.diff_ids, open)?;
        kept.bytes = layers.iter().map(|layer| layer.bytes).sum();
        let image = self.keep(&canonical(name), kept, &offer.digest)?;
        let _ = fs::remove_file(wanted);
        Ok(image)
    }

    /// A directory for what is on its way, swept once this process is dead.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn scratch(&self) -> io::Result<&Path> {
        if self.scratch.get().is_none() {
            self.prepare().map_err(io::Error::other)?;
            // Another thread may have been faster: then this one goes again.
            let _ = self.scratch.set(Scratch::create_in(&self.tmp())?);
        }
        self.scratch.get().map(|scratch| scratch.path.as_path()).ok_or_else(|| io::Error::other("no scratch directory"))
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    pub(super) fn lock_path(&self) -> PathBuf {
        self.dir.join("lock")
    }

    pub(super) fn image_path(&self, id: &str) -> PathBuf {
        self.images().join(format!("{}.json", digest::digits(id).unwrap_or_default()))
    }

    /// # Errors
    /// Where the file is none of ours.
    pub fn names(&self) -> Result<Names, ImageError> {
        Ok(self.read(&self.dir.join("names.json"))?.unwrap_or_default())
    }

    /// To be called with the only hold on `lock`.
    pub(super) fn set_names(&self, names: &Names) -> Result<(), ImageError> {
        self.write(&self.dir.join("names.json"), names)
    }

    /// A JSON file; none where it is not there.
    pub(super) fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, ImageError> {
        let told = |error: &dyn std::fmt::Display| missing(format!("{} of the image store cannot be read: {error}", path.display()));
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| told(&error)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(told(&error)),
        }
    }

    /// A JSON file, whole or not at all.
    fn write<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), ImageError> {
        self.write_file(path, value).map_err(|error| self.unwritable(&error))
    }

    fn write_file<T: Serialize>(&self, path: &Path, value: &T) -> io::Result<()> {
        let new = self.scratch()?.join(format!("new-{}", self.number()));
        let file = fs::File::create_new(&new)?;
        serde_json::to_writer(&file, value)?;
        file.sync_all()?;
        fs::rename(&new, path)
    }

    /// Another number each time, for names in the scratch directory.
    fn number(&self) -> u64 {
        self.added.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn unwritable(&self, error: &io::Error) -> ImageError {
        failed(error, &format!("the image store {} cannot be written", self.dir.display()))
    }

    fn format(&self) -> Result<Option<Format>, ImageError> {
        let format: Option<Format> = self.read(&self.dir.join("format"))?;
        match format {
            Some(Format { version, .. }) if version != VERSION => Err(missing(format!(
                "the image store {} is of version {version}, this program's of {VERSION}: remove it, or take another (--store)",
                self.dir.display()
            ))),
            other => Ok(other),
        }
    }

    /// Makes the store where there is none, and refuses one whose files have other owners than this process gives.
    pub(super) fn prepare(&self) -> Result<(), ImageError> {
        let ours = Format { version: VERSION, ids: Ids::ours(&self.settings) };
        let theirs = match self.format()? {
            Some(format) => format,
            None => self.make(&ours).map_err(|error| self.unwritable(&error))?,
        };
        if theirs == ours {
            return Ok(());
        }
        let told = |ids: Ids| format!("{} to {}", ids.first, ids.first + (ids.count - 1));
        Err(missing(format!(
            "the files of the image store {} are of the numbers {}; this process gives them {}: be the user who made it, take another \
             store (--store), or set images.first_id as it was",
            self.dir.display(),
            told(theirs.ids),
            told(ours.ids)
        )))
    }

    fn make(&self, format: &Format) -> io::Result<Format> {
        for dir in [self.images(), self.tmp()] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let _lock = lock::exclusive(&self.lock_path())?;
        let path = self.dir.join("format");
        if let Ok(bytes) = fs::read(&path) {
            return Ok(serde_json::from_slice(&bytes)?);
        }
        let new = self.dir.join("format.new");
        fs::write(&new, serde_json::to_vec(format)?)?;
        fs::rename(new, path)?;
        Ok(*format)
    }

    /// The image, if it is there, and with a hold on it.
    fn held(&self, named: &Named) -> Result<Option<Image>, ImageError> {
        let path = self.image_path(&named.id);
        let unreadable = |error: &io::Error| missing(format!("{} of the image store cannot be read: {error}", path.display()));
        let Some(hold) = lock::try_shared(&path).map_err(|error| unreadable(&error))? else { return Ok(None) };
        let Some(kept) = self.read::<Kept>(&path)? else { return Ok(None) };
        let layers: Vec<String> = kept.diff_ids.iter().map(|id| layer_name(id)).collect();
        if !layers.iter().all(|layer| self.layers().join(layer).is_dir()) {
            return Ok(None);
        }
        // When it was used last; that a store may not be written to is no reason not to use it.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let _ = futimens(&hold, &Timestamps { last_access: now, last_modification: now });
        let Kept { id, bytes, env, user, .. } = kept;
        Ok(Some(Image { id, digest: named.digest.clone(), layers, bytes, env, user, _hold: hold }))
    }

    /// Notes layers that no image names yet, so that nobody removes them. Returns the note.
    fn want(&self, diff_ids: &[String]) -> io::Result<PathBuf> {
        let note = self.scratch()?.join(format!("{}{}", Wanted::PREFIX, self.number()));
        let _lock = lock::shared(&self.lock_path())?;
        fs::write(&note, serde_json::to_vec(&Wanted { diff_ids: diff_ids.to_vec() })?)?;
        Ok(note)
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
                let layer = self
                    .layer(diff_id, || open(at))
                    .map_err(|error| failed(&error, &format!("layer {} of {} ({diff_id}) could not be unpacked", at + 1, all.len())));
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
        let turn = self.tmp().join(format!("{}.turn", layer_name(diff_id)));
        let _turn = lock::exclusive(&turn)?;
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
        let _ = fs::remove_file(&turn);
        unpacked
    }

    fn unpack(&self, diff_id: &str, place: &Path, archive: Box<dyn Read + Send>) -> io::Result<Layer> {
        let ids = self.ids();
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

fn present(place: &Path, diff_id: &str) -> io::Result<Option<Layer>> {
    let bytes = match fs::read(place.join("layer.json")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let layer: Layer = serde_json::from_slice(&bytes)?;
    if layer.diff_id == diff_id { Ok(Some(layer)) } else { Err(io::Error::other(format!("its place is taken by {}", layer.diff_id))) }
}

/// Whether this process is in no user namespace but the host's, where root may set `trusted.*`.
fn root_of_host() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn default_dir() -> Option<PathBuf> {
    if root_of_host() {
        return Some("/var/lib/sweroll/images".into());
    }
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")))?;
    Some(data.join("sweroll/images"))
}

fn missing(message: impl Into<String>) -> ImageError {
    ImageError { kind: Kind::ImageMissing, message: message.into() }
}

fn failed(error: &io::Error, what: &str) -> ImageError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ImageError { kind: Kind::NoSpace, message: format!("{what}: {error}: make room, or see `sweroll images gc`") }
        }
        _ => ImageError { kind: Kind::ImagePull, message: format!("{what}: {error}") },
    }
}
