//! What is in the store, and what goes from it: names at once, images that nobody names or uses, layers that no image has.

use super::add::{Layer, Wanted};
use super::image::{Image, Kept, canonical, layer_name};
use super::pull::downloads;
use super::store::{Names, Store, missing};
use super::{ImageError, lock};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

/// An image, by one of its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Empty where it lost its names while it was used.
    pub name: String,
    pub id: String,
    pub digest: String,
    pub layers: usize,
    /// Of the layers that no other image has, in blocks of 4 KiB.
    pub own_bytes: u64,
    /// Of those that others have too.
    pub shared_bytes: u64,
    /// Seconds since 1970.
    pub used_at: u64,
}

/// What went, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    pub names: Vec<String>,
    /// Ids of the images.
    pub images: Vec<String>,
    pub layers: usize,
    /// Of the layers.
    pub bytes: u64,
    /// What dead processes left.
    pub leftovers: usize,
}

/// An image's file.
#[derive(Debug)]
struct Filed {
    kept: Kept,
    used: SystemTime,
}

type Layers = BTreeMap<String, u64>;

impl Store {
    /// The images by their names, and those without a name that are still used.
    ///
    /// # Errors
    /// Where the store cannot be read; so all of these.
    pub fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let (names, images, layers) = (self.names()?, self.filed()?, self.layer_bytes()?);
        let mut users: BTreeMap<String, usize> = BTreeMap::new();
        images.iter().flat_map(Filed::layers).for_each(|layer| *users.entry(layer).or_default() += 1);
        let mut listed = Vec::new();
        for image in &images {
            let sum = |own: bool| image.layers().filter(|layer| (users[layer] == 1) == own).map(|layer| bytes_of(&layers, &layer)).sum();
            let entry = |name: &str, digest: &str| Listed {
                name: name.to_owned(),
                id: image.kept.id.clone(),
                digest: digest.to_owned(),
                layers: image.kept.diff_ids.len(),
                own_bytes: sum(true),
                shared_bytes: sum(false),
                used_at: image.used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            };
            let before = listed.len();
            listed.extend(names.iter().filter(|(_, named)| named.id == image.kept.id).map(|(name, named)| entry(name, &named.digest)));
            if listed.len() == before {
                listed.push(entry("", &image.kept.id));
            }
        }
        listed.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(listed)
    }

    /// Forgets names, or all names of an id. What nobody names or uses any more goes with them.
    ///
    /// # Errors
    /// `ImageMissing`, with nothing done, where there is no image of a name.
    pub fn forget(&self, wanted: &[String]) -> Result<Removed, ImageError> {
        self.change(|store, names, removed| {
            for name in wanted.iter().map(|name| canonical(name)) {
                let gone: Vec<String> =
                    names.iter().filter(|(other, named)| **other == name || named.id == name).map(|(n, _)| n.clone()).collect();
                // A name may be told twice.
                if gone.is_empty() && !removed.names.contains(&name) && !store.image_path(&name).exists() {
                    return Err(missing(format!("there is no image {name}: `sweroll images list` shows those there are")));
                }
                gone.iter().for_each(|name| drop(names.remove(name)));
                removed.names.extend(gone);
            }
            Ok(())
        })
    }

    /// Removes images and layers that nobody names or uses, and what dead processes left. With `keep_bytes`, also the images that were
    /// used least recently, until the layers have at most so many bytes; never one that is in use.
    ///
    /// # Errors
    /// Where something cannot be removed.
    pub fn collect(&self, keep_bytes: Option<u64>) -> Result<Removed, ImageError> {
        self.change(|store, names, removed| {
            // Whoever goes on with one holds it.
            removed.leftovers += lock::sweep(&downloads(store)).map_err(|error| store.unwritable(&error))?;
            let Some(keep) = keep_bytes else { return Ok(()) };
            for id in store.evicted(names, keep)? {
                let gone: Vec<String> = names.iter().filter(|(_, named)| named.id == id).map(|(name, _)| name.clone()).collect();
                gone.iter().for_each(|name| drop(names.remove(name)));
                removed.names.extend(gone);
            }
            Ok(())
        })
    }

    /// What [`Store::collect`] would do now.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn collectable(&self, keep_bytes: Option<u64>) -> Result<Removed, ImageError> {
        self.prepare()?;
        let _lock = lock::exclusive(&self.lock_path()).map_err(|error| self.unwritable(&error))?;
        let mut names = self.names()?;
        let gone: BTreeSet<String> =
            keep_bytes.map(|keep| self.evicted(&names, keep)).transpose()?.unwrap_or_default().into_iter().collect();
        let forgotten: Vec<String> = names.iter().filter(|(_, named)| gone.contains(&named.id)).map(|(name, _)| name.clone()).collect();
        names.retain(|_, named| !gone.contains(&named.id));
        let (images, needed) = self.needed(&names, |_, _| Ok(()))?;
        let layers = self.layer_bytes()?;
        let left: Vec<u64> = layers.iter().filter(|(layer, _)| !needed.contains(*layer)).map(|(_, bytes)| *bytes).collect();
        Ok(Removed { names: forgotten, images, layers: left.len(), bytes: left.iter().sum(), leftovers: 0 })
    }

    /// Takes names away by `how`, then whatever is needed no more.
    fn change(&self, how: impl FnOnce(&Self, &mut Names, &mut Removed) -> Result<(), ImageError>) -> Result<Removed, ImageError> {
        self.prepare()?;
        let unwritable = |error: io::Error| self.unwritable(&error);
        let mut removed = Removed { leftovers: lock::sweep(&self.tmp()).map_err(unwritable)?, ..Removed::default() };
        let trash = self.scratch().map_err(unwritable)?;
        let lock = lock::exclusive(&self.lock_path()).map_err(unwritable)?;
        let mut names = self.names()?;
        how(self, &mut names, &mut removed)?;
        if !removed.names.is_empty() {
            self.set_names(&names)?;
        }
        let (images, needed) = self.needed(&names, |path, _hold| fs::remove_file(path))?;
        removed.images = images;
        let mut moved = Vec::new();
        for (layer, bytes) in self.layer_bytes()?.into_iter().filter(|(layer, _)| !needed.contains(layer)) {
            let away = trash.join(format!("{layer}-{}", self.number()));
            fs::rename(self.layers().join(layer), &away).map_err(unwritable)?;
            moved.push(away);
            removed.bytes += bytes;
        }
        // Nobody sees them any more, so nobody needs to wait.
        drop(lock);
        removed.layers = moved.len();
        moved.iter().try_for_each(fs::remove_dir_all).map_err(unwritable)?;
        Ok(removed)
    }

    /// Bytes of the image's layers that came into the store since then: what it does not share with older ones.
    #[must_use]
    pub fn bytes_since(&self, image: &Image, since: SystemTime) -> u64 {
        let notes = image.layers.iter().map(|layer| self.layers().join(layer).join("layer.json"));
        let new = notes.filter(|note| fs::metadata(note).and_then(|meta| meta.modified()).is_ok_and(|at| at >= since));
        new.filter_map(|note| self.read::<Layer>(&note).ok().flatten()).map(|layer| layer.bytes).sum()
    }

    /// Images that nobody names or uses, `drop`ped while nobody can take them up, and the layers that the others need.
    fn needed(&self, names: &Names, drop: impl Fn(&Path, &File) -> io::Result<()>) -> Result<(Vec<String>, BTreeSet<String>), ImageError> {
        let named: BTreeSet<&str> = names.values().map(|named| named.id.as_str()).collect();
        let (mut gone, mut needed) = (Vec::new(), self.wanted()?);
        for image in self.filed()? {
            let path = self.image_path(&image.kept.id);
            let hold = if named.contains(image.kept.id.as_str()) { None } else { self.unused(&path)? };
            match hold {
                Some(hold) => {
                    drop(&path, &hold).map_err(|error| self.unwritable(&error))?;
                    gone.push(image.kept.id);
                }
                None => needed.extend(image.layers()),
            }
        }
        Ok((gone, needed))
    }

    /// The only hold on an image's file, where nobody uses it.
    fn unused(&self, path: &Path) -> Result<Option<File>, ImageError> {
        lock::try_exclusive(path).map_err(|error| self.unwritable(&error))
    }

    /// Images to go, so that the layers of the others have at most `keep` bytes.
    fn evicted(&self, names: &Names, keep: u64) -> Result<Vec<String>, ImageError> {
        let layers = self.layer_bytes()?;
        let named: BTreeSet<&str> = names.values().map(|named| named.id.as_str()).collect();
        let mut users: BTreeMap<String, usize> = BTreeMap::new();
        let mut free = Vec::new();
        for image in self.filed()? {
            let unused = self.unused(&self.image_path(&image.kept.id))?.is_some();
            let stays = !unused || named.contains(image.kept.id.as_str());
            image.layers().filter(|_| stays).for_each(|layer| *users.entry(layer).or_default() += 1);
            free.extend(Some(image).filter(|_| unused && stays));
        }
        free.sort_by_key(|image| image.used);
        let mut bytes: u64 = users.keys().map(|layer| bytes_of(&layers, layer)).sum();
        let mut gone = Vec::new();
        for image in free {
            if bytes <= keep {
                break;
            }
            for layer in image.layers() {
                let left = users.get_mut(&layer).map_or(0, |users| {
                    *users -= 1;
                    *users
                });
                bytes -= if left == 0 { bytes_of(&layers, &layer) } else { 0 };
            }
            gone.push(image.kept.id);
        }
        Ok(gone)
    }

    fn filed(&self) -> Result<Vec<Filed>, ImageError> {
        let mut filed = Vec::new();
        for path in self.entries(&self.images())? {
            // It may go while we look.
            let Ok(used) = fs::metadata(&path).and_then(|meta| meta.modified()) else { continue };
            if let Some(kept) = self.read(&path)? {
                filed.push(Filed { kept, used });
            }
        }
        Ok(filed)
    }

    /// The layers that are there, and their bytes.
    fn layer_bytes(&self) -> Result<Layers, ImageError> {
        let mut layers = Layers::new();
        for path in self.entries(&self.layers())? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let layer: Option<Layer> = self.read(&path.join("layer.json"))?;
            // What somebody else put there is not ours to remove.
            if let Some(layer) = layer.filter(|layer| layer_name(&layer.diff_id) == name) {
                layers.insert(name.to_owned(), layer.bytes);
            }
        }
        Ok(layers)
    }

    /// Layers that a process is just about to need.
    fn wanted(&self) -> Result<BTreeSet<String>, ImageError> {
        let mut wanted = BTreeSet::new();
        for scratch in self.entries(&self.tmp())?.iter().filter(|path| path.is_dir()) {
            for note in self.entries(scratch)? {
                if note.file_name().is_some_and(|name| name.to_string_lossy().starts_with(Wanted::PREFIX)) {
                    let note: Option<Wanted> = self.read(&note)?;
                    wanted.extend(note.iter().flat_map(|note| &note.diff_ids).map(|id| layer_name(id)));
                }
            }
        }
        Ok(wanted)
    }

    pub(super) fn entries(&self, dir: &Path) -> Result<Vec<std::path::PathBuf>, ImageError> {
        let read = || -> io::Result<Vec<_>> { fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect() };
        match read() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|error| missing(format!("{} of the image store cannot be read: {error}", dir.display()))),
        }
    }
}

impl Filed {
    fn layers(&self) -> impl Iterator<Item = String> + '_ {
        self.kept.diff_ids.iter().map(|id| layer_name(id))
    }
}

fn bytes_of(layers: &Layers, layer: &str) -> u64 {
    layers.get(layer).copied().unwrap_or_default()
}
