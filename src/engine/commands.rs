//! The shell commands that a model had run.

use crate::{
    domain::{Message, Role},
    tools::{Toolset, route::Kind},
};
use serde_json::Value;

/// In their order. A call that cannot be read was not run.
#[must_use]
pub fn commands(toolset: &Toolset, messages: impl IntoIterator<Item = Message>) -> Vec<String> {
    let replies = messages.into_iter().filter(|message| message.role == Role::Assistant);
    let calls = replies.flat_map(|reply| toolset.calls(reply, 0)).flatten();
    let shell = calls.filter(|call| Kind::of(&call.function.name) == Some(Kind::Shell));
    shell
        .filter_map(|call| match serde_json::from_str(&call.function.arguments) {
            Ok(Value::Object(mut arguments)) => match arguments.remove("command") {
                Some(Value::String(command)) => Some(command),
                _ => None,
            },
            _ => None,
        })
        .collect()
}
