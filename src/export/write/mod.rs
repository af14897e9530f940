//! Rows to files: compressed on all cores, written in order, in bounded memory.

mod file;
mod files;
mod lines;
#[cfg(feature = "parquet")]
mod parquet;
mod place;

pub use files::Files;
pub use place::{Building, REPORT};

use super::{
    Container, Format,
    pool::Pool,
    report::{FileReport, Tally},
    run::ExportError,
};
use file::Hashed;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    thread::Scope,
};

/// How files are cut and compressed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of zstd, 1 to 22.
    pub level: i32,
    /// Of a frame before compression, about; less where many files are written at once.
    pub frame_bytes: usize,
    /// Of a shard before compression, about.
    pub shard_bytes: u64,
    /// Of a row group of Parquet before compression, about; less where many files are written at once.
    pub group_bytes: usize,
    /// Rows of a row group at most.
    pub group_rows: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { level: 9, frame_bytes: 16 << 20, shard_bytes: 512_000_000, group_bytes: 32 << 20, group_rows: 1000 }
    }
}

/// Bytes of rows that wait for their block to be full, over all files.
const PENDING_BYTES: usize = 128 << 20;
/// Bytes of blocks that are being compressed.
const UNDER_WAY_BYTES: usize = 96 << 20;

pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_owned();
    move |source| ExportError::Io { doing, path, source }
}

/// Checksum of bytes, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    file::sha256(bytes)
}

/// A stream of rows: a split, or a bucket of it.
#[derive(Debug, Clone)]
pub struct Stream {
    pub split: String,
    /// Empty where there are no buckets.
    pub bucket: String,
}

impl Stream {
    /// `train`, or `train-le8192`.
    #[must_use]
    pub fn name(&self) -> String {
        if self.bucket.is_empty() { self.split.clone() } else { format!("{}-{}", self.split, self.bucket) }
    }
}

/// What rows are encoded to.
enum Target {
    Zstd(i32),
    Plain,
    #[cfg(feature = "parquet")]
    Table(Box<parquet::Table>),
}

enum Block {
    Bytes(Vec<u8>),
    #[cfg(feature = "parquet")]
    Group(parquet::Group),
}

enum Open {
    Bytes(Hashed),
    #[cfg(feature = "parquet")]
    Table(parquet::TableFile),
}

impl Target {
    fn new(form: Format, container: Container, settings: &Settings) -> Result<Self, ExportError> {
        match container {
            Container::PlainLines => Ok(Target::Plain),
            #[cfg(feature = "parquet")]
            Container::Parquet => {
                let schema = form.schema().ok_or(ExportError::NoTable { form })?;
                parquet::Table::new(schema, settings.level)
                    .map(|table| Target::Table(Box::new(table)))
                    .map_err(|e| ExportError::Encode { why: e.to_string() })
            }
            #[cfg(not(feature = "parquet"))]
            Container::Parquet => {
                let _ = form;
                Err(ExportError::NoParquet)
            }
            Container::Lines | Container::Files => Ok(Target::Zstd(settings.level)),
        }
    }

    fn extension(&self) -> &'static str {
        match self {
            Target::Zstd(_) => "jsonl.zst",
            Target::Plain => "jsonl",
            #[cfg(feature = "parquet")]
            Target::Table(_) => "parquet",
        }
    }

    /// What a thread encodes blocks with.
    fn encoder(&self) -> Box<dyn FnMut(Vec<u8>) -> Result<Block, String> + '_> {
        match self {
            Target::Plain => Box::new(|block| Ok(Block::Bytes(block))),
            Target::Zstd(level) => {
                let mut encoder = lines::Encoder::new(*level);
                Box::new(move |block| {
                    let encoder = encoder.as_mut().map_err(|e| e.to_string())?;
                    encoder.encode(&block).map(Block::Bytes).map_err(|e| e.to_string())
                })
            }
            #[cfg(feature = "parquet")]
            Target::Table(table) => {
                let encoder = table.encoder();
                Box::new(move |block| {
                    let encoder = encoder.as_ref().map_err(ToString::to_string)?;
                    encoder.encode(&block).map(Block::Group).map_err(|e| e.to_string())
                })
            }
        }
    }

    fn open(&self, file: Hashed) -> Result<Open, String> {
        match self {
            Target::Zstd(_) | Target::Plain => Ok(Open::Bytes(file)),
            #[cfg(feature = "parquet")]
            Target::Table(table) => table.file(file).map(Open::Table).map_err(|e| e.to_string()),
        }
    }
}

