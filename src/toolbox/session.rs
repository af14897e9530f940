//! What a shell command leaves to the next: its working directory and exported variables.
//!
//! The shell writes both at its end into memory of the toolbox (`pwd`, then `export -p`); here they are read back.
//! The text is the shell's own quoting, and the script could have forged it, so nothing here trusts it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Longest value that the kernel passes in one piece.
const MAX_VARIABLE: usize = 128 << 10;
/// Most bytes of exported variables that are carried; more would keep every later command from starting.
const MAX_ENVIRONMENT: usize = 1 << 20;
/// Variables that belong to one shell process or one call.
const PER_PROCESS: [&str; 5] = ["SHLVL", "_", "PWD", super::process::MARK, super::shell::SCRIPT_VARIABLE];

pub type Variable = (OsString, OsString);

/// Carried from call to call.
#[derive(Debug, Clone)]
pub struct Session {
    pub cwd: PathBuf,
    pub env: Vec<Variable>,
    /// Said at the beginning of the next command's output.
    pub note: Option<String>,
}

/// A shell's state at its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    pub cwd: PathBuf,
    pub exported: Vec<Variable>,
}

impl Session {
    pub fn new(cwd: PathBuf, env: Vec<Variable>) -> Self {
        Session { cwd, env, note: None }
    }

    /// Takes over what a command left. `lent` are variables given to that call alone: unchanged, they go back to what they were.
    pub fn adopt(&mut self, left: Left, lent: &[(String, String)]) {
        let was_lent = |name: &OsStr, value: &OsStr| lent.iter().any(|(n, v)| name == OsStr::new(n) && value == OsStr::new(v));
        let mut env: Vec<Variable> = Vec::new();
        let mut dropped = Vec::new();
        let mut room = MAX_ENVIRONMENT;
        for (name, value) in left.exported {
            let before = self.env.iter().find(|(n, _)| *n == name);
            let kept = match before {
                Some(before) if was_lent(&name, &value) => before.clone(),
                None if was_lent(&name, &value) => continue,
                _ => (name, value),
            };
            let size = kept.0.len() + kept.1.len() + 2;
            if size > MAX_VARIABLE || size > room {
                dropped.push(kept.0.to_string_lossy().into_owned());
            } else {
                room -= size;
                env.push(kept);
            }
        }
        // A shell cannot export these, so it cannot have unset them either.
        env.extend(self.env.iter().filter(|(name, _)| !is_identifier(name.as_bytes())).cloned());
        if !dropped.is_empty() {
            self.note = Some(format!("these exported variables are too long to be carried: {}", dropped.join(" ")));
        }
        self.cwd = left.cwd;
        self.env = env;
    }
}

/// Reads `pwd` and `export -p` as bash, dash, busybox and their kin print them; None where it is cut short or foreign.
pub fn parse(dump: &[u8]) -> Option<Left> {
    let starts = [&b"\ndeclare -"[..], b"\nexport ", b"\ntypeset -"];
    let end_of_cwd = starts.iter().filter_map(|s| memchr::memmem::find(dump, s)).min().or(dump.len().checked_sub(1))?;
    let (cwd, rest) = dump.split_at(end_of_cwd);
    if !cwd.starts_with(b"/") || rest.first() != Some(&b'\n') || dump.last() != Some(&b'\n') {
        return None;
    }
    let mut words = Words { text: &rest[1..] };
    let mut exported = Vec::new();
    while let Some(line) = words.line()? {
        let mut parts = line.into_iter();
        let command = parts.next()?;
        let mut operand = parts.next()?;
        if command != b"export" {
            // Arrays are marked exported but never reach an environment.
            if operand.contains(&b'a') || operand.contains(&b'A') {
                continue;
            }
            operand = parts.next()?;
        }
        let Some(equals) = operand.iter().position(|&b| b == b'=') else { continue };
        let (name, value) = (&operand[..equals], &operand[equals + 1..]);
        if is_identifier(name) && !PER_PROCESS.iter().any(|p| p.as_bytes() == name) && !value.contains(&0) {
            exported.push((OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())));
        }
    }
    Some(Left { cwd: PathBuf::from(OsString::from_vec(cwd.to_vec())), exported })
}

fn is_identifier(name: &[u8]) -> bool {
    !name.is_empty() && !name[0].is_ascii_digit() && name.iter().all(|&b| b == b'_' || b.is_ascii_alphanumeric())
}

/// Splits shell text into lines of words, undoing every form of quoting.
struct Words<'a> {
    text: &'a [u8],
}

