//! `journal.jsonl`: what happened to the run, one fact a line, appended and synced. The run's state is a fold over it.

use super::{
    StoreError,
    fact::Fact,
    files::{AppendFile, Disk},
};
use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

/// Version of the journal; raised when an older sweroll would misread it.
pub const JOURNAL_FORMAT: u64 = 2;

/// A longer line is damage, not a fact.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// The end of a journal that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Bytes of whole lines.
    pub bytes: u64,
    pub lines: u64,
}

/// Reads the facts in order. What follows the last line end was torn by a crash and is passed over.
///
/// # Errors
/// A line that is no fact, named by its number; a first line that is not `opened`; a newer format; or what `take` says.
pub fn read(path: &Path, take: &mut dyn FnMut(u64, Fact) -> Result<(), StoreError>) -> Result<End, StoreError> {
    let fail = |e: std::io::Error| StoreError::io("read", path, &e);
    let mut input = BufReader::with_capacity(1 << 20, File::open(path).map_err(fail)?);
    let mut end = End { bytes: 0, lines: 0 };
    let mut line = Vec::new();
    loop {
        line.clear();
        input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(fail)?;
        if line.last() != Some(&b'\n') {
            if line.len() as u64 == MAX_LINE_BYTES {
                return Err(StoreError::damaged(path, format!("line {}", end.lines + 1), "the line has no end"));
            }
            return Ok(end);
        }
        let number = end.lines + 1;
        let damaged = |problem: String| StoreError::damaged(path, format!("line {number}"), problem);
        let fact = serde_json::from_slice(&line).map_err(|e| newer(path, &line).unwrap_or_else(|| damaged(format!("no fact: {e}"))))?;
        match &fact {
            Fact::Opened { format, .. } if *format > JOURNAL_FORMAT => {
                return Err(StoreError::Newer { path: path.to_owned(), found: *format, known: JOURNAL_FORMAT });
            }
            Fact::Opened { .. } => {}
            _ if number == 1 => return Err(damaged("the journal does not begin with its format".into())),
            _ => {}
        }
        end = End { bytes: end.bytes + line.len() as u64, lines: number };
        take(number, fact)?;
    }
}

/// An `opened` fact of a format that has changed its form still tells its number.
fn newer(path: &Path, line: &[u8]) -> Option<StoreError> {
    let fact: serde_json::Value = serde_json::from_slice(line).ok()?;
    let found = fact.get("opened")?.get("format")?.as_u64()?;
    (found > JOURNAL_FORMAT).then(|| StoreError::Newer { path: path.to_owned(), found, known: JOURNAL_FORMAT })
}

/// The journal, open for more facts.
#[derive(Debug)]
pub struct Journal {
    file: AppendFile,
}

impl Journal {
    /// Reads what is there, cuts a torn tail off, and stands ready to append.
    ///
    /// # Errors
    /// As [`read`], and where the file cannot be opened.
    pub fn open(path: &Path, disk: &Disk, take: &mut dyn FnMut(u64, Fact) -> Result<(), StoreError>) -> Result<Self, StoreError> {
        let mut file = AppendFile::open(path, disk)?;
        let end = read(path, take)?;
        if end.bytes < file.len() {
            file.cut(end.bytes)?;
        }
        Ok(Journal { file })
    }

    /// Bytes of durable facts.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.file.len()
    }

    /// Whether something lies behind `durable`, or may.
    #[must_use]
    pub fn is_ragged(&self, durable: u64) -> bool {
        self.file.is_ragged(durable)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends all and syncs once. On error the journal may hold a part of them: [`Self::cut`] it.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn append<'a>(&mut self, facts: impl IntoIterator<Item = &'a Fact>) -> Result<(), StoreError> {
        let lines: Vec<u8> = facts.into_iter().flat_map(super::json_line).collect();
        if lines.is_empty() {
            return Ok(());
        }
        self.file.append(&lines)?;
        self.file.sync()
    }

    /// Forgets what lies behind `len`, durably.
    ///
    /// # Errors
    /// Where the file cannot be cut.
    pub fn cut(&mut self, len: u64) -> Result<(), StoreError> {
        self.file.cut(len)
    }
}
