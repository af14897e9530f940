//! Proves what records say of their tokens: every conversation rendered as a whole, tokenised as a whole, and its mask taken from
//! the places of the tokens in the text, as `transformers` does it. Counting goes turn by turn; here nothing does.

use super::{
    Counter, LossPolicy, Settings, Target,
    feed::{Batch, FeedError, FeedSettings, Source, feed},
    loss,
    mask::SPECIAL_TOKEN,
    template,
};
use crate::domain::{Role, Trajectory, trajectory::Counted};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Mismatches that are named; the others are only counted.
pub const SHOWN: usize = 20;

/// What a check found, as `sweroll tokens --check --format json` prints it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    pub schema_version: u32,
    /// All of the sources, superseded ones left out.
    pub records: u64,
    /// Counted, and all that they say of their tokens is right.
    pub proven: u64,
    /// Records whose tokens were never counted.
    pub uncounted: u64,
    /// Records with a mismatch.
    pub wrong: u64,
    /// Mismatches of all records.
    pub mismatches: u64,
    /// The first of them in order, at most [`SHOWN`].
    pub first_mismatches: Vec<Mismatch>,
    /// The first uncounted records in order, at most [`SHOWN`].
    pub first_uncounted: Vec<Place>,
}

/// A record of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    pub file: String,
    /// From 1.
    pub record: u64,
    pub id: String,
}

/// Something that a record says and that is not so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    #[serde(flatten)]
    pub place: Place,
    /// Such as `num_tokens` or `messages[3].loss`.
    pub key: String,
    pub recorded: String,
    pub found: String,
}

impl CheckReport {
    fn merge(&mut self, other: CheckReport) {
        self.records += other.records;
        self.proven += other.proven;
        self.uncounted += other.uncounted;
        self.wrong += other.wrong;
        self.mismatches += other.mismatches;
        let room = SHOWN - self.first_mismatches.len();
        self.first_mismatches.extend(other.first_mismatches.into_iter().take(room));
        let room = SHOWN - self.first_uncounted.len();
        self.first_uncounted.extend(other.first_uncounted.into_iter().take(room));
    }

    fn add(&mut self, place: Place, verdict: Verdict) {
        self.records += 1;
        match verdict {
            Verdict::Uncounted => {
                self.uncounted += 1;
                if self.first_uncounted.len() < SHOWN {
                    self.first_uncounted.push(place);
                }
            }
            Verdict::Counted(wrong) if wrong.is_empty() => self.proven += 1,
            Verdict::Counted(wrong) => {
                self.wrong += 1;
                self.mismatches += wrong.len() as u64;
                let room = SHOWN - self.first_mismatches.len();
                let mismatch = |Wrong { key, recorded, found }| Mismatch { place: place.clone(), key, recorded, found };
                self.first_mismatches.extend(wrong.into_iter().take(room).map(mismatch));
            }
        }
    }
}

/// What is wrong in a record that says that it was counted.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub key: String,
    pub recorded: String,
    pub found: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Uncounted,
    Counted(Vec<Wrong>),
}

/// Checks every record of the sources.
///
/// # Errors
/// Of the first record in order that cannot be read, or is of a version that this sweroll does not know.
pub fn check(sources: &[Source], settings: &FeedSettings) -> Result<CheckReport, FeedError> {
    let mut report = CheckReport { schema_version: 1, ..CheckReport::default() };
    feed(sources, settings, check_batch, |part| {
        report.merge(part);
        Ok::<_, FeedError>(())
    })?;
    Ok(report)
}

fn check_batch(batch: &Batch<'_>) -> Result<CheckReport, FeedError> {
    #[derive(Deserialize)]
    struct Version {
        schema_version: u32,
    }
    let mut report = CheckReport::default();
    for (record, line) in batch.records() {
        let Version { schema_version } = serde_json::from_slice(line).map_err(|e| batch.wrong(record, "", e))?;
        let trajectory = Trajectory::parse(line).map_err(|e| batch.wrong(record, "", e))?;
        let id = trajectory.trajectory_id.to_string();
        if batch.source.leave_out.contains(&id) {
            continue;
        }
        let verdict = check_record(&trajectory, schema_version);
        report.add(Place { file: batch.source.path.display().to_string(), record, id }, verdict);
    }
    Ok(report)
}

