//! `spool/redo-N.log`: the entries of all live attempts as they came, so that one sync makes many of them durable. What it says is
//! in the attempts' own files too; it is wanted only where a machine went down before those were on the disk.

use super::{
    StoreError,
    files::{self, Disk, OwnFile},
    run_dir::Layout,
    spool,
};
use crate::domain::AttemptId;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    hash::Hasher,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    thread,
};

/// Line before the bytes of an entry.
#[derive(Serialize, Deserialize)]
struct Head {
    id: AttemptId,
    /// Where the entry lies in the attempt's file.
    offset: u64,
    bytes: u64,
    /// SipHash-1-3 of the bytes under a key of zeros: a record that a crash tore does not have it.
    sip: u64,
}

/// Longest line of a [`Head`].
const MAX_HEAD_BYTES: u64 = 4 << 10;

fn sip(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Puts one entry behind `log`.
pub fn write(log: &mut Vec<u8>, id: &AttemptId, offset: u64, entry: &[u8]) {
    log.extend(super::json_line(&Head { id: id.clone(), offset, bytes: entry.len() as u64, sip: sip(entry) }));
    log.extend_from_slice(entry);
}

/// The next whole record; none at the end, or where a crash tore it.
fn read(log: &mut impl BufRead, max_entry_bytes: u64) -> io::Result<Option<(Head, Vec<u8>)>> {
    let mut line = Vec::new();
    log.by_ref().take(MAX_HEAD_BYTES).read_until(b'\n', &mut line)?;
    let head = serde_json::from_slice::<Head>(&line).ok().filter(|head| head.bytes <= max_entry_bytes);
    let Some(head) = head else { return Ok(None) };
    let mut entry = Vec::new();
    log.by_ref().take(head.bytes).read_to_end(&mut entry)?;
    Ok(Some((head, entry)).filter(|(head, entry)| entry.len() as u64 == head.bytes && sip(entry) == head.sip))
}

/// The path of the log of this number.
#[must_use]
pub fn path(layout: &Layout, number: u64) -> PathBuf {
    layout.spool().join(format!("redo-{number}.log"))
}

/// Numbers of the logs that are there, in order.
fn list(layout: &Layout) -> Result<BTreeSet<u64>, StoreError> {
    let dir = layout.spool();
    let fail = |e: io::Error| StoreError::io("read", &dir, &e);
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(&dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let number: Option<u64> = name.to_str().and_then(|name| name.strip_prefix("redo-")?.strip_suffix(".log")?.parse().ok());
        numbers.extend(number);
    }
    Ok(numbers)
}

/// Brings the attempts' files up to what the logs of a dead process say, but for attempts that are `done`; the logs go then.
///
/// # Errors
/// Where a file cannot be read or written; the logs stay.
pub fn replay(layout: &Layout, done: impl Fn(&AttemptId) -> bool, max_entry_bytes: u64, syncs: usize) -> Result<(), StoreError> {
    let numbers = list(layout)?;
    let mut touched = BTreeSet::new();
    let disk = Disk::default();
    for number in &numbers {
        let path = path(layout, *number);
        let fail = |e: io::Error| StoreError::io("read", &path, &e);
        let mut log = BufReader::with_capacity(1 << 20, File::open(&path).map_err(fail)?);
        while let Some((Head { id, offset, .. }, entry)) = read(&mut log, max_entry_bytes).map_err(fail)? {
            if !done(&id) {
                OwnFile::open(&spool::path(layout, &id))?.patch(&disk, offset, &entry)?;
                touched.insert(id);
            }
        }
    }
    if !numbers.is_empty() {
        sync(layout, touched, syncs)?;
    }
    numbers.iter().try_for_each(|number| files::remove_if_there(&path(layout, *number)))
}

/// Makes the attempts' files durable, `at_once` at the same time; those that are gone were committed.
///
/// # Errors
/// Where a sync fails.
pub fn sync(layout: &Layout, attempts: impl IntoIterator<Item = AttemptId>, at_once: usize) -> Result<(), StoreError> {
    let attempts: Vec<AttemptId> = attempts.into_iter().collect();
    let share = attempts.len().div_ceil(at_once.max(1)).max(1);
    let sync_one = |path: &Path| match File::open(path).and_then(|file| file.sync_data()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("write", path, &e)),
        _ => Ok(()),
    };
    thread::scope(|scope| {
        let some = |ids: &[AttemptId]| ids.iter().try_for_each(|id| sync_one(&spool::path(layout, id)));
        let threads: Vec<_> = attempts.chunks(share).map(|ids| scope.spawn(move || some(ids))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| StoreError::Closed)?)
    })?;
    files::sync_parent(&path(layout, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_cut_anywhere_gives_its_whole_records() {
        let entries: [(&str, u64, &[u8]); 3] = [("a@0.1", 0, b"{\"one\"}\n"), ("b@0.1", 7, b"{\"two\"}\n"), ("a@0.1", 8, b"")];
        let mut log = Vec::new();
        let mut ends = vec![0];
        for (id, offset, entry) in entries {
            write(&mut log, &id.parse().unwrap(), offset, entry);
            ends.push(log.len());
        }
        let read_all = |mut log: &[u8]| std::iter::from_fn(|| read(&mut log, 100).unwrap()).count();
        for cut in 0..=log.len() {
            let whole = ends[1..].iter().filter(|end| **end <= cut).count();
            // The line end of a head with nothing behind it may be torn.
            assert!([whole, whole + usize::from(cut + 1 == log.len())].contains(&read_all(&log[..cut])), "{cut}");
        }
        let mut damaged = log.clone();
        damaged[ends[2] - 2] ^= 1;
        assert_eq!((read_all(&log), read_all(&damaged)), (3, 1));
    }
}
