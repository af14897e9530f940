//! `{% generation %}` in chat templates: what it holds is what the model says. Here it becomes a filter that puts marks around its
//! text, which are taken out of the rendered text again.

use regex::{Captures, Regex};
use std::{ops::Range, sync::LazyLock};

/// Name of the filter, and of the variable with the mark of this rendering.
pub const FILTER: &str = "sweroll_generation";
pub const MARK: &str = "sweroll_generation_mark";

/// The template with its tags rewritten; none where it has no such tags. The white space that the tags took, the new ones take; what is
/// set inside stays inside, as in Jinja's call blocks.
pub fn rewrite(source: &str) -> Option<String> {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        let pattern = r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}";
        Regex::new(pattern).unwrap_or_else(|e| unreachable!("{pattern}: {e}"))
    });
    let tag = |found: &Captures<'_>| {
        let (before, after) = (&found[1], &found[3]);
        match found.get(2) {
            None => format!("{{%{before} with %}}{{% filter {FILTER} {after}%}}"),
            Some(_) => format!("{{%{before} endfilter %}}{{% endwith {after}%}}"),
        }
    };
    TAG.is_match(source).then(|| TAG.replace_all(source, tag).into_owned())
}

/// A text that stands in none of these.
pub fn mark<'t>(texts: impl Iterator<Item = &'t str> + Clone) -> String {
    let mut number = 0_u64;
    loop {
        let mark = format!("\u{f8ff}{number}\u{f8ff}");
        if !texts.clone().any(|text| text.contains(&mark)) {
            return mark;
        }
        number += 1;
    }
}

pub fn opening(mark: &str) -> String {
    format!("{mark}<")
}

pub fn closing(mark: &str) -> String {
    format!("{mark}>")
}

/// The text without its marks, and what was between them, in order of their ends.
pub fn take_out(marked: &str, mark: &str) -> (String, Vec<Range<usize>>) {
    let (mut text, mut spans, mut open) = (String::with_capacity(marked.len()), Vec::new(), Vec::new());
    for (at, part) in marked.split(mark).enumerate() {
        let part = match (at, part.as_bytes().first()) {
            (1.., Some(b'<')) => {
                open.push(text.len());
                &part[1..]
            }
            (1.., Some(b'>')) => {
                spans.extend(open.pop().map(|start| start..text.len()));
                &part[1..]
            }
            _ => part,
        };
        text.push_str(part);
    }
    (text, spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_out_again() {
        let hostile = ["\u{f8ff}0\u{f8ff}<", "\u{f8ff}1\u{f8ff}"];
        let mark = mark(hostile.into_iter());
        assert_eq!(mark, "\u{f8ff}2\u{f8ff}");
        let marked = ["a", &opening(&mark), hostile[0], &closing(&mark), "<b>", &opening(&mark), &closing(&mark)].concat();
        let (text, spans) = take_out(&marked, &mark);
        assert_eq!(text, ["a", hostile[0], "<b>"].concat());
        assert_eq!(spans, [1..1 + hostile[0].len(), text.len()..text.len()]);
    }

    #[test]
    fn tags_keep_their_white_space_control() {
        assert_eq!(rewrite("{{ generation }}"), None);
        let rewritten = rewrite("{%- generation %}x{% endgeneration -%}").unwrap();
        assert!(rewritten.starts_with("{%- with") && rewritten.ends_with("endwith -%}"), "{rewritten}");
    }
}