impl Words<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.text.split_first()?;
        self.text = rest;
        Some(first)
    }

    /// The next line's words; `Some(None)` at the end, None where a quote is left open.
    #[allow(clippy::option_option)]
    fn line(&mut self) -> Option<Option<Vec<Vec<u8>>>> {
        if self.text.is_empty() {
            return Some(None);
        }
        let mut words = vec![Vec::new()];
        loop {
            let word = words.last_mut()?;
            match self.next() {
                None | Some(b'\n') => return Some(Some(words)),
                Some(b' ') => words.push(Vec::new()),
                Some(b'\\') => word.push(self.next()?),
                Some(b'\'') => self.single(word)?,
                Some(b'"') => self.double(word)?,
                Some(b'$') if self.text.first() == Some(&b'\'') => {
                    self.next();
                    self.ansi(word)?;
                }
                Some(other) => word.push(other),
            }
        }
    }

    fn single(&mut self, word: &mut Vec<u8>) -> Option<()> {
        loop {
            match self.next()? {
                b'\'' => return Some(()),
                other => word.push(other),
            }
        }
    }

    fn double(&mut self, word: &mut Vec<u8>) -> Option<()> {
        loop {
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => match self.next()? {
                    escaped @ (b'"' | b'\\' | b'$' | b'`') => word.push(escaped),
                    b'\n' => {}
                    other => word.extend([b'\\', other]),
                },
                other => word.push(other),
            }
        }
    }

    /// Bash's `$'...'`, as it prints unprintable bytes.
    fn ansi(&mut self, word: &mut Vec<u8>) -> Option<()> {
        loop {
            match self.next()? {
                b'\'' => return Some(()),
                b'\\' => match self.next()? {
                    b'a' => word.push(7),
                    b'b' => word.push(8),
                    b'e' | b'E' => word.push(27),
                    b'f' => word.push(12),
                    b'n' => word.push(b'\n'),
                    b'r' => word.push(b'\r'),
                    b't' => word.push(b'\t'),
                    b'v' => word.push(11),
                    b'x' => word.push(self.digits(None, 16, 2)),
                    octal @ b'0'..=b'7' => word.push(self.digits(Some(octal), 8, 3)),
                    other => word.push(other),
                },
                other => word.push(other),
            }
        }
    }

    /// A number of at most `most` digits, the first maybe already read.
    fn digits(&mut self, first: Option<u8>, radix: u32, most: usize) -> u8 {
        let mut value = first.and_then(|d| char::from(d).to_digit(radix)).unwrap_or(0);
        for _ in usize::from(first.is_some())..most {
            let Some(digit) = self.text.first().and_then(|&d| char::from(d).to_digit(radix)) else { break };
            value = value * radix + digit;
            self.next();
        }
        value as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vars(pairs: &[(&str, &str)]) -> Vec<Variable> {
        pairs.iter().map(|(n, v)| (n.into(), v.into())).collect()
    }

    #[test]
    fn dumps_of_bash_and_dash_are_read() {
        let bash = b"/a b\ndeclare -x A=\"x \\\"y\\\" \\$z \\\\ `\"\ndeclare -ax L=([0]=\"1\" [1]=\"2\")\ndeclare -x N=$'l1\\nl2\\001\\'q'\ndeclare -rx R=\"1\ntwo\"\ndeclare -x U\n";
        let left = parse(bash).unwrap();
        assert_eq!(left.cwd, PathBuf::from("/a b"));
        assert_eq!(left.exported, vars(&[("A", "x \"y\" $z \\ `"), ("N", "l1\nl2\u{1}'q"), ("R", "1\ntwo")]));
        let dash = b"/\nexport A='it'\"'\"'s'\nexport B\nexport SHLVL='3'\nexport C='x\ny'\n";
        assert_eq!(parse(dash).unwrap().exported, vars(&[("A", "it's"), ("C", "x\ny")]));
        assert_eq!(parse(b"/only\n").unwrap().exported, vars(&[]));
    }

    #[test]
    fn a_cut_dump_leaves_the_session_as_it_was() {
        for cut in [&b""[..], b"/a", b"/a\ndeclare -x A=\"x", b"relative\n", b"\n"] {
            assert_eq!(parse(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn lent_variables_go_back_unless_the_script_changed_them() {
        let mut session = Session::new("/".into(), vars(&[("A", "old"), ("weird.name", "1"), ("GONE", "1")]));
        let lent = [("A".into(), "lent".into()), ("B".into(), "lent".into()), ("C".into(), "lent".into())];
        let exported = vars(&[("A", "lent"), ("B", "lent"), ("C", "changed")]);
        session.adopt(Left { cwd: "/x".into(), exported }, &lent);
        assert_eq!(session.env, vars(&[("A", "old"), ("C", "changed"), ("weird.name", "1")]));
        assert_eq!(session.cwd, PathBuf::from("/x"));
    }

    #[test]
    fn a_variable_too_long_to_pass_is_dropped_with_a_note() {
        let mut session = Session::new("/".into(), Vec::new());
        let long = "x".repeat(MAX_VARIABLE);
        session.adopt(Left { cwd: "/".into(), exported: vars(&[("LONG", &long), ("A", "1")]) }, &[]);
        assert_eq!(session.env, vars(&[("A", "1")]));
        assert!(session.note.unwrap().contains("LONG"));
    }

    proptest! {
        #[test]
        fn no_dump_panics(dump in prop::collection::vec(any::<u8>(), 0..200), quoted in "/[a-z]*\ndeclare -x [A-Z]=[\"'$\\\\a-z0-7\n]*") {
            let _ = parse(&dump);
            let _ = parse(quoted.as_bytes());
        }
    }
}
