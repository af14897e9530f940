//! Content search and file names, with ripgrep's own crates; bounded in results, bytes and time.

use super::files::{self, Budget, invalid};
use super::protocol::{OpError, Search};
use globset::{GlobBuilder, GlobMatcher};
use grep_matcher::Matcher;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkContextKind, SinkMatch};
use ignore::{DirEntry, WalkBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// After this a search says that it stopped, and shows what it has.
const TIME: Duration = Duration::from_secs(20);
/// Most bytes read of one file.
const MAX_READ: u64 = 256 << 20;
/// Longest line shown, bytes.
const MAX_LINE: usize = 500;
/// Longest line held, bytes; a file with a longer one is left out from there on.
const MAX_HEAP: usize = 16 << 20;
const MAX_CONTEXT: u64 = 50;
/// Most files named that were too large to be searched whole.
const MAX_UNREAD: usize = 10;
/// Most paths that a listing holds in order to sort them.
const MAX_LISTED: usize = 1 << 20;

/// How many there are, how many are shown, and the text.
#[derive(Debug)]
pub struct Found {
    pub total: u64,
    pub shown: u64,
    pub text: Vec<u8>,
}

/// `shown_as` is the path as the caller wrote it, and the prefix of every path in the answer.
pub fn search(search: &Search, root: &Path, shown_as: &str) -> Result<Found, OpError> {
    let matcher = RegexMatcherBuilder::new()
        .case_insensitive(search.case_insensitive)
        .line_terminator(Some(b'\n'))
        .build(&search.pattern)
        .map_err(|e| invalid(format!("bad regular expression: {e}")))?;
    let glob = search.glob.as_deref().map(compile_glob).transpose()?;
    let context = search.context.min(MAX_CONTEXT) as usize;
    let mut searcher = SearcherBuilder::new()
        .binary_detection(BinaryDetection::quit(0))
        .line_number(true)
        .before_context(context)
        .after_context(context)
        .heap_limit(Some(MAX_HEAP))
        .build();
    let mut hits = Hits {
        matcher: &matcher,
        search,
        path: Vec::new(),
        total: 0,
        shown: 0,
        text: Vec::new(),
        full: false,
        until: Instant::now() + TIME,
    };
    exists(root)?;
    let mut unread: Vec<String> = Vec::new();
    for entry in walk(root, true) {
        let Ok(entry) = entry else { continue };
        if hits.late() {
            break;
        }
        let wanted = glob.as_ref().is_none_or(|glob| glob.is_match(below(root, entry.path())));
        if entry.file_type().is_some_and(|t| t.is_file()) && wanted {
            hits.path = shown(root, shown_as, entry.path()).as_os_str().as_bytes().to_vec();
            let Ok((file, _)) = files::open(entry.path()) else { continue };
            let mut file = Budget::new(file, hits.until, MAX_READ);
            // A file that cannot be read, or whose lines are too long, does not end the search.
            let _ = searcher.search_reader(&matcher, &mut file, &mut hits);
            if file.is_spent() && !hits.late() {
                let path = String::from_utf8_lossy(&hits.path).into_owned();
                unread.push(format!(
                    "[only the first {MAX_READ} bytes of {path} were searched; use a command, such as tail -c, for the rest]\n"
                ));
            }
        }
    }
    let stopped = hits.late() || !unread.is_empty();
    if stopped && hits.total == 0 {
        let seconds = TIME.as_secs();
        let message = unread.pop().unwrap_or_else(|| format!("nothing was found in {seconds} s, and not everything was searched"));
        return Err(invalid(format!("{}; search in a smaller directory, or use a command", message.trim())));
    }
    unread.iter().take(MAX_UNREAD).for_each(|note| hits.text.extend_from_slice(note.as_bytes()));
    if hits.late() {
        hits.text.extend_from_slice(format!("[stopped after {} s; search in a smaller directory]\n", TIME.as_secs()).as_bytes());
    }
    Ok(Found { total: hits.total, shown: hits.shown, text: hits.text })
}

/// Files and directories whose name, or path below `root` if the pattern has a slash, matches the glob.
pub fn find(pattern: &str, root: &Path, shown_as: &str, max_results: u64) -> Result<Found, OpError> {
    let glob = compile_glob(pattern)?;
    exists(root)?;
    let until = Instant::now() + TIME;
    let mut paths: Vec<(PathBuf, bool)> = Vec::new();
    let mut stopped = false;
    for entry in walk(root, false).flatten() {
        stopped = Instant::now() > until || paths.len() >= MAX_LISTED;
        if stopped {
            break;
        }
        if entry.depth() > 0 && glob.is_match(below(root, entry.path())) {
            let is_dir = entry.file_type().is_some_and(|t| t.is_dir());
            paths.push((shown(root, shown_as, entry.path()), is_dir));
        }
    }
    paths.sort();
    let shown = paths.len().min(usize::try_from(max_results).unwrap_or(usize::MAX));
    let mut text = Vec::new();
    for (path, is_dir) in &paths[..shown] {
        text.extend_from_slice(path.as_os_str().as_bytes());
        text.extend_from_slice(if *is_dir { b"/\n" } else { b"\n" });
    }
    if stopped {
        text.extend_from_slice(b"[stopped early; look in a smaller directory]\n");
    }
    Ok(Found { total: paths.len() as u64, shown: shown as u64, text })
}

fn exists(root: &Path) -> Result<(), OpError> {
    std::fs::metadata(root).map(drop).map_err(|e| super::files::explain(root, &e))
}

/// Hidden files included, repositories' own data never.
fn walk(root: &Path, respect_ignore_files: bool) -> ignore::Walk {
    WalkBuilder::new(root)
        .standard_filters(false)
        .hidden(false)
        .ignore(respect_ignore_files)
        .git_ignore(respect_ignore_files)
        .git_exclude(respect_ignore_files)
        .parents(respect_ignore_files)
        .require_git(false)
        .sort_by_file_path(Path::cmp)
        .filter_entry(|entry: &DirEntry| entry.depth() == 0 || entry.file_name() != ".git")
        .build()
}

/// A pattern without a slash matches a name at any depth.
fn compile_glob(pattern: &str) -> Result<GlobMatcher, OpError> {
    let trimmed = pattern.trim_start_matches("./").trim_end_matches('/');
    let anywhere = if trimmed.contains('/') { trimmed.trim_start_matches('/').to_owned() } else { format!("**/{trimmed}") };
    let glob = GlobBuilder::new(&anywhere).literal_separator(true).backslash_escape(true).build();
    Ok(glob.map_err(|e| invalid(format!("bad glob {pattern:?}: {e}")))?.compile_matcher())
}

fn below<'a>(root: &Path, path: &'a Path) -> &'a Path {
    match path.strip_prefix(root) {
        // The root is a file itself.
        Ok(rest) if rest.as_os_str().is_empty() => path.file_name().map_or(path, Path::new),
        Ok(rest) => rest,
        Err(_) => path,
    }
}

