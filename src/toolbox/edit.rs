//! View and edit, as a model does it: by line numbers and by exact text. An edit keeps what it does not name:
//! mode, owner, links, line ends, byte order mark, and bytes of any encoding.

use super::files::{self, Budget, explain, invalid};
use super::protocol::OpError;
use super::text;
use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Largest file that is edited, bytes.
const MAX_FILE: u64 = 32 << 20;
/// Most bytes of a view; the rest is named, not shown.
const MAX_VIEW: usize = 1 << 20;
/// Most bytes and longest time that a view reads to find its lines.
const MAX_READ: u64 = 256 << 20;
const VIEW_TIME: Duration = Duration::from_secs(20);
/// Most entries of a directory view.
const MAX_ENTRIES: usize = 4000;
/// Lines shown on each side of an edit.
const AROUND: usize = 4;
/// Bytes kept for undo, over all files.
const UNDO_BYTES: usize = 32 << 20;
const UNDO_EDITS: usize = 10_000;

/// Edits that can be taken back.
#[derive(Debug, Default)]
pub struct Edits {
    undo: Mutex<Undo>,
}

#[derive(Debug, Default)]
struct Undo {
    /// Oldest first: each file before each edit; none where it did not exist.
    edits: VecDeque<(PathBuf, Option<Vec<u8>>)>,
    bytes: usize,
}

fn size(before: &Option<Vec<u8>>) -> usize {
    before.as_ref().map_or(0, Vec::len)
}

impl Undo {
    fn push(&mut self, path: PathBuf, before: Option<Vec<u8>>) {
        self.bytes += size(&before);
        self.edits.push_back((path, before));
        while (self.bytes > UNDO_BYTES || self.edits.len() > UNDO_EDITS)
            && let Some((_, oldest)) = self.edits.pop_front()
        {
            self.bytes -= size(&oldest);
        }
    }

    fn pop(&mut self, path: &Path) -> Option<Option<Vec<u8>>> {
        let last = self.edits.iter().rposition(|(edited, _)| edited == path)?;
        let (_, before) = self.edits.remove(last)?;
        self.bytes -= size(&before);
        Some(before)
    }
}

impl Edits {
    fn remember(&self, path: &Path, before: Option<Vec<u8>>) {
        self.undo.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned(), before);
    }

    pub fn create(&self, path: &Path, overwrite: bool, bytes: &[u8]) -> Result<(), OpError> {
        let before = match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(invalid(format!("{} is a directory", path.display()))),
            Ok(_) if !overwrite => return Err(invalid(format!("{} exists already; edit it, or remove it first", path.display()))),
            // Too large to be kept for undo is not too large to be replaced.
            Ok(_) => files::read_whole(path, MAX_FILE).ok(),
            Err(_) => None,
        };
        files::write(path, bytes, None)?;
        self.remember(path, before);
        Ok(())
    }

    pub fn replace(&self, path: &Path, old: &str, new: &str) -> Result<Vec<u8>, OpError> {
        if old.is_empty() {
            return Err(invalid("the text to be replaced is empty; to add text, insert it after a line".into()));
        }
        if old == new {
            return Err(invalid("the old and the new text are the same: nothing to replace".into()));
        }
        let content = editable(path)?;
        let (at, old, new) = locate(path, &content, old, new)?;
        let edited = [&content[..at], &new, &content[at + old..]].concat();
        files::write(path, &edited, None)?;
        let shown = around(&edited, at, new.len());
        self.remember(path, Some(content));
        Ok(shown)
    }

    pub fn insert(&self, path: &Path, line: u64, inserted: &str) -> Result<Vec<u8>, OpError> {
        let content = editable(path)?;
        let count = text::lines(&content).count();
        let after = usize::try_from(line).ok().filter(|&line| line <= count);
        let after = after.ok_or_else(|| {
            invalid(format!("line {line} is not in {}, which has {count} lines (0 inserts at the beginning)", path.display()))
        })?;
        let mut at: usize = text::lines(&content).take(after).map(<[u8]>::len).sum();
        if after == 0 {
            at = text::bom_len(&content);
        }
        let crlf = text::is_crlf(&content);
        let mut new = encoded(path, &content, inserted)?;
        if crlf {
            new = text::to_crlf(&new);
        }
        let end: &[u8] = if crlf { b"\r\n" } else { b"\n" };
        if at > text::bom_len(&content) && content[at - 1] != b'\n' {
            // The last line had no end: the inserted text takes its place as the last.
            new.splice(0..0, end.iter().copied());
        } else if at < content.len() && new.last() != Some(&b'\n') {
            new.extend_from_slice(end);
        }
        let edited = [&content[..at], &new, &content[at..]].concat();
        files::write(path, &edited, None)?;
        let shown = around(&edited, at, new.len());
        self.remember(path, Some(content));
        Ok(shown)
    }

    pub fn undo(&self, path: &Path) -> Result<Vec<u8>, OpError> {
        let before = self.undo.lock().unwrap_or_else(PoisonError::into_inner).pop(path);
        match before {
            None => Err(invalid(format!("no edit of {} is left to be taken back", path.display()))),
            Some(Some(content)) => {
                files::write(path, &content, None)?;
                view(path, None)
            }
            Some(None) => {
                fs::remove_file(path).map_err(|e| explain(path, &e))?;
                Ok(format!("{} did not exist before the edit, and was removed\n", path.display()).into_bytes())
            }
        }
    }
}

