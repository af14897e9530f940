//! The tool calls of a reply: their arguments as the model wrote them, each with an id that no other call has.

use super::reply::{Broken, decode, text};
use crate::domain::{Conversation, ToolCall};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashSet;

/// One call as hosts send it.
#[derive(Deserialize)]
pub struct Call<'a> {
    #[serde(default, deserialize_with = "text")]
    id: String,
    #[serde(default, borrow)]
    function: Function<'a>,
}

/// What is called, and with what.
#[derive(Deserialize, Default)]
pub struct Function<'a> {
    #[serde(default, deserialize_with = "text")]
    name: String,
    #[serde(default, borrow)]
    arguments: Option<&'a RawValue>,
}

/// A call as the model made it, whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said {
    /// Empty where the host gave none.
    pub id: String,
    pub name: String,
    pub arguments: String,
}

impl TryFrom<Call<'_>> for Said {
    type Error = Broken;

    /// # Errors
    /// Where arguments are a string that cannot be read.
    fn try_from(Call { id, function }: Call<'_>) -> Result<Self, Broken> {
        let arguments = function.arguments()?;
        Ok(Said { id, name: function.name, arguments })
    }
}

impl<'a> Call<'a> {
    /// As the old `function_call` is.
    pub fn without_id(function: Function<'a>) -> Self {
        Call { id: String::new(), function }
    }
}

impl Function<'_> {
    /// The text that the model wrote; the compact JSON of it where a host sends it parsed.
    pub fn arguments(&self) -> Result<String, Broken> {
        match self.arguments.map(RawValue::get) {
            None => Ok(String::new()),
            Some(json) if json.starts_with('"') => decode("arguments", json),
            Some(json) => Ok(compact(json)),
        }
    }
}

/// JSON without the white space between its tokens; numbers stay as they are written.
pub fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let kept = json.chars().filter(|c| {
        let keep = in_string || !c.is_ascii_whitespace();
        if *c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && *c == '\\' && !escaped;
        keep
    });
    kept.collect()
}

/// A call keeps the id that its host gave it, unless it has none, or a call in `earlier` or before it has the same.
pub fn with_ids(calls: Vec<Said>, earlier: &Conversation) -> Vec<ToolCall> {
    if calls.is_empty() {
        return Vec::new();
    }
    let (turn, several) = (earlier.replies(), calls.len() > 1);
    let mut taken: HashSet<String> = HashSet::new();
    let named = |(at, Said { id, name, arguments }): (usize, Said)| {
        let is_free = |id: &str| !id.is_empty() && !taken.contains(id) && !earlier.has_call(id);
        let base = if id.is_empty() { "call" } else { &id };
        let other = |n: u32| if n == 0 { format!("{base}_{turn}_{at}") } else { format!("{base}_{turn}_{at}_{n}") };
        let unique = if is_free(&id) { None } else { (0..).map(other).find(|id| is_free(id)) }.unwrap_or(id);
        if several {
            taken.insert(unique.clone());
        }
        ToolCall::new(unique, name, arguments)
    };
    calls.into_iter().enumerate().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Message, Role};

    fn calls(json: &str, earlier: &[Message]) -> Vec<ToolCall> {
        let calls: Vec<Call<'_>> = serde_json::from_str(json).unwrap();
        with_ids(calls.into_iter().map(|call| Said::try_from(call).unwrap()).collect(), &earlier.iter().collect())
    }

    #[test]
    fn arguments_stay_as_they_were_sent() {
        for (sent, kept) in [
            (r#""{\"a\":  1e3, \"b\": \"x\\ny\"""#, r#"{"a":  1e3, "b": "x\ny""#),
            (r#"{"b": 1e400, "a" : [ 1.0, "x \" y\\" ]}"#, r#"{"b":1e400,"a":[1.0,"x \" y\\"]}"#),
            ("null", ""),
            (r#""""#, ""),
        ] {
            let call = calls(&format!(r#"[{{"id":"c","function":{{"name":"f","arguments":{sent}}}}}]"#), &[]).remove(0);
            assert_eq!(call, ToolCall::new("c", "f", kept), "{sent}");
        }
    }

    #[test]
    fn every_call_gets_an_id_of_its_own() {
        let earlier = [Message { tool_calls: vec![ToolCall::new("a", "f", "")], ..Message::new(Role::Assistant, "") }];
        let ids = |given: &[&str]| -> Vec<String> {
            let function = r#""type":"function","function":{"name":"f","arguments":"{}"}"#;
            let sent: Vec<_> = given.iter().map(|id| format!("{{{id}{function}}}")).collect();
            calls(&format!("[{}]", sent.join(",")), &earlier).into_iter().map(|call| call.id).collect()
        };
        let given = [r#""id":"a","#, r#""id":"b","#, r#""id":"b","#, r#""id":"","#, r#""id":null,"#, "", r#""id":7,"#];
        assert_eq!(ids(&given), ["a_1_0", "b", "b_1_2", "call_1_3", "call_1_4", "call_1_5", "7"]);
        assert_eq!(ids(&[r#""id":"call_1_1","#, ""]), ["call_1_1", "call_1_1_1"]);
    }
}
