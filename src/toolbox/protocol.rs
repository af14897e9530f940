//! What engine and toolbox say to each other.
//!
//! A frame is `u32 header length | u32 blob length | header | blob`, lengths big-endian, the header JSON,
//! the blob raw bytes (so that output which is not UTF-8 crosses losslessly and nothing is base64).
//! The toolbox speaks first with a [`Greeting`]; then every [`Request`] gets exactly one [`Reply`] with its id,
//! in the order in which they finish. End of stream ends the toolbox.

use serde::{Deserialize, Serialize};
use std::io;

/// Version of this protocol. Engine and toolbox are one binary, so a mismatch means a foreign first process.
pub const PROTOCOL: u32 = 1;
/// Largest header, bytes.
pub const MAX_HEADER: usize = 4 << 20;
/// Largest blob, bytes; bounds what a sandbox can make the engine hold.
pub const MAX_BLOB: usize = 64 << 20;

/// First frame, toolbox to engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    pub protocol: u32,
    pub version: String,
}

/// Engine to toolbox. The blob is the operation's input, where it has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub op: Op,
}

/// Toolbox to engine. The blob is the operation's output, where it has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    pub id: u64,
    pub result: Result<Answer, OpError>,
}

/// One operation. Paths are absolute or relative to the session's working directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Blob in: standard input. Blob out: output (stdout and stderr merged), head then tail; then the report. Answer: `Ran`.
    Run(Run),
    /// A file with line numbers, or a directory two levels deep. `range` is 1-based and inclusive, end -1 is the last line.
    /// Blob out: the text. Answer: `Done`.
    View { path: String, range: Option<(i64, i64)> },
    /// A new file; refuses an existing one unless `overwrite`. Blob in: its bytes. Answer: `Done`.
    Create { path: String, overwrite: bool },
    /// Replaces the one occurrence of `old`. Blob out: the lines around the edit, numbered. Answer: `Done`.
    Replace { path: String, old: String, new: String },
    /// Inserts `text` after line `line` (0: at the beginning). Blob out as `Replace`. Answer: `Done`.
    Insert { path: String, line: u64, text: String },
    /// Takes back the last edit of `path` made through the toolbox. Blob out as `View`. Answer: `Done`.
    Undo { path: String },
    /// Content search. Blob out: `path:line:text` lines. Answer: `Found`.
    Search(Search),
    /// File names by glob, sorted. Blob out: a path a line. Answer: `Found`.
    Find { pattern: String, path: String, max_results: u64 },
    /// Whether a process could begin there. Answer: `Done`, or `OpError::Invalid`.
    Directory { path: String },
    /// Blob out: at most `max` bytes from `offset`. Answer: `Read`.
    Read { path: String, offset: u64, max: u64 },
    /// Blob in: the bytes; parents are created, the file replaced. `mode` in octal permission bits. Answer: `Done`.
    Write { path: String, mode: u32 },
    /// Records the state of the files below `workdir` (tracked, untracked and ignored; not those that match `exclude`)
    /// without touching its repository. Answer: `Tree`.
    Snapshot { workdir: String, exclude: Vec<String> },
    /// A git diff from the recorded tree to the files as they are now, always UTF-8; no `workdir` is one without files.
    /// `settle`: everything that commands left running is killed first. Blob out: the diff.
    /// Longer than `max` bytes is `OpError::TooLarge`; files that cannot be looked at, `Invalid`. Answer: `Done`.
    Diff { workdir: String, tree: String, exclude: Vec<String>, max: u64, settle: bool },
    /// Applies a git diff. Blob in: the diff. Answer: `Done`, or `OpError::Rejected` in git's words, and then nothing was changed.
    /// Files that match `exclude` give way where the diff puts a file in place of their directory.
    /// Only `OpError::NoSpace` and `Failed` can leave files half changed.
    Apply { workdir: String, exclude: Vec<String> },
    /// Answer: `Usage`.
    Usage,
}

impl Op {
    /// As it is on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Op::Run(_) => "run",
            Op::View { .. } => "view",
            Op::Create { .. } => "create",
            Op::Replace { .. } => "replace",
            Op::Insert { .. } => "insert",
            Op::Undo { .. } => "undo",
            Op::Search(_) => "search",
            Op::Find { .. } => "find",
            Op::Directory { .. } => "directory",
            Op::Read { .. } => "read",
            Op::Write { .. } => "write",
            Op::Snapshot { .. } => "snapshot",
            Op::Diff { .. } => "diff",
            Op::Apply { .. } => "apply",
            Op::Usage => "usage",
        }
    }
}

