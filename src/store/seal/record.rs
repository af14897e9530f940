//! The records of one frame: read from where they lie, checked, brought to this version and counted, compressed together.

use super::{
    CountedBy, Counting, SealError,
    plan::{Place, Ref},
    settings::{MAX_FRAME_BYTES, Settings},
};
use crate::{
    domain::{AttemptId, ExitReason, Resolved, Trajectory, trajectory::Counted, trajectory::SCHEMA_VERSION},
    store::{
        StoreError,
        frame::{self, Span},
        json_line,
        sealed::IndexLine,
    },
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    borrow::Cow,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use zstd::{bulk::Compressor, stream::raw::CParameter};

/// A frame of a sealed shard, with what its records are.
pub struct Packed {
    pub frame: Vec<u8>,
    pub raw_bytes: u64,
    /// Their frame's place is not known yet.
    pub lines: Vec<IndexLine>,
    pub exit_reasons: Vec<ExitReason>,
}

/// Reads and packs; each thread has its own.
pub struct Packer<'a> {
    sources: &'a [PathBuf],
    counting: &'a Counting<'a>,
    settings: &'a Settings,
    compressor: Option<Compressor<'static>>,
    /// The file that was read last, and its frame that was.
    file: Option<(u32, File)>,
    content: Option<(Place, Vec<u8>)>,
}

/// What of a record has to be known to seal it.
#[derive(Deserialize)]
struct Head<'r> {
    schema_version: u32,
    trajectory_id: AttemptId,
    sample: u32,
    resolved: Resolved,
    exit_reason: ExitReason,
    num_tokens: i64,
    num_loss_tokens: i64,
    #[serde(borrow)]
    meta: Cow<'r, str>,
}

#[derive(Deserialize)]
struct HeadOfMeta {
    #[serde(default)]
    counted: Option<Counted>,
}

impl<'a> Packer<'a> {
    pub fn new(sources: &'a [PathBuf], counting: &'a Counting<'a>, settings: &'a Settings) -> Self {
        Packer { sources, counting, settings, compressor: None, file: None, content: None }
    }

    /// # Errors
    /// Where a source cannot be read, a record is not the one it should be, or its counts mean something else.
    pub fn pack(&mut self, refs: &[Ref]) -> Result<Packed, SealError> {
        let mut order: Vec<usize> = (0..refs.len()).collect();
        // Each source frame is read once.
        order.sort_unstable_by_key(|i| (refs[*i].place.file, refs[*i].place.frame.offset));
        let mut records = vec![Vec::new(); refs.len()];
        let mut lines: Vec<Option<(IndexLine, ExitReason)>> = vec![None; refs.len()];
        for i in order {
            let (record, line, exit_reason) = self.record(&refs[i])?;
            (records[i], lines[i]) = (record, Some((line, exit_reason)));
        }
        self.content = None;
        let content = match records.len() {
            1 => records.swap_remove(0),
            _ => records.concat(),
        };
        drop(records);
        let (mut lines, exit_reasons): (Vec<IndexLine>, Vec<ExitReason>) = lines.into_iter().flatten().unzip();
        let mut offset = 0;
        for line in &mut lines {
            line.offset = offset;
            offset += line.len;
        }
        let frame = self.compress(&content).map_err(|e| StoreError::io("compress for", Path::new("data"), &e))?;
        Ok(Packed { frame, raw_bytes: content.len() as u64, lines, exit_reasons })
    }

