//! What compression alone costs: the same bytes in the same frames on as many threads, with nothing around it.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use zstd::{bulk::Compressor, stream::raw::CParameter, zstd_safe};

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

/// Decompresses the shards of a directory, and compresses them again where asked to. Returns raw and compressed bytes.
pub fn run(dir: &Path, threads: usize, again: Option<Zstd>) -> (u64, u64) {
    let jobs = jobs(dir);
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

/// The frames of all shards in a directory, those that are small in runs of [`JOB_BYTES`].
fn jobs(dir: &Path) -> Vec<Job> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "zst"));
    files.sort();
    files.iter().flat_map(|path| frames(path)).collect()
}

fn frames(path: &Path) -> Vec<Job> {
    let file = std::fs::read(path).expect("a shard");
    let (mut jobs, mut raw, mut at): (Vec<Job>, _, _) = (Vec::new(), 0, 0);
    while at < file.len() {
        let len = zstd_safe::find_frame_compressed_size(&file[at..]).expect("a frame");
        let size = zstd_safe::get_frame_content_size(&file[at..]).ok().flatten().unwrap_or(JOB_BYTES);
        match jobs.last_mut().filter(|_| raw + size <= JOB_BYTES) {
            Some(job) => (job.len, raw) = (job.len + len as u64, raw + size),
            None => {
                jobs.push(Job { path: path.to_owned(), offset: at as u64, len: len as u64 });
                raw = size;
            }
        }
        at += len;
    }
    jobs
}
