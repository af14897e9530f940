//! `spool/redo-N.log`: the entries of all live attempts as they come, so that one write and one sync do for many of them. An
//! attempt's own file has them once its log is given up.

use super::{
    StoreError,
    files::{self, Disk, OwnFile},
    run_dir::Layout,
    spool,
};
use crate::domain::{AttemptId, tight::push_tight};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    hash::Hasher,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::PathBuf,
    thread,
};

/// Line before the bytes of an entry.
#[derive(Serialize, Deserialize)]
struct Head<'a> {
    id: Cow<'a, AttemptId>,
    /// Where the entry lies in the attempt's file.
    offset: u64,
    bytes: u32,
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

/// Longest entry, and longest file of one attempt.
pub const MAX_ENTRY_BYTES: u64 = u32::MAX as u64;
/// Bytes of a log after which no round of entries begins in it: where each begins is less than [`u32::MAX`] then.
pub const MAX_LOG_BYTES: u64 = 2 << 30;

/// Puts one entry of at most [`MAX_ENTRY_BYTES`] behind `log`. Returns where in `log` its bytes begin.
pub fn write(log: &mut Vec<u8>, id: &AttemptId, offset: u64, entry: &[u8]) -> usize {
    super::write_line(log, &Head { id: Cow::Borrowed(id), offset, bytes: entry.len() as u32, sip: sip(entry) });
    log.extend_from_slice(entry);
    log.len() - entry.len()
}

/// The next whole record, and how long its head is; none at the end, or where a crash tore it.
fn read(log: &mut impl BufRead) -> io::Result<Option<(Head<'static>, usize)>> {
    let mut line = Vec::new();
    log.by_ref().take(MAX_HEAD_BYTES).read_until(b'\n', &mut line)?;
    let Ok(head) = serde_json::from_slice::<Head<'static>>(&line) else { return Ok(None) };
    // In pieces: a head that a crash tore may claim any length.
    let (mut hasher, mut left) = (SipHasher13::new(), head.bytes as usize);
    while left > 0 {
        let piece = log.fill_buf()?;
        let taken = piece.len().min(left);
        if taken == 0 {
            return Ok(None);
        }
        hasher.write(&piece[..taken]);
        log.consume(taken);
        left -= taken;
    }
    Ok((hasher.finish() == head.sip).then_some((head, line.len())))
}

/// The path of the log of this number.
#[must_use]
pub fn path(layout: &Layout, number: u32) -> PathBuf {
    layout.spool().join(format!("redo-{number}.log"))
}

/// Numbers of the logs that are there, in order.
fn list(layout: &Layout) -> Result<BTreeSet<u32>, StoreError> {
    let dir = layout.spool();
    let fail = |e: io::Error| StoreError::io("read", &dir, &e);
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(&dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let number: Option<u32> = name.to_str().and_then(|name| name.strip_prefix("redo-")?.strip_suffix(".log")?.parse().ok());
        numbers.extend(number);
    }
    Ok(numbers)
}

/// One entry in a log, and its place in the attempt's file.
#[derive(Debug, Clone, Copy)]
struct Piece {
    at: u32,
    offset: u32,
    log: u32,
    bytes: u32,
}

/// Where the entries of attempts lie in logs, each attempt's in the order in which they came.
#[derive(Debug, Default)]
pub struct Index(HashMap<AttemptId, Vec<Piece>>);

impl Index {
    /// Of all logs that are there, and the logs' numbers. A record that a crash tore ends its log.
    ///
    /// # Errors
    /// Where a log cannot be read.
    pub fn read(layout: &Layout) -> Result<(Self, BTreeSet<u32>), StoreError> {
        let (mut index, numbers) = (Index::default(), list(layout)?);
        for &number in &numbers {
            let path = path(layout, number);
            let file = match File::open(&path) {
                // Given up meanwhile: another process works here, and this one only looks.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(|e| StoreError::io("read", &path, &e))?,
            };
            let (mut log, mut at) = (BufReader::with_capacity(1 << 20, file), 0);
            while let Some((head, skipped)) = read(&mut log).map_err(|e| StoreError::io("read", &path, &e))? {
                at += skipped as u64;
                let far = |_| StoreError::damaged(&path, format!("byte {at}"), "an entry that no log and no attempt is long enough for");
                let (begin, offset) = (u32::try_from(at).map_err(far)?, u32::try_from(head.offset).map_err(far)?);
                index.add(&head.id, number, begin, offset, head.bytes);
                at += u64::from(head.bytes);
            }
        }
        Ok((index, numbers))
    }

    /// An entry of `bytes` that begins `at` in the log of this number, and at `offset` in its attempt's file.
    pub fn add(&mut self, id: &AttemptId, log: u32, at: u32, offset: u32, bytes: u32) {
        let piece = Piece { at, offset, log, bytes };
        match self.0.get_mut(id) {
            Some(pieces) => push_tight(pieces, piece),
            None => drop(self.0.insert(id.clone(), vec![piece])),
        }
    }

    /// What lies in these logs.
    #[must_use]
    pub fn of(&self, logs: &BTreeSet<u32>) -> Self {
        let within = |pieces: &Vec<Piece>| pieces.iter().filter(|piece| logs.contains(&piece.log)).copied().collect::<Vec<_>>();
        let all = self.0.iter().map(|(id, pieces)| (id.clone(), within(pieces)));
        Index(all.filter(|(_, pieces)| !pieces.is_empty()).collect())
    }

