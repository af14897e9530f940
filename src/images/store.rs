//! The content-addressed store: layers unpacked once, images that name them.
//!
//! Whoever writes holds `lock`: alone for the moment in which names, images and layers come or go, shared while it notes which layers it
//! is about to need. An image's file is held, shared, by whoever uses the image; while it is there its layers are.

use super::image::{Kept, canonical, layer_name};
use super::lock::{self, Scratch};
use super::{Ids, Image, ImageError, Settings, digest};
use crate::domain::Kind;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Of the files of a store; another version's are not read.
const VERSION: u32 = 1;
/// Times that a name is looked up whose image goes in the same moment.
const TRIES: usize = 3;

#[derive(Debug, Clone)]
pub struct Store {
    pub(super) dir: PathBuf,
    pub(super) settings: Settings,
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

    /// Whose numbers the files have; none before the first is written.
    #[must_use]
    pub fn ids(&self) -> Option<Ids> {
        self.format().ok().flatten().map(|format| format.ids)
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
        for _ in 0..TRIES {
            let Some(named) = named(&self.names()?, name) else { return Ok(None) };
            if let Some(image) = self.held(&named)? {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// Those of the names that there are images of. No image is held: they may go.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn present<'a>(&self, wanted: &[&'a str]) -> Result<HashMap<&'a str, Named>, ImageError> {
        // An image's file is there for no longer than its layers.
        let files = self.entries(&self.images())?;
        let ids: HashSet<&str> = files.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
        let names = self.names()?;
        let there = wanted.iter().filter_map(|name| Some((*name, named(&names, name)?)));
        Ok(there.filter(|(_, named)| digest::digits(&named.id).is_some_and(|id| ids.contains(id))).collect())
    }

    /// A directory for what is on its way, swept once this process is dead.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn scratch(&self) -> io::Result<&Path> {
        if self.scratch.get().is_none() {
            self.prepare().map_err(io::Error::other)?;
            // What cannot be swept now can be by `gc`, which says why not.
            let _ = lock::sweep(&self.tmp());
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
    pub(super) fn write<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), ImageError> {
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
    pub(super) fn number(&self) -> u64 {
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
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn held(&self, named: &Named) -> Result<Option<Image>, ImageError> {
        let path = self.image_path(&named.id);
        let unreadable = |error: &io::Error| missing(format!("{} of the image store cannot be read: {error}", path.display()));
        let Some(hold) = lock::shared_if_there(&path).map_err(|error| unreadable(&error))? else { return Ok(None) };
        let Some(kept) = self.read::<Kept>(&path)? else { return Ok(None) };
        let layers: Vec<String> = kept.diff_ids.iter().map(|id| layer_name(id)).collect();
        if !layers.iter().all(|layer| self.layers().join(layer).is_dir()) {
            return Ok(None);
        }
        // When it was used last; that a store may not be written to is no reason not to use it.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let _ = futimens(&hold, &Timestamps { last_access: now, last_modification: now });
        let Kept { id, bytes, env, user, workdir, .. } = kept;
        Ok(Some(Image { id, digest: named.digest.clone(), layers, bytes, env, user, workdir, _hold: hold }))
    }
}

/// What a name, or an id, stands for.
fn named(names: &Names, name: &str) -> Option<Named> {
    let name = canonical(name);
    match names.get(&name) {
        Some(named) => Some(named.clone()),
        None => digest::digits(&name).is_some().then(|| Named { id: name.clone(), digest: name }),
    }
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

pub(super) fn missing(message: impl Into<String>) -> ImageError {
    ImageError { kind: Kind::ImageMissing, message: message.into() }
}

pub(super) fn failed(error: &io::Error, what: &str) -> ImageError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ImageError { kind: Kind::NoSpace, message: format!("{what}: {error}: make room, or see `sweroll images gc`") }
        }
        _ => ImageError { kind: Kind::ImagePull, message: format!("{what}: {error}") },
    }
}
