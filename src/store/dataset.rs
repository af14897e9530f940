//! A dataset file, plain, gzip or zstd, read row by row: what is selected, in order, and what is wrong with it.

use super::row::{Defaults, Row, RowError};
use crate::domain::{Instance, InstanceId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// Which rows are taken, and how much one may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Regular expression; rows whose id it does not match are not looked at.
    pub filter: Option<String>,
    /// Take the first so many that pass the filter.
    pub limit: Option<u64>,
    /// Leave bad rows out and count them, instead of refusing the file.
    pub skip_bad: bool,
    /// A longer row is an error.
    pub max_row_bytes: u64,
    /// Image of SWE-bench rows that name none; placeholders as in [`super::row::image_from`]. The default is how SWE-bench
    /// publishes its images.
    pub image_template: String,
    /// `workdir` of SWE-bench rows that name none.
    pub default_workdir: String,
    /// Bad rows that are kept for the report; the others are only counted.
    pub bad_rows_shown: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            filter: None,
            limit: None,
            skip_bad: false,
            max_row_bytes: 256 << 20,
            image_template: "swebench/sweb.eval.x86_64.{docker_id}:latest".into(),
            default_workdir: "/testbed".into(),
            bad_rows_shown: 20,
        }
    }
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Rows handed over.
    pub rows: u64,
    /// The first bad rows; at most `bad_rows_shown`.
    pub bad: Vec<BadRow>,
    /// All bad rows.
    pub bad_total: u64,
    /// SHA-256, in hexadecimal, of the selected instances as JSON lines, in order.
    pub digest: String,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// From 1.
    pub line: u64,
    pub id: Option<InstanceId>,
    pub error: RowError,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(id) = &self.id {
            write!(f, " ({id})")?;
        }
        write!(f, ": {}", self.error)
    }
}

/// Why a dataset cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error("cannot open {}: {source}; give a readable .jsonl, .jsonl.zst or .jsonl.gz file", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} breaks off or is damaged in line {line}, near byte {byte} of the file: {source}; fetch or compress it again", path.display())]
    Read { path: PathBuf, line: u64, byte: u64, source: io::Error },
    #[error("{} is {what}; convert it to one JSON object a line", path.display())]
    Format { path: PathBuf, what: &'static str },
    #[error("{}", bad_rows(path, first, *total))]
    Bad { path: PathBuf, first: Vec<BadRow>, total: u64 },
    #[error("the filter {filter:?} is not a regular expression: {problem}")]
    Filter { filter: String, problem: String },
    #[error("{} has no row to run ({seen} rows read); mend the filter, the limit or the file", path.display())]
    Empty { path: PathBuf, seen: u64 },
    #[error(transparent)]
    Store(#[from] super::StoreError),
}

fn bad_rows(path: &Path, first: &[BadRow], total: u64) -> String {
    let mut text = format!("{} has {total} bad row{}", path.display(), if total == 1 { "" } else { "s" });
    for bad in first {
        let _ = write!(text, "\n  {}: {bad}", path.display());
    }
    if total > first.len() as u64 {
        let _ = write!(text, "\n  and {} more", total - first.len() as u64);
    }
    text.push_str("\nmend the rows, or leave them out with --skip-bad");
    text
}

/// Reads `path` and hands over the selected instances in order, holding one row at a time.
///
/// Nothing may be begun before it returns: a bad row may come last. After the first bad row no more instances are handed over,
/// unless bad rows are skipped.
///
/// # Errors
/// A file that cannot be read to its end, bad rows (unless skipped), nothing selected, or what `take` says.
pub fn scan(path: &Path, options: &Options, take: &mut dyn FnMut(Instance) -> Result<(), DatasetError>) -> Result<Scan, DatasetError> {
    let filter = match &options.filter {
        Some(text) => Some(regex::Regex::new(text).map_err(|e| DatasetError::Filter { filter: text.clone(), problem: e.to_string() })?),
        None => None,
    };
    let defaults = Defaults { image_template: &options.image_template, workdir: &options.default_workdir };
    let mut lines = Lines::open(path, options.max_row_bytes)?;
    let mut seen: HashMap<InstanceId, u64> = HashMap::new();
    let mut scan = Scan { rows: 0, bad: Vec::new(), bad_total: 0, digest: String::new() };
    let mut digest = Sha256::new();
    while options.limit.is_none_or(|limit| scan.rows < limit) {
        let Some((number, line)) = lines.next()? else { break };
        let checked = line.map_err(|e| (None, e)).and_then(|line| check(line, number, filter.as_ref(), &mut seen, defaults));
        match checked {
            Ok(None) => {}
            Ok(Some(instance)) => {
                scan.rows += 1;
                if scan.bad_total == 0 || options.skip_bad {
                    digest.update(super::json_line(&instance));
                    take(instance)?;
                }
            }
            Err((id, error)) => {
                scan.bad_total += 1;
                if scan.bad.len() < options.bad_rows_shown {
                    scan.bad.push(BadRow { line: number, id, error });
                }
            }
        }
    }
    if scan.bad_total > 0 && !options.skip_bad {
        return Err(DatasetError::Bad { path: path.to_owned(), first: scan.bad, total: scan.bad_total });
    }
    if scan.rows == 0 {
        return Err(DatasetError::Empty { path: path.to_owned(), seen: lines.number });
    }
    scan.digest = format!("{:x}", digest.finalize());
    Ok(scan)
}

type Checked = Result<Option<Instance>, (Option<InstanceId>, RowError)>;

/// None where the row is not selected.
fn check(line: &[u8], number: u64, filter: Option<&regex::Regex>, seen: &mut HashMap<InstanceId, u64>, defaults: Defaults<'_>) -> Checked {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let row = Row::parse(line).map_err(|e| (None, e))?;
    if filter.is_some_and(|f| !f.is_match(row.id.as_str())) {
        return Ok(None);
    }
    let id = row.id.clone();
    if let Some(first) = seen.insert(id.clone(), number) {
        seen.insert(id.clone(), first);
        let problem = format!("{id} is in line {first} already");
        return Err((Some(id), RowError { field: "instance_id".into(), problem, mend: "give each row its own id, or drop one".into() }));
    }
    row.instance(defaults).map(Some).map_err(|e| (Some(id), e))
}

/// Lines of a file that may be compressed, each of bounded length.
struct Lines {
    path: PathBuf,
    input: Box<dyn BufRead>,
    /// Bytes of the file that were read, to say where it broke.
    at: std::rc::Rc<std::cell::Cell<u64>>,
    /// The line handed over last, from 1.
    number: u64,
    max: u64,
    buffer: Vec<u8>,
}

/// A line's number and its bytes.
type Numbered<'a> = (u64, Result<&'a [u8], RowError>);

