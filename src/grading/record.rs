//! A line of a report as our plugin and our driver write it. It is hostile input: the code under test runs beside them.

use serde::{Deserialize, de::DeserializeOwned};
use std::borrow::Cow;

/// What a line says, and its number.
#[derive(Deserialize)]
#[serde(bound(deserialize = "W: DeserializeOwned"))]
pub struct Record<'a, W> {
    #[serde(borrow)]
    nonce: Cow<'a, str>,
    pub seq: u64,
    #[serde(flatten)]
    pub what: W,
}

impl<'a, W: DeserializeOwned> Record<'a, W> {
    /// None where the line is none of ours, or over `max` bytes.
    pub fn read(line: &'a [u8], nonce: &str, max: usize) -> Option<Self> {
        let record: Self = serde_json::from_slice(Some(line).filter(|line| line.len() <= max)?).ok()?;
        (record.nonce == nonce).then_some(record)
    }
}
