//! What compression alone costs: the same bytes in the same frames on as many threads, with nothing around it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use sweroll::store::{
    Layout,
    fact::Fact,
    journal,
    sealed::{IndexLine, Sealed},
};
use zstd::{bulk::Compressor, stream::raw::CParameter};

/// Raw bytes of a job: a sealed frame, or as many live ones.
const JOB_BYTES: u64 = 16 << 20;

/// Whole frames that lie behind each other in a file.
struct Job {
    path: PathBuf,
    offset: u64,
    len: u64,
}

/// Compression of a floor: level and window.
#[derive(Debug, Clone, Copy)]
pub struct Zstd {
    pub level: i32,
    /// Logarithm of the window, with long-distance matching; none: the level's own.
    pub window: Option<u32>,
}

/// Decompresses all frames of a directory, and compresses them again where asked to. Returns raw and compressed bytes.
pub fn run(dir: &Path, threads: usize, again: Option<Zstd>) -> (u64, u64) {
    let jobs = if Sealed::data(dir).is_dir() { sealed(&Sealed::data(dir)) } else { live(dir) };
    let (next, raw, compressed) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let out = Mutex::new(tempfile::tempfile_in(dir).expect("a file"));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut compressor = again.map(compressor);
                let mut content = Vec::new();
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    decompress(job, &mut content);
                    raw.fetch_add(content.len() as u64, Ordering::Relaxed);
                    if let Some(compressor) = &mut compressor {
                        let frame = compressor.compress(&content).expect("memory");
                        compressed.fetch_add(frame.len() as u64, Ordering::Relaxed);
                        out.lock().expect("no panic").write_all(&frame).expect("room on the disk");
                    }
                }
            });
        }
    });
    if again.is_some() {
        out.lock().expect("no panic").sync_all().expect("a disk");
    }
    (raw.into_inner(), compressed.into_inner())
}

fn compressor(Zstd { level, window }: Zstd) -> Compressor<'static> {
    let mut compressor = Compressor::new(level).expect("a level");
    compressor.set_parameter(CParameter::ChecksumFlag(true)).expect("a parameter");
    if let Some(window) = window {
        compressor.set_parameter(CParameter::WindowLog(window)).expect("a parameter");
        compressor.set_parameter(CParameter::EnableLongDistanceMatching(true)).expect("a parameter");
    }
    compressor
}

fn decompress(job: &Job, content: &mut Vec<u8>) {
    let mut frames = vec![0; job.len as usize];
    File::open(&job.path).and_then(|file| file.read_exact_at(&mut frames, job.offset)).expect("a shard");
    content.clear();
    let mut decoder = zstd::Decoder::with_buffer(&frames[..]).expect("memory");
    decoder.window_log_max(27).expect("a window");
    decoder.read_to_end(content).expect("whole frames");
}

fn sealed(data: &Path) -> Vec<Job> {
    let mut indexes: Vec<PathBuf> = std::fs::read_dir(data).expect("a dataset").flatten().map(|entry| entry.path()).collect();
    indexes.retain(|path| path.to_string_lossy().ends_with(".index.jsonl"));
    indexes.sort();
    let mut jobs: Vec<Job> = Vec::new();
    for index in indexes {
        let path = PathBuf::from(index.to_string_lossy().replace(".index.jsonl", ".jsonl.zst"));
        let mut seen = BTreeMap::new();
        for line in BufReader::new(File::open(&index).expect("an index")).lines() {
            let line: IndexLine = serde_json::from_str(&line.expect("text")).expect("a line of an index");
            seen.insert(line.frame_offset, line.frame_len);
        }
        jobs.extend(seen.into_iter().map(|(offset, len)| Job { path: path.clone(), offset, len }));
    }
    jobs
}

fn live(dir: &Path) -> Vec<Job> {
    let layout = Layout::new(dir);
    let mut shards: BTreeMap<_, (Vec<Job>, u64)> = BTreeMap::new();
    journal::read(&layout.journal(), &mut |_, fact| {
        if let Fact::Committed(fact) = fact {
            let path = layout.shards().join(fact.location.stream.file(fact.location.shard));
            let (jobs, raw) = shards.entry((fact.location.stream, fact.location.shard)).or_default();
            match jobs.last_mut().filter(|_| *raw + fact.raw_bytes <= JOB_BYTES) {
                Some(job) => job.len += fact.location.len,
                None => {
                    jobs.push(Job { path, offset: fact.location.offset, len: fact.location.len });
                    *raw = 0;
                }
            }
            *raw += fact.raw_bytes;
        }
        Ok(())
    })
    .expect("a journal");
    shards.into_values().flat_map(|(jobs, _)| jobs).collect()
}
