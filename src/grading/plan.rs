//! What a grading does between the prepared sandbox and the test run, as data and as shell text.
//!
//! The test patch is applied to the untouched base, and the files that it leaves are kept aside until the model's diff is in.
//! So a test patch that does not apply is the instance's fault for certain, and no diff can keep it from applying.

use super::hygiene::{RepoPath, touched_paths};
use super::restore::Restored;
use super::runners::unittest;
use crate::domain::{Failure, Instance, Kind};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Where `test_script` goes, relative to `workdir`.
pub const TEST_SCRIPT: &str = "test_fail_to_pass.py";

/// The test files of one grading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Directory of this grading's own, outside the repository. Not named as the directories of engines are, which get swept.
    pub private: String,
    /// Paths that are as the instance has them when the tests run. The first is [`TEST_SCRIPT`].
    pub test_files: Vec<RepoPath>,
    /// Files that hold the listed ids, each once, in the given order.
    pub id_files: Vec<String>,
    /// Python sources that the patches touch: their bytecode is dropped, since a diff that comes within the second
    /// and keeps the size would leave it looking fresh.
    pub sources: Vec<RepoPath>,
    /// Files of the diff that the tests do not meet as the diff has them, and why.
    pub restored: Restored,
    /// Files that the diff changes and the golden patch does not, less those put back. Lossy text.
    pub foreign_files: Vec<String>,
}

impl Plan {
    /// `secret` is 32 hexadecimal digits or more from a random source.
    ///
    /// # Errors
    /// `Tests` or `DiffRejected` where the paths of the test patch or of the diff cannot be trusted.
    pub fn new(instance: &Instance, diff: &str, secret: &str) -> Result<Self, Failure> {
        let name = secret.get(..secret.len() / 2).unwrap_or(secret);
        let bad = |kind, what| move |error| Failure::new(kind, format!("{what} of {}: {error}", instance.instance_id));
        let tests = touched_paths(instance.test_patch.as_bytes()).map_err(bad(Kind::Tests, "the test patch"))?;
        let model = touched_paths(diff.as_bytes()).map_err(bad(Kind::DiffRejected, "the diff"))?;
        let product = touched_paths(instance.patch.as_bytes()).unwrap_or_default();
        let id_files = id_files(instance);
        let restored = Restored::new(instance, &id_files, &model, &product, &tests);
        let script = TEST_SCRIPT.as_bytes().to_vec();
        let others = tests.iter().chain(restored.paths()).filter(|path| **path != script).collect::<BTreeSet<_>>();
        let others: Vec<RepoPath> = others.into_iter().cloned().collect();
        let foreign = model.iter().filter(|path| !product.contains(*path) && **path != script && others.binary_search(path).is_err());
        Ok(Plan {
            private: format!("/tmp/grading-{name}"),
            foreign_files: foreign.map(|path| String::from_utf8_lossy(path).into_owned()).collect(),
            sources: tests.union(&model).filter(|path| path.ends_with(b".py")).cloned().collect(),
            test_files: [script].into_iter().chain(others).collect(),
            restored,
            id_files,
        })
    }

    /// Where the state of the test file `index` is kept for [`Plan::install`].
    #[must_use]
    pub fn kept_test(&self, index: usize) -> String {
        format!("{}/tests/{index}", self.private)
    }

    /// Keeps the base's test files. Before the test patch.
    #[must_use]
    pub fn keep_base(&self) -> Vec<u8> {
        self.script(|script| {
            script.extend_from_slice(b"mkdir -p \"$p/base\" \"$p/tests\"\n");
            self.each(script, b"keep base");
        })
    }

    /// Keeps the test files as the test patch left them, and puts the base's back. After the test patch.
    #[must_use]
    pub fn keep_tests(&self) -> Vec<u8> {
        self.script(|script| {
            self.each(script, b"take tests");
            self.each(script, b"put base");
        })
    }

