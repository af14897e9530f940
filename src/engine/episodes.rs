//! What the scheduler has done for it: an episode's agent, its grading, its commit.

use super::{beside::Beside, budget::Purse, commands::commands, images::Images};
use crate::{
    agent::{
        prompt::Scaffold,
        runner::{self, Emit, Spool},
    },
    config::Settings,
    domain::{
        Attempt, AttemptId, Class, Disposition, EpisodeId, Failure, Grade, Instance, InstanceId, Kind, Trajectory, Transcript, Verdict,
        event::{EventKind, Outcome},
        trajectory::{Facts, UsageColumn},
        transcript::{Begun, Entry},
    },
    grading,
    sandbox::{self, Provider, Purpose, Sandbox, bases::Bases},
    scheduler::{
        budget::Spend,
        core::{Action, Todo},
        driver::Work,
    },
    store::{Flaky, Record, SpoolWriter, State, Store, Stream, state},
    tokens::Counter,
};
use futures_util::future::BoxFuture;
use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// Everything a run's episodes share.
pub(super) struct Engine {
    pub settings: Settings,
    pub store: Store,
    pub provider: Arc<dyn Provider>,
    pub bases: Arc<Bases>,
    /// Set once it is known what is to be done; empty where no image needs care.
    pub images: OnceLock<Images>,
    pub shared: runner::Shared,
    pub counter: Counter,
    pub sampling: serde_json::Value,
    pub drafts: Mutex<HashMap<AttemptId, Draft>>,
    pub runners: Arc<grading::Runners>,
    pub flaky: Flaky,
    pub purse: Arc<Purse>,
    pub emit: Emit,
    /// Instances that are loaded and records that are made at the same time.
    pub beside: Beside,
}

/// An attempt between its stages. The spool has the same, durably, but for the grade.
#[derive(Default)]
pub(super) struct Draft {
    transcript: Option<Transcript>,
    grade: Option<Grade>,
    failure: Option<Failure>,
    gradings: u32,
}

impl Engine {
    /// The outstanding episodes. What a dead engine left in its spools is settled first: attempts that only lack their grade
    /// are graded, others are committed as interrupted.
    pub async fn todo(&self, only: Option<Vec<EpisodeId>>) -> Result<Vec<Todo>, Failure> {
        let mut ended: BTreeMap<EpisodeId, AttemptId> = BTreeMap::new();
        for id in self.store.spooled().map_err(|e| e.failure())? {
            let transcript = Transcript::replay(self.store.recover(&id).await.map_err(|e| e.failure())?);
            let Some(transcript) = transcript else {
                self.store.discard_spool(&id).map_err(|e| e.failure())?;
                continue;
            };
            let failure = transcript.ended.as_ref().map(|ended| ended.failure.clone());
            let complete = failure == Some(None);
            let decided = failure.flatten().is_some_and(|f| f.kind.disposition() == Disposition::Final);
            let wanted = self.store.with_state(|state| state.episode(&id.episode).is_some_and(|e| e.outstanding()));
            let draft = Draft { transcript: Some(transcript), ..Draft::default() };
            if complete && wanted && !ended.contains_key(&id.episode) {
                self.put(&id, draft);
                ended.insert(id.episode.clone(), id);
            } else {
                self.put(&id, Draft { failure: Some(interrupted()), ..draft });
                self.commit_draft(&id, decided && wanted).await?;
            }
        }
        Ok(self.store.with_state(|state| {
            let todo = |episode: EpisodeId| match ended.get(&episode) {
                Some(id) => Todo { attempt: id.attempt, episode, ended: true },
                None => {
                    let attempt = state.episode(&episode).map_or(Attempt::FIRST, state::Episode::next);
                    Todo { episode, attempt, ended: false }
                }
            };
            let outstanding = || state.episodes().filter(|(_, e)| e.outstanding()).map(|(id, _)| id).collect();
            only.unwrap_or_else(outstanding).into_iter().map(todo).collect()
        }))
    }

    /// What the run has paid for so far, in all its openings, and by how many attempts: what is committed, and what lies in drafts that
    /// only lack their grade.
    pub fn paid(&self) -> (Spend, u64) {
        let totals = self.store.with_state(State::totals);
        let tokens = totals.usage.prompt_tokens.saturating_add(totals.usage.completion_tokens);
        let drafts = self.drafts.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = drafts.values().filter_map(|draft| draft.transcript.as_ref()).map(paid);
        let spent = ended.fold(Spend { usd: totals.cost_usd, tokens }, |sum, spend| sum + spend);
        (spent, totals.paid + drafts.len() as u64)
    }

