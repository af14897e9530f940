//! Grading what a run has graded once more: same instances, same diffs, the grader of today.

use super::{
    OpenError,
    batch::{self, Grounds, Job},
    commands::commands,
    episodes::{outcome, stream},
    scaffold,
};
use crate::{
    agent::prompt::Scaffold,
    config::{MAY_DIFFER, Settings},
    domain::{AttemptId, Class, EpisodeId, ExitReason, Failure, Grade, Kind, Message, TestStatus, Verdicted, prediction::Word},
    grading::suspicion,
    scheduler::driver::{End, Stop},
    store::{Flaky, Gradings, GradingsDir, Instances, RunDir, Store, StoreError, View, fact::Committed},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::mpsc;

/// Which of a run's episodes.
#[derive(Debug, Default)]
pub struct Selection {
    /// Of the failed, only these classes, and none that has a grade; empty: all.
    pub classes: Vec<Class>,
    /// Empty: all.
    pub episodes: Vec<EpisodeId>,
}

/// What one attempt came to, then and now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Regrade {
    pub trajectory_id: AttemptId,
    pub old: Word,
    pub new: Word,
    /// Why the new one should be looked at, sorted words that the old record does not have.
    pub new_suspect: Vec<String>,
    /// Listed tests with another status than before, then and now.
    pub tests: BTreeMap<String, (TestStatus, TestStatus)>,
    pub verdict: Verdicted,
}

impl Regrade {
    /// The record would say something else.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.old != self.new || !self.new_suspect.is_empty() || !self.tests.is_empty()
    }
}

/// The attempts that count and have a diff that was, or was to be, graded.
///
/// # Errors
/// Where the journal cannot be read.
pub fn select(view: &View, selection: &Selection) -> Result<Vec<Committed>, StoreError> {
    let named: HashSet<&EpisodeId> = selection.episodes.iter().collect();
    let mut chosen = view.counting(|episode| named.is_empty() || named.contains(episode))?;
    chosen.retain(|committed| {
        let ended = committed.outcome.exit_reason != ExitReason::Failed;
        ended && (selection.classes.is_empty() || committed.outcome.class().is_some_and(|class| selection.classes.contains(&class)))
    });
    Ok(chosen)
}

/// Opens the last regrading in `DIR/regrades`, or begins another: where there is none, where it was made with other settings or
/// another sweroll, or where it is to be `again`. Blocks on the disk.
///
/// # Errors
/// What is wrong with the directory.
pub fn open(dir: &Path, settings: &Settings, again: bool) -> Result<(Gradings, PathBuf), OpenError> {
    let all = dir.join("regrades");
    let numbers = std::fs::read_dir(&all).into_iter().flatten().flatten();
    let last = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    let mut made_with: toml::Table =
        settings.table()?.into_iter().filter(|(name, _)| ["sandbox", "grading"].contains(&name.as_str())).collect();
    made_with.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    let begin = |number: u32| {
        let path = all.join(number.to_string());
        std::fs::create_dir_all(&all).map_err(|e| Failure::new(Kind::RunDir, format!("{} cannot be made: {e}", all.display())))?;
        let gradings = GradingsDir::lock(&path, &[])?.open(&made_with, MAY_DIFFER)?;
        Ok::<_, OpenError>((gradings, path))
    };
    match last {
        None => begin(1),
        Some(last) if again => begin(last + 1),
        Some(last) => match begin(last) {
            Err(OpenError::Store(StoreError::Settings { .. })) => begin(last + 1),
            opened => opened,
        },
    }
}

/// What of a record a regrading needs.
struct Old {
    word: Word,
    suspect: BTreeSet<String>,
    tests: BTreeMap<String, TestStatus>,
    messages: Vec<Message>,
    diff: String,
}

fn old(view: &View, committed: &Committed) -> Result<Old, Failure> {
    let record = view.read(&committed.location).map_err(|e| e.failure())?;
    let unreadable = |e: serde_json::Error| Failure::new(Kind::RunDir, format!("the record of {} cannot be read: {e}", committed.id));
    let meta = record.meta().map_err(unreadable)?;
    let none = || Failure::new(Kind::Interrupted, "it has neither a grade nor a failure");
    let statuses = meta.grade.iter().flat_map(|grade| &grade.tests).map(|(id, result)| (id.clone(), result.status));
    Ok(Old {
        tests: statuses.collect(),
        word: Verdicted::from(meta.grade.ok_or_else(|| meta.failure.unwrap_or_else(none))).word(),
        suspect: serde_json::from_str(&record.suspect).map_err(unreadable)?,
        messages: record.messages,
        diff: record.model_patch,
    })
}

