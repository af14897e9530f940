//! The text of a git diff, from both contents of a path: what `git diff --binary --full-index --no-renames` prints, except that
//! content which is not UTF-8 is a binary patch, so that the whole is always UTF-8.

use super::objects::Oid;
use super::quote::quote;
use super::tree::Kind;
use flate2::{Compression, write::ZlibEncoder};
use gix_imara_diff::{Algorithm, Diff, Hunk, InternedInput};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::ops::Range;

/// Lines around a change.
const CONTEXT: u32 = 3;
/// Bytes of a hunk's heading.
const MAX_HEADING: usize = 80;
/// Bytes encoded in one line of a binary patch.
const BINARY_LINE: usize = 52;
const BASE85: &[u8; 85] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";

/// A path before or after the change.
#[derive(Debug)]
pub struct Side {
    pub kind: Kind,
    pub oid: Oid,
    pub content: Vec<u8>,
}

/// Adds the change of `path` to `out`. A file that becomes a link, or a link a file, is deleted and created.
///
/// # Errors
/// Those of the compressor.
pub fn push(out: &mut String, path: &[u8], old: Option<&Side>, new: Option<&Side>) -> io::Result<()> {
    match (old, new) {
        (Some(before), Some(after)) if (before.kind == Kind::Link) != (after.kind == Kind::Link) => {
            push_one(out, path, old, None)?;
            push_one(out, path, None, new)
        }
        _ => push_one(out, path, old, new),
    }
}

fn push_one(out: &mut String, path: &[u8], old: Option<&Side>, new: Option<&Side>) -> io::Result<()> {
    let label = |side: &[u8]| quote(&[side, path].concat());
    let (a, b) = (label(b"a/"), label(b"b/"));
    let mode = |side: Option<&Side>| side.map(|side| side.kind.mode());
    let oid = |side: Option<&Side>| side.map_or(Oid::NONE, |side| side.oid);
    let mut text = format!("diff --git {a} {b}\n");
    let mut common = "";
    match (mode(old), mode(new)) {
        (None, Some(mode)) => text += &format!("new file mode {mode}\n"),
        (Some(mode), None) => text += &format!("deleted file mode {mode}\n"),
        (Some(old), Some(new)) if old != new => text += &format!("old mode {old}\nnew mode {new}\n"),
        (old, _) => common = old.unwrap_or_default(),
    }
    if oid(old) != oid(new) {
        let _ = writeln!(text, "index {}..{}{}{common}", oid(old), oid(new), if common.is_empty() { "" } else { " " });
        let (before, after) = (content(old), content(new));
        match (as_text(before), as_text(after)) {
            (Some(before), Some(after)) if before != after => {
                let name = |side: Option<&Side>, label: &str| match side {
                    None => "/dev/null".to_owned(),
                    // Git ends such a name with a tab, so that other programs find its end.
                    Some(_) if label.contains(' ') => format!("{label}\t"),
                    Some(_) => label.to_owned(),
                };
                let _ = write!(text, "--- {}\n+++ {}\n", name(old, &a), name(new, &b));
                push_hunks(&mut text, before, after);
            }
            // An empty file that comes or goes.
            (Some(_), Some(_)) => {}
            _ => {
                text += "GIT binary patch\n";
                push_literal(&mut text, after)?;
                push_literal(&mut text, before)?;
            }
        }
    }
    out.push_str(&text);
    Ok(())
}

fn content(side: Option<&Side>) -> &[u8] {
    side.map_or(&[], |side| &side.content)
}

fn as_text(content: &[u8]) -> Option<&str> {
    if memchr::memchr(0, content).is_some() { None } else { std::str::from_utf8(content).ok() }
}

fn push_hunks(out: &mut String, before: &str, after: &str) {
    let input = InternedInput::new(before, after);
    let mut diff = Diff::compute(Algorithm::Myers, &input);
    diff.postprocess_lines(&input);
    let changes: Vec<Hunk> = diff.hunks().collect();
    let old: Vec<&str> = input.before.iter().map(|&token| input.interner[token]).collect();
    let new: Vec<&str> = input.after.iter().map(|&token| input.interner[token]).collect();
    let lines = |out: &mut String, sign: char, lines: &[&str], range: Range<u32>| {
        for line in &lines[range.start as usize..range.end as usize] {
            out.push(sign);
            out.push_str(line);
            if !line.ends_with('\n') {
                out.push_str("\n\\ No newline at end of file\n");
            }
        }
    };
    let mut heading = "";
    let mut looked = 0;
    for group in changes.chunk_by(|one, next| next.before.start - one.before.end <= 2 * CONTEXT) {
        let (first, last) = (&group[0], &group[group.len() - 1]);
        let lead = CONTEXT.min(first.before.start);
        let tail = CONTEXT.min(old.len() as u32 - last.before.end);
        let from = first.before.start - lead;
        heading = old[looked as usize..from as usize].iter().rev().find_map(|line| heading_of(line)).unwrap_or(heading);
        looked = from;
        let side = |range: Range<u32>| match range.len() {
            1 => (range.start + 1).to_string(),
            0 => format!("{},0", range.start),
            len => format!("{},{len}", range.start + 1),
        };
        let _ = write!(out, "@@ -{} +{} @@", side(from..last.before.end + tail), side(first.after.start - lead..last.after.end + tail));
        let _ = writeln!(out, "{}{heading}", if heading.is_empty() { "" } else { " " });
        let mut at = from;
        for change in group {
            lines(out, ' ', &old, at..change.before.start);
            lines(out, '-', &old, change.before.clone());
            lines(out, '+', &new, change.after.clone());
            at = change.before.end;
        }
        lines(out, ' ', &old, at..at + tail);
    }
}

