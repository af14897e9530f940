//! Which replies of the model are trained on: loss policies, as pure functions of a record.

use crate::domain::{ExitReason, Message, Role, Trajectory};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Written `all`, `last`, `all,mask-errors`, `all,mask-errors,mask-malformed`...; `all` may be left out before a mask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LossPolicy {
    pub base: Base,
    /// Not the turns with a call that went wrong: exit code not 0, timed out, refused, malformed.
    pub mask_errors: bool,
    /// Not the turns with a malformed call, cut by their length, or answered with a reminder because they called nothing.
    pub mask_malformed: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Base {
    /// Every reply of the model.
    #[default]
    All,
    /// Only the last message of the assistant.
    Last,
}

const ALL: &str = "all";
const LAST: &str = "last";
const MASK_ERRORS: &str = "mask-errors";
const MASK_MALFORMED: &str = "mask-malformed";

impl fmt::Display for LossPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masks = [(self.mask_errors, MASK_ERRORS), (self.mask_malformed, MASK_MALFORMED)];
        f.write_str(if self.base == Base::All { ALL } else { LAST })?;
        masks.iter().filter(|(set, _)| *set).try_for_each(|(_, mask)| write!(f, ",{mask}"))
    }
}

impl FromStr for LossPolicy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (mut policy, mut base) = (LossPolicy::default(), None);
        for word in text.split(',').map(str::trim) {
            let again = match word {
                ALL => base.replace(Base::All).is_some(),
                LAST => base.replace(Base::Last).is_some(),
                MASK_ERRORS => std::mem::replace(&mut policy.mask_errors, true),
                MASK_MALFORMED => std::mem::replace(&mut policy.mask_malformed, true),
                _ => {
                    return Err(format!(
                        "{word:?} is no part of a loss policy: write {ALL} or {LAST}, and {MASK_ERRORS}, {MASK_MALFORMED} behind commas"
                    ));
                }
            };
            if again {
                return Err(format!("the loss policy {text:?} says one thing twice: write {ALL} or {LAST}, and each mask at most once"));
            }
        }
        Ok(LossPolicy { base: base.unwrap_or_default(), ..policy })
    }
}

