//! Real source text: the crates of `Cargo.lock` as cargo unpacked them, or the folders of another directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Of one file and of one repository; beyond them a file or the rest of a repository is left out.
const FILE_BYTES: std::ops::Range<u64> = 1_500..100_000;
const REPO_BYTES: usize = 3 << 20;

pub struct SourceFile {
    /// Within the repository.
    pub path: String,
    pub text: String,
    /// Where each line begins, and the end.
    lines: Vec<usize>,
}

impl SourceFile {
    pub fn len(&self) -> usize {
        self.lines.len() - 1
    }

    /// Lines with their line feeds, from 0.
    pub fn lines(&self, from: usize, to: usize) -> &str {
        let (from, to) = (from.min(self.len()), to.min(self.len()));
        &self.text[self.lines[from]..self.lines[to.max(from)]]
    }
}

pub struct Repo {
    pub name: String,
    pub files: Vec<SourceFile>,
    /// Names of its functions, in order of appearance.
    pub functions: Vec<String>,
    /// Sentences of its comments.
    pub sentences: Vec<String>,
}

/// Repositories with enough text to work on, by name. `dir`: each folder in it is one; none: the crates that this crate is built of.
pub fn load(dir: Option<&Path>) -> Vec<Repo> {
    let mut roots = match dir {
        Some(dir) => folders(dir),
        None => crates(),
    };
    roots.sort();
    let repos = roots.iter().filter_map(|root| repo(root)).collect::<Vec<_>>();
    assert!(!repos.is_empty(), "no source text found: give --corpus DIR, a directory whose folders hold source files");
    repos
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn crates() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let sources = home.map(|home| home.join("registry/src")).filter(|sources| sources.is_dir());
    let unpacked: Vec<PathBuf> = sources.map(|sources| folders(&sources)).unwrap_or_default();
    let lock: toml::Table = include_str!("../../Cargo.lock").parse().expect("Cargo.lock");
    let packages = lock["package"].as_array().expect("packages");
    let names = packages.iter().map(|p| format!("{}-{}", p["name"].as_str().unwrap_or(""), p["version"].as_str().unwrap_or("")));
    names.filter_map(|name| unpacked.iter().map(|root| root.join(&name)).find(|path| path.is_dir())).collect()
}

fn repo(root: &Path) -> Option<Repo> {
    let mut paths = Vec::new();
    walk(root, &mut paths);
    paths.sort();
    let (mut files, mut total) = (Vec::new(), 0);
    for path in paths {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        total += text.len();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect::<Vec<_>>();
        let path = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        files.push(SourceFile { path, text, lines });
        if total > REPO_BYTES {
            break;
        }
    }
    let (mut functions, mut sentences) = (Vec::new(), Vec::new());
    for line in files.iter().flat_map(|file| file.text.lines()) {
        let line = line.trim();
        if let Some(at) = line.find("fn ").or_else(|| line.find("def ")) {
            let name = line[at..].split_once(' ').map_or("", |(_, rest)| rest);
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.len() > 3 {
                functions.push(name);
            }
        }
        let comment = line.trim_start_matches(['/', '#', '!', '*']).trim();
        if comment.len() < line.len() && (40..200).contains(&comment.len()) && comment.contains(' ') {
            sentences.push(comment.trim_end_matches(['.', ':', ',']).to_owned());
        }
    }
    let enough = files.len() >= 4 && functions.len() >= 30 && sentences.len() >= 50 && total > 200_000;
    enough.then(|| Repo { name: root.file_name().unwrap_or_default().to_string_lossy().into_owned(), files, functions, sentences })
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        let is_source = path.extension().is_some_and(|kind| ["rs", "md", "toml", "py", "c", "go", "js", "ts"].iter().any(|k| kind == *k));
        if meta.is_dir() {
            walk(&path, found);
        } else if is_source && FILE_BYTES.contains(&meta.len()) {
            found.push(path);
        }
    }
}