    /// The waived episodes of instances that do not have enough resolved samples after all, as the settings now are, are wanted again.
    pub async fn reopen_waived(&self) -> Result<(), Failure> {
        let wanted = self.settings.scheduler.until_resolved;
        let again: Vec<EpisodeId> = self.store.with_state(|state| {
            let resolved = state.resolved();
            let enough = |id: &EpisodeId| wanted > 0 && resolved.get(&id.instance).is_some_and(|n| *n >= wanted);
            state.episodes().filter(|(id, episode)| episode.waived() && !enough(id)).map(|(id, _)| id).collect()
        });
        if again.is_empty() {
            return Ok(());
        }
        let reason = format!("scheduler.until_resolved is {wanted} now");
        self.store.reopen(again, &reason).await.map_err(|e| e.failure())
    }

    fn put(&self, id: &AttemptId, draft: Draft) {
        self.drafts.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), draft);
    }

    fn with_draft<T>(&self, id: &AttemptId, change: impl FnOnce(&mut Draft) -> T) -> T {
        change(self.drafts.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default())
    }

    /// Logs a failure and keeps it for the record.
    fn note<T>(&self, id: &AttemptId, stage: &str, result: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(failure) = &result {
            tracing::warn!(%id, stage, kind = ?failure.kind, %failure, "failed");
            self.with_draft(id, |draft| draft.failure = Some(failure.clone()));
        }
        result
    }

    fn take(&self, id: &AttemptId) -> Draft {
        self.drafts.lock().unwrap_or_else(PoisonError::into_inner).remove(id).unwrap_or_default()
    }

    async fn instance(&self, id: &InstanceId) -> Result<Instance, Failure> {
        let (instances, wanted) = (Arc::clone(self.store.instances()), id.clone());
        let loaded = self.beside.run(move || instances.load(&wanted)).await;
        loaded.map_err(|e| Failure::new(Kind::Panic, format!("loading {id}: {e}")))?.map_err(|e| e.failure())
    }

    fn spec(&self, id: &AttemptId, purpose: Purpose, instance: &Instance) -> sandbox::Spec {
        sandbox::Spec {
            run: self.store.dir().info().run.clone(),
            attempt: id.clone(),
            purpose,
            image: instance.image.clone(),
            workdir: instance.workdir.clone(),
            limits: self.settings.sandbox.limits.clone(),
            keep: false,
            upon: None,
        }
    }

    /// The head of a transcript, as far as it is known without a sandbox.
    fn head(&self, id: &AttemptId) -> Begun {
        let scaffold = &self.shared.scaffold;
        Begun {
            id: id.clone(),
            messages: Vec::new(),
            tools: scaffold.toolset.sent(),
            model: self.settings.endpoint.model.clone(),
            scaffold: scaffold.name.clone(),
            scaffold_digest: scaffold.digest.clone(),
            image_digest: String::new(),
            base_tree: String::new(),
            sampling: self.sampling.clone(),
            at_ms: now_ms(),
            setup_ms: 0,
        }
    }

    async fn run_agent(&self, id: &AttemptId) -> Result<(), Failure> {
        let admitted = Instant::now();
        // Boxes: what is large while it works, an episode would otherwise hold for the hours that it lives.
        let (sandbox, opening) = Box::pin(self.begin(id)).await?;
        let mut spool = DurableSpool(self.store.spool(id));
        let transcript = match Box::pin(self.prompt(&*sandbox, opening, admitted)).await {
            Ok(begun) => Ok(Box::pin(runner::run(&self.shared, &*sandbox, &mut spool, begun, admitted)).await),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = sandbox.destroy().await {
            tracing::warn!(%id, %failure, "a sandbox may be left; it is swept at the end of the run");
        }
        let transcript = transcript?;
        let failure = transcript.ended.as_ref().and_then(|ended| ended.failure.clone());
        self.with_draft(id, |draft| draft.transcript = Some(transcript));
        failure.map_or(Ok(()), Err)
    }

    /// A prepared sandbox for the attempt.
    async fn begin(&self, id: &AttemptId) -> Result<(Box<dyn Sandbox>, Box<Opening>), Failure> {
        let head = self.head(id);
        (self.emit)(EventKind::AttemptStarted { id: id.clone() }).await;
        self.store.started(id.clone()).await.map_err(|e| e.failure())?;
        let instance = self.instance(&id.episode.instance).await?;
        if let Some(images) = self.images.get() {
            images.lease(id, true).await?;
        }
        let (sandbox, prepared) = self.bases.start(&self.spec(id, Purpose::Agent, &instance), &instance).await?;
        Ok((sandbox, Box::new(Opening { instance, head: Begun { base_tree: prepared.base_tree, ..head } })))
    }

    /// The transcript's first entry, with the prompt.
    async fn prompt(&self, sandbox: &dyn Sandbox, opening: Box<Opening>, admitted: Instant) -> Result<Begun, Failure> {
        let Opening { instance, head } = *opening;
        let messages = self
            .shared
            .scaffold
            .render(&instance, sandbox.workdir())
            .map_err(|e| Failure::new(Kind::RunDir, format!("the prompt of {} cannot be rendered: {e}", instance.instance_id)))?;
        let setup_ms = admitted.elapsed().as_millis() as u64;
        (self.emit)(EventKind::AgentStarted { id: head.id.clone(), setup_ms }).await;
        Ok(Begun { messages, image_digest: sandbox.image_digest().to_owned(), setup_ms, ..head })
    }

    async fn run_grade(&self, id: &AttemptId) -> Result<bool, Failure> {
        (self.emit)(EventKind::GradeStarted { id: id.clone() }).await;
        let instance = self.instance(&id.episode.instance).await?;
        let (patch, regrades) = self.with_draft(id, |draft| {
            draft.failure = None;
            draft.gradings += 1;
            let ended = draft.transcript.as_ref().and_then(|t| t.ended.as_ref());
            (ended.map(|ended| ended.model_patch.clone()).unwrap_or_default(), draft.gradings - 1)
        });
        // Its agent has it already, unless that was at work in an earlier opening.
        if let Some(images) = self.images.get() {
            images.lease(id, false).await?;
        }
        let upon = self.bases.kept(&instance).await;
        let spec = sandbox::Spec { upon, ..self.spec(id, Purpose::Grade, &instance) };
        let case = grading::Case { instance: &instance, diff: &patch, flaky: self.flaky.of(&instance.instance_id) };
        let grade = grading::grade(&*self.provider, &spec, &case, &self.settings.grading, &self.runners).await?;
        let resolved = grade.verdict == Verdict::Resolved;
        self.with_draft(id, |draft| draft.grade = Some(Grade { regrades, ..grade }));
        Ok(resolved)
    }

    /// Joins what is known of the attempt and makes it durable. On failure its spool stays.
    async fn commit_draft(&self, id: &AttemptId, counts: bool) -> Result<(), Failure> {
        let Draft { transcript, grade, failure, .. } = self.take(id);
        let instance = self.instance(&id.episode.instance).await?;
        let draft = Whole {
            // A panic took the transcript with it, or there was none yet: the spool has what was paid for.
            transcript: match transcript {
                Some(transcript) => transcript,
                None => {
                    let entries = self.store.recover(id).await.map_err(|e| e.failure())?;
                    Transcript::replay(entries).unwrap_or_else(|| Transcript::new(&self.head(id)))
                }
            },
            grade,
            failure,
            instance,
            dataset_digest: self.store.dir().info().plan.digests.get("dataset").cloned().unwrap_or_default(),
            scaffold: Arc::clone(&self.shared.scaffold),
            counter: self.counter.clone(),
            max_bytes: self.settings.store.max_record_bytes,
        };
        let made = self.beside.run(move || draft.record(counts)).await;
        let (record, outcome) = made.map_err(|e| Failure::new(Kind::Panic, format!("the record of {id}: {e}")))??;
        self.store.commit_record(record).await.map_err(|e| e.failure())?;
        (self.emit)(EventKind::Committed { id: id.clone(), outcome }).await;
        Ok(())
    }
}

