//! A completion as the events of a stream, a token each.

use super::reply::encode;
use bytes::Bytes;
use serde_json::{Value, json};

/// Bytes of a token, as they are counted.
const TOKEN: usize = 4;

/// The last event.
pub const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");
pub const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// The events of the chat completion `body`, `[DONE]` the last; with its usage where that was asked for.
#[must_use]
pub fn events(body: &Value, usage: bool) -> Vec<Bytes> {
    let choice = &body["choices"][0];
    let mut chunk = json!({"id": body["id"], "object": "chat.completion.chunk", "created": body["created"], "model": body["model"]});
    if usage {
        chunk["usage"] = Value::Null;
    }
    let mut events = Vec::new();
    let mut say = |delta: Value, finish_reason: &Value| {
        chunk["choices"] = json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}]);
        events.push(event(&chunk));
    };
    deltas(&choice["message"], &mut |delta| say(delta, &Value::Null));
    say(json!({}), &choice["finish_reason"]);
    if usage {
        chunk["choices"] = json!([]);
        chunk["usage"] = body["usage"].clone();
        events.push(event(&chunk));
    }
    events.push(DONE);
    events
}

/// An error where a chunk was due.
#[must_use]
pub fn error(body: Vec<u8>) -> Bytes {
    [b"data: ", &body[..], b"\n\n"].concat().into()
}

fn event(chunk: &Value) -> Bytes {
    error(encode(chunk))
}

fn deltas(message: &Value, say: &mut dyn FnMut(Value)) {
    say(json!({"role": "assistant", "content": ""}));
    for key in ["reasoning_content", "content"] {
        let text = message[key].as_str().unwrap_or_default();
        tokens(text).for_each(|token| say(json!({ key: token })));
    }
    for (index, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
        let mut first = call.clone();
        first["index"] = index.into();
        // What is no text comes whole.
        let text = call["function"]["arguments"].as_str();
        if text.is_some() {
            first["function"]["arguments"] = "".into();
        }
        say(json!({"tool_calls": [first]}));
        for token in tokens(text.unwrap_or_default()) {
            say(json!({"tool_calls": [{"index": index, "function": {"arguments": token}}]}));
        }
    }
}

fn tokens(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end = (TOKEN..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        text = rest;
        (!token.is_empty()).then_some(token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_an_event() {
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
        let odd = json!({"type": "function", "function": {"name": "g", "arguments": {"a": 1}}});
        let message = json!({"role": "assistant", "content": "é€hello", "reasoning_content": "hm", "tool_calls": [call, odd]});
        let body =
            json!({"id": "x", "created": 1, "model": "m", "choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": 3});
        let read = |event: &Bytes| serde_json::from_slice::<Value>(event.strip_prefix(b"data: ").unwrap()).unwrap();
        let all = events(&body, true);
        let (done, chunks) = all.split_last().unwrap();
        assert_eq!(done, &DONE);
        let chunks: Vec<Value> = chunks.iter().map(read).collect();
        let deltas: Vec<&Value> = chunks.iter().filter_map(|c| c["choices"].get(0)).map(|choice| &choice["delta"]).collect();
        let texts: Vec<_> = deltas.iter().filter_map(|d| d["content"].as_str()).collect();
        assert_eq!(texts, ["", "é€", "hell", "o"]);
        let arguments: Vec<_> = deltas.iter().filter_map(|d| d.pointer("/tool_calls/0/function/arguments")).collect();
        assert_eq!(arguments, [&json!(""), &json!("{\"a\""), &json!(":1}"), &json!({"a": 1})]);
        let [.., finish, usage] = &chunks[..] else { panic!("{chunks:?}") };
        assert_eq!((&finish["choices"][0]["finish_reason"], &finish["usage"]), (&json!("tool_calls"), &Value::Null));
        assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &json!(3)));
        assert_eq!(events(&body, false).len(), all.len() - 1);
    }
}
