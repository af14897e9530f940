//! For what the records of a sealed dataset are counted: options, the counter that they make, and what is said of it.

use super::{CliError, options};
use crate::{
    domain::{Message, Role, ToolCall, Trajectory, trajectory::Meta},
    store::{CountedBy, Layout, RunDir, RunInfo, Sealed},
    tokens::{ChatTemplate, Counter, LossPolicy, Settings, Target, Tokenizer, mask::Template, template},
};
use clap::Args;
use sha2::{Digest, Sha256};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Where they are given, records that were counted otherwise are counted anew.
#[derive(Debug, Default, Args)]
pub struct Counts {
    /// Count for this chat template: qwen3-instruct-2507, or qwen3 (hybrid, with reasoning) [default: the run's]
    #[arg(long, value_name = "NAME", env = "SWEROLL_TARGET", help_heading = "Counting")]
    pub target: Option<Target>,
    /// Count with this tokenizer.json or tiktoken file instead of the target's own
    #[arg(long, value_name = "FILE", env = "SWEROLL_TOKENIZER", help_heading = "Counting")]
    pub tokenizer: Option<PathBuf>,
    /// Render with this chat template (jinja2) instead of a built-in target's
    #[arg(long, value_name = "FILE", requires = "tokenizer", env = "SWEROLL_CHAT_TEMPLATE", help_heading = "Counting")]
    pub chat_template: Option<PathBuf>,
    /// Set the loss mask by this policy: all or last, and mask-errors, mask-malformed behind commas [default: the run's]
    #[arg(long, value_name = "POLICY", env = "SWEROLL_LOSS", help_heading = "Counting")]
    pub loss: Option<LossPolicy>,
}

impl Counts {
    /// Whether anything is asked for at all.
    #[must_use]
    pub fn are_asked(&self) -> bool {
        self.target.is_some() || self.tokenizer.is_some() || self.chat_template.is_some() || self.loss.is_some()
    }

    pub fn counter(&self, base: Settings) -> Result<Counter, CliError> {
        let settings = Settings { target: self.target.unwrap_or(base.target), loss: self.loss.unwrap_or(base.loss) };
        let counter = counter(settings.target, self.tokenizer.as_deref(), self.chat_template.as_deref())?;
        Ok(Counter { loss: settings.loss, ..counter })
    }
}

/// Counts for the target, or for what the files say in its place.
pub fn counter(target: Target, tokenizer: Option<&Path>, chat_template: Option<&Path>) -> Result<Counter, CliError> {
    let tokenizer = match tokenizer {
        Some(path) => Tokenizer::load(path).map_err(CliError::usage)?,
        None => target.tokenizer(),
    };
    let Some(path) = chat_template else { return Ok(Counter::new(target, tokenizer)) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(Counter::of_file(ChatTemplate::load(path, now).map_err(CliError::usage)?, tokenizer))
}

/// For what a run counts its records.
pub fn settings_of(run: &Path) -> Result<Settings, CliError> {
    let info = RunInfo::read(&Layout::new(run)).map_err(CliError::usage)?;
    Ok(options::operate(&info.settings, &options::Operation::default())?.tokens)
}

/// For what the first of the paths that is a run or a sealed dataset is counted, where that is a built-in target.
pub fn target_of(paths: &[PathBuf]) -> Result<Target, CliError> {
    for path in paths {
        if RunDir::exists(path) {
            return Ok(settings_of(path)?.target);
        }
        if let Some(sealed) = Sealed::read(path).map_err(CliError::usage)? {
            return Ok(sealed.counts.target.parse().unwrap_or_default());
        }
    }
    Ok(Target::default())
}

/// What cannot be counted keeps its place in the dataset, without a count.
pub fn fill(counter: &Counter, trajectory: &mut Trajectory) {
    let why = match catch_unwind(AssertUnwindSafe(|| counter.fill(trajectory))) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a bug of sweroll".to_owned(),
    };
    // An attempt that failed before its first message has nothing to count.
    if !trajectory.messages.is_empty() {
        eprintln!("sweroll: {} is not counted: {why}", trajectory.trajectory_id);
    }
    // Not with the counts of another target.
    (trajectory.num_tokens, trajectory.num_loss_tokens) = (-1, -1);
    if let Ok(meta @ Meta { counted: Some(_), .. }) = trajectory.meta() {
        trajectory.meta = serde_json::to_string(&Meta { counted: None, ..meta }).unwrap_or_default();
    }
}

