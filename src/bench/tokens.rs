//! `sweroll bench tokens`: made-up records counted by `sweroll tokens`, and by Hugging Face's `tokenizers` where a Python has it.

use super::{
    episodes::BENCH_VERSION,
    machine::Machine,
    store::{Run, StoreBenchError},
};
use crate::{
    domain::Trajectory,
    tokens::{FeedError, FeedSettings, Target, Tokenizer, feed, shards, template},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// Bytes of the messages of a record.
const RECORD: usize = 165_000;
/// Reads texts, a JSON string a line, and encodes them in batches with `tokenizers`; only the encoding is timed.
const SCRIPT: &str = include_str!("tokens.py");

/// What is compared with, and by what.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// A Python that has `tokenizers`.
    pub python: PathBuf,
    /// Qwen3's `tokenizer.json`.
    pub tokenizer: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub schema_version: u32,
    pub machine: Machine,
    pub threads: usize,
    pub records: usize,
    /// Of the texts, as the chat template renders them.
    pub bytes: u64,
    pub tokens: u64,
    /// Of the whole process: read, decompressed, parsed, rendered, counted. The best of three.
    pub seconds: f64,
    pub mtok_per_s: f64,
    pub peer: Option<Encoded>,
}

/// What `tokenizers` made of the same texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Encoded {
    pub version: String,
    pub tokens: u64,
    /// Of the encoding alone, the texts in memory. The best of `times`.
    pub seconds: f64,
    /// SHA-256 of all ids, four bytes each.
    digest: String,
    #[serde(default)]
    pub mtok_per_s: f64,
    /// Our tokens a second by theirs.
    #[serde(default)]
    pub slower: f64,
    /// Whether the ids are ours.
    #[serde(default)]
    pub ids_identical: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum TokensBenchError {
    #[error(transparent)]
    Store(#[from] StoreBenchError),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error("{0}")]
    Broken(String),
}

fn broken(what: &str, why: impl std::fmt::Display) -> TokensBenchError {
    TokensBenchError::Broken(format!("{what}: {why}"))
}

/// Makes `megabytes` of records in `dir` and counts them on `threads` threads.
///
/// # Errors
/// Of the disk, or of the peer.
pub fn measure(dir: &Path, megabytes: usize, threads: usize, peer: Option<&Peer>) -> Result<Report, TokensBenchError> {
    let machine = Machine::look();
    let records = (megabytes * 1_000_000 / RECORD).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| broken("no async runtime", e))?;
    Run::make(dir, records, RECORD)?.commit(&runtime, 100)?;
    let run = dir.join("run");
    let (mut seconds, mut tokens) = (f64::MAX, 0);
    for _ in 0..3 {
        let (took, found) = ours(&run, threads)?;
        seconds = seconds.min(took);
        tokens = found;
    }
    let texts = dir.join("texts.jsonl");
    let (bytes, digest) = render(&run, &texts, threads)?;
    let mtok_per_s = tokens as f64 / 1e6 / seconds;
    let peer = match peer {
        None => None,
        Some(peer) => {
            let found = theirs(peer, &texts, threads)?;
            if found.tokens != tokens {
                return Err(broken("the counts differ", format!("{tokens} and, by tokenizers {}, {}", found.version, found.tokens)));
            }
            let speed = found.tokens as f64 / 1e6 / found.seconds;
            Some(Encoded { mtok_per_s: speed, slower: mtok_per_s / speed, ids_identical: found.digest == digest, ..found })
        }
    };
    Ok(Report { schema_version: BENCH_VERSION, machine, threads, records, bytes, tokens, seconds, mtok_per_s, peer })
}

/// Seconds and tokens of `sweroll tokens`.
fn ours(run: &Path, threads: usize) -> Result<(f64, u64), TokensBenchError> {
    let program = std::env::current_exe().map_err(|e| broken("this program's own path", e))?;
    let began = Instant::now();
    let done = Command::new(program).args(["tokens", "--format", "json", "--threads", &threads.to_string()]).arg(run).env_clear().output();
    let seconds = began.elapsed().as_secs_f64();
    let done = done.map_err(|e| broken("sweroll tokens", e))?;
    let report: serde_json::Value =
        serde_json::from_slice(&done.stdout).map_err(|_| broken("sweroll tokens", String::from_utf8_lossy(&done.stderr)))?;
    let tokens = report["total"]["tokens"].as_u64().ok_or_else(|| broken("sweroll tokens", "it tells no tokens"))?;
    Ok((seconds, tokens))
}

/// Writes the records' texts, and returns their bytes and the digest of their ids.
fn render(run: &Path, texts: &Path, threads: usize) -> Result<(u64, String), TokensBenchError> {
    let failed = |e: std::io::Error| FeedError::Read { path: texts.to_owned(), source: e };
    let mut file = BufWriter::new(File::create(texts).map_err(failed)?);
    let (mut bytes, mut digest) = (0, Sha256::new());
    let tokenizer = Tokenizer::qwen3();
    feed(
        &shards(&[run.to_owned()])?,
        &FeedSettings { threads, ..FeedSettings::default() },
        |batch| {
            let mut texts = Vec::new();
            for (number, record) in batch.records() {
                let trajectory = Trajectory::parse(record).map_err(|e| batch.wrong(number, "", e))?;
                let id = trajectory.trajectory_id.to_string();
                let text = template::render(Target::default(), &trajectory.messages, &trajectory.tools);
                let text = text.map_err(|e| batch.wrong(number, &id, e))?;
                let ids: Vec<u8> = tokenizer.encode(&text).into_iter().flat_map(u32::to_le_bytes).collect();
                texts.push((text, ids));
            }
            Ok(texts)
        },
        |batch: Vec<(String, Vec<u8>)>| {
            for (text, ids) in batch {
                bytes += text.len() as u64;
                digest.update(&ids);
                serde_json::to_writer(&mut file, &text).map_err(|e| failed(e.into()))?;
                file.write_all(b"\n").map_err(failed)?;
            }
            Ok::<_, FeedError>(())
        },
    )?;
    file.flush().map_err(failed)?;
    Ok((bytes, format!("{:x}", digest.finalize())))
}

fn theirs(peer: &Peer, texts: &Path, threads: usize) -> Result<Encoded, TokensBenchError> {
    let mut command = Command::new(&peer.python);
    command.args(["-c", SCRIPT]).arg(texts).arg(&peer.tokenizer);
    command.env("RAYON_NUM_THREADS", threads.to_string()).env("TOKENIZERS_PARALLELISM", (threads > 1).to_string());
    let done = command.stdin(Stdio::null()).output().map_err(|e| broken(&peer.python.display().to_string(), e))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let why = said.lines().last().unwrap_or("it failed and said nothing").to_owned();
        return Err(broken(&format!("{}: `pip install tokenizers` there", peer.python.display()), why));
    }
    serde_json::from_slice(&done.stdout).map_err(|e| broken("what Python printed", e))
}
