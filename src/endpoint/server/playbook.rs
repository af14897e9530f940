//! What the policies know of the instances, and which instance a prompt is about.

use super::{chance::Digest, policy::GoldPlans};
use crate::domain::{Instance, InstanceId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Test ids kept of an instance.
const TEST_IDS: usize = 3;
/// Bytes of a statement under which it is indexed.
const KEY: usize = 16;
/// First messages remembered; there are about as many as instances and scaffolds.
const MAX_REMEMBERED: usize = 200_000;

/// One instance, as far as a policy needs it.
#[derive(Debug, Default)]
pub struct Play {
    /// None: the instance is not known.
    pub id: Option<InstanceId>,
    /// Trimmed.
    statement: String,
    pub patch: String,
    /// Absolute path of the repository, or `.` where it is not known.
    pub workdir: String,
    /// The first few.
    pub test_ids: Vec<String>,
    pub(super) plans: GoldPlans,
}

impl Play {
    #[must_use]
    pub fn new(instance: &Instance) -> Self {
        Play {
            id: Some(instance.instance_id.clone()),
            statement: instance.problem_statement.trim().to_owned(),
            patch: instance.patch.clone(),
            workdir: instance.workdir.clone(),
            test_ids: instance.test_ids().take(TEST_IDS).map(str::to_owned).collect(),
            plans: GoldPlans::default(),
        }
    }

    /// A play about nothing known.
    #[must_use]
    pub fn unknown() -> Self {
        Play { workdir: ".".into(), ..Play::default() }
    }
}

/// Why a prompt leads to no instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("the first user message holds the problem statement of none of the {0} instances: give the endpoint the run's instances file")]
    None(usize),
    #[error("the first user message could be about {0} or {1}, whose problem statements are the same: rehearse them apart")]
    Ambiguous(String, String),
}

type Found = Result<usize, Unknown>;

/// The instances of a rehearsal.
#[derive(Debug)]
pub struct Playbook {
    plays: Vec<Arc<Play>>,
    /// First `KEY` bytes of a statement to its plays; shorter statements stand under their bytes padded.
    index: HashMap<[u8; KEY], Vec<usize>>,
    short: Vec<usize>,
    remembered: Mutex<HashMap<u64, Found>>,
}

impl Playbook {
    pub fn new(instances: impl IntoIterator<Item = Instance>) -> Self {
        let plays: Vec<_> = instances.into_iter().map(|i| Arc::new(Play::new(&i))).collect();
        let mut index: HashMap<_, Vec<usize>> = HashMap::new();
        let mut short = Vec::new();
        for (at, play) in plays.iter().enumerate() {
            match play.statement.as_bytes().first_chunk::<KEY>() {
                Some(key) => index.entry(*key).or_default().push(at),
                None if play.statement.is_empty() => {}
                None => short.push(at),
            }
        }
        Playbook { plays, index, short, remembered: Mutex::default() }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.plays.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plays.is_empty()
    }

    /// The instance whose problem statement is the longest in `prompt`.
    ///
    /// # Errors
    /// [`Unknown`] where there is none, or two have the same statement.
    pub fn find(&self, prompt: &str) -> Result<Arc<Play>, Unknown> {
        let key = Digest::default().add(prompt).value();
        let lock = || self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&key).cloned();
        let found = known.unwrap_or_else(|| {
            let found = self.search(prompt);
            let mut remembered = lock();
            if remembered.len() >= MAX_REMEMBERED {
                remembered.clear();
            }
            remembered.insert(key, found.clone());
            found
        });
        found.map(|at| Arc::clone(&self.plays[at]))
    }

    fn search(&self, prompt: &str) -> Found {
        let bytes = prompt.as_bytes();
        let statement = |at: usize| self.plays[at].statement.as_str();
        let long = bytes.windows(KEY).enumerate().filter_map(|(from, key)| Some((from, self.index.get(key)?)));
        let long = long.flat_map(|(from, plays)| plays.iter().filter(move |at| bytes[from..].starts_with(statement(**at).as_bytes())));
        let short = self.short.iter().filter(|at| prompt.contains(statement(**at)));
        let mut found: Vec<usize> = long.chain(short).copied().collect();
        found.sort_unstable_by_key(|&at| (std::cmp::Reverse(statement(at).len()), at));
        found.dedup();
        match found[..] {
            [] => Err(Unknown::None(self.plays.len())),
            [a, b, ..] if statement(a).len() == statement(b).len() => Err(Unknown::Ambiguous(self.name(a), self.name(b))),
            [a, ..] => Ok(a),
        }
    }

    fn name(&self, at: usize) -> String {
        self.plays[at].id.as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str, statement: &str) -> Instance {
        Instance {
            instance_id: id.parse().unwrap(),
            repo: "o/r".into(),
            language: "python".into(),
            workdir: "/w".into(),
            image: String::new(),
            problem_statement: statement.into(),
            base_commit: String::new(),
            fix_commit: String::new(),
            patch: String::new(),
            test_patch: String::new(),
            test_script: String::new(),
            fail_to_pass: vec!["a".into(), "b".into()],
            pass_to_pass: vec!["c".into(), "d".into()],
            pre_commands: String::new(),
            url: String::new(),
        }
    }

    #[test]
    fn a_prompt_leads_to_the_longest_statement_in_it() {
        let book = Playbook::new([
            instance("one", "\n  The parser drops the last line.\n"),
            instance("two", "The parser drops the last line. Also of empty files."),
            instance("short", "crash"),
            instance("twin-a", "Both of these are the same text."),
            instance("twin-b", "Both of these are the same text.  "),
            instance("none", "  "),
        ]);
        let name = |prompt: &str| book.find(prompt).map(|p| p.id.clone().unwrap().to_string());
        for _ in 0..2 {
            assert_eq!(name("Fix: <issue>The parser drops the last line.</issue>").unwrap(), "one");
            assert_eq!(name("x The parser drops the last line. Also of empty files. y").unwrap(), "two");
            assert_eq!(name("a crash happens").unwrap(), "short");
            assert_eq!(name("nothing").unwrap_err(), Unknown::None(6));
            assert!(matches!(name("Both of these are the same text."), Err(Unknown::Ambiguous(a, b)) if a == "twin-a" && b == "twin-b"));
        }
        assert_eq!(book.find("crash").unwrap().test_ids, ["a", "b", "c"]);
    }
}
