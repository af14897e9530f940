//! Applying a git diff, whole or not at all, with the image's git.

use super::files::explain;
use super::git::Repository;
use super::process::Processes;
use super::protocol::OpError;
use std::path::Path;

/// Git itself checks the whole diff before it writes, and refuses paths outside `workdir`, beyond links or inside `.git`.
/// Checked first by itself, so that a diff that does not fit is told apart from files that could not be written.
///
/// # Errors
/// `Rejected`: nothing was written. `NoSpace` and `Failed`: the files may be half changed.
pub fn apply(processes: &Processes, workdir: &Path, diff: &[u8]) -> Result<(), OpError> {
    if diff.trim_ascii().is_empty() {
        return Ok(());
    }
    let workdir = workdir.canonicalize().map_err(|e| explain(workdir, &e))?;
    let diff = mended(diff);
    let repository = Repository::new()?;
    let git = |args: &[&str]| repository.git(processes, args, &workdir, &diff);
    let checked = git(&["apply", "--check", "--whitespace=nowarn", "-p1", "-"])?;
    if !checked.success {
        return Err(OpError::Rejected { message: checked.message });
    }
    let applied = git(&["apply", "--whitespace=nowarn", "-p1", "-"])?;
    if applied.success {
        return Ok(());
    }
    let message = format!("the diff fits, but its files could not be written: {}", applied.message);
    let full = ["No space left on device", "Disk quota exceeded"].iter().any(|error| message.contains(error));
    Err(if full { OpError::NoSpace { message } } else { OpError::Failed { message } })
}

/// The diff with what trimming took from its end: the last line's end, and empty lines of the last hunk.
fn mended(diff: &[u8]) -> Vec<u8> {
    let mut out = diff.to_vec();
    if out.last() != Some(&b'\n') {
        out.push(b'\n');
    }
    if memchr::memmem::rfind(&out, b"\nGIT binary patch\n") > memchr::memmem::rfind(&out, b"\n@@ -") {
        // A binary patch ends with an empty line.
        out.push(b'\n');
        return out;
    }
    let lines: Vec<&[u8]> = out.strip_suffix(b"\n").unwrap_or(&out).split(|&b| b == b'\n').collect();
    let missing = lines.iter().rposition(|line| line.starts_with(b"@@ -")).and_then(|at| missing_context(lines[at], &lines[at + 1..]));
    (0..missing.unwrap_or(0)).for_each(|_| out.extend_from_slice(b" \n"));
    out
}

/// Lines that both sides of the hunk lack.
fn missing_context(header: &[u8], body: &[&[u8]]) -> Option<usize> {
    let header = std::str::from_utf8(header.get(..header.len().min(100))?).ok()?;
    let mut ranges =
        header.split(' ').skip(1).take(2).map(|range| range.split_once(',').map_or(Some(1), |(_, count)| count.parse::<usize>().ok()));
    let (old, new) = (ranges.next()??, ranges.next()??);
    let (mut had_old, mut had_new) = (0, 0);
    for line in body {
        match line.first() {
            Some(b'-') => had_old += 1,
            Some(b'+') => had_new += 1,
            Some(b' ') | None => (had_old, had_new) = (had_old + 1, had_new + 1),
            Some(b'\\') => {}
            Some(_) => return None,
        }
    }
    let missing = old.checked_sub(had_old)?;
    (new.checked_sub(had_new)? == missing).then_some(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_trimming_took_is_put_back() {
        let whole = b"--- a/f\n+++ b/f\n@@ -1,4 +1,4 @@\n a\n-b\n+c\n \n \n";
        assert_eq!(mended(whole), whole);
        assert_eq!(mended(whole.trim_ascii()), whole);
        assert_eq!(mended(&whole[..whole.len() - 1]), whole);
        // A hunk that is short on one side only is not understood, and left to git.
        let short = b"@@ -1,4 +1,9 @@\n a\n-b\n+c\n";
        assert_eq!(mended(short), short);
        assert_eq!(mended(b"garbage"), b"garbage\n");
    }
}
