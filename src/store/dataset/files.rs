//! Which files a path stands for: itself, or of a directory the shards of one split, as Hugging Face lays them.

use super::DatasetError;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// A directory of a dataset holds no more; one that does is no dataset (a home directory, say).
const MAX_FILES: usize = 100_000;
/// Directories within directories.
const MAX_DEPTH: usize = 16;
const LINES: [&str; 3] = [".jsonl", ".jsonl.zst", ".jsonl.gz"];
const PARQUET: &str = ".parquet";
/// Names that are splits where nothing else says so, as Hugging Face has them.
const SPLITS: [&str; 9] = ["train", "training", "validation", "valid", "val", "dev", "eval", "test", "testing"];

/// The files of `path`, in the order in which they are read. Links are followed, hidden files are not looked at.
///
/// # Errors
/// Nothing to read, JSON lines beside Parquet, or more than one split where none was chosen.
pub fn files(path: &Path, split: Option<&str>) -> Result<Vec<PathBuf>, DatasetError> {
    let meta = fs::metadata(path).map_err(|source| DatasetError::Open { path: path.to_owned(), source })?;
    let wrong = |problem| Err(DatasetError::Directory { path: path.to_owned(), problem });
    if !meta.is_dir() {
        return match split {
            Some(split) => wrong(format!("it is no directory, so there is no split {split:?} in it: leave out --split")),
            None => Ok(vec![path.to_owned()]),
        };
    }
    let found = shards(path)?;
    if let (Some(lines), Some(parquet)) = (found.iter().find(|f| !is_parquet(f)), found.iter().find(|f| is_parquet(f))) {
        let (lines, parquet) = (below(path, lines), below(path, parquet));
        return wrong(format!("it holds JSON lines ({lines}) beside Parquet ({parquet}): give a directory of one kind, or a file"));
    }
    let mut splits: BTreeMap<Option<String>, Vec<PathBuf>> = BTreeMap::new();
    for file in found {
        splits.entry(split_of(path, &file)).or_default().push(file);
    }
    let names = || splits.iter().map(|(name, files)| named(path, name.as_deref(), files)).collect::<Vec<_>>().join(", ");
    match split {
        Some(split) => match splits.get(&Some(split.to_owned())) {
            Some(files) => Ok(files.clone()),
            None => wrong(format!("it has no split {split:?}, it has {}: choose with --split", names())),
        },
        None if splits.len() > 1 => wrong(format!("it holds more than one split, {}: choose with --split, or give a file", names())),
        None => Ok(splits.into_values().flatten().collect()),
    }
}

fn named(root: &Path, split: Option<&str>, files: &[PathBuf]) -> String {
    match split {
        Some(name) => name.to_owned(),
        None => format!("no split ({})", files.first().map_or_else(String::new, |file| below(root, file))),
    }
}

fn below(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).display().to_string()
}

fn is_parquet(file: &Path) -> bool {
    name_of(file).ends_with(PARQUET)
}

fn name_of(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// All that could be shards below `root`, by path.
fn shards(root: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let mut walk = ignore::WalkBuilder::new(root);
    walk.standard_filters(false).hidden(true).follow_links(true).max_depth(Some(MAX_DEPTH));
    let wrong = |problem| DatasetError::Directory { path: root.to_owned(), problem };
    let mut found = Vec::new();
    for (seen, entry) in walk.build().enumerate() {
        if seen > MAX_FILES {
            return Err(wrong(format!("it holds over {MAX_FILES} files: give the directory of the dataset alone")));
        }
        let entry = entry.map_err(|e| wrong(format!("it cannot be read: {e}: make it readable")))?;
        let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
        let name = entry.file_name().to_str().unwrap_or_default();
        if is_file && (name.ends_with(PARQUET) || LINES.iter().any(|end| name.ends_with(end))) {
            found.push(entry.into_path());
        }
    }
    if found.is_empty() {
        return Err(wrong(format!("it holds no {PARQUET}, {} file: give another directory, or a file", LINES.join(", "))));
    }
    found.sort();
    Ok(found)
}

/// `train` of `train-00000-of-00004.parquet`, of `train.parquet`, `train-0.parquet` and of `train/0000.parquet`.
fn split_of(root: &Path, file: &Path) -> Option<String> {
    let stem = name_of(file).split('.').next().unwrap_or_default();
    if let Some(name) = of_numbered(stem) {
        return Some(name.to_owned());
    }
    let word = stem.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '_']);
    let dirs = file.strip_prefix(root).unwrap_or(file).parent().into_iter().flat_map(Path::iter).filter_map(|dir| dir.to_str());
    dirs.chain([word]).rev().find(|word| SPLITS.contains(word)).map(str::to_owned)
}

/// `NAME-00000-of-00004`, and with a fingerprint behind it.
fn of_numbered(stem: &str) -> Option<&str> {
    let (before, after) = stem.rsplit_once("-of-")?;
    let (name, number) = before.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (digits(number) && digits(after.split('-').next().unwrap_or_default()) && !name.is_empty()).then_some(name)
}

/// Length and time of the file, or a digest of those of all files of the directory: while it stays, their content need not be
/// read again. None where nothing is there.
///
/// # Errors
/// As [`files`].
pub fn stamp(path: &Path, split: Option<&str>) -> Result<Option<String>, DatasetError> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DatasetError::Open { path: path.to_owned(), source }),
    };
    if !meta.is_dir() {
        return Ok(Some(length_and_time(&meta)));
    }
    let mut list = String::new();
    for file in files(path, split)? {
        let meta = fs::metadata(&file).map_err(|source| DatasetError::Open { path: file.clone(), source })?;
        let _ = writeln!(list, "{:?} {}", below(path, &file), length_and_time(&meta));
    }
    Ok(Some(format!("{:x}", Sha256::digest(list))))
}

fn length_and_time(meta: &fs::Metadata) -> String {
    let modified = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    format!("{}-{}", meta.len(), modified.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_told_by_names_as_hugging_face_writes_them() {
        for (file, split) in [
            ("data/train-00000-of-00004.parquet", Some("train")),
            ("data/train-00000-of-00001-3f2a9b.parquet", Some("train")),
            ("data/filtered-00003-of-00004.jsonl.zst", Some("filtered")),
            ("a-b-00003-of-00004.parquet", Some("a-b")),
            ("test.parquet", Some("test")),
            ("test-3.jsonl", Some("test")),
            ("dev_01.jsonl.gz", Some("dev")),
            ("default/validation/0000.parquet", Some("validation")),
            ("test/train.parquet", Some("train")),
            ("contest.parquet", None),
            ("rows.parquet", None),
            ("0000.parquet", None),
            ("one-of-us.jsonl", None),
        ] {
            assert_eq!(split_of(Path::new("/train/set"), &Path::new("/train/set").join(file)).as_deref(), split, "{file}");
        }
    }
}
