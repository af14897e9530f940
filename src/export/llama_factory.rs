//! LLaMA-Factory, formatting `sharegpt`. It drops the content of turns with native calls, re-encodes their arguments, and skips a
//! conversation in which user and assistant do not take turns; so the row is text, by turns. It trains on every turn of the
//! assistant: those that are not trained on become part of the prompt.

use super::{
    Reasoning, Unfit,
    row::{About, put},
    shape::{Column, Kind},
    turns::{Plain, Untrained, alternate, turns},
};
use crate::domain::{Role, Trajectory};
use serde::Serialize;
use serde_json::{Map, Value, json};

#[derive(Serialize)]
struct Row<'t> {
    messages: Vec<Plain>,
    #[serde(flatten)]
    about: About<'t>,
}

/// What its templates replace by the number of the turn, also within a turn of the user.
const PLACEHOLDER: &str = "{{idx}}";

pub(super) fn write(trajectory: &Trajectory, reasoning: Reasoning, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let turns = alternate(turns(trajectory, reasoning)?, Untrained::Prompt)?;
    if turns.iter().any(|turn| turn.role == Role::User && turn.text.contains(PLACEHOLDER)) {
        return Err(Unfit(format!("LLaMA-Factory would replace {PLACEHOLDER} in its text")));
    }
    let messages = turns.into_iter().map(Plain::from).collect();
    put(&Row { messages, about: About::of(trajectory, reasoning) }, out)
}

pub(super) fn columns() -> Vec<Column> {
    About::after(vec![Column("messages", Kind::list(Kind::Struct(Plain::columns())))])
}

/// `dataset_info.json`: a dataset a split, `sweroll_SPLIT`. A folder (`script_url`), as it refuses single `.jsonl.zst` files.
pub(super) fn dataset_info(files: &[(String, Vec<String>)]) -> Vec<u8> {
    let entry = |split: &str| {
        json!({
            "script_url": ".",
            "split": split,
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
                "observation_tag": "observation",
                "function_tag": "function_call",
            },
        })
    };
    let entries: Map<String, Value> = files.iter().map(|(split, _)| (format!("sweroll_{split}"), entry(split))).collect();
    let mut text = format!("{:#}", Value::Object(entries)).into_bytes();
    text.push(b'\n');
    text
}