fn shown(root: &Path, shown_as: &str, path: &Path) -> PathBuf {
    match path.strip_prefix(root) {
        Ok(rest) if rest.as_os_str().is_empty() => PathBuf::from(shown_as),
        Ok(rest) if matches!(shown_as, "" | "." | "./") => rest.to_owned(),
        Ok(rest) => Path::new(shown_as).join(rest),
        Err(_) => path.to_owned(),
    }
}

/// Collects matches; counts on when it may show no more.
struct Hits<'a> {
    matcher: &'a RegexMatcher,
    search: &'a Search,
    path: Vec<u8>,
    total: u64,
    shown: u64,
    text: Vec<u8>,
    full: bool,
    until: Instant,
}

impl Hits<'_> {
    fn late(&self) -> bool {
        Instant::now() > self.until
    }

    fn push(&mut self, separator: u8, number: Option<u64>, line: &[u8], focus: usize) -> bool {
        let number = number.unwrap_or(0).to_string();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = cut(line.strip_suffix(b"\r").unwrap_or(line), focus);
        let whole = [&self.path[..], &[separator], number.as_bytes(), &[separator], &line, b"\n"].concat();
        let fits = (self.text.len() + whole.len()) as u64 <= self.search.max_bytes;
        if fits {
            self.text.extend_from_slice(&whole);
        }
        fits
    }
}

