//! Added tokens: texts that are one token wherever they stand, taken out before anything else happens.

use aho_corasick::{AhoCorasick, MatchKind};
use std::ops::Range;

/// One added token, with the flags of a `tokenizer.json`.
#[derive(Debug, Clone)]
pub struct AddedToken {
    pub id: u32,
    pub content: String,
    /// Takes the white space before, after.
    pub lstrip: bool,
    pub rstrip: bool,
    /// Steers the model, such as `<|im_end|>`; text never holds it on purpose.
    pub special: bool,
}

impl AddedToken {
    #[must_use]
    pub fn new(id: u32, content: &str) -> Self {
        AddedToken { id, content: content.to_owned(), lstrip: false, rstrip: false, special: false }
    }
}

/// A set of added tokens that are looked for together; at one place the longest wins.
pub struct Added {
    tokens: Vec<AddedToken>,
    /// None where there is no token.
    finder: Option<AhoCorasick>,
}

/// A stretch of text, or an added token in it.
pub enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

impl Added {
    /// # Errors
    /// Where the tokens are too many or too long to look for.
    pub fn new(mut tokens: Vec<AddedToken>) -> Result<Self, aho_corasick::BuildError> {
        tokens.retain(|token| !token.content.is_empty());
        let finder = || AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(tokens.iter().map(|t| &t.content));
        let finder = if tokens.is_empty() { None } else { Some(finder()?) };
        Ok(Added { tokens, finder })
    }

    #[must_use]
    pub fn tokens(&self) -> &[AddedToken] {
        &self.tokens
    }

    /// Whether any of them stands in the text.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        self.finder.as_ref().is_some_and(|finder| finder.is_match(text))
    }

    /// Calls `part` with each part in order, and where it lies in the text.
    pub fn split<'t>(&self, text: &'t str, mut part: impl FnMut(Part<'t>, Range<usize>)) {
        let mut from = 0;
        let gap = |start: usize, end: usize, part: &mut dyn FnMut(Part<'t>, Range<usize>)| {
            if end > start {
                part(Part::Text(&text[start..end]), start..end);
            }
        };
        for found in self.finder.iter().flat_map(|finder| finder.find_iter(text)) {
            let token = &self.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            if start < from {
                continue;
            }
            if token.lstrip {
                start = from + text[from..start].trim_end().len();
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            gap(from, start, &mut part);
            part(Part::Token(token.id), start..end);
            from = end;
        }
        gap(from, text.len(), &mut part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(tokens: Vec<AddedToken>, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        let added = Added::new(tokens).unwrap();
        added.split(text, |part, _| match part {
            Part::Text(text) => all.push(text.to_owned()),
            Part::Token(id) => all.push(format!("#{id}")),
        });
        all
    }

    #[test]
    fn the_longest_wins_and_the_rest_is_text() {
        let tokens = || vec![AddedToken::new(1, "<a>"), AddedToken::new(2, "<a><b>"), AddedToken::new(3, "")];
        assert_eq!(shown(tokens(), "x<a><b><a>y<a"), ["x", "#2", "#1", "y<a"]);
        assert_eq!(shown(tokens(), ""), [""; 0]);
        assert_eq!(shown(vec![], "x"), ["x"]);
    }

    #[test]
    fn space_is_taken_where_the_token_asks() {
        let tokens = vec![AddedToken { lstrip: true, rstrip: true, ..AddedToken::new(1, "<m>") }];
        assert_eq!(shown(tokens, "a  <m>\n <m> b"), ["a", "#1", "#1", "b"]);
    }
}
