//! Files that the form names: one a trajectory, or one that many append to.

use super::{ExportError, Stream, file::Hashed, io_error, report};
use crate::export::report::{FileReport, Tally};
use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Longest name of a file or directory, bytes.
const MAX_NAME_BYTES: usize = 200;

/// Files of streams: each stream has a directory where there is more than one, else all lie at the top.
pub struct Files {
    dir: PathBuf,
    streams: Vec<Stream>,
    /// In lower case: some file systems know no other.
    taken: HashSet<String>,
    /// Files that are appended to, by their names.
    open: BTreeMap<String, Appended>,
    done: Vec<FileReport>,
}

struct Appended {
    file: Hashed,
    split: String,
    tally: Tally,
    /// Those that have their row.
    instances: HashSet<u32>,
}

/// Files that are appended to at once, at most.
const MAX_OPEN: usize = 256;

impl Files {
    pub fn new(dir: &Path, streams: &[Stream]) -> Self {
        Files { dir: dir.to_owned(), streams: streams.to_vec(), taken: HashSet::new(), open: BTreeMap::new(), done: Vec::new() }
    }

    /// Writes one file. `name`: its path within the stream, made safe here; a name that is taken gets a number.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn push(&mut self, stream: usize, name: &str, content: &[u8], sha256: String, tally: Tally) -> Result<(), ExportError> {
        let name = self.place(stream, name);
        let name = self.untaken(name);
        let path = self.path(&name)?;
        let mut file = File::create_new(&path).map_err(io_error("create", &path))?;
        file.write_all(content).map_err(io_error("write", &path))?;
        self.done.push(report(name, &self.streams[stream].split, tally, content.len() as u64, sha256));
        Ok(())
    }

    /// Appends a row to the file of that name, unless one of the same instance is in it: whether it did.
    ///
    /// # Errors
    /// Where it cannot be written, or there are too many files.
    pub fn append(&mut self, stream: usize, name: &str, instance: u32, row: &[u8], tally: Tally) -> Result<bool, ExportError> {
        let name = self.place(stream, name);
        if !self.open.contains_key(&name) {
            let path = self.path(&name)?;
            if self.open.len() == MAX_OPEN {
                let too_many = io::Error::other(format!("the rows go to more than {MAX_OPEN} files: export fewer samples at a time"));
                return Err(io_error("create", &path)(too_many));
            }
            let file = Hashed::create(&path).map_err(io_error("create", &path))?;
            let split = self.streams[stream].split.clone();
            self.open.insert(name.clone(), Appended { file, split, tally: Tally::default(), instances: HashSet::new() });
        }
        let Some(Appended { file, tally: sum, instances, .. }) = self.open.get_mut(&name) else { return Ok(false) };
        if !instances.insert(instance) {
            return Ok(false);
        }
        file.write_all(row).map_err(io_error("write", &self.dir.join(&name)))?;
        *sum += tally;
        Ok(true)
    }

    /// Path within the export.
    fn place(&self, stream: usize, name: &str) -> String {
        if self.streams.len() == 1 { safe(name) } else { format!("{}/{}", self.streams[stream].name(), safe(name)) }
    }

    fn path(&self, name: &str) -> Result<PathBuf, ExportError> {
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        }
        Ok(path)
    }

    fn untaken(&mut self, name: String) -> String {
        let mut candidate = name.clone();
        let mut number = 1;
        while !self.taken.insert(candidate.to_lowercase()) {
            number += 1;
            let at = name.rfind('.').filter(|at| !name[*at..].contains('/')).unwrap_or(name.len());
            candidate = format!("{}-{number}{}", &name[..at], &name[at..]);
        }
        candidate
    }

    /// The files, in the order in which they were written, then those that were appended to.
    ///
    /// # Errors
    /// Where one cannot be written.
    pub fn finish(mut self) -> Result<Vec<FileReport>, ExportError> {
        for (name, Appended { file, split, tally, .. }) in std::mem::take(&mut self.open) {
            let (bytes, sha256) = file.finish().map_err(io_error("write", &self.dir.join(&name)))?;
            self.done.push(report(name, &split, tally, bytes, sha256));
        }
        Ok(self.done)
    }
}

/// A relative path that stays where it is put: letters, digits and `._@+-`, no name that begins with a point.
#[must_use]
pub fn safe(path: &str) -> String {
    let name = |name: &str| -> String {
        let kept = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._@+-".contains(c) { c } else { '_' }).take(MAX_NAME_BYTES);
        let text: String = kept.collect();
        text.strip_prefix('.').map_or_else(|| text.clone(), |rest| format!("_{rest}"))
    };
    let names: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(name).collect();
    if names.is_empty() { "_".to_owned() } else { names.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes() {
        for (path, expected) in [
            ("a@0.1.traj", "a@0.1.traj"),
            ("a/b.json", "a/b.json"),
            ("../../etc/passwd", "_./_./etc/passwd"),
            ("/etc/passwd", "etc/passwd"),
            (".building", "_building"),
            ("a//./b", "a/_/b"),
            ("\\x\0 ü\n", "_x____"),
            ("", "_"),
        ] {
            assert_eq!(safe(path), expected, "{path:?}");
        }
        assert_eq!(safe(&"x".repeat(1000)).len(), MAX_NAME_BYTES);
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let stream = Stream { split: "train".into(), bucket: String::new() };
        let mut files = Files::new(dir.path(), &[stream]);
        for name in ["a.d/b", "A.d/b", "x.json", "x.json", "x.json"] {
            files.push(0, name, name.as_bytes(), String::new(), Tally::default()).unwrap();
        }
        let names: Vec<String> = files.finish().unwrap().into_iter().map(|file| file.file).collect();
        assert_eq!(names, ["a.d/b", "A.d/b-2", "x.json", "x-2.json", "x-3.json"]);
        assert_eq!(std::fs::read(dir.path().join("x-3.json")).unwrap(), b"x.json");
    }
}
