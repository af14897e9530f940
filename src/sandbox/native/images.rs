//! The images of native sandboxes: looked up in the store, fetched by a process of their own where they are missing.

use crate::domain::Failure;
use crate::images::{Image, Settings, Store};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The image that is this host's own system directories, and needs no store.
pub const HOST: &str = "host";

#[derive(Debug)]
pub struct Images {
    settings: Settings,
    program: PathBuf,
    known: Mutex<HashMap<String, Arc<Image>>>,
}

impl Images {
    #[must_use]
    pub fn new(settings: Settings, program: &Path) -> Self {
        Images { settings, program: program.to_owned(), known: Mutex::default() }
    }

    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn store(&self) -> Result<Store, Failure> {
        Store::open(&self.settings).map_err(|error| error.failure())
    }

    pub fn is_present(&self, name: &str) -> Result<bool, Failure> {
        Ok(name == HOST || self.find(name)?.is_some())
    }

    pub fn bytes(&self, name: &str) -> u64 {
        self.find(name).ok().flatten().map_or(0, |image| image.bytes)
    }

    /// None for the host's own.
    ///
    /// # Errors
    /// `ImageMissing`, `ImagePull`, `NoSpace`.
    pub async fn ensure(&self, name: &str) -> Result<Option<Arc<Image>>, Failure> {
        if name == HOST {
            return Ok(None);
        }
        if let Some(image) = self.find(name)? {
            return Ok(Some(image));
        }
        Err(Failure::new(crate::domain::Kind::ImageMissing, format!("image {name} is not in the store; {}", self.program.display())))
    }

    fn find(&self, name: &str) -> Result<Option<Arc<Image>>, Failure> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = known.get(name) {
            return Ok(Some(image.clone()));
        }
        let found = self.store()?.find(name).map_err(|error| error.failure())?.map(Arc::new);
        if let Some(image) = &found {
            known.insert(name.to_owned(), image.clone());
        }
        Ok(found)
    }
}
