//! One layer on its way: written where other processes find it, taken up again where it broke off, verified as it grows.

use super::client::{Client, Source};
use super::manifest::Descriptor;
use super::patience::{Patience, Trouble};
use crate::domain::Kind;
use reqwest::header::CONTENT_RANGE;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::OnceCell;
use tokio::time::sleep;

/// Between two looks at a layer that another process fetches.
const LOOK: Duration = Duration::from_millis(100);
/// For this long the beginning of a layer is kept for whoever wants its end. A day.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A layer that is or will be in a file, which goes with the value once it was whole.
#[derive(Debug)]
pub struct Blob {
    pub descriptor: Descriptor,
    path: PathBuf,
    /// The whole file, or why there is none: who asks again gets the same answer.
    outcome: OnceCell<Result<Arc<File>, Trouble>>,
}

impl Drop for Blob {
    fn drop(&mut self) {
        if self.file().is_some() {
            // Gone already, by another process that had it too.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Blob {
    #[must_use]
    pub fn new(descriptor: Descriptor, dir: &Path) -> Self {
        let path = dir.join(descriptor.digest.replace(':', "-"));
        Blob { descriptor, path, outcome: OnceCell::new() }
    }

    /// Fetches it from the first source that gives it, once, whoever asks; says whether it was this call that did.
    ///
    /// # Errors
    /// What the last source said.
    pub async fn fetch(&self, client: &Client, sources: &[Arc<Source>], patience: impl Fn(bool) -> Patience) -> Result<bool, Trouble> {
        let is_ours = AtomicBool::new(false);
        let fetch = || async {
            is_ours.store(true, Relaxed);
            let mut part = self.part(patience(true)).await?;
            let mut said = Trouble::refused("no source");
            for (n, source) in sources.iter().enumerate() {
                let is_last = n + 1 == sources.len();
                match self.try_at(client, source, &mut part, patience(is_last)).await {
                    Ok(()) => {
                        let _ = part.file.unlock();
                        return Ok(Arc::new(part.file));
                    }
                    Err(trouble) if !is_last => {
                        tracing::warn!(mirror = source.host, layer = self.descriptor.digest, ?trouble, "the mirror failed; asking the next")
                    }
                    Err(trouble) => said = trouble,
                }
            }
            Err(said)
        };
        self.outcome.get_or_init(fetch).await.as_ref().map(|_| is_ours.load(Relaxed)).map_err(Clone::clone)
    }

    fn file(&self) -> Option<&Arc<File>> {
        self.outcome.get()?.as_ref().ok()
    }

    /// Reads it; there, once [`fetch`](Self::fetch) is done.
    ///
    /// # Errors
    /// `NotFound` before that.
    pub fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let file = self.file().ok_or(io::ErrorKind::NotFound)?.clone();
        Ok(Box::new(io::BufReader::with_capacity(1 << 17, Reader { file, at: 0 })))
    }

    /// What is there of it, for this process alone: another may be fetching it as well.
    async fn part(&self, mut patience: Patience) -> Result<Part, Trouble> {
        let began = Instant::now();
        loop {
            if let Some(file) = lock(&self.path).map_err(|error| disk(&self.path, &error))? {
                // One byte more than there can be shows that it is another layer's.
                let most = self.descriptor.size.saturating_add(1);
                let read = tokio::task::spawn_blocking(move || Part::read(file, most)).await;
                return read.map_err(io::Error::other).flatten().map_err(|error| disk(&self.path, &error));
            }
            patience.progressed();
            let waits = Trouble::weather(format!("another process fetches {} and does not end", self.descriptor.digest));
            if patience.next(&waits, began.elapsed(), 0.0).is_none() {
                return Err(waits);
            }
            sleep(LOOK).await;
        }
    }

    async fn try_at(&self, client: &Client, source: &Source, part: &mut Part, mut patience: Patience) -> Result<(), Trouble> {
        let began = Instant::now();
        let mut furthest = part.length;
        loop {
            let Err(trouble) = self.once(client, source, part).await else { return Ok(()) };
            if part.length > furthest {
                furthest = part.length;
                patience.progressed();
            }
            let Some(pause) = patience.next(&trouble, began.elapsed(), super::chance()) else { return Err(trouble) };
            tracing::debug!(registry = source.host, layer = self.descriptor.digest, ?trouble, ?pause, "trying again");
            sleep(pause).await;
        }
    }

    async fn once(&self, client: &Client, source: &Source, part: &mut Part) -> Result<(), Trouble> {
        let Descriptor { digest, size, .. } = &self.descriptor;
        let on_disk = |error: &io::Error| disk(&self.path, error);
        if part.length > *size {
            part.clear().map_err(|error| on_disk(&error))?;
        }
        if part.length < *size {
            let mut response = client.get(source, &format!("blobs/{digest}"), "*/*", part.length).await?;
            let goes_on = response.status() == 206 && starts_at(response.headers().get(CONTENT_RANGE)) == Some(part.length);
            if !goes_on {
                part.clear().map_err(|error| on_disk(&error))?;
            }
            if !goes_on && response.status() != 200 {
                return Err(Trouble::weather(format!("{} gave another part of {digest} than it was asked for", source.host)));
            }
            let too_large = || {
                let text = format!("{} gives more for {digest} than the {size} bytes that its manifest tells of", source.host);
                Trouble::Refused { kind: Kind::ImagePull, text }
            };
            if response.content_length().is_some_and(|told| told > size - part.length) {
                return Err(too_large());
            }
            while let Some(piece) = client.chunk(&mut response).await? {
                if piece.len() as u64 > size - part.length {
                    return Err(too_large());
                }
                part.write(&piece).map_err(|error| on_disk(&error))?;
            }
        }
        if part.length < *size {
            return Err(Trouble::weather(format!("{} ended {digest} after {} of {size} bytes", source.host, part.length)));
        }
        let found = part.digest();
        if found != *digest {
            part.clear().map_err(|error| on_disk(&error))?;
            return Err(Trouble::weather(format!("{} gives bytes of digest {found} for {digest}", source.host)));
        }
        Ok(())
    }
}

/// The beginning of a layer, and the hash of it.
struct Part {
    file: File,
    length: u64,
    hash: Sha256,
}

impl Part {
    /// Takes over what another process, now dead, has fetched.
    fn read(mut file: File, most: u64) -> io::Result<Self> {
        let mut hash = Sha256::new();
        file.seek(SeekFrom::Start(0))?;
        let length = io::copy(&mut io::BufReader::with_capacity(1 << 20, (&file).take(most)), &mut hash)?;
        Ok(Part { file, length, hash })
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all_at(piece, self.length)?;
        self.hash.update(piece);
        self.length += piece.len() as u64;
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        (self.length, self.hash) = (0, Sha256::new());
        Ok(())
    }

