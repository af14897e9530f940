//! An image goes from its registry into the store: layers are fetched ahead, while those that are there are unpacked.

use super::image::{EMPTY_LAYER, layer_name};
use super::registry::{Registries, Settings};
use super::{Image, ImageError, Store};
use crate::domain::Kind;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// An image that is in the store now.
#[derive(Debug)]
pub struct Pulled {
    pub image: Image,
    pub layers_fetched: usize,
    /// Those that the store had already, or that came for another image.
    pub layers_present: usize,
}

/// What fetches into this store.
///
/// # Errors
/// `ImagePull`.
pub fn registries(store: &Store, settings: &Settings) -> Result<Arc<Registries>, ImageError> {
    Registries::new(settings.clone(), &downloads(store)).map(Arc::new)
}

/// Below the store, where other processes find them; not in a scratch directory, which would go with its process.
pub(super) fn downloads(store: &Store) -> PathBuf {
    store.dir.join("downloads")
}

/// To be called within a tokio runtime of several threads.
///
/// # Errors
/// `ImageMissing`, `ImagePull`, `NoSpace`.
pub async fn pull(store: &Store, registries: &Arc<Registries>, name: &str) -> Result<Pulled, ImageError> {
    let found = Arc::new(registries.find(name).await?);
    let count = Arc::new(AtomicUsize::new(0));
    let fetch = {
        let (registries, found, count) = (registries.clone(), found.clone(), count.clone());
        move |layer| {
            let (registries, found, count) = (registries.clone(), found.clone(), count.clone());
            async move { registries.fetch(&found, layer).await.map(|is_ours| count.fetch_add(is_ours.into(), Relaxed)) }
        }
    };
    let mut ahead = JoinSet::new();
    for layer in absent(store, &found.diff_ids) {
        ahead.spawn(fetch(layer));
    }
    let (store, name) = (store.clone(), name.to_owned());
    let handle = Handle::current();
    let added = tokio::task::spawn_blocking(move || {
        // The store knows an I/O error only; ours says more.
        let why: Mutex<Option<ImageError>> = Mutex::new(None);
        let open = |layer| {
            handle.block_on(fetch(layer)).map_err(|error| {
                let text = error.to_string();
                why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                io::Error::other(text)
            })?;
            found.open(layer)
        };
        let added = store.add(&name, &found.offer, &open);
        let why = why.into_inner().unwrap_or_else(PoisonError::into_inner);
        let layers_fetched = count.load(Relaxed);
        let layers_present = found.diff_ids.len() - layers_fetched;
        added.map(|image| Pulled { image, layers_fetched, layers_present }).map_err(|error| why.unwrap_or(error))
    });
    added.await.unwrap_or_else(|error| Err(ImageError { kind: Kind::ImagePull, message: format!("it was given up: {error}") }))
}

/// Layers that will have to be fetched, by their place: each once, and none that is empty.
fn absent(store: &Store, diff_ids: &[String]) -> Vec<usize> {
    let is_first = |at: usize| !diff_ids[..at].contains(&diff_ids[at]);
    let is_there = |id: &String| id == EMPTY_LAYER || store.layers().join(layer_name(id)).is_dir();
    (0..diff_ids.len()).filter(|&at| is_first(at) && !is_there(&diff_ids[at])).collect()
}
