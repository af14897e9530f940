//! The content-addressed store: layers unpacked once, images that name them.

use super::{Ids, ImageError, Settings};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A present image. For as long as the value lives nothing of it is removed, by whatever process.
#[derive(Debug)]
pub struct Image {
    /// `sha256:` and the digest of its configuration, as Docker numbers images.
    pub id: String,
    /// `name@sha256:...` as its registry knows it, else the id.
    pub digest: String,
    /// Names of its layers' directories in [`Store::layers`], the lowest first.
    pub layers: Vec<String>,
    /// Bytes of its layers, shared ones included.
    pub bytes: u64,
    /// Variables that its processes begin with.
    pub env: Vec<(String, String)>,
    /// `USER[:GROUP]`, names or numbers; empty: root.
    pub user: String,
}

/// An image as its source offers it.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Configuration, the JSON text whose SHA-256 is the image's id.
    pub config: Vec<u8>,
    /// `name@sha256:...` where a registry gave one, else empty.
    pub digest: String,
}

#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the store, and makes it where there is none.
    ///
    /// # Errors
    /// `ImageMissing` where it was written by another version or for another kind of user.
    pub fn open(_settings: &Settings) -> Result<Self, ImageError> {
        std::fs::create_dir_all("/var/lib/sweroll/images/layers").unwrap();
        Ok(Store { dir: "/var/lib/sweroll/images".into() })
    }

    /// Whose numbers the files have.
    #[must_use]
    pub fn ids(&self) -> Ids {
        Ids::ours(&Settings::default())
    }

    #[must_use]
    pub fn layers(&self) -> PathBuf {
        self.dir.join("layers")
    }

    /// The image of that name, or of that id.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn find(&self, _name: &str) -> Result<Option<Image>, ImageError> {
        todo!()
    }

    /// Unpacks the layers that are not there yet, in parallel, and gives the image its name. `open` gives the n-th layer's
    /// archive, lowest first, compressed or not; what is unpacked must have the digest that the configuration tells.
    ///
    /// # Errors
    /// `ImagePull` for a broken archive, `NoSpace`.
    pub fn add(
        &self,
        _name: &str,
        _offer: &Offer,
        _open: &(dyn Fn(usize) -> io::Result<Box<dyn Read + Send>> + Sync),
    ) -> Result<Image, ImageError> {
        todo!()
    }

    /// A directory for what is on its way, swept once this process is dead.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn scratch(&self) -> io::Result<&Path> {
        todo!()
    }
}
