//! Counts whole shards on all cores.

use super::{
    Counter, TemplateError,
    feed::{Batch, FeedError, FeedSettings, Source, feed},
    report::{Report, Tally},
};
use crate::domain::{Message, Resolved, trajectory::Version};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Counts every trajectory of the sources.
///
/// # Errors
/// Of the first record in order that cannot be read or is no trajectory.
pub fn scan(sources: &[Source], counter: &Counter, settings: &FeedSettings) -> Result<Report, FeedError> {
    let mut tallies = vec![Tally::default(); sources.len()];
    feed(
        sources,
        settings,
        |batch| Ok((batch.index, count(batch, counter)?)),
        |(index, tally): (usize, Tally)| {
            tallies[index].merge(&tally);
            Ok::<_, FeedError>(())
        },
    )?;
    let mut total = Tally::default();
    tallies.iter().for_each(|tally| total.merge(tally));
    Ok(Report {
        target: counter.target.to_string(),
        tokenizer: counter.tokenizer.name().to_owned(),
        tokenizer_digest: counter.tokenizer.digest().to_owned(),
        total: total.finish("total".into()),
        shards: tallies.into_iter().zip(sources).map(|(tally, source)| tally.finish(source.path.display().to_string())).collect(),
    })
}

fn count(batch: &Batch<'_>, counter: &Counter) -> Result<Tally, FeedError> {
    let mut tally = Tally::default();
    for (record, line) in batch.records() {
        let row: Row = serde_json::from_slice(line).map_err(|e| batch.wrong(record, "", e))?;
        if batch.source.leave_out.contains(row.trajectory_id.as_ref()) {
            tally.leave_out();
            continue;
        }
        let counts = row.count(counter).map_err(|e| batch.wrong(record, &row.trajectory_id, e))?;
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
}

fn no_verdict() -> Resolved {
    Resolved::Unknown
}

impl Row<'_> {
    fn count(&self, counter: &Counter) -> Result<super::Counts, TemplateError> {
        let tools = self.tools.map_or("", RawValue::get);
        if !tools.starts_with('"') {
            return counter.count(&self.messages, tools);
        }
        let tools: Cow<'_, str> = serde_json::from_str::<String>(tools).map(Cow::Owned).unwrap_or(Cow::Borrowed(tools));
        counter.count(&self.messages, &tools)
    }
}