/// What a line says as the heading of the hunk after it: one that begins a definition, by its first character.
fn heading_of(line: &str) -> Option<&str> {
    line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '$').then(|| {
        let end = (0..=MAX_HEADING.min(line.len())).rfind(|&at| line.is_char_boundary(at)).unwrap_or(0);
        line[..end].trim_ascii_end()
    })
}

/// The whole content, compressed.
fn push_literal(out: &mut String, content: &[u8]) -> io::Result<()> {
    let _ = writeln!(out, "literal {}", content.len());
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    packed.write_all(content)?;
    push_base85(out, &packed.finish()?);
    out.push('\n');
    Ok(())
}

/// Lines that begin with their length, then have five characters for each four bytes.
fn push_base85(out: &mut String, bytes: &[u8]) {
    for line in bytes.chunks(BINARY_LINE) {
        let len = line.len() as u8;
        out.push(char::from(if len <= 26 { b'A' + len - 1 } else { b'a' + len - 27 }));
        for four in line.chunks(4) {
            let mut word = [0; 4];
            word[..four.len()].copy_from_slice(four);
            let mut rest = u32::from_be_bytes(word);
            let mut five = [0; 5];
            for digit in five.iter_mut().rev() {
                *digit = BASE85[(rest % 85) as usize];
                rest /= 85;
            }
            out.extend(five.map(char::from));
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolbox::objects::{Type, oid};

    fn side(content: &[u8]) -> Side {
        Side { kind: Kind::Plain, oid: oid(Type::Blob, content), content: content.to_vec() }
    }

    fn change(old: Option<&[u8]>, new: Option<&[u8]>) -> String {
        let mut out = String::new();
        push(&mut out, b"f", old.map(side).as_ref(), new.map(side).as_ref()).unwrap();
        out
    }

    #[test]
    fn changes_near_each_other_share_a_hunk() {
        let lines = |changed: &[usize]| -> String {
            (1..=30).map(|i| if changed.contains(&i) { format!("X{i}\n") } else { format!(" {i}\n") }).collect()
        };
        let hunks = |changed: &[usize]| {
            let diff = change(Some(lines(&[]).as_bytes()), Some(lines(changed).as_bytes()));
            diff.lines().filter(|line| line.starts_with("@@")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(hunks(&[10, 17]), ["@@ -7,14 +7,14 @@"]);
        assert_eq!(hunks(&[10, 18]), ["@@ -7,7 +7,7 @@", "@@ -15,7 +15,7 @@"]);
        assert_eq!(hunks(&[1, 30]), ["@@ -1,4 +1,4 @@", "@@ -27,4 +27,4 @@"]);
    }

    #[test]
    fn a_heading_is_cut_between_characters() {
        let before = format!("def {}():\n{}", "\u{4e2d}".repeat(60), "    x\n".repeat(9));
        let diff = change(Some(before.as_bytes()), Some(format!("{before}    y\n").as_bytes()));
        assert!(diff.contains(&format!("@@ -8,3 +8,4 @@ def {}\n", "\u{4e2d}".repeat(25))), "{diff}");
    }

    #[test]
    fn what_is_no_utf8_is_a_binary_patch() {
        for (old, new) in [(&b"caf\xe9\n"[..], &b"th\xe9\n"[..]), (b"a\n", b"a\0\n"), (b"a\xff\n", b"a\n")] {
            assert!(change(Some(old), Some(new)).contains("\nGIT binary patch\nliteral "));
        }
        assert_eq!(
            change(None, Some(b"")),
            "diff --git a/f b/f\nnew file mode 100644\nindex 0000000000000000000000000000000000000000..e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\n"
        );
        // Nothing, compressed, as git has it.
        let mut empty = String::new();
        push_base85(&mut empty, &[0x78, 1, 3, 0, 0, 0, 0, 1]);
        assert_eq!(empty, "HcmV?d00001\n");
    }
}