/// The counter by its digests.
#[must_use]
pub fn counted_by(counter: &Counter) -> CountedBy {
    let counted = counter.counted();
    CountedBy {
        target: counted.target,
        template_digest: template_digest(&counter.template),
        tokenizer: counter.tokenizer.name().to_owned(),
        tokenizer_digest: counted.tokenizer_digest,
        loss: counted.loss,
    }
}

/// SHA-256 of a template's file; of a built-in one, of what it makes of a conversation that holds all that it tells apart.
fn template_digest(template: &Template) -> String {
    let target = match template {
        Template::File(file) => return file.digest().to_owned(),
        Template::Native(target) => *target,
    };
    let call = |n: u32| ToolCall::new(format!("call_{n}"), "bash", r#"{"command": "ls"}"#);
    let mut calls = Message::new(Role::Assistant, "calls");
    calls.reasoning_content = "thought".into();
    calls.tool_calls = vec![call(1), call(2)];
    let mut last = Message::new(Role::Assistant, "done");
    last.reasoning_content = "thought again".into();
    let messages = [
        Message::new(Role::System, "system"),
        Message::new(Role::User, "question"),
        calls,
        Message::tool("call_1", "one"),
        Message::tool("call_2", "two"),
        Message::new(Role::User, "reminder"),
        last,
    ];
    let rendered = template::render(target, &messages, r#"[{"type": "function", "function": {"name": "bash"}}]"#);
    let text = rendered.unwrap_or_else(|e| unreachable!("a good conversation: {e}"));
    format!("{:x}", Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_counted_has_no_count_of_another_target() {
        let mut record = serde_json::json!({
            "schema_version": 2, "trajectory_id": "a@0.1", "instance_id": "a", "repo": "", "base_commit": "", "sample": 0, "attempt": 1,
            "model": "", "scaffold": "", "messages": [{"role": "user", "content": "x"}], "tools": "no JSON", "model_patch": "",
            "resolved": 0, "reward": 0.0, "exit_reason": "submitted", "num_turns": 0, "num_tokens": 5, "num_loss_tokens": 5,
            "cost_usd": 0.0, "usage": r#"{"total":{"prompt_tokens":0,"completion_tokens":0,"cached_tokens":0,"reasoning_tokens":0},"turns":[]}"#,
        });
        let meta = r#"{"grade":null,"failure":null,"failure_class":null,"sampling":{},"models_answered":[],"image":"","image_digest":"",
            "scaffold_digest":"","dataset_digest":"","engine_version":"","base_tree":"","reminders":0,"malformed_calls":0,"began_at_ms":0,
            "setup_ms":0,"duration_ms":0,"peak_memory":0,"cpu_ms":0,"oom_kills":0,"url":"",
            "counted":{"target":"other","tokenizer_digest":"x","loss":"all"}}"#;
        record["meta"] = meta.into();
        let mut trajectory = Trajectory::parse(record.to_string().as_bytes()).unwrap();
        fill(&Counter::default(), &mut trajectory);
        assert_eq!((trajectory.num_tokens, trajectory.num_loss_tokens, trajectory.meta().unwrap().counted), (-1, -1, None));
        trajectory.tools = "[]".into();
        fill(&Counter::default(), &mut trajectory);
        assert_eq!((trajectory.num_tokens > 0, trajectory.meta().unwrap().counted), (true, Some(Counter::default().counted())));
    }

    #[test]
    fn built_in_templates_have_each_their_digest() {
        let of = |target| counted_by(&Counter::new(target, Tokenizer::qwen3())).template_digest;
        let digests = Target::ALL.map(of);
        assert!(digests.iter().all(|digest| digest.len() == 64), "{digests:?}");
        assert_ne!(digests[0], digests[1]);
    }
}
