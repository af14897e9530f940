//! The model that costs its server least: one command a turn, then a submission. A request's turns are counted, not read, so
//! that a machine which is measured keeps its processors for the engine. Nothing of a request is checked, limits and faults are
//! not modelled, only the latency is.

use super::{
    playbook::Play,
    policy::Call,
    toolset::{Toolset, Want},
};
use serde_json::json;
use std::sync::{Arc, OnceLock};

/// How an assistant's message stands in a body without spaces between its tokens. Within a text its quotes are escaped.
const REPLIED: &[u8] = br#""role":"assistant""#;
const SAY: &str = "The next thing to look at follows from what was seen; I read on where the value is used.";

/// The calls, found in the tools of the first request.
#[derive(Debug, Default)]
pub struct Steady(OnceLock<Calls>);

#[derive(Debug)]
struct Calls {
    look: String,
    finish: String,
}

/// `"name":…,"arguments":…`
fn function(call: &Call) -> String {
    format!("\"name\":{},\"arguments\":{}", json!(call.name), json!(call.text()))
}

impl Steady {
    /// Whether tools are known.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.get().is_some()
    }

    /// # Errors
    /// Where the tools run no command.
    pub fn learn(&self, tools: &Arc<Toolset>, play: &Play) -> Result<(), String> {
        let command = format!("cd {} && git grep -n 'value' -- '*.py' | head -n 40", super::toolset::quoted(&play.workdir));
        let look = tools.call(&Want::Shell { command, timeout: None });
        let (Some(look), Some(finish), false) = (look, tools.call(&Want::Finish), tools.inline) else {
            return Err("`steady` needs tools in the request that run a command and submit".to_owned());
        };
        self.0.get_or_init(|| Calls { look: function(&look), finish: function(&finish) });
        Ok(())
    }

    /// Body of the completion: `turns` looks, then the submission. None before tools are known.
    #[must_use]
    pub fn reply(&self, request: &[u8], number: u64, turns: u64) -> Option<Vec<u8>> {
        let calls = self.0.get()?;
        let turn = memchr::memmem::find_iter(request, REPLIED).count() as u64;
        let function = if turn + 1 < turns { &calls.look } else { &calls.finish };
        let (prompt, completion) = (request.len().div_ceil(4), (SAY.len() + function.len()).div_ceil(4));
        let body = format!(
            "{{\"id\":\"chatcmpl-{number:08x}\",\"object\":\"chat.completion\",\"created\":0,\"model\":\"steady\",\"choices\":[{{\"index\":0,\
             \"message\":{{\"role\":\"assistant\",\"content\":\"{SAY}\",\"tool_calls\":[{{\"id\":\"call_{number:08x}_0\",\
             \"type\":\"function\",\"function\":{{{function}}}}}]}},\"logprobs\":null,\"finish_reason\":\"tool_calls\"}}],\
             \"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion},\"total_tokens\":{}}}}}",
            prompt + completion
        );
        Some(body.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn it_looks_until_its_last_turn_and_submits() {
        let steady = Steady::default();
        assert_eq!(steady.reply(b"{}", 1, 3), None);
        assert!(steady.learn(&Arc::new(Toolset::scale_swe(true)), &Play::unknown()).is_err());
        steady.learn(&Arc::new(Toolset::scale_swe(false)), &Play::unknown()).unwrap();
        let called = |replies: usize| {
            let message = r#"{"role":"assistant","content":"said \"role\":\"assistant\""},"#;
            let body: Value = serde_json::from_slice(&steady.reply(message.repeat(replies).as_bytes(), 7, 3).unwrap()).unwrap();
            let call = &body["choices"][0]["message"]["tool_calls"][0];
            assert_eq!(call["id"], "call_00000007_0");
            assert!(serde_json::from_str::<Value>(call["function"]["arguments"].as_str().unwrap()).unwrap().is_object());
            call["function"]["name"].as_str().unwrap().to_owned()
        };
        assert_eq!([0, 1, 2, 3].map(called), ["execute_bash", "execute_bash", "finish", "finish"]);
    }
}