/// Records of version 1 do not say how they were counted: with the default target, every message of the assistant.
const SAYS_HOW: u32 = 2;

/// Proves one record; `version`: of the record as it was written.
#[must_use]
pub fn check_record(trajectory: &Trajectory, version: u32) -> Verdict {
    let mut wrong = Vec::new();
    let mut differ = |key: &str, recorded: String, found: String| {
        if recorded != found {
            wrong.push(Wrong { key: key.to_owned(), recorded, found });
        }
    };
    let counted = match trajectory.meta() {
        Ok(meta) => meta.counted,
        Err(e) => {
            differ("meta", "a text".into(), format!("no JSON of its kind: {e}"));
            return Verdict::Counted(wrong);
        }
    };
    if counted.is_none() && trajectory.num_tokens == -1 && trajectory.num_loss_tokens == -1 {
        return Verdict::Uncounted;
    }
    let (target, policy) = match &counted {
        Some(Counted { target, loss, .. }) => (target.parse::<Target>(), loss.parse::<LossPolicy>().map(Some)),
        None if version < SAYS_HOW => (Ok(Target::default()), Ok(None)),
        None => (Err("none, with tokens that are counted".to_owned()), Ok(None)),
    };
    let (target, policy) = match (target, policy) {
        (Ok(target), Ok(policy)) => (target, policy),
        (Err(e), _) => {
            differ("meta.counted.target", counted.map_or_else(|| "nothing".into(), |c| c.target), e);
            return Verdict::Counted(wrong);
        }
        (_, Err(e)) => {
            differ("meta.counted.loss", counted.map_or_else(String::new, |c| c.loss), e);
            return Verdict::Counted(wrong);
        }
    };
    let counter = Counter::from(Settings { target, loss: policy.unwrap_or_default() });
    if let Some(counted) = counted {
        differ("meta.counted.tokenizer_digest", counted.tokenizer_digest, counter.counted().tokenizer_digest);
    }
    if let Some(policy) = policy {
        match loss::flags(policy, &trajectory.messages, &trajectory.usage, trajectory.exit_reason) {
            Ok(flags) => trajectory.messages.iter().zip(flags).enumerate().for_each(|(at, (message, flag))| {
                differ(&format!("messages[{at}].loss"), message.loss.to_string(), flag.to_string());
            }),
            Err(e) => differ("messages[].loss", "flags".into(), e.to_string()),
        }
    }
    match whole(target, trajectory) {
        Ok((text, spoken)) => {
            let (total, inside) = counter.tokenizer.tokens_inside(&text, &spoken);
            let loss: u64 = inside.iter().sum();
            differ("num_tokens", trajectory.num_tokens.to_string(), total.to_string());
            differ("num_loss_tokens", trajectory.num_loss_tokens.to_string(), loss.to_string());
        }
        Err(e) => differ("tools", "a conversation".into(), e.to_string()),
    }
    let special = counter.special_in_text(&trajectory.messages);
    match serde_json::from_str::<Vec<String>>(&trajectory.suspect) {
        Ok(reasons) => {
            let said = reasons.iter().any(|reason| reason == SPECIAL_TOKEN);
            let shown = |has: bool| if has { SPECIAL_TOKEN } else { "no literal special token" }.to_owned();
            if version >= SAYS_HOW {
                differ("suspect", shown(said), shown(special));
            }
        }
        Err(e) => differ("suspect", trajectory.suspect.clone(), format!("no JSON list of texts: {e}")),
    }
    Verdict::Counted(wrong)
}

/// The text of the whole conversation, and the bytes of it that are trained on.
fn whole(target: Target, trajectory: &Trajectory) -> Result<(String, Vec<Range<usize>>), template::TemplateError> {
    let (mut text, mut spoken) = (String::new(), Vec::new());
    template::turns(target, &trajectory.messages, &trajectory.tools, |turn| {
        let start = text.len() + turn.header;
        text.push_str(turn.text);
        if turn.role == Role::Assistant && trajectory.messages[turn.messages].iter().all(|message| message.loss) {
            spoken.push(start..text.len());
        }
    })?;
    Ok((text, spoken))
}
