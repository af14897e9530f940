//! Pre-tokenization: text into the pieces that are merged each by itself.

use super::classes::{Class, classes};
use regex::Regex;

/// Qwen3's pattern; [`split_qwen`] is this by hand.
pub const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The look-around that every pattern of this family ends with: of a run of spaces, the last goes to what follows.
const SPACES: &str = r"|\s+(?!\S)|\s+";
const SPACES_ONLY: &str = r"\s+(?!\S)|\s+";

/// One way to cut text.
pub enum Splitter {
    Qwen,
    /// Matches are pieces, and so is what lies between them. `spaces`: the pattern's last branch is [`SPACES`], as its only group.
    Pattern {
        regex: Regex,
        spaces: bool,
    },
}

/// A pattern that a linear-time engine cannot follow.
#[derive(Debug, thiserror::Error)]
#[error("the split pattern {pattern:?} is not supported: {why}")]
pub struct PatternError {
    pattern: String,
    why: String,
}

impl Splitter {
    /// Look-around only as the last branch `\s+(?!\S)|\s+`; no back-references, no possessive quantifiers.
    ///
    /// # Errors
    /// Where the pattern needs more.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        if pattern == QWEN {
            return Ok(Splitter::Qwen);
        }
        let error = |why: &str| PatternError { pattern: pattern.to_owned(), why: why.to_owned() };
        let (source, spaces) = match pattern.strip_suffix(SPACES) {
            Some(head) => (format!(r"(?:{head})|(?P<spaces>\s+)"), true),
            None if pattern == SPACES_ONLY => (r"(?P<spaces>\s+)".to_owned(), true),
            None => (pattern.to_owned(), false),
        };
        if is_possessive(pattern) {
            return Err(error("possessive quantifiers"));
        }
        let regex = Regex::new(&source).map_err(|e| error(&e.to_string()))?;
        Ok(Splitter::Pattern { regex, spaces })
    }

    /// Calls `piece` with each piece in order; together they are the text.
    pub fn split<'t>(&self, text: &'t str, mut piece: impl FnMut(&'t str)) {
        match self {
            Splitter::Qwen => split_qwen(text, piece),
            Splitter::Pattern { regex, spaces } => {
                let (mut from, mut search) = (0, 0);
                while search <= text.len()
                    && let Some(end) = next_match(regex, *spaces, text, search)
                {
                    let (start, end) = end;
                    if start > from {
                        piece(&text[from..start]);
                    }
                    if end > start {
                        piece(&text[start..end]);
                    }
                    from = end;
                    search = if end > start { end } else { end + text[end..].chars().next().map_or(1, char::len_utf8) };
                }
                if from < text.len() {
                    piece(&text[from..]);
                }
            }
        }
    }
}

fn next_match(regex: &Regex, spaces: bool, text: &str, from: usize) -> Option<(usize, usize)> {
    if !spaces {
        return regex.find_at(text, from).map(|m| (m.start(), m.end()));
    }
    let captures = regex.captures_at(text, from)?;
    let whole = captures.get(0)?;
    let (start, end) = (whole.start(), whole.end());
    if captures.name("spaces").is_none() || end == text.len() {
        return Some((start, end));
    }
    let last = text[start..end].chars().next_back().map_or(0, char::len_utf8);
    Some((start, if end - last > start { end - last } else { end }))
}

fn is_possessive(pattern: &str) -> bool {
    let (mut in_class, mut escaped, mut quantified) = (0_u32, false, false);
    for c in pattern.chars() {
        if std::mem::take(&mut escaped) {
            quantified = false;
            continue;
        }
        match c {
            '\\' => escaped = true,
            '[' => in_class += 1,
            ']' => in_class = in_class.saturating_sub(1),
            '+' if in_class == 0 && quantified => return true,
            _ => {}
        }
        quantified = in_class == 0 && matches!(c, '?' | '*' | '+') && !quantified;
    }
    false
}

/// Cuts as [`QWEN`] does, in one pass.
fn split_qwen<'t>(text: &'t str, mut piece: impl FnMut(&'t str)) {
    let scan = Scan::new(text);
    let mut at = 0;
    while at < text.len() {
        let end = scan.piece(at);
        piece(&text[at..end]);
        at = end;
    }
}

struct Scan<'t> {
    text: &'t str,
    bytes: &'t [u8],
    classes: &'static super::classes::Classes,
}

impl<'t> Scan<'t> {
    fn new(text: &'t str) -> Self {
        Scan { text, bytes: text.as_bytes(), classes: classes() }
    }

    /// Class and length of the character at `at`; none at the end.
    #[inline]
    fn class(&self, at: usize) -> Option<(Class, usize)> {
        let byte = *self.bytes.get(at)?;
        match self.classes.byte(byte) {
            Some(class) => Some((class, 1)),
            None => self.class_beyond_ascii(at),
        }
    }