    /// Logs in which something of the attempt lies.
    pub fn logs_of(&self, id: &AttemptId) -> impl Iterator<Item = u32> {
        self.0.get(id).into_iter().flatten().map(|piece| piece.log)
    }

    /// Logs in which anything lies.
    #[must_use]
    pub fn logs(&self) -> BTreeSet<u32> {
        self.0.values().flat_map(|pieces| pieces.chunk_by(|a, b| a.log == b.log)).map(|pieces| pieces[0].log).collect()
    }

    /// Forgets the attempts that are `done`.
    pub fn forget(&mut self, done: impl Fn(&AttemptId) -> bool) {
        self.0.retain(|id, _| !done(id));
    }

    /// Forgets what lies in these logs.
    pub fn forget_logs(&mut self, logs: &BTreeSet<u32>) {
        self.0.retain(|_, pieces| {
            pieces.retain(|piece| !logs.contains(&piece.log));
            !pieces.is_empty()
        });
    }

    pub fn attempts(&self) -> impl ExactSizeIterator<Item = &AttemptId> {
        self.0.keys()
    }

    /// The file of an attempt as it is once the logs are given up.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn whole(&self, layout: &Layout, id: &AttemptId) -> Result<Vec<u8>, StoreError> {
        let own = spool::path(layout, id);
        let mut file = match fs::read(&own) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(|e| StoreError::io("read", &own, &e))?,
        };
        let mut logs = Logs::new(layout);
        for piece in self.0.get(id).into_iter().flatten() {
            let entry = logs.entry(piece)?;
            let end = piece.offset as usize + entry.len();
            file.resize(file.len().max(end), 0);
            file[piece.offset as usize..end].copy_from_slice(&entry);
        }
        Ok(file)
    }

    /// Brings the attempts' files up to what the logs say, durably, `at_once` at the same time, but for attempts that are `done`.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub fn spill(&self, layout: &Layout, disk: &Disk, at_once: usize, done: impl Fn(&AttemptId) -> bool + Sync) -> Result<(), StoreError> {
        let attempts: Vec<(&AttemptId, &Vec<Piece>)> = self.0.iter().filter(|(id, _)| !done(id)).collect();
        if attempts.is_empty() {
            return Ok(());
        }
        let (share, done) = (attempts.len().div_ceil(at_once.max(1)), &done);
        thread::scope(|scope| {
            let some = |attempts: &[(&AttemptId, &Vec<Piece>)]| {
                let mut logs = Logs::new(layout);
                attempts.iter().try_for_each(|(id, pieces)| spill_one(layout, disk, &mut logs, id, pieces, done))
            };
            let threads: Vec<_> = attempts.chunks(share).map(|attempts| scope.spawn(move || some(attempts))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| StoreError::Closed)?)
        })?;
        files::sync_parent(&path(layout, 0))
    }
}

fn spill_one(
    layout: &Layout,
    disk: &Disk,
    logs: &mut Logs<'_>,
    id: &AttemptId,
    pieces: &[Piece],
    done: impl Fn(&AttemptId) -> bool,
) -> Result<(), StoreError> {
    let path = spool::path(layout, id);
    let file = OwnFile::open(&path)?;
    for piece in pieces {
        file.patch(disk, u64::from(piece.offset), &logs.entry(piece)?)?;
    }
    file.sync()?;
    // Committed meanwhile: what removes its file may have been here before.
    if done(id) { files::remove_if_there(&path) } else { Ok(()) }
}

/// Logs that are read from, each opened once.
struct Logs<'a> {
    layout: &'a Layout,
    open: BTreeMap<u32, File>,
}

impl<'a> Logs<'a> {
    fn new(layout: &'a Layout) -> Self {
        Logs { layout, open: BTreeMap::new() }
    }

    fn entry(&mut self, piece: &Piece) -> Result<Vec<u8>, StoreError> {
        let path = path(self.layout, piece.log);
        let fail = |e: io::Error| StoreError::io("read", &path, &e);
        let log = match self.open.entry(piece.log) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(none) => none.insert(File::open(&path).map_err(fail)?),
        };
        let mut entry = vec![0; piece.bytes as usize];
        log.read_exact_at(&mut entry, u64::from(piece.at)).map_err(fail)?;
        Ok(entry)
    }
}

/// Brings the attempts' files up to what the logs of a dead process say, but for attempts that are `done`; the logs go then.
///
/// # Errors
/// Where a file cannot be read or written; the logs stay.
pub fn replay(layout: &Layout, disk: &Disk, at_once: usize, done: impl Fn(&AttemptId) -> bool + Sync) -> Result<(), StoreError> {
    let (index, numbers) = Index::read(layout)?;
    index.spill(layout, disk, at_once, done)?;
    numbers.iter().try_for_each(|number| files::remove_if_there(&path(layout, *number)))
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
            let at = write(&mut log, &id.parse().unwrap(), offset, entry);
            assert_eq!(&log[at..], entry);
            ends.push(log.len());
        }
        let read_all = |mut log: &[u8]| std::iter::from_fn(|| read(&mut log).unwrap()).count();
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