impl Open {
    fn append(&mut self, block: Block) -> Result<(), String> {
        match (self, block) {
            (Open::Bytes(file), Block::Bytes(bytes)) => file.write_all(&bytes).map_err(|e| e.to_string()),
            #[cfg(feature = "parquet")]
            (Open::Table(file), Block::Group(group)) => file.append(group).map_err(|e| e.to_string()),
            #[cfg(feature = "parquet")]
            _ => unreachable!("a target makes blocks of its own kind"),
        }
    }

    fn finish(self) -> Result<(u64, String), String> {
        let file = match self {
            Open::Bytes(file) => file,
            #[cfg(feature = "parquet")]
            Open::Table(file) => file.finish().map_err(|e| e.to_string())?,
        };
        file.finish().map_err(|e| e.to_string())
    }
}

/// The files of one stream.
struct Output {
    stream: Stream,
    pending: Vec<u8>,
    pending_tally: Tally,
    /// Of the rows that come next, and what it has of bytes.
    shard: u32,
    shard_bytes: u64,
    /// The shard that blocks are written to, and what it holds.
    open: Option<(u32, Open, Tally)>,
    done: Vec<FileReport>,
}

/// A block's stream and shard, and what it holds.
type Tag = (usize, u32, Tally);

/// Shards of streams.
pub struct Shards<'t> {
    files: Directory<'t>,
    pool: Pool<Tag, Result<Block, String>>,
    shard_bytes: u64,
    block_bytes: usize,
    /// Of a block, at most.
    block_rows: u64,
}

struct Directory<'t> {
    dir: PathBuf,
    target: &'t Encoding,
    outputs: Vec<Output>,
}

/// How the rows of an export are encoded.
pub struct Encoding(Target);

impl Encoding {
    /// # Errors
    /// Where the form has no columns for Parquet, or there is no Parquet.
    pub fn new(form: Format, container: Container, settings: &Settings) -> Result<Self, ExportError> {
        Target::new(form, container, settings).map(Encoding)
    }
}

impl<'t> Shards<'t> {
    /// `threads`: that compress.
    pub fn new<'scope>(
        scope: &'scope Scope<'scope, '_>,
        threads: usize,
        dir: &Path,
        streams: &[Stream],
        encoding: &'t Encoding,
        settings: &Settings,
    ) -> Self
    where
        't: 'scope,
    {
        let output = |stream: &Stream| Output {
            stream: stream.clone(),
            pending: Vec::new(),
            pending_tally: Tally::default(),
            shard: 0,
            shard_bytes: 0,
            open: None,
            done: Vec::new(),
        };
        let (wanted, block_rows) = match encoding.0 {
            Target::Zstd(_) | Target::Plain => (settings.frame_bytes, u64::MAX),
            #[cfg(feature = "parquet")]
            Target::Table(_) => (settings.group_bytes, settings.group_rows as u64),
        };
        let pool = Pool::start(scope, threads, UNDER_WAY_BYTES, || encoding.0.encoder());
        let outputs = streams.iter().map(output).collect();
        Shards {
            files: Directory { dir: dir.to_owned(), target: encoding, outputs },
            pool,
            shard_bytes: settings.shard_bytes,
            block_bytes: wanted.min(PENDING_BYTES / streams.len().max(1)),
            block_rows,
        }
    }

    /// Appends a row to its stream. `row`: with its line feed.
    ///
    /// # Errors
    /// Where a file cannot be written, or a row before it was none of the schema.
    pub fn push(&mut self, stream: usize, row: &[u8], tally: Tally) -> Result<(), ExportError> {
        let output = &mut self.files.outputs[stream];
        let ends_shard = output.shard_bytes > 0 && output.shard_bytes + row.len() as u64 > self.shard_bytes;
        let is_full = output.pending.len() + row.len() > self.block_bytes || output.pending_tally.rows >= self.block_rows;
        if ends_shard || (is_full && !output.pending.is_empty()) {
            self.flush(stream)?;
        }
        let output = &mut self.files.outputs[stream];
        if ends_shard {
            output.shard += 1;
            output.shard_bytes = 0;
        }
        output.pending.extend_from_slice(row);
        output.pending_tally += tally;
        output.shard_bytes += row.len() as u64;
        Ok(())
    }

    fn flush(&mut self, stream: usize) -> Result<(), ExportError> {
        let output = &mut self.files.outputs[stream];
        let (block, tally) = (std::mem::take(&mut output.pending), std::mem::take(&mut output.pending_tally));
        let tag = (stream, output.shard, tally);
        self.pool.put(tag, block, |tag, block| self.files.store(tag, block))
    }

    /// Writes what is left; the files in order.
    ///
    /// # Errors
    /// As [`Shards::push`].
    pub fn finish(mut self) -> Result<Vec<FileReport>, ExportError> {
        for stream in 0..self.files.outputs.len() {
            if !self.files.outputs[stream].pending.is_empty() {
                self.flush(stream)?;
            }
        }
        let Shards { mut files, pool, .. } = self;
        pool.finish(|tag, block| files.store(tag, block))?;
        let mut reports = Vec::new();
        for stream in 0..files.outputs.len() {
            files.close(stream)?;
            reports.append(&mut files.outputs[stream].done);
        }
        Ok(reports)
    }
}

