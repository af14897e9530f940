//! `--exclude`: instances and repositories that no row may come of, such as those of a benchmark.

use serde::Deserialize;
use std::{collections::HashMap, path::Path};

/// Largest list that is read, bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Instances and repositories, compared without regard to case.
#[derive(Debug, Default, Clone)]
pub struct Exclusions {
    entries: Vec<String>,
    instances: HashMap<String, u32>,
    repos: HashMap<String, u32>,
}

/// A list that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExcludeError {
    #[error("cannot read the list {path}: {source}; give a file of lines, JSON Lines, or one JSON array")]
    Read { path: String, source: std::io::Error },
    #[error("{place} of the list {path} is no entry: {why}; write an instance id, owner/name, or a JSON row with instance_id or repo")]
    Entry { path: String, place: String, why: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Row {
    Text(String),
    Fields { instance_id: Option<String>, repo: Option<String> },
}

impl Exclusions {
    /// Adds a list: lines of text, JSON Lines, or a JSON array. `whole_repos`: an instance stands for its repository.
    ///
    /// # Errors
    /// Where the file cannot be read or a row names nothing.
    pub fn read(&mut self, path: &Path, whole_repos: bool) -> Result<(), ExcludeError> {
        let fail = |source| ExcludeError::Read { path: path.display().to_string(), source };
        let bytes = std::fs::metadata(path).map_err(fail)?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(fail(std::io::Error::other(format!("it has {bytes} bytes, at most {MAX_FILE_BYTES} are read"))));
        }
        self.add(&std::fs::read_to_string(path).map_err(fail)?, &path.display().to_string(), whole_repos)
    }

    /// Adds the list that the text is. `path`: for messages.
    ///
    /// # Errors
    /// Where a row names nothing.
    pub fn add(&mut self, text: &str, path: &str, whole_repos: bool) -> Result<(), ExcludeError> {
        let wrong = |place: String, why: &dyn ToString| ExcludeError::Entry { path: path.to_owned(), place, why: why.to_string() };
        // Windows writes a mark of the encoding first.
        let text = text.trim_start_matches('\u{feff}');
        if text.trim_start().starts_with('[') {
            let rows: Vec<Row> = serde_json::from_str(text).map_err(|e| wrong(format!("line {}", e.line()), &e))?;
            for (at, row) in rows.into_iter().enumerate() {
                self.row(row, whole_repos).map_err(|why| wrong(format!("row {}", at + 1), &why))?;
            }
            return Ok(());
        }
        for (at, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let place = || format!("line {}", at + 1);
            let row = match line.starts_with(['{', '"']) {
                true => serde_json::from_str(line).map_err(|e| wrong(place(), &e))?,
                false => Row::Text(line.to_owned()),
            };
            self.row(row, whole_repos).map_err(|why| wrong(place(), &why))?;
        }
        Ok(())
    }

    fn row(&mut self, row: Row, whole_repos: bool) -> Result<(), &'static str> {
        let (instance, repo) = match row {
            Row::Text(text) if text.contains('/') => (None, Some(text)),
            Row::Text(text) => (Some(text), None),
            Row::Fields { instance_id, repo } => (instance_id, repo),
        };
        match (instance, repo) {
            (Some(id), repo) => {
                let whole = if whole_repos { repo.or_else(|| repo_of(&id)) } else { None };
                self.instance(&id);
                whole.iter().for_each(|repo| self.repo(repo));
            }
            (None, Some(repo)) => self.repo(&repo),
            (None, None) => return Err("it names neither instance nor repository"),
        }
        Ok(())
    }

    fn instance(&mut self, id: &str) {
        let key = id.trim().to_lowercase();
        if !key.is_empty() && !self.instances.contains_key(&key) {
            self.instances.insert(key, self.entries.len() as u32);
            self.entries.push(id.trim().to_owned());
        }
    }

    fn repo(&mut self, repo: &str) {
        let name = repo_name(repo);
        let key = name.to_lowercase();
        if !key.is_empty() && !self.repos.contains_key(&key) {
            self.repos.insert(key, self.entries.len() as u32);
            self.entries.push(name.to_owned());
        }
    }

    /// Instances and repositories on the lists, each once.
    #[must_use]
    pub fn entries(&self) -> &[String] {
        &self.entries
    }

    /// The entries that a record matches: of its instance, of its repository.
    #[must_use]
    pub fn matches(&self, instance: &str, repo: &str) -> [Option<u32>; 2] {
        if self.entries.is_empty() {
            return [None; 2];
        }
        [self.instances.get(&instance.to_lowercase()).copied(), self.repos.get(&repo_name(repo).to_lowercase()).copied()]
    }
}

/// `owner/name`, also of an address on github.com.
fn repo_name(repo: &str) -> &str {
    let name = repo.trim().trim_end_matches('/');
    let name = name.split_once("github.com/").map_or(name, |(_, name)| name);
    name.strip_suffix(".git").unwrap_or(name)
}

/// `owner/name` of `owner__name-123`, as SWE-bench writes its ids.
fn repo_of(instance: &str) -> Option<String> {
    let (owner, rest) = instance.split_once("__")?;
    let (name, number) = rest.rsplit_once('-')?;
    (!owner.is_empty() && !name.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then(|| format!("{owner}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str, whole_repos: bool) -> Exclusions {
        let mut list = Exclusions::default();
        list.add(text, "list", whole_repos).unwrap();
        list
    }

    #[test]
    fn every_kind_of_list_is_read() {
        let lines = "\u{feff}# held out\n\nDjango__django-11099\npallets/flask\nhttps://github.com/psf/requests.git\n";
        let rows = r#"{"instance_id":"django__django-11099","x":null}
{"repo":"pallets/flask"}
{"repo":"psf/requests"}"#;
        let array = r#"["django__django-11099", {"repo":"pallets/Flask"}, "psf/requests"]"#;
        for text in [lines, rows, array] {
            let list = list(text, false);
            assert_eq!(list.entries().len(), 3, "{text}");
            assert_eq!(list.matches("DJANGO__django-11099", "django/django"), [Some(0), None]);
            assert_eq!(list.matches("other", "Pallets/FLASK"), [None, Some(1)]);
            assert_eq!(list.matches("other", "psf/requests"), [None, Some(2)]);
            assert_eq!(list.matches("other", "https://github.com/psf/requests/"), [None, Some(2)]);
            assert_eq!(list.matches("django__django-1109", "django/django"), [None, None]);
        }
    }

    #[test]
    fn an_instance_stands_for_its_repository_only_when_asked() {
        let id = "scikit-learn__scikit-learn-10297";
        assert_eq!(list(id, false).matches("x", "scikit-learn/scikit-learn"), [None, None]);
        assert_eq!(list(id, true).matches("x", "scikit-learn/scikit-learn"), [None, Some(1)]);
        let row = r#"{"instance_id":"a_pr12","repo":"o/a"}"#;
        assert_eq!(list(row, false).matches("y", "o/a"), [None, None]);
        assert_eq!(list(row, true).matches("y", "o/a"), [None, Some(1)]);
        assert_eq!(repo_of("pypi_click_pr2219"), None);
    }

    #[test]
    fn a_row_that_names_nothing_is_told_with_its_place() {
        for (text, part) in [("a\n{\"id\":1}", "line 2"), ("[\"a\", {}]", "row 2"), ("[1]", "list"), ("{\"repo\"", "line 1")] {
            let error = Exclusions::default().add(text, "list.txt", false).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("list.txt"), "{text}: {error}");
        }
    }
}
