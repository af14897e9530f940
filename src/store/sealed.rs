//! A sealed dataset: what `seal` and `merge` write and trainers load. `DIR/data` appears as a whole, described by `sealed.json` in it.

use super::{StoreError, fact::Stream};
use crate::domain::{AttemptId, ExitReason, Resolved};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Version of `sealed.json` and of the indexes; raised when a key changes its meaning or type.
pub const SEALED_FORMAT: u64 = 1;

/// `data/sealed.json`: the files of the dataset and what their figures mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    pub format: u64,
    /// Version of the records, the same in all files.
    pub schema_version: u32,
    /// The runs whose records these are.
    pub runs: Vec<SealedRun>,
    #[serde(flatten)]
    pub counts: CountedBy,
    pub files: Vec<SealedFile>,
}

/// What the token counts and the loss mask of all records mean.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedBy {
    /// Chat template, by its name or its file.
    pub target: String,
    /// SHA-256 of the template: of its file, or of what the built-in one makes of a fixed conversation.
    pub template_digest: String,
    /// Name or file of the tokenizer.
    pub tokenizer: String,
    pub tokenizer_digest: String,
    /// Policy by which `messages[].loss` was set.
    #[serde(default)]
    pub loss: String,
}

/// One run in a sealed dataset.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SealedRun {
    pub run: String,
    pub model: String,
    pub scaffold: String,
    pub dataset_digest: String,
    /// Committed attempts of the run when it was sealed: a run with more has gone on since.
    pub attempts: u64,
}

/// One sealed shard and its index beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedFile {
    /// Name within `data/`, such as `trajectories-00000.jsonl.zst`; the index is `trajectories-00000.index.jsonl`.
    pub file: String,
    pub stream: Stream,
    pub rows: u64,
    /// Rows with `resolved` 1.
    pub resolved: u64,
    pub frames: u64,
    /// Compressed, seek table included.
    pub bytes: u64,
    /// Before compression.
    pub raw_bytes: u64,
    /// Of the file and of its index, hexadecimal.
    pub sha256: String,
    pub index_sha256: String,
    /// Of the rows that are counted.
    pub tokens: u64,
    pub loss_tokens: u64,
    /// Rows that could not be counted.
    pub uncounted: u64,
    /// Rows by how the agent stopped.
    pub exit_reasons: BTreeMap<ExitReason, u64>,
}

impl SealedFile {
    /// A file without records.
    #[must_use]
    pub fn new(file: String, stream: Stream) -> Self {
        SealedFile {
            file,
            stream,
            rows: 0,
            resolved: 0,
            frames: 0,
            bytes: 0,
            raw_bytes: 0,
            sha256: String::new(),
            index_sha256: String::new(),
            tokens: 0,
            loss_tokens: 0,
            uncounted: 0,
            exit_reasons: BTreeMap::new(),
        }
    }

    /// Adds a row to the figures that an index holds.
    pub fn count(&mut self, line: &IndexLine) {
        self.rows += 1;
        self.resolved += u64::from(line.resolved == Resolved::Yes);
        match (u64::try_from(line.tokens), u64::try_from(line.loss_tokens)) {
            (Ok(tokens), Ok(loss_tokens)) => {
                // Of a dataset of others they may be anything.
                self.tokens = self.tokens.saturating_add(tokens);
                self.loss_tokens = self.loss_tokens.saturating_add(loss_tokens);
            }
            _ => self.uncounted += 1,
        }
    }

    /// Name of the index within `data/`.
    #[must_use]
    pub fn index(&self) -> String {
        index_of(&self.file)
    }
}

/// Name of the index of a shard.
#[must_use]
pub fn index_of(file: &str) -> String {
    format!("{}.index.jsonl", file.strip_suffix(".jsonl.zst").unwrap_or(file))
}

/// One line of an index: where a record lies. In the order of the records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexLine {
    pub id: AttemptId,
    /// The frame's place in the file, bytes.
    pub frame_offset: u64,
    pub frame_len: u64,
    /// The record's place in the frame's content, bytes, line feed included.
    pub offset: u64,
    pub len: u64,
    pub resolved: Resolved,
    /// -1 where they could not be counted.
    pub tokens: i64,
    pub loss_tokens: i64,
    /// SHA-256 of the record, line feed included, hexadecimal.
    pub digest: String,
}

impl Sealed {
    /// Where the files of a sealed dataset lie.
    #[must_use]
    pub fn data(dir: &Path) -> PathBuf {
        dir.join("data")
    }

    /// The dataset in `dir`; none where nothing is sealed there.
    ///
    /// # Errors
    /// Where `sealed.json` cannot be read, is of a newer format, or names a file that is none of a dataset's.
    pub fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = Self::data(dir).join("sealed.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(StoreError::io("read", &path, &e)),
        };
        #[derive(Deserialize)]
        struct Version {
            format: u64,
        }
        let damaged = |e: serde_json::Error| StoreError::damaged(&path, format!("line {}", e.line()), e.to_string());
        let Version { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format > SEALED_FORMAT {
            return Err(StoreError::Newer { path, found: format, known: SEALED_FORMAT });
        }
        let sealed: Sealed = serde_json::from_slice(&text).map_err(damaged)?;
        // What is read of a dataset lies in it, whoever made it.
        let is_named = |file: &SealedFile| Stream::parse(&file.file).is_some_and(|(stream, _)| stream == file.stream);
        match sealed.files.iter().find(|file| !is_named(file)) {
            Some(SealedFile { file, stream, .. }) => {
                Err(StoreError::damaged(&path, "files", format!("it names {file:?} as a file of {}", stream.as_str())))
            }
            None => Ok(Some(sealed)),
        }
    }

    /// Whether the run has committed nothing since.
    #[must_use]
    pub fn is_current(&self, run: &str, attempts: u64) -> bool {
        matches!(self.runs.as_slice(), [only] if only.run == run && only.attempts == attempts)
    }

    /// The shards of trajectories in order.
    #[must_use]
    pub fn trajectories(&self, dir: &Path) -> Vec<PathBuf> {
        let files = self.files.iter().filter(|file| file.stream == Stream::Trajectories);
        files.map(|file| Self::data(dir).join(&file.file)).collect()
    }
}
