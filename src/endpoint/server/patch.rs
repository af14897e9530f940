//! A git diff in parts: which hunks can be made by a text edit, and diffs of some of its hunks only.

use std::borrow::Cow;

/// Largest text of an edit, bytes.
const MAX_EDIT: usize = 8 << 10;

/// The part of a diff about one file.
#[derive(Debug)]
pub struct FilePatch<'a> {
    /// Lines before the first hunk; the whole part of a binary or empty file.
    head: Vec<&'a str>,
    pub hunks: Vec<Hunk<'a>>,
}

#[derive(Debug)]
pub struct Hunk<'a> {
    old: (usize, usize),
    new: (usize, usize),
    /// What follows the second `@@`.
    section: &'a str,
    lines: Vec<&'a str>,
}

/// A hunk as a text edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    pub old: String,
    pub new: String,
}

/// The diff without the CR at the end of lines that are no file's: names would end in it.
#[must_use]
pub fn plain_heads(diff: &str) -> Cow<'_, str> {
    let head = |line: &str| ["--- ", "+++ "].iter().any(|h| line.starts_with(h)) || !line.starts_with(['+', '-', ' ']);
    if !diff.split('\n').any(|line| line.starts_with("diff --git ") && line.ends_with('\r')) {
        return Cow::Borrowed(diff);
    }
    let lines = diff.split('\n').map(|line| if head(line) { line.strip_suffix('\r').unwrap_or(line) } else { line });
    Cow::Owned(lines.collect::<Vec<_>>().join("\n"))
}

/// The files of a git diff; none where the text is not one that can be taken apart safely.
#[must_use]
pub fn parse(diff: &str) -> Option<Vec<FilePatch<'_>>> {
    let mut lines = diff.strip_suffix('\n').unwrap_or(diff).split('\n').peekable();
    let mut files: Vec<FilePatch<'_>> = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with("diff --git ") {
            files.push(FilePatch { head: vec![line], hunks: Vec::new() });
        } else if let Some(hunk) = Hunk::header(line) {
            let mut hunk = hunk;
            let (mut old, mut new) = (hunk.old.1, hunk.new.1);
            while old > 0 || new > 0 {
                let line = lines.next()?;
                match line.as_bytes().first() {
                    Some(b' ') | None => (old, new) = (old.checked_sub(1)?, new.checked_sub(1)?),
                    Some(b'-') => old = old.checked_sub(1)?,
                    Some(b'+') => new = new.checked_sub(1)?,
                    Some(b'\\') => {}
                    Some(_) => return None,
                }
                hunk.lines.push(line);
            }
            hunk.lines.extend(lines.next_if(|line| line.starts_with('\\')));
            files.last_mut()?.hunks.push(hunk);
        } else {
            let file = files.last_mut()?;
            if !file.hunks.is_empty() {
                return None;
            }
            file.head.push(line);
        }
    }
    (!files.is_empty()).then_some(files)
}

impl<'a> Hunk<'a> {
    fn header(line: &'a str) -> Option<Self> {
        let (ranges, section) = line.strip_prefix("@@ -")?.split_once(" @@")?;
        let (old, new) = ranges.split_once(" +")?;
        let range = |text: &str| -> Option<(usize, usize)> {
            match text.split_once(',') {
                Some((start, len)) => Some((start.parse().ok()?, len.parse().ok()?)),
                None => Some((text.parse().ok()?, 1)),
            }
        };
        Some(Hunk { old: range(old)?, new: range(new)?, section, lines: Vec::new() })
    }

    fn side(&self, without: u8) -> String {
        let kept = self.lines.iter().filter(|line| line.as_bytes().first() != Some(&without));
        kept.map(|line| line.get(1..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }

    fn edit(&self) -> Option<Edit> {
        let plain = |line: &&str| !line.contains(['\r', '\0']) && !line.starts_with('\\');
        let edit = Edit { old: self.side(b'+'), new: self.side(b'-') };
        let fits = |text: &str| text.len() <= MAX_EDIT;
        let good = self.lines.iter().all(plain) && !edit.old.trim().is_empty() && fits(&edit.old) && fits(&edit.new);
        good.then_some(edit)
    }

    fn grown(&self) -> isize {
        self.new.1.cast_signed() - self.old.1.cast_signed()
    }

    fn write(&self, old_start: usize, new_start: usize, out: &mut String) {
        use std::fmt::Write;
        let _ = writeln!(out, "@@ -{},{} +{},{} @@{}", old_start, self.old.1, new_start, self.new.1, self.section);
        for line in &self.lines {
            out.push_str(line);
            out.push('\n');
        }
    }

    /// First line of the old side, 1-based.
    #[must_use]
    pub fn old_start(&self) -> usize {
        self.old.0
    }
}

impl FilePatch<'_> {
    /// Path in the repository of a text file that is changed in place; none where it is new, deleted, renamed, binary,
    /// of another mode, or of a quoted name.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        let [git, index, old, new] = self.head[..] else { return None };
        let path = old.strip_prefix("--- a/")?;
        let same = index.starts_with("index ") && new.strip_prefix("+++ b/") == Some(path);
        (same && git.strip_prefix("diff --git a/")?.starts_with(path) && !path.contains(['\t', '\r'])).then_some(path)
    }

