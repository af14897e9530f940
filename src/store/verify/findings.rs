//! What a verification finds: counted all, named up to a limit, in an order that does not depend on the threads.

use super::super::StoreError;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::Path,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is lost, damaged or untrue.
    Problem,
    /// Unusual, and no harm to what is committed.
    Warning,
}

/// One thing that is not as it should be. Keys without a value are empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// Name within the directory.
    pub file: String,
    /// `byte N`, `record N` (from 1) or `line N` (from 1).
    pub place: String,
    /// The attempt.
    pub id: String,
    pub what: String,
    pub mend: String,
}

/// One file. Figures of files without records are 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Name within the directory.
    pub file: String,
    /// Records that were read.
    pub rows: u64,
    pub bytes: u64,
    /// Of these records, before compression.
    pub raw_bytes: u64,
    pub problems: u64,
    pub warnings: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    File,
    Byte(u64),
    Record(u64),
    Line(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File => Ok(()),
            Place::Byte(n) => write!(f, "byte {n}"),
            Place::Record(n) => write!(f, "record {n}"),
            Place::Line(n) => write!(f, "line {n}"),
        }
    }
}

/// A finding before its file is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub severity: Severity,
    pub place: Place,
    pub id: String,
    pub what: String,
    pub mend: &'static str,
}

impl Note {
    pub fn problem(place: Place, what: impl Into<String>, mend: &'static str) -> Self {
        Note { severity: Severity::Problem, place, id: String::new(), what: what.into(), mend }
    }

    pub fn warning(place: Place, what: impl Into<String>, mend: &'static str) -> Self {
        Note { severity: Severity::Warning, ..Note::problem(place, what, mend) }
    }

    pub fn of(self, id: &impl ToString) -> Self {
        Note { id: id.to_string(), ..self }
    }
}

/// Text of a file that is shown: hostile bytes must neither drive a terminal nor fill it.
const MAX_SHOWN: usize = 500;

/// Collects findings; holds no more than it will name.
pub(super) struct Findings {
    max: usize,
    kept: BTreeMap<(Severity, usize, Place, u64), Finding>,
    files: Vec<FileReport>,
    index: HashMap<String, usize>,
    problems: u64,
    warnings: u64,
}

impl Findings {
    pub fn new(max: usize) -> Self {
        Findings { max, kept: BTreeMap::new(), files: Vec::new(), index: HashMap::new(), problems: 0, warnings: 0 }
    }

    /// The report of a file, made where there is none yet.
    pub fn file(&mut self, name: &str) -> &mut FileReport {
        let at = self.position(name);
        &mut self.files[at]
    }

    fn position(&mut self, name: &str) -> usize {
        if let Some(at) = self.index.get(name) {
            return *at;
        }
        self.index.insert(name.to_owned(), self.files.len());
        self.files.push(FileReport { file: name.to_owned(), ..FileReport::default() });
        self.files.len() - 1
    }

    pub fn add(&mut self, file: &str, note: Note) {
        let Note { severity, place, id, what, mend } = note;
        let at = self.position(file);
        let (all, in_file) = match severity {
            Severity::Problem => (&mut self.problems, &mut self.files[at].problems),
            Severity::Warning => (&mut self.warnings, &mut self.files[at].warnings),
        };
        *all += 1;
        *in_file += 1;
        // Notes of one place come from one job, in its order.
        let nth = self.kept.range((severity, at, place, 0)..=(severity, at, place, u64::MAX)).count() as u64;
        let finding = Finding { severity, file: file.to_owned(), place: place.to_string(), id, what: shown(&what), mend: mend.to_owned() };
        self.kept.insert((severity, at, place, nth), finding);
        if self.kept.len() > self.max {
            self.kept.pop_last();
        }
    }

    /// What keeps a part from being looked at.
    pub fn error(&mut self, dir: &Path, error: &StoreError) {
        let path = match error {
            StoreError::Io { path, .. } | StoreError::Damaged { path, .. } => path.as_path(),
            _ => dir,
        };
        let file = path.strip_prefix(dir).unwrap_or(path).display().to_string();
        let note = match error {
            StoreError::NotARun { why, .. } => {
                return self.add("run.toml", Note::problem(Place::File, why, "restore the file from a copy"));
            }
            StoreError::Damaged { place, problem, .. } => {
                Note::problem(Place::File, format!("{place}: {problem}"), "restore the file from a copy")
            }
            other => Note::problem(Place::File, other.to_string(), ""),
        };
        self.add(&file, note);
    }

    /// Files, findings, problems and warnings in all.
    pub fn finish(self) -> (Vec<FileReport>, Vec<Finding>, u64, u64) {
        (self.files, self.kept.into_values().collect(), self.problems, self.warnings)
    }
}

fn shown(text: &str) -> String {
    let mut out: String =
        text.chars().take(MAX_SHOWN).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_first_are_named_whatever_their_order() {
        let notes = [(Place::Byte(9), "c"), (Place::Byte(1), "a"), (Place::Byte(5), "b")];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let mut findings = Findings::new(2);
            findings.add("x", Note::warning(Place::File, "w", ""));
            for at in order {
                findings.add("x", Note::problem(notes[at].0, notes[at].1, ""));
            }
            let (files, found, problems, warnings) = findings.finish();
            assert_eq!(found.iter().map(|f| f.what.as_str()).collect::<String>(), "ab");
            assert_eq!((files[0].problems, files[0].warnings, problems, warnings), (3, 1, 3, 1));
        }
    }

    #[test]
    fn what_is_shown_is_short_and_tame() {
        assert_eq!(shown("a\x1b[2J"), "a\\u{1b}[2J");
        assert_eq!(shown(&"x".repeat(MAX_SHOWN + 1)).chars().count(), MAX_SHOWN + 1);
    }
}
