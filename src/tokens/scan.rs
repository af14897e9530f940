//! Counts whole shards on all cores.

use super::{
    CountError, Counter, Counts, LossPolicy,
    feed::{Batch, FeedError, FeedSettings, Source, feed},
    loss,
    report::{REPORT_VERSION, Report, Tally},
};
use crate::domain::{ExitReason, Message, Resolved, trajectory::Version};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// How shards are counted.
#[derive(Debug, Clone, Default)]
pub struct ScanSettings {
    pub feed: FeedSettings,
    /// In place of the flags of the records.
    pub loss: Option<LossPolicy>,
    /// Context lengths, tokens, beside those that are always told.
    pub contexts: Vec<u64>,
}

impl From<FeedSettings> for ScanSettings {
    fn from(feed: FeedSettings) -> Self {
        ScanSettings { feed, ..ScanSettings::default() }
    }
}

/// Counts every trajectory of the sources.
///
/// # Errors
/// Of the first record in order that cannot be read or is no trajectory.
pub fn scan(sources: &[Source], counter: &Counter, settings: &ScanSettings) -> Result<Report, FeedError> {
    let mut tallies = vec![Tally::default(); sources.len()];
    feed(
        sources,
        &settings.feed,
        |batch| Ok((batch.index, count(batch, counter, settings.loss)?)),
        |(index, tally): (usize, Tally)| {
            tallies[index].merge(&tally);
            Ok::<_, FeedError>(())
        },
    )?;
    let mut total = Tally::default();
    tallies.iter().for_each(|tally| total.merge(tally));
    let finish = |tally: Tally, file: String| tally.finish(file, &settings.contexts);
    Ok(Report {
        schema_version: REPORT_VERSION,
        target: counter.target(),
        tokenizer: counter.tokenizer.name().to_owned(),
        tokenizer_digest: counter.tokenizer.digest().to_owned(),
        exact: counter.is_exact(),
        loss: settings.loss.map_or_else(String::new, |policy| policy.to_string()),
        total: finish(total, "total".into()),
        shards: tallies.into_iter().zip(sources).map(|(tally, source)| finish(tally, source.path.display().to_string())).collect(),
    })
}

fn count(batch: &Batch<'_>, counter: &Counter, policy: Option<LossPolicy>) -> Result<Tally, FeedError> {
    let mut tally = Tally::default();
    for (record, line) in batch.records() {
        let mut row: Row = serde_json::from_slice(line).map_err(|e| batch.wrong(record, "", e))?;
        if batch.source.leave_out.contains(row.trajectory_id.as_ref()) {
            tally.leave_out();
            continue;
        }
        let counts = row.count(counter, policy).map_err(|e| batch.wrong(record, &row.trajectory_id, e))?;
        tally.add(&counts, row.resolved);
    }
    Ok(tally)
}

/// What of a record is needed; the rest is skipped unread.
#[derive(Deserialize)]
struct Row<'l> {
    #[serde(default, rename = "schema_version")]
    _version: Version,
    #[serde(borrow, default)]
    trajectory_id: Cow<'l, str>,
    messages: Vec<Message>,
    /// A JSON array in a string, or the array itself.
    #[serde(borrow, default)]
    tools: Option<&'l RawValue>,
    #[serde(default = "no_verdict")]
    resolved: Resolved,
    /// A JSON object in a string.
    #[serde(borrow, default)]
    usage: Option<&'l RawValue>,
    #[serde(borrow, default)]
    exit_reason: Option<&'l RawValue>,
}

fn no_verdict() -> Resolved {
    Resolved::Unknown
}

impl Row<'_> {
    fn count(&mut self, counter: &Counter, policy: Option<LossPolicy>) -> Result<Counts, CountError> {
        if let Some(policy) = policy {
            let column = |column| move |source| CountError::Column { column, source };
            let (usage, exit) = (self.usage.map_or("\"\"", RawValue::get), self.exit_reason.map_or("\"\"", RawValue::get));
            let usage: String = serde_json::from_str(usage).map_err(column("usage"))?;
            let exit: ExitReason = serde_json::from_str(exit).map_err(column("exit_reason"))?;
            let flags = loss::flags(policy, &self.messages, &usage, exit)?;
            self.messages.iter_mut().zip(flags).for_each(|(message, loss)| message.loss = loss);
        }
        let tools = self.tools.map_or("", RawValue::get);
        if !tools.starts_with('"') {
            return Ok(counter.count(&self.messages, tools)?);
        }
        let tools: Cow<'_, str> = serde_json::from_str::<String>(tools).map(Cow::Owned).unwrap_or(Cow::Borrowed(tools));
        Ok(counter.count(&self.messages, &tools)?)
    }
}