    /// The hunk as an edit, where nothing in sight of the diff makes it ambiguous.
    #[must_use]
    pub fn edit(&self, hunk: usize) -> Option<Edit> {
        let edit = self.hunks[hunk].edit()?;
        let others = self.hunks.iter().enumerate().filter(|(at, _)| *at != hunk);
        let elsewhere = others.flat_map(|(_, h)| [h.side(b'+'), h.side(b'-')]).any(|text| text.contains(&edit.old));
        (!elsewhere).then_some(edit)
    }

    /// A diff of the hunks that `take` takes, to be applied where those that `there` takes are in place already,
    /// and before it those that are taken. None where it would be empty.
    #[must_use]
    pub fn part(&self, take: impl Fn(usize) -> bool, there: impl Fn(usize) -> bool) -> Option<String> {
        let mut out = self.head.join("\n") + "\n";
        if self.hunks.is_empty() {
            // The last of a binary's parts ends with an empty line.
            if self.head.contains(&"GIT binary patch") && !out.ends_with("\n\n") {
                out.push('\n');
            }
            return Some(out);
        }
        let (mut before, mut after, mut any) = (0, 0, false);
        for (at, hunk) in self.hunks.iter().enumerate() {
            if take(at) {
                any = true;
                hunk.write(hunk.old.0.saturating_add_signed(before), hunk.new.0.saturating_add_signed(after), &mut out);
            } else if there(at) {
                before += hunk.grown();
            } else {
                after -= hunk.grown();
            }
        }
        any.then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str =
        "diff --git a/f b/f\nindex 1..2 100644\n--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@ fn\n a\n+x\n b\n@@ -9 +10 @@\n--- old\n+++ new\n";

    #[test]
    fn hunks_become_edits_and_parts_keep_their_place() {
        let files = parse(DIFF).unwrap();
        let [file] = &files[..] else { panic!() };
        assert_eq!(file.path(), Some("f"));
        assert_eq!(file.edit(0).unwrap(), Edit { old: "a\nb".into(), new: "a\nx\nb".into() });
        assert_eq!(file.edit(1).unwrap(), Edit { old: "-- old".into(), new: "++ new".into() });
        assert_eq!(file.part(|_| true, |_| false).unwrap().replace("-9,1 +10,1", "-9 +10"), DIFF);
        assert!(file.part(|at| at == 1, |at| at == 0).unwrap().contains("@@ -10,1 +10,1 @@"));
        assert!(file.part(|at| at == 1, |_| false).unwrap().contains("@@ -9,1 +9,1 @@"));
        assert_eq!(file.part(|_| false, |_| true), None);
    }

    #[test]
    fn what_is_not_plain_text_is_no_edit() {
        let path = |head: &str| parse(&format!("diff --git a/f b/f\n{head}")).unwrap()[0].path().map(str::to_owned);
        assert_eq!(path("new file mode 100644\nindex 0..1\n--- /dev/null\n+++ b/f\n"), None);
        assert_eq!(path("old mode 100644\nnew mode 100755\n"), None);
        let edit = |lines: &str| {
            let text = format!("diff --git a/f b/f\nindex 1..2 100644\n--- a/f\n+++ b/f\n{lines}");
            parse(&text).unwrap()[0].edit(0)
        };
        assert_eq!(edit("@@ -1 +1 @@\n-a\r\n+b\r\n"), None);
        assert_eq!(edit("@@ -1 +1 @@\n-a\n+b\n\\ No newline at end of file\n"), None);
        assert_eq!(edit("@@ -0,0 +1 @@\n+b\n"), None);
        assert_eq!(edit("@@ -1 +1 @@\n-a\n+b\n@@ -8,2 +8,2 @@\n a\n-b\n+c\n"), None, "the old text is seen twice");
    }

    #[test]
    fn what_cannot_be_taken_apart_is_left_whole() {
        for bad in ["", "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n", "diff --git a/f b/f\n@@ -1,9 +1 @@\n-a\n"] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }
}