/// Grades the chosen attempts that have no decided result yet. `told` gets each as it is kept.
///
/// # Errors
/// Where the sandbox backend does not answer before the first of them.
pub async fn grade(
    grounds: Arc<Grounds>,
    view: &Arc<View>,
    chosen: &[Committed],
    gradings: &mut Gradings,
    stop: mpsc::Receiver<Stop>,
    mut told: impl FnMut(&Regrade),
) -> Result<End, Failure> {
    let run = gradings.head().run.clone();
    let scaffold = scaffold(grounds.settings()).ok();
    let flaky = Flaky::of_run(&view.layout, &view.info).map_err(|e| e.failure())?;
    let instances = Arc::new(Instances::open(&view.layout).map_err(|e| e.failure())?);
    let todo: Vec<Committed> = chosen.iter().filter(|c| !gradings.is_decided(&c.id.to_string())).cloned().collect();
    let by_key: BTreeMap<String, Committed> = todo.iter().map(|c| (c.id.to_string(), c.clone())).collect();
    let reader = Arc::clone(view);
    let jobs = todo.into_iter().map(move |committed| {
        let instance = instances.load(&committed.id.episode.instance).map_err(|e| e.failure())?;
        let diff = old(&reader, &committed)?.diff;
        let flaky = flaky.of(&instance.instance_id).to_vec();
        Ok(Job { key: committed.id.to_string(), attempt: committed.id, instance, diff, flaky })
    });
    let done = |job: &Job, result: Result<Grade, Failure>| {
        let Some(committed) = by_key.get(&job.key) else { return Ok(()) };
        let old = old(view, committed)?;
        let decided = result.as_ref().err().is_none_or(batch::is_decided);
        let result = result.map(|mut grade| {
            grade.suspect.extend(seen_in_commands(job, scaffold.as_ref(), &old.messages));
            grade
        });
        let regrade = compare(job.attempt.clone(), &old, result);
        gradings.put([(job.key.as_str(), decided, &regrade)]).map_err(|e| e.failure())?;
        told(&regrade);
        Ok(())
    };
    batch::grade_all(grounds, &run, jobs, done, stop).await
}

fn seen_in_commands(job: &Job, scaffold: Option<&Scaffold>, messages: &[Message]) -> Vec<crate::domain::Suspicion> {
    let commands = scaffold.map(|scaffold| commands(&scaffold.toolset, messages.iter().cloned())).unwrap_or_default();
    suspicion::of_trajectory(&job.instance, commands.iter().map(String::as_str))
}

fn compare(trajectory_id: AttemptId, old: &Old, result: Result<Grade, Failure>) -> Regrade {
    let (mut tests, mut new_suspect) = (BTreeMap::new(), BTreeSet::new());
    if let Ok(grade) = &result {
        let differing = grade.tests.iter().filter_map(|(id, result)| {
            let before = old.tests.get(id).filter(|status| **status != result.status)?;
            Some((id.clone(), (*before, result.status)))
        });
        tests.extend(differing);
        new_suspect.extend(grade.suspect.iter().map(|s| s.reason.as_str().to_owned()).filter(|word| !old.suspect.contains(word)));
    }
    let verdict = Verdicted::from(result);
    Regrade { trajectory_id, old: old.word, new: verdict.word(), new_suspect: new_suspect.into_iter().collect(), tests, verdict }
}

/// Makes the new verdicts that differ the run's: each as a further attempt that counts, with the same conversation and diff.
/// What failed, was run again since or waits to be is left. Returns how many were committed. Blocks on the disk.
///
/// # Errors
/// A run that is in use, a full or broken disk.
pub async fn commit(dir: &Path, settings: &Settings, chosen: &[Committed], gradings: &mut Gradings) -> Result<u64, OpenError> {
    let view = View::open(dir)?;
    let store = Store::open(RunDir::open(dir)?, settings.store.clone())?;
    let mut committed = 0;
    for then in chosen {
        let Some(regrade) = gradings.get::<Regrade>(&then.id.to_string())? else { continue };
        let Verdicted::Grade(grade) = &regrade.verdict else { continue };
        let next = store.with_state(|state| {
            let episode = state.episode(&then.id.episode)?;
            let is_same = episode.counting().is_some_and(|counting| counting.attempt == then.id.attempt);
            (is_same && !episode.outstanding()).then(|| episode.next())
        });
        let Some(next) = next.filter(|_| regrade.differs()) else { continue };
        let id = AttemptId { episode: then.id.episode.clone(), attempt: next };
        let unreadable = |e: serde_json::Error| Failure::new(Kind::RunDir, format!("the record of {} cannot be read: {e}", then.id));
        let record = view.read(&then.location)?.regraded(id.clone(), grade.as_ref().clone()).map_err(unreadable)?;
        let outcome = outcome(&record, true).map_err(unreadable)?;
        store.commit_regrade(&record, outcome.clone(), stream(&outcome), then.id.attempt).await?;
        // Asked for once more, the new attempt is known to be graded by this very grader.
        let same = Regrade { trajectory_id: id.clone(), old: regrade.new, new_suspect: Vec::new(), tests: BTreeMap::new(), ..regrade };
        gradings.put([(id.to_string().as_str(), true, &same)])?;
        committed += 1;
    }
    store.close().await?;
    Ok(committed)
}
