//! The record: one JSON object a line of a shard. `docs/format.md` is its contract.

use super::{AttemptId, Class, Failure, Grade, InstanceId, Message, Transcript, Verdict, transcript::Usage};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeSet;

/// Version of the record; raised when a key changes its meaning or type.
pub const SCHEMA_VERSION: u32 = 3;

/// How the agent stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The model said that it is done.
    Submitted,
    TurnLimit,
    /// The next prompt would be over our limit of prompt tokens.
    PromptTokenLimit,
    /// The endpoint says that the prompt is over the model's context.
    ContextOverflow,
    CompletionTokenLimit,
    CostLimit,
    WallTimeLimit,
    /// Too many replies without a call.
    NoToolCall,
    /// Too many malformed calls in a row.
    MalformedCalls,
    /// Too many replies cut by `length`, no good one between them.
    LengthCut,
    /// The attempt failed; see the failure.
    Failed,
}

/// 1: the verdict is `resolved`; 0: it is `unresolved`, `tampered` or `empty_patch`, or the failure is of class `model`;
/// -1: it is `ambiguous`, or there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i8", into = "i8")]
pub enum Resolved {
    Yes,
    No,
    Unknown,
}

impl Resolved {
    /// What a record says of its grade and its failure.
    #[must_use]
    pub fn of(verdict: Option<Verdict>, failure: Option<Class>) -> Self {
        match (verdict, failure) {
            (Some(Verdict::Resolved), _) => Resolved::Yes,
            (Some(Verdict::Unresolved | Verdict::Tampered | Verdict::EmptyPatch), _) | (None, Some(Class::Model)) => Resolved::No,
            (Some(Verdict::Ambiguous), _) | (None, _) => Resolved::Unknown,
        }
    }
}

impl From<Resolved> for i8 {
    fn from(resolved: Resolved) -> i8 {
        match resolved {
            Resolved::Yes => 1,
            Resolved::No => 0,
            Resolved::Unknown => -1,
        }
    }
}

impl TryFrom<i8> for Resolved {
    type Error = String;
    fn try_from(n: i8) -> Result<Self, String> {
        match n {
            1 => Ok(Resolved::Yes),
            0 => Ok(Resolved::No),
            -1 => Ok(Resolved::Unknown),
            other => Err(format!("resolved is 1, 0 or -1, not {other}")),
        }
    }
}

/// One row of a shard. Every key is always there, none is null, each has one type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    pub schema_version: u32,
    pub trajectory_id: AttemptId,
    pub instance_id: InstanceId,
    pub repo: String,
    pub base_commit: String,
    pub sample: u32,
    pub attempt: u32,
    /// The model that was asked for.
    pub model: String,
    pub scaffold: String,
    pub messages: Vec<Message>,
    /// JSON array in a string: the schemas that the model saw; `[]` with inline calls.
    pub tools: String,
    pub model_patch: String,
    pub resolved: Resolved,
    /// 1.0 resolved, 0.0 otherwise; train on it only where `resolved` is not -1.
    pub reward: f64,
    pub exit_reason: ExitReason,
    pub num_turns: u32,
    /// Tokens of the conversation under the target's template, -1 until counted.
    pub num_tokens: i64,
    /// Of these, trained on.
    pub num_loss_tokens: i64,
    pub cost_usd: f64,
    /// JSON array of strings, sorted, each once: reasons to look at the record before training on it; `[]` for none.
    #[serde(default = "no_reasons")]
    pub suspect: String,
    /// [`UsageColumn`] as JSON in a string.
    pub usage: String,
    /// [`Meta`] as JSON in a string.
    pub meta: String,
}

/// What the `usage` column holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageColumn {
    pub total: Usage,
    pub turns: Vec<super::transcript::Turn>,
}

impl UsageColumn {
    /// Of a column, its turns unread.
    ///
    /// # Errors
    /// Where the column holds none.
    pub fn total(column: &str) -> serde_json::Result<Usage> {
        #[derive(Deserialize)]
        struct Total {
            total: Usage,
        }
        serde_json::from_str(column).map(|Total { total }| total)
    }
}

/// What the `meta` column holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    pub grade: Option<Grade>,
    pub failure: Option<Failure>,
    /// Class of the failure, for filters; none with a grade.
    pub failure_class: Option<Class>,
    pub sampling: serde_json::Value,
    /// Models that answered, in order of first appearance.
    pub models_answered: Vec<String>,
    pub image: String,
    pub image_digest: String,
    pub scaffold_digest: String,
    pub dataset_digest: String,
    pub engine_version: String,
    pub base_tree: String,
    pub reminders: u32,
    pub malformed_calls: u32,
    /// Milliseconds since the Unix epoch.
    pub began_at_ms: u64,
    pub setup_ms: u64,
    pub duration_ms: u64,
    pub peak_memory: u64,
    pub cpu_ms: u64,
    pub oom_kills: u64,
    /// Address of the instance, or empty.
    pub url: String,
    /// How `num_tokens` and `num_loss_tokens` were counted; none while they are -1.
    #[serde(default)]
    pub counted: Option<Counted>,
}

/// What the token counts of a record mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Chat template.
    pub target: String,
    /// SHA-256 of the tokenizer, hexadecimal.
    pub tokenizer_digest: String,
    /// Policy by which `messages[].loss` was set.
    pub loss: String,
}

/// What the run knows of an attempt beside its transcript.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub repo: &'a str,
    pub base_commit: &'a str,
    pub image: &'a str,
    pub url: &'a str,
    pub dataset_digest: &'a str,
}