impl TryFrom<String> for LossPolicy {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LossPolicy> for String {
    fn from(policy: LossPolicy) -> String {
        policy.to_string()
    }
}

/// Why a policy cannot be applied to a record.
#[derive(Debug, thiserror::Error)]
pub enum LossError {
    #[error("its `usage` tells no turns, which a loss policy needs: {0}")]
    Usage(#[from] serde_json::Error),
    #[error("`usage` has {turns} turns and `messages` only {replies} messages of the assistant")]
    Turns { turns: usize, replies: usize },
}

/// What of the `usage` column a policy looks at.
#[derive(Deserialize)]
struct Usage {
    turns: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    finish_reason: String,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    exit_code: i32,
    timed_out: bool,
    malformed: bool,
    #[serde(default)]
    failed: bool,
}

impl Call {
    /// -1 is the exit code of what has none.
    fn went_wrong(&self) -> bool {
        self.failed || self.malformed || self.timed_out || !matches!(self.exit_code, 0 | -1)
    }
}

/// Sets `messages[].loss` by the policy. What the assistant says in the prompt (few-shot) is no turn of the model and is not trained on.
///
/// # Errors
/// Where `usage` does not fit the messages; the record is then as it was.
pub fn apply(policy: LossPolicy, trajectory: &mut Trajectory) -> Result<(), LossError> {
    let flags = flags(policy, &trajectory.messages, &trajectory.usage, trajectory.exit_reason)?;
    trajectory.messages.iter_mut().zip(flags).for_each(|(message, loss)| message.loss = loss);
    Ok(())
}

/// The policy's flag of each message.
///
/// # Errors
/// Where `usage` does not fit the messages.
pub fn flags(policy: LossPolicy, messages: &[Message], usage: &str, exit: ExitReason) -> Result<Vec<bool>, LossError> {
    let Usage { turns } = serde_json::from_str(usage)?;
    let replies: Vec<usize> = (0..messages.len()).filter(|at| messages[*at].role == Role::Assistant).collect();
    let few_shot = replies.len().checked_sub(turns.len()).ok_or(LossError::Turns { turns: turns.len(), replies: replies.len() })?;
    let mut flags = vec![false; messages.len()];
    for (turn, &at) in turns.iter().zip(&replies[few_shot..]) {
        let in_base = policy.base == Base::All || replies.last() == Some(&at);
        let masked = (policy.mask_errors && turn.calls.iter().any(Call::went_wrong))
            || (policy.mask_malformed && (turn.is_malformed() || called_nothing(turn, &messages[at..], exit)));
        flags[at] = in_base && !masked;
    }
    Ok(flags)
}

impl Turn {
    fn is_malformed(&self) -> bool {
        self.finish_reason == "length" || self.calls.iter().any(|call| call.malformed)
    }
}

/// Whether a reminder was the answer to the first of these messages, or would have been, had it not been one too many.
fn called_nothing(turn: &Turn, messages: &[Message], exit: ExitReason) -> bool {
    let [reply, after @ ..] = messages else { return false };
    let reminded = after.first().map_or(exit == ExitReason::NoToolCall, |next| next.role == Role::User);
    turn.calls.is_empty() && reply.tool_calls.is_empty() && reminded
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn policy(text: &str) -> LossPolicy {
        text.parse().unwrap()
    }

    #[test]
    fn a_policy_has_one_canonical_text() {
        for (text, canonical) in [
            ("all", "all"),
            ("last", "last"),
            ("mask-errors", "all,mask-errors"),
            ("mask-malformed, mask-errors", "all,mask-errors,mask-malformed"),
            ("mask-malformed,last", "last,mask-malformed"),
        ] {
            assert_eq!(policy(text).to_string(), canonical);
            assert_eq!(policy(canonical), policy(text));
            assert_eq!(serde_json::to_value(policy(text)).unwrap(), canonical);
        }
        for wrong in ["", "all,last", "all,all", "mask-errors,mask-errors", "none", "all,"] {
            assert!(wrong.parse::<LossPolicy>().is_err(), "{wrong}");
        }
        assert_eq!(LossPolicy::default(), policy("all"));
    }

    fn call(change: Value) -> Value {
        let mut call = json!({"tool_call_id": "c", "tool": "t", "duration_ms": 1, "exit_code": 0, "truncated": false, "timed_out": false, "malformed": false, "failed": false});
        change.as_object().unwrap().iter().for_each(|(key, value)| call[key] = value.clone());
        call
    }

    /// Two messages of a prompt with a few-shot reply, then one turn for each list of calls, answered by tool or reminder.
    fn conversation(turns: &[(&str, Vec<Value>)]) -> (Vec<Message>, String) {
        let mut messages = vec![Message::new(Role::User, "u"), Message::new(Role::Assistant, "few-shot"), Message::new(Role::User, "u")];
        for (_, calls) in turns {
            messages.push(Message::new(Role::Assistant, "a"));
            messages.extend(calls.iter().map(|_| Message::tool("c", "o")));
            if calls.is_empty() {
                messages.push(Message::new(Role::User, "reminder"));
            }
        }
        let turns: Vec<Value> = turns.iter().map(|(finish, calls)| json!({"finish_reason": finish, "calls": calls})).collect();
        (messages, json!({"total": {}, "turns": turns}).to_string())
    }

    fn trained(policy_text: &str, messages: &[Message], usage: &str, exit: ExitReason) -> Vec<bool> {
        let flags = flags(policy(policy_text), messages, usage, exit).unwrap();
        assert!(messages.iter().zip(&flags).all(|(message, loss)| message.role == Role::Assistant || !loss));
        messages.iter().zip(flags).filter(|(message, _)| message.role == Role::Assistant).map(|(_, loss)| loss).collect()
    }

    #[test]
    fn each_policy_masks_what_it_says() {
        let (messages, usage) = conversation(&[
            ("tool_calls", vec![call(json!({}))]),
            ("tool_calls", vec![call(json!({})), call(json!({"exit_code": 2}))]),
            ("tool_calls", vec![call(json!({"timed_out": true, "exit_code": -1}))]),
            ("tool_calls", vec![call(json!({"failed": true, "exit_code": -1}))]),
            ("tool_calls", vec![call(json!({"malformed": true, "exit_code": -1}))]),
            ("length", vec![call(json!({"exit_code": -1}))]),
            ("stop", vec![]),
            ("tool_calls", vec![call(json!({"exit_code": -1}))]),
        ]);
        let trained = |policy| trained(policy, &messages, &usage, ExitReason::Submitted).into_iter().map(u8::from).collect::<Vec<_>>();
        // The few-shot reply first: never.
        assert_eq!(trained("all"), [0, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(trained("last"), [0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(trained("mask-errors"), [0, 1, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(trained("mask-malformed"), [0, 1, 1, 1, 1, 0, 0, 0, 1]);
        assert_eq!(trained("mask-errors,mask-malformed"), [0, 1, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_last_turn_that_is_masked_leaves_none() {
        let (messages, usage) = conversation(&[("stop", vec![call(json!({}))]), ("stop", vec![call(json!({"exit_code": 1}))])]);
        assert_eq!(trained("last,mask-errors", &messages, &usage, ExitReason::TurnLimit), [false; 3]);
    }

    #[test]
    fn the_reply_that_was_one_reminder_too_many_is_malformed_a_closing_word_is_not() {
        let (mut messages, usage) = conversation(&[("stop", vec![])]);
        messages.pop();
        assert_eq!(trained("mask-malformed", &messages, &usage, ExitReason::NoToolCall), [false, false]);
        assert_eq!(trained("mask-malformed", &messages, &usage, ExitReason::Submitted), [false, true]);
    }

    #[test]
    fn usage_that_does_not_fit_is_an_error() {
        let (messages, usage) = conversation(&[("stop", vec![]), ("stop", vec![])]);
        assert!(matches!(
            flags(policy("all"), &messages[..1], &usage, ExitReason::Submitted),
            Err(LossError::Turns { turns: 2, replies: 0 })
        ));
        assert!(matches!(flags(policy("all"), &messages, "{}", ExitReason::Submitted), Err(LossError::Usage(_))));
    }
}