impl Sink for Hits<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> io::Result<bool> {
        self.total += 1;
        self.full = self.full || self.shown >= self.search.max_results;
        if !self.full {
            let focus = self.matcher.find(found.bytes())?.map_or(0, |m| m.start());
            self.full = !self.push(b':', found.line_number(), found.bytes(), focus);
            self.shown += u64::from(!self.full);
        }
        Ok(!self.late())
    }

    fn context(&mut self, _: &Searcher, line: &SinkContext<'_>) -> io::Result<bool> {
        // What comes before a match that is no longer shown is not shown either.
        let wanted = !self.full && (*line.kind() == SinkContextKind::After || self.shown < self.search.max_results);
        if wanted {
            self.full = !self.push(b'-', line.line_number(), line.bytes(), 0);
        }
        Ok(true)
    }

    fn context_break(&mut self, _: &Searcher) -> io::Result<bool> {
        if !self.full && self.shown < self.search.max_results && self.text.len() as u64 + 3 <= self.search.max_bytes {
            self.text.extend_from_slice(b"--\n");
        }
        Ok(true)
    }
}

/// A line within [`MAX_LINE`] bytes that shows what is at `focus`, the cuts marked.
fn cut(line: &[u8], focus: usize) -> Vec<u8> {
    if line.len() <= MAX_LINE {
        return line.to_vec();
    }
    let is_boundary = |at: usize| line.get(at).is_none_or(|b| b & 0xc0 != 0x80);
    let settle = |at: usize| (at..at + 4).find(|&at| is_boundary(at)).unwrap_or(at).min(line.len());
    let start = if focus + MAX_LINE / 2 <= MAX_LINE { 0 } else { settle((focus - MAX_LINE / 4).min(line.len() - MAX_LINE)) };
    let end = settle((start + MAX_LINE).min(line.len()));
    let mut out = Vec::with_capacity(MAX_LINE + 64);
    if start > 0 {
        out.extend_from_slice(format!("[{start} bytes cut]").as_bytes());
    }
    out.extend_from_slice(&line[start..end]);
    if end < line.len() {
        out.extend_from_slice(format!("[{} bytes cut]", line.len() - end).as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_around_its_match_between_characters() {
        let line = "\u{e9}".repeat(2000);
        for focus in [0, 1, 249, 250, 251, 1000, 3999] {
            let out = String::from_utf8(cut(line.as_bytes(), focus)).unwrap();
            assert!(out.len() < MAX_LINE + 64 && out.contains("bytes cut]"), "{out}");
        }
        assert_eq!(cut(b"short", 99), b"short");
    }

    #[test]
    fn globs_match_names_anywhere_and_paths_from_the_root() {
        let matches = |glob: &str, path: &str| compile_glob(glob).unwrap().is_match(path);
        assert!(matches("*.py", "a/b/c.py") && matches("*.py", "c.py"));
        assert!(matches("**/test_*.py", "test_a.py") && matches("**/test_*.py", "x/y/test_a.py"));
        assert!(matches("src/*.py", "src/a.py") && !matches("src/*.py", "src/b/a.py") && !matches("src/*.py", "x/src/a.py"));
        assert!(matches("tests/", "a/tests"));
        assert!(matches("*.{js,ts}", "a/b.ts"));
        assert!(compile_glob("[").is_err());
    }
}