/// What an attempt begins with. Tests and patches may be long.
struct Opening {
    instance: Instance,
    head: Begun,
}

/// All that a record is made of.
struct Whole {
    transcript: Transcript,
    grade: Option<Grade>,
    failure: Option<Failure>,
    instance: Instance,
    dataset_digest: String,
    scaffold: Arc<Scaffold>,
    counter: Counter,
    max_bytes: u64,
}

impl Whole {
    /// Joins it, counts its tokens and writes its line: milliseconds of processor time.
    fn record(self, counts: bool) -> Result<(Record, Outcome), Failure> {
        let Whole { transcript, mut grade, failure, instance, dataset_digest, scaffold, counter, max_bytes } = self;
        let id = transcript.begun.id.clone();
        if let Some(grade) = &mut grade {
            let commands = commands(&scaffold.toolset, transcript.conversation.replied());
            grade.suspect.extend(grading::suspicion::of_trajectory(&instance, commands.iter().map(String::as_str)));
        }
        let facts = Facts {
            repo: &instance.repo,
            base_commit: &instance.base_commit,
            image: &instance.image,
            url: &instance.url,
            dataset_digest: &dataset_digest,
        };
        let mut trajectory = Trajectory::new(transcript, grade, failure, facts);
        if !trajectory.messages.is_empty() {
            // A text that the counter cannot take costs its count, not the record.
            match std::panic::catch_unwind(AssertUnwindSafe(|| counter.fill(&mut trajectory))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%id, %error, "tokens not counted"),
                Err(_) => tracing::error!(%id, "a bug of sweroll: counting tokens panicked"),
            }
        }
        let outcome = outcome(&trajectory, counts).map_err(|e| Failure::new(Kind::Panic, format!("the record of {id}: {e}")))?;
        let record = Record::new(&trajectory, outcome.clone(), stream(&outcome), max_bytes).map_err(|e| e.failure())?;
        Ok((record, outcome))
    }
}