struct Counted<R>(R, std::rc::Rc<std::cell::Cell<u64>>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        self.1.set(self.1.get() + n as u64);
        Ok(n)
    }
}

const BUFFER_BYTES: usize = 128 << 10;

impl Lines {
    fn open(path: &Path, max: u64) -> Result<Self, DatasetError> {
        let cannot_open = |source| DatasetError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(cannot_open)?;
        if file.metadata().map_err(cannot_open)?.is_dir() {
            return Err(cannot_open(io::ErrorKind::IsADirectory.into()));
        }
        let at = std::rc::Rc::<std::cell::Cell<u64>>::default();
        let mut file = BufReader::with_capacity(BUFFER_BYTES, Counted(file, at.clone()));
        let head = file.fill_buf().map_err(cannot_open)?;
        let format = |what| Err(DatasetError::Format { path: path.to_owned(), what });
        let mut input: Box<dyn BufRead> = match head {
            [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::bufread::MultiGzDecoder::new(file))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::Decoder::with_buffer(file).map_err(cannot_open)?))
            }
            [b'P', b'A', b'R', b'1', ..] => return format("a parquet file"),
            [b'P', b'K', 3, 4, ..] => return format("a zip archive"),
            _ => Box::new(file),
        };
        if input.fill_buf().is_ok_and(|head| head.starts_with(b"\xef\xbb\xbf")) {
            input.consume(3);
        }
        Ok(Lines { path: path.to_owned(), input, at, number: 0, max, buffer: Vec::new() })
    }

    /// The next line without its line end. The inner error is of this line alone; reading goes on behind it.
    fn next(&mut self) -> Result<Option<Numbered<'_>>, DatasetError> {
        self.buffer.clear();
        self.number += 1;
        let (mut length, mut begun) = (0u64, false);
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(DatasetError::Read { path: self.path.clone(), line: self.number, byte: self.at.get(), source });
                }
            };
            if chunk.is_empty() && !begun {
                self.number -= 1;
                return Ok(None);
            }
            let end = chunk.iter().position(|b| *b == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            length += part.len() as u64;
            if length <= self.max {
                self.buffer.extend_from_slice(part);
            }
            let at_end = end.is_some() || chunk.is_empty();
            let consumed = end.map_or(chunk.len(), |e| e + 1);
            self.input.consume(consumed);
            begun = true;
            if at_end {
                break;
            }
        }
        if length > self.max {
            let problem = format!("is {length} bytes long, over the limit of {}", self.max);
            return Ok(Some((
                self.number,
                Err(RowError { field: "row".into(), problem, mend: "drop the row or raise max_row_bytes".into() }),
            )));
        }
        Ok(Some((self.number, Ok(self.buffer.strip_suffix(b"\r").unwrap_or(&self.buffer)))))
    }
}