    /// Puts the instance's test files in place, whatever the model's diff made of them. After the model's diff.
    /// Prints the index of each id file that does not exist.
    #[must_use]
    pub fn install(&self) -> Vec<u8> {
        self.script(|script| {
            self.each(script, b"put tests");
            script.extend_from_slice(b"set --\n");
            for source in &self.sources {
                let (parent, name) = match source.iter().rposition(|b| *b == b'/') {
                    Some(slash) => (&source[..=slash], &source[slash + 1..]),
                    None => (&b""[..], source.as_slice()),
                };
                let cached = quoted(&[b"./", parent, b"__pycache__/", &name[..name.len() - 2]].concat());
                script.extend([b"for file in ", &cached[..], b"*.pyc; do [ ! -e \"$file\" ] || set -- \"$@\" \"$file\"; done\n"].concat());
            }
            script.extend_from_slice(b"[ $# = 0 ] || rm -f -- \"$@\"\n");
            for (index, file) in self.id_files.iter().enumerate() {
                script.extend([b"[ -e ", &quoted(file.as_bytes())[..], format!(" ] || echo {index}\n").as_bytes()].concat());
            }
        })
    }

    fn script(&self, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut script = format!("set -eu\np={}\n{FUNCTIONS}", self.private).into_bytes();
        body(&mut script);
        script
    }

    /// `call INDEX PATH` for every test file, a directory's name before what it holds.
    fn each(&self, script: &mut Vec<u8>, call: &[u8]) {
        for (index, path) in self.test_files.iter().enumerate() {
            script.extend_from_slice(call);
            script.extend(format!(" {index} ").bytes());
            script.extend(quoted(path));
            script.push(b'\n');
        }
        script.extend_from_slice(b"remove\n");
    }
}

/// `keep` copies a file away, `take` moves it away, `put` brings it back, over whatever lies in the way.
/// Directories are left alone where no file is to be in their place. A path below a link of the base's own is left alone.
/// A process is started only where there is something to do.
const FUNCTIONS: &str = r#"
is_file() { [ -L "$1" ] || { [ -e "$1" ] && [ ! -d "$1" ]; }; }
# The first parent that is no directory: a link, or a file.
obstacle() {
  obstacle= above= rest=$1
  while :; do
    case $rest in */*) above=$above${rest%%/*}; rest=${rest#*/} ;; *) return ;; esac
    if is_file "$above"; then obstacle=$above; return; fi
    above=$above/
  done
}
keep() {
  obstacle "$3"
  if [ -L "$obstacle" ]; then : > "$p/base/$2.linked"; return; fi
  if is_file "$3"; then cp -a -- "./$3" "$p/$1/$2"; fi
}
take() {
  if [ -e "$p/base/$2.linked" ]; then return; fi
  if is_file "$3"; then mv -f -- "./$3" "$p/$1/$2"; fi
}
put() {
  if [ -e "$p/base/$2.linked" ]; then return; fi
  obstacle "$3"
  if is_file "$p/$1/$2"; then
    remove
    if [ -n "$obstacle" ]; then rm -f -- "./$obstacle"; fi
    if [ -d "$3" ] || [ -L "$3" ]; then rm -rf -- "./$3"; fi
    case $3 in */*) if [ ! -d "${3%/*}" ]; then mkdir -p -- "./${3%/*}"; fi ;; esac
    mv -f -- "$p/$1/$2" "./$3"
  elif [ -z "$obstacle" ] && is_file "$3"; then
    printf '%s\0' "./$3" >> "$p/gone"
  fi
}
# What `put` found to be too much, in one go: a diff may add thousands of files.
remove() {
  if [ -s "$p/gone" ]; then
    xargs -0 rm -f -- < "$p/gone"
    : > "$p/gone"
  fi
}
"#;

/// The file of a pytest id. What stands in brackets may hold `::` and slashes.
#[must_use]
pub fn file_of(id: &str) -> &str {
    let unparametrised = id.split('[').next().unwrap_or(id);
    unparametrised.split("::").next().unwrap_or(unparametrised)
}

fn id_files(instance: &Instance) -> Vec<String> {
    let by_class = unittest::are_ids(instance);
    let file = |id| match instance.language.as_str() {
        "shell" => Cow::Borrowed(id),
        "go" | "rust" => Cow::Borrowed(""),
        _ if by_class => Cow::Owned(unittest::file_of(id).unwrap_or_default()),
        _ => Cow::Borrowed(file_of(id)),
    };
    let mut seen = BTreeSet::new();
    let files = instance.test_ids().map(file).filter(|file| !file.is_empty() && !file.contains('\0') && seen.insert(file.clone()));
    files.map(Cow::into_owned).collect()
}

/// `bytes` as one word of POSIX shell.
pub(super) fn quoted(bytes: &[u8]) -> Vec<u8> {
    let mut word = vec![b'\''];
    for &byte in bytes {
        if byte == b'\'' { word.extend_from_slice(br"'\''") } else { word.push(byte) }
    }
    word.push(b'\'');
    word
}
