//! `instances.jsonl.zst`: the run's own frozen copy of its instances, one frame a row, so that nothing else is needed to go on.

use super::{
    StoreError,
    dataset::{self, DatasetError, Options, Scan},
    files::{self, Disk},
    frame::{self, FrameWriter, Frames, Span},
    run_dir::Layout,
};
use crate::domain::{Instance, InstanceId};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    os::unix::fs::FileExt,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

/// A frozen row may be somewhat longer than the row it came from (`max_row_bytes`).
const MAX_RECORD_BYTES: u64 = 1 << 30;

/// Checked rows that wait for the writer; each may have `max_row_bytes`.
const ROWS_AHEAD: usize = 16;

/// The frozen instances: an index in memory (about 100 bytes an instance), the rows on disk.
#[derive(Debug)]
pub struct Instances {
    path: PathBuf,
    file: File,
    ids: Vec<InstanceId>,
    spans: Vec<(u64, u32)>,
    positions: HashMap<InstanceId, u32>,
    /// Their images, each name once, and which one each instance has.
    images: Vec<Box<str>>,
    image_of: Vec<u32>,
}

/// First line of the index beside the rows; the other lines are [`IndexLine`]s.
#[derive(Serialize, Deserialize)]
struct IndexHead {
    /// Length of the file with the rows.
    bytes: u64,
    rows: u64,
}

#[derive(Serialize, Deserialize)]
struct IndexLine {
    id: InstanceId,
    offset: u64,
    len: u32,
    image: String,
}

