//! A sealed shard with its index: the index, the seek table and the figures of `sealed.json` against each other.

use super::{
    findings::{Note, Place},
    seekable::{self, Seek},
};
use crate::store::sealed::{IndexLine, SealedFile};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read as _},
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

pub(super) const AGAIN: &str = "make it anew by `sweroll seal --force` or `sweroll merge`, or restore data/ from a copy";

/// A longer line is no line of an index.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// A longer seek table, of 87,000 frames, is none of ours: a shard has some dozens of frames.
const MAX_TABLE_BYTES: u64 = 1 << 20;

/// One file of the dataset with its index.
pub(super) struct Shard<'s> {
    /// Names within the directory.
    pub name: String,
    pub index: String,
    pub file: &'s SealedFile,
    pub data: File,
    pub lines: Vec<IndexLine>,
    /// Lines of each frame, none where the index is in disorder.
    pub frames: Vec<Range<usize>>,
    /// Entry of the seek table, by the frame's offset.
    pub seeks: HashMap<u64, Seek>,
}

pub(super) type Named = (String, Note);

impl<'s> Shard<'s> {
    /// Reads the index and the seek table and holds them against each other and the file's figures.
    pub fn open(dir: &Path, file: &'s SealedFile) -> (Option<Self>, Vec<Named>) {
        let (name, index) = (format!("data/{}", file.file), format!("data/{}", file.index()));
        let mut notes = Vec::new();
        let opened = File::open(dir.join(&name)).and_then(|data| Ok((data.metadata()?.len(), data)));
        let (bytes, data) = match opened {
            Ok(opened) => opened,
            Err(e) => return (None, vec![(name, Note::problem(Place::File, format!("it cannot be read: {e}"), AGAIN))]),
        };
        if bytes != file.bytes {
            notes.push((name.clone(), Note::problem(Place::File, format!("it has {bytes} bytes, sealed.json says {}", file.bytes), AGAIN)));
        }
        let (lines, wrong) = lines(&dir.join(&index), file);
        notes.extend(wrong.into_iter().map(|note| (index.clone(), note)));
        let (frames, end) = match group(&lines) {
            Ok(grouped) => grouped,
            Err(note) => {
                notes.push((index.clone(), note));
                (Vec::new(), 0)
            }
        };
        let (seeks, wrong) = seeks(&data, bytes, &lines, &frames, end);
        notes.extend(wrong.into_iter().map(|note| (name.clone(), note)));
        notes.extend(sums(file, &lines, frames.len()).map(|what| (name.clone(), Note::problem(Place::File, what, AGAIN))));
        (Some(Shard { name, index, file, data, lines, frames, seeks }), notes)
    }
}

fn lines(path: &Path, file: &SealedFile) -> (Vec<IndexLine>, Vec<Note>) {
    let (mut lines, mut notes) = (Vec::new(), Vec::new());
    let mut digest = Sha256::new();
    let mut input = match File::open(path) {
        Ok(input) => BufReader::with_capacity(256 << 10, input),
        Err(e) => return (lines, vec![Note::problem(Place::File, format!("it cannot be read: {e}"), AGAIN)]),
    };
    let mut text = Vec::new();
    loop {
        text.clear();
        let place = Place::Line(lines.len() as u64 + 1);
        if let Err(e) = input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text) {
            notes.push(Note::problem(place, format!("it cannot be read: {e}"), AGAIN));
            return (lines, notes);
        }
        if text.is_empty() {
            break;
        }
        digest.update(&text);
        match serde_json::from_slice::<IndexLine>(&text) {
            Ok(line) if crate::store::json_line(&line) == text => lines.push(line),
            Ok(_) => {
                notes.push(Note::problem(place, "it has other keys than a line of an index, or another form", AGAIN));
                return (lines, notes);
            }
            Err(e) => {
                notes.push(Note::problem(place, format!("it is no line of an index: {e}"), AGAIN));
                return (lines, notes);
            }
        }
    }
    if format!("{:x}", digest.finalize()) != file.index_sha256 {
        notes.push(Note::problem(Place::File, "it has another SHA-256 than sealed.json says", AGAIN));
    }
    (lines, notes)
}