    fn compress(&mut self, content: &[u8]) -> io::Result<Vec<u8>> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(compressor(self.settings)?),
        };
        let mut frame = compressor.compress(content)?;
        frame.shrink_to_fit();
        Ok(frame)
    }

    /// The record as it will be, and its line of the index.
    fn record(&mut self, of: &Ref) -> Result<(Vec<u8>, IndexLine, ExitReason), SealError> {
        let path = &self.sources[of.place.file as usize];
        let damaged = |problem: String| StoreError::damaged(path, format!("byte {}", of.place.frame.offset), problem);
        let record = self.read(of)?;
        if Sha256::digest(&record)[..] != of.digest {
            return Err(damaged(format!("the record of {} is not the one that was committed", of.id)).into());
        }
        let unfit = |e: &dyn std::fmt::Display| damaged(format!("the record of {} cannot be read: {e}", of.id));
        let head: Head<'_> = serde_json::from_slice(&record).map_err(|e| unfit(&e))?;
        let was = AttemptId { episode: crate::domain::EpisodeId { sample: of.sample, ..of.id.episode.clone() }, ..of.id.clone() };
        if head.trajectory_id != was || head.sample != of.sample {
            return Err(damaged(format!("the record of {was} calls itself {}", head.trajectory_id)).into());
        }
        if head.schema_version > SCHEMA_VERSION {
            return Err(StoreError::Newer { path: path.clone(), found: head.schema_version.into(), known: SCHEMA_VERSION.into() }.into());
        }
        let counted = serde_json::from_str::<HeadOfMeta>(&head.meta).map_err(|e| unfit(&e))?.counted;
        let count = match counted.filter(|_| head.num_tokens >= 0) {
            Some(counted) if self.counting.by.is_of(&counted) => false,
            Some(counted) if !self.counting.recount => {
                let (found, wanted) =
                    (described(&counted.target, &counted.loss), described(&self.counting.by.target, &self.counting.by.loss));
                return Err(SealError::Counted { path: path.clone(), id: of.id.clone(), found, wanted });
            }
            _ => self.counting.count.is_some(),
        };
        let as_it_lies = head.schema_version == SCHEMA_VERSION && of.sample == of.id.episode.sample;
        let (resolved, exit_reason) = (head.resolved, head.exit_reason);
        let mut tokens = (head.num_tokens, head.num_loss_tokens);
        let mut digest = of.digest;
        let record = if as_it_lies && !count {
            record
        } else {
            let mut trajectory = Trajectory::parse(&record).map_err(|e| unfit(&e))?;
            drop(record);
            trajectory.sample = of.id.episode.sample;
            trajectory.trajectory_id = of.id.clone();
            if let Some(count_anew) = self.counting.count.filter(|_| count) {
                count_anew(&mut trajectory);
            }
            tokens = (trajectory.num_tokens, trajectory.num_loss_tokens);
            let record = json_line(&trajectory);
            digest = Sha256::digest(&record).into();
            record
        };
        let line = IndexLine {
            id: of.id.clone(),
            frame_offset: 0,
            frame_len: 0,
            offset: 0,
            len: record.len() as u64,
            resolved,
            tokens: tokens.0,
            loss_tokens: tokens.1,
            digest: hex(&digest),
        };
        Ok((record, line, exit_reason))
    }

    fn bytes(&mut self, number: u32, frame: Span) -> io::Result<Vec<u8>> {
        let file = match self.file.take().filter(|(open, _)| *open == number) {
            Some((_, file)) => file,
            None => File::open(&self.sources[number as usize])?,
        };
        let length = file.metadata()?.len();
        if frame.offset.checked_add(frame.len).is_none_or(|end| end > length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; frame.len as usize];
        file.read_exact_at(&mut bytes, frame.offset)?;
        self.file = Some((number, file));
        Ok(bytes)
    }

    fn read(&mut self, of: &Ref) -> Result<Vec<u8>, StoreError> {
        let path = &self.sources[of.place.file as usize];
        let Place { frame, offset, file } = of.place;
        let damaged = |problem: String| StoreError::damaged(path, format!("byte {}", frame.offset), problem);
        let same = |known: &Place| (known.file, known.frame) == (file, frame);
        let content = match self.content.take().filter(|(place, _)| same(place)) {
            Some((_, content)) => content,
            None => {
                let bytes = self.bytes(file, frame).map_err(|e| match e.kind() {
                    io::ErrorKind::UnexpectedEof => damaged("the file ends before the frame does".into()),
                    _ => StoreError::io("read", path, &e),
                })?;
                // A frame of many records was cut by somebody's settings, within what this sweroll can bear.
                let limit = of.len.max(MAX_FRAME_BYTES);
                frame::decompress(&bytes, limit).map_err(|e| damaged(format!("the frame cannot be read: {e}")))?
            }
        };
        if offset == 0 && of.len == content.len() as u64 {
            return Ok(content);
        }
        let end = offset.checked_add(of.len).and_then(|end| usize::try_from(end).ok());
        let record = end.and_then(|end| content.get(offset as usize..end)).map(<[u8]>::to_vec);
        self.content = Some((of.place, content));
        record.ok_or_else(|| damaged(format!("the frame ends before the record of {} does", of.id)))
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn described(target: &str, loss: &str) -> String {
    if loss.is_empty() { target.to_owned() } else { format!("{target} with the loss of {loss}") }
}

impl CountedBy {
    /// Whether these counts mean what those of the dataset do.
    pub fn is_of(&self, counted: &Counted) -> bool {
        self.target == counted.target
            && self.tokenizer_digest == counted.tokenizer_digest
            && (self.loss.is_empty() || self.loss == counted.loss)
    }
}

fn compressor(settings: &Settings) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(settings.level)?;
    let parameters = [
        CParameter::ChecksumFlag(true),
        CParameter::ContentSizeFlag(true),
        CParameter::EnableLongDistanceMatching(true),
        CParameter::WindowLog(settings.window_log),
    ];
    parameters.into_iter().try_for_each(|parameter| compressor.set_parameter(parameter))?;
    Ok(compressor)
}