/// Scans a dataset and freezes what is selected.
///
/// # Errors
/// As [`dataset::scan`], and where the copy cannot be written; there is no copy then.
pub fn freeze(layout: &Layout, dataset: &Path, options: &Options) -> Result<Scan, DatasetError> {
    let mut writer = InstancesWriter::create(layout)?;
    // Compressing rows takes as long as checking them does.
    let (checked, rows) = mpsc::sync_channel::<Instance>(ROWS_AHEAD);
    let (scan, written) = thread::scope(|scope| {
        let writing = scope.spawn(|| rows.into_iter().try_for_each(|row| writer.push(&row)));
        // A writer that gave up takes no more; its error says why.
        let scan = dataset::scan(dataset, options, &mut |row| checked.send(row).map_err(|_| writer_gone(layout)));
        drop(checked);
        (scan, writing.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    match written.map_err(DatasetError::from).and(scan) {
        Ok(scan) => {
            writer.finish()?;
            Ok(scan)
        }
        Err(e) => {
            files::remove_if_there(&writer.temp)?;
            Err(e)
        }
    }
}

fn writer_gone(layout: &Layout) -> DatasetError {
    StoreError::io("write", &layout.instances(), &std::io::ErrorKind::BrokenPipe.into()).into()
}

/// Writes the frozen copy; it takes its place when finished.
pub struct InstancesWriter {
    path: PathBuf,
    temp: PathBuf,
    out: BufWriter<File>,
    frames: FrameWriter,
    index: Vec<IndexLine>,
    offset: u64,
}

impl InstancesWriter {
    /// # Errors
    /// Where the file cannot be made.
    pub fn create(layout: &Layout) -> Result<Self, StoreError> {
        let path = layout.instances();
        let temp = files::temp_of(&path);
        let fail = |e: std::io::Error| StoreError::io("write", &temp, &e);
        let out = BufWriter::new(File::create(&temp).map_err(fail)?);
        let frames = FrameWriter::new(1).map_err(fail)?;
        Ok(InstancesWriter { path, temp, out, frames, index: Vec::new(), offset: 0 })
    }

    /// # Errors
    /// Where the row cannot be written.
    pub fn push(&mut self, instance: &Instance) -> Result<(), StoreError> {
        let row = super::json_line(instance);
        let fail = |e: std::io::Error| StoreError::io("write", &self.temp, &e);
        let frame = self.frames.frame(&row).map_err(fail)?;
        let len = u32::try_from(frame.len()).map_err(|_| too_large(&instance.instance_id, frame.len() as u64))?;
        self.out.write_all(&frame).map_err(fail)?;
        let image = instance.image.clone();
        self.index.push(IndexLine { id: instance.instance_id.clone(), offset: self.offset, len, image });
        self.offset += u64::from(len);
        Ok(())
    }

    /// Syncs the copy and puts it in its place.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn finish(mut self) -> Result<(), StoreError> {
        let fail = |e: std::io::Error| StoreError::io("write", &self.temp, &e);
        self.out.flush().and_then(|()| self.out.get_ref().sync_all()).map_err(fail)?;
        files::put_in_place(&self.temp, &self.path)?;
        write_index(&self.path, &IndexHead { bytes: self.offset, rows: self.index.len() as u64 }, &self.index)
    }
}

fn too_large(id: &InstanceId, bytes: u64) -> StoreError {
    StoreError::TooLarge { what: format!("instance {id}"), bytes, limit: u64::from(u32::MAX) }
}

fn index_path(path: &Path) -> PathBuf {
    path.with_file_name("instances.index.jsonl")
}

fn write_index(path: &Path, head: &IndexHead, index: &[IndexLine]) -> Result<(), StoreError> {
    let mut bytes = super::json_line(head);
    bytes.extend(index.iter().flat_map(super::json_line));
    files::replace(&index_path(path), &Disk::default(), &bytes)
}

impl Instances {
    /// Opens the copy by its index; makes the index again where it is absent or not this file's.
    ///
    /// # Errors
    /// Where there is no copy, or it is damaged.
    pub fn open(layout: &Layout) -> Result<Self, StoreError> {
        let path = layout.instances();
        let fail = |e: std::io::Error| StoreError::io("read", &path, &e);
        let file = File::open(&path).map_err(fail)?;
        let bytes = file.metadata().map_err(fail)?.len();
        let index = match read_index(&path).filter(|(head, _)| head.bytes == bytes) {
            Some((_, index)) => index,
            None => {
                let (head, index) = scan_frames(&path)?;
                // Only a shortcut: a directory that cannot be written can still be read.
                let _ = write_index(&path, &head, &index);
                index
            }
        };
        let positions: HashMap<_, _> = (0..).zip(&index).map(|(i, line)| (line.id.clone(), i)).collect();
        let (images, image_of) = interned(index.iter().map(|line| line.image.as_str()));
        let spans = index.iter().map(|line| (line.offset, line.len)).collect();
        let ids = index.into_iter().map(|line| line.id).collect();
        Ok(Instances { path, file, ids, spans, positions, images, image_of })
    }

    /// In the order of the dataset.
    #[must_use]
    pub fn ids(&self) -> &[InstanceId] {
        &self.ids
    }

    #[must_use]
    pub fn has(&self, id: &InstanceId) -> bool {
        self.positions.contains_key(id)
    }

    /// Name of the instance's image; empty where the run has no such instance.
    #[must_use]
    pub fn image(&self, id: &InstanceId) -> &str {
        let image = self.positions.get(id).and_then(|position| self.image_of.get(*position as usize));
        image.and_then(|image| self.images.get(*image as usize)).map_or("", |name| name)
    }

    /// Reads one instance from disk.
    ///
    /// # Errors
    /// Where the run has no such instance, or its frame is damaged.
    pub fn load(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        let position = self.positions.get(id).ok_or_else(|| StoreError::Unknown { id: id.to_string() })?;
        let (offset, len) = self.spans[*position as usize];
        let damaged = |problem: String| StoreError::damaged(&self.path, format!("byte {offset}"), problem);
        let mut frame = vec![0; len as usize];
        self.file.read_exact_at(&mut frame, offset).map_err(|e| StoreError::io("read", &self.path, &e))?;
        let row = frame::decompress(&frame, MAX_RECORD_BYTES).map_err(|e| damaged(e.to_string()))?;
        let instance: Instance = serde_json::from_slice(&row).map_err(|e| damaged(e.to_string()))?;
        if instance.instance_id == *id { Ok(instance) } else { Err(damaged(format!("{} lies where {id} should", instance.instance_id))) }
    }
}

fn interned<'a>(names: impl Iterator<Item = &'a str>) -> (Vec<Box<str>>, Vec<u32>) {
    let (mut all, mut places) = (Vec::new(), HashMap::new());
    let of = names.map(|name| {
        *places.entry(name).or_insert_with(|| {
            all.push(name.into());
            all.len() as u32 - 1
        })
    });
    let of = of.collect();
    (all, of)
}

fn read_index(path: &Path) -> Option<(IndexHead, Vec<IndexLine>)> {
    let mut lines = BufReader::new(File::open(index_path(path)).ok()?).lines();
    let head: IndexHead = serde_json::from_str(&lines.next()?.ok()?).ok()?;
    let index: Vec<IndexLine> = lines.map(|line| serde_json::from_str(&line.ok()?).ok()).collect::<Option<_>>()?;
    let end = index.last().map_or(0, |line| line.offset + u64::from(line.len));
    (index.len() as u64 == head.rows && end == head.bytes).then_some((head, index))
}

fn scan_frames(path: &Path) -> Result<(IndexHead, Vec<IndexLine>), StoreError> {
    #[derive(Deserialize)]
    struct Id {
        instance_id: InstanceId,
        image: String,
    }
    let mut frames = Frames::open(path, MAX_RECORD_BYTES)?;
    let mut index = Vec::new();
    let mut bytes = 0;
    while let Some((Span { offset, len }, row)) = frames.next()? {
        let damaged = |problem: String| StoreError::damaged(path, format!("byte {offset}"), problem);
        let Id { instance_id: id, image } = serde_json::from_slice(row).map_err(|e| damaged(e.to_string()))?;
        let len = u32::try_from(len).map_err(|_| too_large(&id, len))?;
        bytes = offset + u64::from(len);
        index.push(IndexLine { id, offset, len, image });
    }
    Ok((IndexHead { bytes, rows: index.len() as u64 }, index))
}