    fn digest(&self) -> String {
        format!("sha256:{:x}", self.hash.clone().finalize())
    }
}

/// Reads a file from an offset of its own.
struct Reader {
    file: Arc<File>,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// The file, locked and still of that name; none while another process has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) if file.metadata()?.nlink() > 0 => return Ok(Some(file)),
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Removes what nobody came back for within a day.
pub fn sweep(dir: &Path, now: SystemTime) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let age = entry.metadata()?.modified().ok().and_then(|then| now.duration_since(then).ok()).unwrap_or_default();
        if age > KEPT && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// First byte of `bytes FIRST-LAST/ALL`.
fn starts_at(header: Option<&reqwest::header::HeaderValue>) -> Option<u64> {
    header?.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// The file that a layer goes into cannot be written.
fn disk(path: &Path, error: &io::Error) -> Trouble {
    let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let (kind, mend) = if is_full {
        (Kind::NoSpace, "free space in the image store's file system")
    } else {
        (Kind::ImagePull, "see that it can be written")
    };
    Trouble::Refused { kind, text: format!("{}: {error}; {mend}", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_locked_by_one_and_old_ones_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sha256-00");
        let held = lock(&path).unwrap().unwrap();
        assert!(lock(&path).unwrap().is_none());
        let later = SystemTime::now() + KEPT + Duration::from_secs(60);
        sweep(dir.path(), later).unwrap();
        assert!(path.exists());
        drop(held);
        sweep(dir.path(), SystemTime::now()).unwrap();
        assert!(path.exists());
        sweep(dir.path(), later).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_full_disk_is_called_so() {
        let kind = |error: rustix::io::Errno| match disk(Path::new("x"), &error.into()) {
            Trouble::Refused { kind, .. } => kind,
            Trouble::Weather { .. } | Trouble::Busy { .. } => panic!("another try would find the same disk"),
        };
        assert_eq!(kind(rustix::io::Errno::NOSPC), Kind::NoSpace);
        assert_eq!(kind(rustix::io::Errno::DQUOT), Kind::NoSpace);
        assert_eq!(kind(rustix::io::Errno::ROFS), Kind::ImagePull);
    }

    #[test]
    fn a_range_says_where_it_begins() {
        let at = |text: &'static str| starts_at(Some(&reqwest::header::HeaderValue::from_static(text)));
        assert_eq!(at("bytes 12-20/21"), Some(12));
        assert_eq!((at("bytes */21"), at("lines 1-2/3"), starts_at(None)), (None, None, None));
    }
}