impl Directory<'_> {
    fn path(&self, stream: usize, shard: u32) -> PathBuf {
        let name = self.outputs[stream].stream.name();
        self.dir.join(format!("{name}-{shard:05}.{}", self.target.0.extension()))
    }

    fn store(&mut self, (stream, shard, tally): Tag, block: Result<Block, String>) -> Result<(), ExportError> {
        let block = block.map_err(|why| ExportError::Encode { why })?;
        let path = self.path(stream, shard);
        let failed = |why: String| ExportError::Io { doing: "write", path: path.clone(), source: io::Error::other(why) };
        if self.outputs[stream].open.as_ref().is_none_or(|(open, ..)| *open != shard) {
            self.close(stream)?;
            let file = Hashed::create(&path).map_err(io_error("create", &path))?;
            self.outputs[stream].open = Some((shard, self.target.0.open(file).map_err(failed)?, Tally::default()));
        }
        let failed = |why: String| ExportError::Io { doing: "write", path: path.clone(), source: io::Error::other(why) };
        if let Some((_, file, sum)) = &mut self.outputs[stream].open {
            *sum += tally;
            file.append(block).map_err(failed)?;
        }
        Ok(())
    }

    fn close(&mut self, stream: usize) -> Result<(), ExportError> {
        let Some((shard, file, tally)) = self.outputs[stream].open.take() else { return Ok(()) };
        let path = self.path(stream, shard);
        let failed = |why: String| ExportError::Io { doing: "write", path: path.clone(), source: io::Error::other(why) };
        let (bytes, sha256) = file.finish().map_err(failed)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let output = &mut self.outputs[stream];
        output.done.push(report(name, &output.stream.split, tally, bytes, sha256));
        Ok(())
    }
}

fn report(file: String, split: &str, tally: Tally, bytes: u64, sha256: String) -> FileReport {
    let Tally { rows, tokens, loss_tokens, raw_bytes, .. } = tally;
    FileReport { file, split: split.to_owned(), rows, tokens, loss_tokens, bytes, raw_bytes, sha256 }
}

/// Writes a small file that goes with the data.
///
/// # Errors
/// Where it cannot be written.
pub fn companion(dir: &Path, name: &str, content: &[u8]) -> Result<FileReport, ExportError> {
    let name = files::safe(name);
    let path = dir.join(&name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    let mut file = Hashed::create(&path).map_err(io_error("create", &path))?;
    file.write_all(content).map_err(io_error("write", &path))?;
    let (bytes, sha256) = file.finish().map_err(io_error("write", &path))?;
    Ok(report(name, "", Tally { raw_bytes: bytes, ..Tally::default() }, bytes, sha256))
}