fn editable(path: &Path) -> Result<Vec<u8>, OpError> {
    let content = files::read_whole(path, MAX_FILE).map_err(|e| match e {
        OpError::TooLarge { size, max } => {
            invalid(format!("{} has {size} bytes, too many to be edited here (limit {max}); use a command", path.display()))
        }
        other => other,
    })?;
    if text::is_binary(&content) {
        return Err(invalid(format!("{} is a binary file ({} bytes); use a command to change it", path.display(), content.len())));
    }
    Ok(content)
}

fn encoded(path: &Path, content: &[u8], text: &str) -> Result<Vec<u8>, OpError> {
    text::encode_like(content, text).map_err(|c| {
        invalid(format!(
            "{} is not UTF-8 but in a single-byte encoding such as Latin-1, which cannot hold {c:?}; convert the file first",
            path.display()
        ))
    })
}

/// Where `old` occurs once, its length there, and the bytes to put in its place.
fn locate(path: &Path, content: &[u8], old: &str, new: &str) -> Result<(usize, usize, Vec<u8>), OpError> {
    let new = encoded(path, content, new)?;
    // What a character of `old` cannot be in this file cannot occur in it.
    let exact = text::encode_like(content, old).unwrap_or_else(|_| old.as_bytes().to_vec());
    let mut found = text::occurrences(content, &exact);
    let mut written = exact;
    let bare_feed = old.replace("\r\n", "").contains('\n');
    let mut crlf = !old.contains('\n') && text::is_crlf(content);
    if found.is_empty() && bare_feed {
        written = text::to_crlf(&written);
        found = text::occurrences(content, &written);
        crlf = true;
    }
    match found[..] {
        [at] => Ok((at, written.len(), if crlf { text::to_crlf(&new) } else { new })),
        [] => Err(invalid(not_found(path, content, old))),
        _ => {
            let lines: Vec<String> = found.iter().take(20).map(|&at| text::line_at(content, at).to_string()).collect();
            let more = if found.len() > lines.len() { ", ..." } else { "" };
            Err(invalid(format!(
                "the old text occurs {} times in {}, at lines {}{more}; add lines around it until it occurs once",
                found.len(),
                path.display(),
                lines.join(", ")
            )))
        }
    }
}

fn not_found(path: &Path, content: &[u8], old: &str) -> String {
    let mut message = format!("the old text does not occur in {}; it must match exactly, white space included", path.display());
    let trimmed = |line: &[u8]| line.trim_ascii().to_vec();
    let wanted: Vec<Vec<u8>> = text::lines(old.trim().as_bytes()).map(trimmed).collect();
    let have: Vec<Vec<u8>> = text::lines(content).map(trimmed).collect();
    if !wanted.is_empty()
        && let Some(at) = have.windows(wanted.len()).position(|window| window == wanted)
    {
        message += &format!(". Lines {} to {} differ from it only in white space", at + 1, at + wanted.len());
    }
    message
}