impl Trajectory {
    /// Joins what happened with what the tests said. Token counts are -1 until `tokens` fills them in.
    #[must_use]
    pub fn new(transcript: Transcript, grade: Option<Grade>, grade_failure: Option<Failure>, facts: Facts<'_>) -> Self {
        let Transcript { begun, conversation, turns, usage, cost_usd, reminders, malformed, ended } = transcript;
        let (exit_reason, model_patch, failure, ended_figures) = match ended {
            Some(e) => (e.exit_reason, e.model_patch, e.failure, (e.duration_ms, e.peak_memory, e.cpu_ms, e.oom_kills)),
            None => (ExitReason::Failed, String::new(), None, (0, 0, 0, 0)),
        };
        let failure = failure.or(grade_failure);
        let resolved = Resolved::of(grade.as_ref().map(|g| g.verdict), failure.as_ref().map(Failure::class));
        let suspect = reasons(grade.as_ref());
        let mut models_answered: Vec<String> = Vec::new();
        for turn in &turns {
            if !models_answered.iter().any(|known| **known == *turn.model) {
                models_answered.push(turn.model.to_string());
            }
        }
        let meta = Meta {
            grade,
            failure_class: failure.as_ref().map(Failure::class),
            failure,
            sampling: begun.sampling,
            models_answered,
            image: facts.image.to_owned(),
            image_digest: begun.image_digest,
            scaffold_digest: begun.scaffold_digest,
            dataset_digest: facts.dataset_digest.to_owned(),
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            base_tree: begun.base_tree,
            reminders,
            malformed_calls: malformed,
            began_at_ms: begun.at_ms,
            setup_ms: begun.setup_ms,
            duration_ms: ended_figures.0,
            peak_memory: ended_figures.1,
            cpu_ms: ended_figures.2,
            oom_kills: ended_figures.3,
            url: facts.url.to_owned(),
            counted: None,
        };
        let tools = if begun.tools.is_empty() { "[]".to_owned() } else { begun.tools.as_ref().to_owned() };
        Trajectory {
            schema_version: SCHEMA_VERSION,
            instance_id: begun.id.episode.instance.clone(),
            repo: facts.repo.to_owned(),
            base_commit: facts.base_commit.to_owned(),
            sample: begun.id.episode.sample,
            attempt: begun.id.attempt.0,
            trajectory_id: begun.id,
            model: begun.model,
            scaffold: begun.scaffold,
            messages: conversation.messages().collect(),
            tools,
            model_patch,
            resolved,
            reward: if resolved == Resolved::Yes { 1.0 } else { 0.0 },
            exit_reason,
            num_turns: turns.len() as u32,
            num_tokens: -1,
            num_loss_tokens: -1,
            cost_usd,
            suspect,
            usage: json(&UsageColumn { total: usage, turns }),
            meta: json(&meta),
        }
    }

    /// The same attempt under another number, with another grade; what kept it from having one is gone.
    ///
    /// # Errors
    /// Where the `meta` column is not a [`Meta`] of this version.
    pub fn regraded(self, id: AttemptId, grade: Grade) -> serde_json::Result<Self> {
        let meta = Meta { failure: None, failure_class: None, ..self.meta()? };
        let resolved = Resolved::of(Some(grade.verdict), None);
        Ok(Trajectory {
            schema_version: SCHEMA_VERSION,
            attempt: id.attempt.0,
            trajectory_id: id,
            resolved,
            reward: if resolved == Resolved::Yes { 1.0 } else { 0.0 },
            suspect: reasons(Some(&grade)),
            meta: json(&Meta { grade: Some(grade), ..meta }),
            ..self
        })
    }

    /// Reads a record of any version, as one of this version.
    ///
    /// # Errors
    /// Where it is none, or of a newer version.
    pub fn parse(record: &[u8]) -> Result<Self, RecordError> {
        let mut trajectory: Trajectory = serde_json::from_slice(record)?;
        if trajectory.schema_version > SCHEMA_VERSION {
            return Err(RecordError::Newer { found: trajectory.schema_version });
        }
        if trajectory.schema_version < SCHEMA_VERSION {
            trajectory.usage = rewritten::<UsageColumn>(trajectory.usage);
            trajectory.meta = rewritten::<Meta>(trajectory.meta);
        }
        trajectory.schema_version = SCHEMA_VERSION;
        Ok(trajectory)
    }

    /// The `meta` column, parsed.
    ///
    /// # Errors
    /// Where the column is not a [`Meta`] of this version.
    pub fn meta(&self) -> serde_json::Result<Meta> {
        serde_json::from_str(&self.meta)
    }
}

/// Why a line is no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("it is of version {found}, and this sweroll knows records up to {SCHEMA_VERSION}: use a newer one")]
    Newer { found: u32 },
}

/// Version of a record that is read in part; a newer one does not parse. 0: of others, that tell none.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(try_from = "u32")]
pub struct Version(pub u32);

impl TryFrom<u32> for Version {
    type Error = RecordError;
    fn try_from(found: u32) -> Result<Self, RecordError> {
        if found > SCHEMA_VERSION { Err(RecordError::Newer { found }) } else { Ok(Version(found)) }
    }
}

/// A column with the keys of this version; as it is where it cannot be read.
fn rewritten<T: Serialize + DeserializeOwned>(column: String) -> String {
    serde_json::from_str::<T>(&column).map_or(column, |value| json(&value))
}

/// The `suspect` column.
fn reasons(grade: Option<&Grade>) -> String {
    let reasons: BTreeSet<&str> = grade.iter().flat_map(|g| &g.suspect).map(|suspicion| suspicion.reason.as_str()).collect();
    json(&reasons)
}

fn no_reasons() -> String {
    "[]".to_owned()
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|e| unreachable!("plain data with string keys: {e}"))
}