/// Lines by frame, and where the last frame ends. Frames and records must follow on each other without a gap.
fn group(lines: &[IndexLine]) -> Result<(Vec<Range<usize>>, u64), Note> {
    let mut frames: Vec<Range<usize>> = Vec::new();
    let (mut frame_end, mut record_end) = (0_u64, 0_u64);
    for (at, line) in lines.iter().enumerate() {
        let disorder = |what: &str| Note::problem(Place::Line(at as u64 + 1), what, AGAIN).of(&line.id);
        let same = frames.last().map(|frame| &lines[frame.start]).filter(|first| first.frame_offset == line.frame_offset);
        if let Some(first) = same {
            if first.frame_len != line.frame_len {
                return Err(disorder("its frame has another length than in the line before"));
            }
        } else {
            if line.frame_offset != frame_end {
                return Err(disorder(&format!("its frame begins at byte {}, the one before ends at {frame_end}", line.frame_offset)));
            }
            frame_end = frame_end.checked_add(line.frame_len).ok_or_else(|| disorder("its frame has no end"))?;
            record_end = 0;
            frames.push(at..at);
        }
        if line.offset != record_end || line.len == 0 {
            return Err(disorder(&format!("its record begins at byte {} of the frame, the one before ends at {record_end}", line.offset)));
        }
        record_end = record_end.checked_add(line.len).ok_or_else(|| disorder("its record has no end"))?;
        if let Some(frame) = frames.last_mut() {
            frame.end = at + 1;
        }
    }
    Ok((frames, frame_end))
}

/// The seek table, held against the index. `end`: where the frames end by the index.
fn seeks(data: &File, bytes: u64, lines: &[IndexLine], frames: &[Range<usize>], end: u64) -> (HashMap<u64, Seek>, Vec<Note>) {
    let wrong = |what: String| (HashMap::new(), vec![Note::problem(Place::Byte(end), what, AGAIN)]);
    let table = match read_table(data, bytes) {
        Ok(table) => table,
        Err(what) => return wrong(what),
    };
    let len = seekable::len_of(&table);
    let mut by_offset = HashMap::new();
    let mut offset = 0_u64;
    for seek in &table {
        by_offset.insert(offset, *seek);
        offset += u64::from(seek.bytes);
    }
    if offset + len != bytes {
        return wrong(format!("the frames of the seek table end at byte {offset}, the table begins at {}", bytes.saturating_sub(len)));
    }
    let same = |(frame, seek): (&Range<usize>, &Seek)| {
        let raw: u64 = lines[frame.clone()].iter().map(|line| line.len).sum();
        (lines[frame.start].frame_len, raw) == (u64::from(seek.bytes), u64::from(seek.raw_bytes))
    };
    if frames.len() != table.len() {
        return wrong(format!("the seek table has {} frames, the index {}", table.len(), frames.len()));
    }
    match frames.iter().zip(&table).position(|pair| !same(pair)) {
        Some(at) => wrong(format!("frame {} has other lengths in the seek table than in the index", at + 1)),
        None => (by_offset, Vec::new()),
    }
}

fn read_table(data: &File, bytes: u64) -> Result<Vec<Seek>, String> {
    let tail = |len: u64| {
        if len > MAX_TABLE_BYTES {
            return Err(format!("a seek table of {len} bytes is over the limit of {MAX_TABLE_BYTES}"));
        }
        let at = bytes.checked_sub(len).ok_or("the file is shorter than its seek table")?;
        let mut tail = vec![0; len as usize];
        data.read_exact_at(&mut tail, at).map_err(|e| format!("the seek table cannot be read: {e}"))?;
        Ok::<_, String>(tail)
    };
    let len = seekable::table_len(&tail(seekable::FOOTER)?)?;
    seekable::table(&tail(len)?)
}

/// Figures of `sealed.json` that are not those of the index.
fn sums(file: &SealedFile, lines: &[IndexLine], frames: usize) -> impl Iterator<Item = String> {
    let counted = || lines.iter().filter(|line| line.tokens >= 0 && line.loss_tokens >= 0);
    let sum = |of: fn(&IndexLine) -> u64| lines.iter().map(of).fold(0_u64, u64::saturating_add);
    let of_counted = |of: fn(&IndexLine) -> i64| counted().map(|line| of(line) as u64).fold(0_u64, u64::saturating_add);
    let figures = [
        ("rows", file.rows, lines.len() as u64),
        ("resolved", file.resolved, sum(|line| u64::from(i8::from(line.resolved) == 1))),
        ("frames", file.frames, frames as u64),
        ("raw_bytes", file.raw_bytes, sum(|line| line.len)),
        ("tokens", file.tokens, of_counted(|line| line.tokens)),
        ("loss_tokens", file.loss_tokens, of_counted(|line| line.loss_tokens)),
        ("uncounted", file.uncounted, (lines.len() - counted().count()) as u64),
    ];
    let differ = figures.into_iter().filter(|(_, said, found)| said != found);
    differ.map(|(name, said, found)| format!("{name} is {said} in sealed.json and {found} by the index"))
}