/// The numbered lines around `len` bytes at `at`.
fn around(content: &[u8], at: usize, len: usize) -> Vec<u8> {
    let first = text::line_at(content, at).saturating_sub(AROUND).max(1);
    let last = text::line_at(content, at + len.saturating_sub(1)) + AROUND;
    let mut out = Vec::new();
    for (i, line) in text::lines(content).enumerate().skip(first - 1).take(last + 1 - first) {
        text::push_numbered(&mut out, i + 1, line);
        if out.len() > MAX_VIEW {
            break;
        }
    }
    out
}

pub fn view(path: &Path, range: Option<(i64, i64)>) -> Result<Vec<u8>, OpError> {
    let meta = fs::metadata(path).map_err(|e| explain(path, &e))?;
    if meta.is_dir() {
        return match range {
            Some(_) => Err(invalid(format!("{} is a directory, which has no line range", path.display()))),
            None => Ok(view_directory(path)),
        };
    }
    let (file, meta) = files::open(path)?;
    let mut reader = BufReader::with_capacity(64 << 10, Budget::new(file, Instant::now() + VIEW_TIME, MAX_READ));
    if text::is_binary(reader.fill_buf().map_err(|e| explain(path, &e))?) {
        return Err(invalid(format!("{} is a binary file ({} bytes); use a command to look into it", path.display(), meta.len())));
    }
    let viewed = view_lines(path, &mut reader, range);
    if reader.get_ref().is_spent() {
        let (path, size) = (path.display(), meta.len());
        return Err(invalid(format!(
            "the lines are too far into {path} ({size} bytes) to be found here; use a command, such as tail -c +OFFSET {path} | head"
        )));
    }
    viewed
}

fn view_lines(path: &Path, mut reader: impl BufRead, range: Option<(i64, i64)>) -> Result<Vec<u8>, OpError> {
    let (first, last) = range.unwrap_or((1, -1));
    if first < 1 || (last != -1 && last < first) {
        return Err(invalid(format!(
            "[{first}, {last}] is no range of lines: the first is at least 1, the last not before it, or -1 for the end"
        )));
    }
    let mut out = Vec::new();
    let mut number = 0i64;
    loop {
        let mut line = Vec::new();
        // A line longer than the whole view is read in pieces and not held.
        let n = std::io::Read::take(&mut reader, MAX_VIEW as u64).read_until(b'\n', &mut line).map_err(|e| explain(path, &e))?;
        if n == 0 {
            break;
        }
        let cut = line.last() != Some(&b'\n') && n == MAX_VIEW;
        if cut {
            reader.skip_until(b'\n').map_err(|e| explain(path, &e))?;
        }
        number += 1;
        if number < first {
            continue;
        }
        if out.len() + n > MAX_VIEW && !out.is_empty() {
            out.extend_from_slice(format!("[cut: the view is over {MAX_VIEW} bytes; view from line {number} for more]\n").as_bytes());
            return Ok(out);
        }
        text::push_numbered(&mut out, number as usize, &line);
        if cut {
            out.extend_from_slice(format!("[cut: line {number} is over {MAX_VIEW} bytes]\n").as_bytes());
        }
        if number == last {
            return Ok(out);
        }
    }
    if first > number.max(1) {
        return Err(invalid(format!("line {first} is past the end of {}, which has {number} lines", path.display())));
    }
    Ok(out)
}

/// Two levels, a path a line, directories with a slash at their end, hidden ones left out.
fn view_directory(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let mut entries: Vec<(PathBuf, bool)> = Vec::new();
    let children = |dir: &Path, into: &mut Vec<(PathBuf, bool)>| {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if into.len() > MAX_ENTRIES {
                return;
            }
            if entry.file_name().as_bytes().first() != Some(&b'.') {
                into.push((entry.path(), entry.file_type().is_ok_and(|t| t.is_dir())));
            }
        }
    };
    children(path, &mut entries);
    for (dir, _) in entries.clone().iter().filter(|(_, is_dir)| *is_dir) {
        children(dir, &mut entries);
    }
    entries.sort();
    let mut out = Vec::new();
    for (entry, is_dir) in [(path.to_owned(), true)].iter().chain(entries.iter().take(MAX_ENTRIES)) {
        out.extend_from_slice(entry.as_os_str().as_bytes());
        if *is_dir && out.last() != Some(&b'/') {
            out.push(b'/');
        }
        out.push(b'\n');
    }
    if entries.len() > MAX_ENTRIES {
        out.extend_from_slice(format!("[cut after {MAX_ENTRIES} entries]\n").as_bytes());
    }
    out
}