    #[inline(never)]
    fn class_beyond_ascii(&self, at: usize) -> Option<(Class, usize)> {
        let c = self.text[at..].chars().next()?;
        Some((self.classes.of(c), c.len_utf8()))
    }

    /// End of the run of characters of this class from `at` on.
    #[inline]
    fn run(&self, mut at: usize, wanted: Class) -> usize {
        loop {
            while let Some(&byte) = self.bytes.get(at)
                && self.classes.byte(byte) == Some(wanted)
            {
                at += 1;
            }
            match self.class(at) {
                Some((class, len)) if len > 1 && class == wanted => at += len,
                _ => return at,
            }
        }
    }

    fn is_newline(&self, at: usize) -> bool {
        matches!(self.bytes.get(at), Some(b'\r' | b'\n'))
    }

    /// End of the piece that begins at `at`, which is before the end.
    fn piece(&self, at: usize) -> usize {
        let Some((class, len)) = self.class(at) else { return self.bytes.len() };
        let after = at + len;
        let contraction = if self.bytes[at] == b'\'' { self.contraction(after) } else { 0 };
        if contraction > 0 {
            return after + contraction;
        }
        match class {
            Class::Letter => self.run(after, Class::Letter),
            Class::Number => after,
            _ if !self.is_newline(at) && matches!(self.class(after), Some((Class::Letter, _))) => self.run(after, Class::Letter),
            Class::Other => self.newlines(self.run(after, Class::Other)),
            Class::Space if self.bytes[at] == b' ' && matches!(self.class(after), Some((Class::Other, _))) => {
                self.newlines(self.run(after, Class::Other))
            }
            Class::Space => self.spaces(at),
        }
    }

    fn newlines(&self, mut at: usize) -> usize {
        while self.is_newline(at) {
            at += 1;
        }
        at
    }

    /// Length of `s t re ve m ll d` at `at`, any case. The long s folds to s.
    fn contraction(&self, at: usize) -> usize {
        let lower = |at: usize| self.bytes.get(at).map(u8::to_ascii_lowercase);
        match (lower(at), lower(at + 1)) {
            (Some(b's' | b't' | b'm' | b'd'), _) => 1,
            (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => 2,
            _ if self.bytes[at..].starts_with("ſ".as_bytes()) => "ſ".len(),
            _ => 0,
        }
    }

    /// Up to the last newline of the run of spaces; without one, all but the last space, which goes to what follows.
    fn spaces(&self, at: usize) -> usize {
        let (mut end, mut last, mut newline) = (at, at, None);
        while let Some((Class::Space, len)) = self.class(end) {
            last = end;
            if self.is_newline(end) {
                newline = Some(end + 1);
            }
            end += len;
        }
        match newline {
            Some(after) => after,
            None if end == self.bytes.len() || last == at => end,
            None => last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces<'t>(splitter: &Splitter, text: &'t str) -> Vec<&'t str> {
        let mut all = Vec::new();
        splitter.split(text, |piece| all.push(piece));
        all
    }

    fn qwen_by_regex() -> Splitter {
        Splitter::new(&QWEN.replacen("(?i:", "(?:(?i)", 1)).unwrap()
    }

    #[test]
    fn spaces_go_to_the_word() {
        assert_eq!(pieces(&Splitter::Qwen, "a   b\n\n  c  "), ["a", "  ", " b", "\n\n", " ", " c", "  "]);
        assert_eq!(pieces(&Splitter::Qwen, "it's 42\t'LLx"), ["it", "'s", " ", "4", "2", "\t", "'LL", "x"]);
    }

    #[test]
    fn text_between_matches_is_kept() {
        let digits = Splitter::new(r"\d{2}").unwrap();
        assert_eq!(pieces(&digits, "ab12345"), ["ab", "12", "34", "5"]);
        assert_eq!(pieces(&Splitter::new("x*").unwrap(), "axxb"), ["a", "xx", "b"]);
    }

    #[test]
    fn what_is_not_supported_is_said() {
        for pattern in [r"a(?=b)", r"\p{L}++|\s+(?!\S)|\s+", r"(a)\1", "("] {
            assert!(Splitter::new(pattern).is_err(), "{pattern}");
        }
        assert!(Splitter::new(r"[+*+]+|[^\]++]?|\++").is_ok());
    }

    proptest! {
        #[test]
        fn by_hand_as_by_regex(text in r"[ \t\r\n'a-zA-Z0-9.,ſ\u{a0}éΩ٣中\u{301}{}_-]{0,40}") {
            prop_assert_eq!(pieces(&Splitter::Qwen, &text), pieces(&qwen_by_regex(), &text));
        }

        #[test]
        fn any_text_as_by_regex(text in "\\PC{0,20}") {
            prop_assert_eq!(pieces(&Splitter::Qwen, &text), pieces(&qwen_by_regex(), &text));
        }
    }
}