/// Attempts that were graded or ended by the model train; the rest are kept beside them, as is one without a reply.
pub(super) fn stream(outcome: &Outcome) -> Stream {
    let by_the_model = matches!(outcome.class(), None | Some(Class::Model | Class::Grader)) && outcome.turns > 0;
    if outcome.counts && by_the_model { Stream::Trajectories } else { Stream::Attempts }
}

pub(super) fn outcome(trajectory: &Trajectory, counts: bool) -> serde_json::Result<Outcome> {
    let meta = trajectory.meta()?;
    let usage = UsageColumn::total(&trajectory.usage)?;
    Ok(Outcome {
        counts,
        exit_reason: trajectory.exit_reason,
        resolved: trajectory.resolved,
        verdict: meta.grade.map(|grade| grade.verdict),
        failure: meta.failure,
        turns: trajectory.num_turns,
        tokens: trajectory.num_tokens,
        usage,
        cost_usd: trajectory.cost_usd,
        duration_ms: meta.duration_ms,
    })
}

/// What the replies of a transcript cost.
fn paid(transcript: &Transcript) -> Spend {
    let usage = transcript.usage;
    Spend { usd: transcript.cost_usd, tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens) }
}

fn interrupted() -> Failure {
    Failure::new(Kind::Interrupted, "the engine stopped in the middle of this attempt; what it had paid for is kept here")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The store's spool under the agent's port.
struct DurableSpool(SpoolWriter);

impl Spool for DurableSpool {
    fn put<'a>(&'a mut self, entry: &'a Entry) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { self.0.put(entry).await.map_err(|e| e.failure()) })
    }

    fn settle(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move { self.0.settle().await.map_err(|e| e.failure()) })
    }
}

impl Work for Engine {
    fn agent(&self, id: AttemptId) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            let result = self.run_agent(&id).await;
            self.note(&id, "agent", result)
        })
    }

    fn spent(&self, id: &AttemptId) -> Spend {
        self.with_draft(id, |draft| draft.transcript.as_ref().map_or_else(Spend::default, paid))
    }

    fn grade(&self, id: AttemptId) -> BoxFuture<'_, Result<bool, Failure>> {
        Box::pin(async move {
            let result = self.run_grade(&id).await;
            self.note(&id, "grading", result)
        })
    }

    fn commit(&self, id: AttemptId, counts: bool) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            let result = self.commit_draft(&id, counts).await;
            if let Some(images) = self.images.get() {
                images.ended(&id, !counts);
            }
            result
        })
    }

    fn skip(&self, id: AttemptId, failure: Failure) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            self.put(&id, Draft { failure: Some(failure), ..Draft::default() });
            if let Some(images) = self.images.get() {
                images.waived(&id.episode.instance);
            }
            self.commit_draft(&id, true).await
        })
    }

    fn waive(&self, episodes: Vec<EpisodeId>) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            let n = self.settings.scheduler.until_resolved;
            let reason = format!("{n} samples of the instance are resolved (scheduler.until_resolved)");
            self.store.waive(episodes.clone(), &reason).await.map_err(|e| e.failure())?;
            if let Some(images) = self.images.get() {
                episodes.iter().for_each(|episode| images.waived(&episode.instance));
            }
            (self.emit)(EventKind::Waived { episodes }).await;
            Ok(())
        })
    }

    fn quarantine(&self, instance: InstanceId, failure: Failure) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move { self.store.quarantine(instance, failure).await.map_err(|e| e.failure()) })
    }

    fn panicked(&self, id: &AttemptId, failure: &Failure) {
        tracing::error!(%id, %failure, "panic");
        self.with_draft(id, |draft| draft.failure = Some(failure.clone()));
    }

    fn notice(&self, action: Action) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match action {
                Action::Retrying { id, failure, delay_ms } => {
                    (self.emit)(EventKind::Retrying { id, failure, delay_ms }).await;
                }
                Action::Draining { reason } => {
                    tracing::warn!(%reason, "draining");
                    if let Some(images) = self.images.get() {
                        images.drain();
                    }
                    (self.emit)(EventKind::Draining { reason }).await;
                }
                Action::Held { reason } => (self.emit)(EventKind::Held { reason }).await,
                Action::Abandon { id } => {
                    tracing::error!(%id, "left undecided; its spool stays, and the next opening of the run grades or commits it");
                    self.take(&id);
                    if let Some(images) = self.images.get() {
                        images.abandoned(&id);
                    }
                    (self.emit)(EventKind::Abandoned { id }).await;
                }
                _ => {}
            }
        })
    }
}
