//! `spool/EPISODE.ATTEMPT`: what happened in a live attempt, one JSON line an entry. Entries go to the redo log first; the file is
//! written when that is given up.

use super::{
    StoreError,
    files::{self, Disk},
    redo::{self, Index},
    run_dir::Layout,
    spooler::{Append, Job},
};
use crate::domain::{AttemptId, Entry};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, Read},
    path::{Path, PathBuf},
};
use tokio::sync::{mpsc, oneshot};

/// Where the attempt's entries go.
#[must_use]
pub fn path(layout: &Layout, id: &AttemptId) -> PathBuf {
    layout.spool().join(id.to_string())
}

/// Appends the entries of one attempt.
pub struct SpoolWriter {
    id: AttemptId,
    jobs: mpsc::Sender<Job>,
    max_entry_bytes: u64,
    /// Bytes of whole entries.
    good: u64,
    /// The last entry, where it is not known to be written yet.
    sent: Option<(u64, oneshot::Receiver<Result<(), StoreError>>)>,
}

impl SpoolWriter {
    pub(super) fn new(id: AttemptId, jobs: mpsc::Sender<Job>, max_entry_bytes: u64) -> Self {
        SpoolWriter { id, jobs, max_entry_bytes, good: 0, sent: None }
    }

    /// Has the entry written, behind the one before it, for whose end it waits. An observation, which cost no tokens, becomes
    /// durable with the next entry that did.
    ///
    /// # Errors
    /// Where the entry before it could not be written, or belongs to an earlier process; or this one is over the limit. Neither is there then.
    pub async fn put(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let line = super::json_line(entry);
        let (bytes, limit) = (line.len() as u64, self.max_entry_bytes.min(redo::MAX_ENTRY_BYTES));
        if bytes > limit {
            return Err(StoreError::TooLarge { what: "an entry of the spool".into(), bytes, limit });
        }
        self.settle().await?;
        if self.good + bytes > redo::MAX_ENTRY_BYTES {
            let what = format!("the spool of {}", self.id);
            return Err(StoreError::TooLarge { what, bytes: self.good + bytes, limit: redo::MAX_ENTRY_BYTES });
        }
        let paid = !matches!(entry, Entry::Observation(_) | Entry::Reminder { .. });
        let (answer, answered) = oneshot::channel();
        let append = Append { id: self.id.clone(), offset: self.good, line, paid, answer };
        self.jobs.send(Job::Append(append)).await.map_err(|_| StoreError::Closed)?;
        self.sent = Some((bytes, answered));
        Ok(())
    }

    /// Waits for what was put last.
    ///
    /// # Errors
    /// As of [`Self::put`]; the entry is not there then, and may be put again.
    pub async fn settle(&mut self) -> Result<(), StoreError> {
        if let Some((bytes, answered)) = &mut self.sent {
            let (bytes, written) = (*bytes, answered.await);
            self.sent = None;
            written.map_err(|_| StoreError::Closed)??;
            self.good += bytes;
        }
        Ok(())
    }
}

/// Attempts that have a spool, in order: files, and what only logs have. Other files in the directory are passed over.
///
/// # Errors
/// Where the directory or a log cannot be read.
pub fn list(layout: &Layout, index: &Index) -> Result<Vec<AttemptId>, StoreError> {
    let dir = layout.spool();
    let fail = |e: std::io::Error| StoreError::io("read", &dir, &e);
    let mut ids: BTreeSet<AttemptId> = index.attempts().cloned().collect();
    for entry in fs::read_dir(&dir).map_err(fail)? {
        ids.extend(entry.map_err(fail)?.file_name().to_str().and_then(|name| name.parse().ok()));
    }
    Ok(ids.into_iter().collect())
}

/// The whole entries, and the damage that ends them. A last line that a crash tore is passed over.
fn read(path: &Path, mut input: &[u8], max_entry_bytes: u64) -> Result<(Vec<Entry>, Option<StoreError>), StoreError> {
    let fail = |e: std::io::Error| StoreError::io("read", path, &e);
    let mut entries = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        input.by_ref().take(max_entry_bytes + 1).read_until(b'\n', &mut line).map_err(fail)?;
        if line.is_empty() {
            return Ok((entries, None));
        }
        let whole = line.last() == Some(&b'\n');
        let problem = match serde_json::from_slice(&line) {
            Ok(entry) if whole => {
                entries.push(entry);
                continue;
            }
            _ if input.fill_buf().map_err(fail)?.is_empty() => return Ok((entries, None)),
            Ok(_) => "it is over the limit of an entry".to_owned(),
            Err(e) => format!("no entry: {e}"),
        };
        let damage = StoreError::damaged(path, format!("line {}", entries.len() + 1), problem);
        return Ok((entries, Some(damage)));
    }
}

/// How many whole entries there are, and the damage that ends them.
///
/// # Errors
/// Where the file or a log cannot be read.
pub fn count(layout: &Layout, index: &Index, id: &AttemptId, max_entry_bytes: u64) -> Result<(u64, Option<StoreError>), StoreError> {
    read(&path(layout, id), &index.whole(layout, id)?, max_entry_bytes).map(|(entries, damage)| (entries.len() as u64, damage))
}

/// Reads the whole entries. A file that is damaged before its last line is kept aside as `ID.damaged-N`, and the entries before
/// the damage are the spool from then on.
///
/// # Errors
/// Where the file cannot be read or kept.
pub fn recover(layout: &Layout, index: &Index, id: &AttemptId, disk: &Disk, max_entry_bytes: u64) -> Result<Vec<Entry>, StoreError> {
    let path = path(layout, id);
    let (entries, damage) = read(&path, &index.whole(layout, id)?, max_entry_bytes)?;
    if let Some(damage) = damage {
        let aside = keep_aside(&path)?;
        files::replace(&path, disk, &entries.iter().flat_map(super::json_line).collect::<Vec<u8>>())?;
        tracing::warn!("{damage}; the {} entries before it are used, the whole is kept as {}", entries.len(), aside.display());
    }
    Ok(entries)
}

/// Gives the file a second name that no other has.
fn keep_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let mut number = 0_u64;
    loop {
        number += 1;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".damaged-{number}"));
        let aside = path.with_file_name(name);
        match fs::hard_link(path, &aside) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::io("keep aside", path, &e)),
            Ok(()) => return Ok(aside),
        }
    }
}