/// A command. Its clock starts when it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub what: Command,
    /// Carry working directory and exported variables from and to the session (shell commands only).
    pub session: bool,
    /// Working directory; none: the session's.
    pub cwd: Option<String>,
    /// Added to the environment.
    pub env: Vec<(String, String)>,
    pub deadline_ms: u64,
    /// Bytes of output kept; the rest is read and dropped.
    pub output_cap: u64,
    /// Bytes kept of what the command writes to its descriptor 3, a socket that it can only write; 0: it has none.
    /// From the first command with a report on, nothing in the sandbox can look into the toolbox, so that `Command::Shell` is
    /// refused as `NotStarted`. Where the command leaves a process running, all of the sandbox's are killed.
    #[serde(default)]
    pub report_cap: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Text for `bash -c`, or `sh -c` where there is no bash.
    Shell(String),
    /// A program and its arguments, no shell.
    Exec(Vec<String>),
}

/// Content search by regular expression, as ripgrep does it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Search {
    pub pattern: String,
    pub path: String,
    /// Only files whose path matches this glob.
    pub glob: Option<String>,
    pub case_insensitive: bool,
    /// Lines of context before and after each match.
    pub context: u64,
    pub max_results: u64,
    pub max_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    Done,
    Ran(Ran),
    /// `total` matches, of which the blob shows `shown`.
    Found {
        total: u64,
        shown: u64,
    },
    /// `size` is the whole file's, bytes.
    Read {
        size: u64,
    },
    /// Name of the recorded tree, for `Diff`.
    Tree {
        tree: String,
    },
    Usage(Usage),
}

/// How a command ended, and what of its output came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    pub end: End,
    pub duration_ms: u64,
    /// Bytes that the command wrote; the blob holds the first `head` and then the last of them.
    pub total: u64,
    pub head: u64,
    /// The session's working directory after the command.
    pub cwd: String,
    /// Bytes of the report, at the blob's end.
    #[serde(default)]
    pub report: u64,
    /// Bytes that the command wrote to descriptor 3.
    #[serde(default)]
    pub report_total: u64,
    /// Processes that a command with a report left running.
    #[serde(default)]
    pub left: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Exited(i32),
    Signaled(i32),
    /// Killed at its deadline with everything it started.
    TimedOut,
}

/// What the sandbox has used since it started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Peak memory, bytes; 0 where no counter can be read.
    pub peak_memory: u64,
    pub cpu_ms: u64,
    /// Times the kernel killed a process here for want of memory.
    pub oom_kills: u64,
}

/// Why an operation was not done. The text is fit to be shown to the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum OpError {
    /// The command could not start, as told apart from one that failed.
    #[error("the command could not start: {message}")]
    NotStarted { message: String },
    /// The operation's arguments do not fit the files as they are.
    #[error("{message}")]
    Invalid { message: String },
    /// The diff does not apply.
    #[error("{message}")]
    Rejected { message: String },
    #[error("{size} bytes, over the limit of {max}")]
    TooLarge { size: u64, max: u64 },
    #[error("no space left in the sandbox: {message}")]
    NoSpace { message: String },
    /// The toolbox failed at its own work.
    #[error("{message}")]
    Failed { message: String },
}

/// A header with its blob, as bytes to write.
///
/// # Errors
/// `InvalidInput` where header or blob is over its limit.
pub fn encode<T: Serialize>(header: &T, blob: &[u8]) -> io::Result<Vec<u8>> {
    let header = serde_json::to_vec(header)?;
    if header.len() > MAX_HEADER || blob.len() > MAX_BLOB {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("frame too large: header {} bytes (limit {MAX_HEADER}), blob {} bytes (limit {MAX_BLOB})", header.len(), blob.len()),
        ));
    }
    let mut frame = Vec::with_capacity(8 + header.len() + blob.len());
    frame.extend_from_slice(&(header.len() as u32).to_be_bytes());
    frame.extend_from_slice(&(blob.len() as u32).to_be_bytes());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(blob);
    Ok(frame)
}

/// The two lengths of a frame, checked against the limits before anything of that size is held.
///
/// # Errors
/// `InvalidData` where a length is over its limit.
pub fn lengths(prefix: [u8; 8]) -> io::Result<(usize, usize)> {
    let header = u32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize;
    let blob = u32::from_be_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
    if header > MAX_HEADER || blob > MAX_BLOB {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("frame too large: header {header}, blob {blob} bytes")));
    }
    Ok((header, blob))
}
