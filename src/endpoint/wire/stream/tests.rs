use super::*;
use crate::domain::{Message, Role, ToolCall};
use proptest::prelude::*;
use serde_json::{Map, json};

const MAX: usize = 1 << 20;

fn folded(bytes: &[u8], size: usize) -> Result<Reply, Broken> {
    let mut fold = Fold::new(MAX);
    for piece in bytes.chunks(size) {
        fold.push(piece);
    }
    fold.reply(&Conversation::default())
}

/// The reply of these chunks, which is the same however the bytes are cut; `[DONE]` comes last.
fn of(chunks: &[Value]) -> Result<Reply, Broken> {
    let text: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).chain(["data: [DONE]\n\n".to_owned()]).collect();
    let reply = folded(text.as_bytes(), MAX);
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(folded(text.as_bytes(), size), reply, "in pieces of {size}");
    }
    reply
}

fn delta(delta: Value) -> Value {
    json!({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn finish(reason: &str) -> Value {
    json!({"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn calls(pieces: &[Value]) -> Vec<ToolCall> {
    let mut chunks: Vec<_> = pieces.iter().map(|piece| delta(json!({"tool_calls": [piece]}))).collect();
    chunks.push(finish("tool_calls"));
    of(&chunks).unwrap().message.tool_calls
}

#[test]
fn each_host_s_shape() {
    let call = |more: Value| json!({"index": 0, "id": "c", "type": "function", "function": more});
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 3});
    // OpenAI's: the finish and the usage in chunks of their own. DeepSeek's: usage in the last chunk, null before it.
    // vLLM's: usage all along, the finish with the last piece. SGLang's: null in every field that says nothing.
    let openai = [
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"content": "hé"})),
        delta(json!({"tool_calls": [call(json!({"name": "f", "arguments": ""}))]})),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"a\""}}]})),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})),
        finish("tool_calls"),
        json!({"model": "m", "choices": [], "usage": usage}),
    ];
    let mut last = finish("tool_calls");
    last["usage"] = usage.clone();
    let mut first = delta(json!({"role": "assistant", "content": "hé", "reasoning_content": null}));
    first["usage"] = Value::Null;
    let deepseek =
        [first.clone(), delta(json!({"content": null, "tool_calls": [call(json!({"name": "f", "arguments": "{\"a\":1}"}))]})), last];
    first["usage"] = json!({"prompt_tokens": 9, "completion_tokens": 1});
    let mut ending = delta(json!({"tool_calls": [{"index": 0, "id": null, "function": {"name": null, "arguments": "1}"}}]}));
    ending["choices"][0]["finish_reason"] = json!("tool_calls");
    ending["usage"] = usage.clone();
    let vllm = [first, delta(json!({"tool_calls": [call(json!({"name": "f", "arguments": "{\"a\":"}))]})), ending];
    let null = json!({"role": null, "content": null, "reasoning_content": null, "tool_calls": null});
    let sglang = [
        delta(json!({"role": "assistant", "content": "hé", "reasoning_content": null, "tool_calls": null})),
        delta(null),
        delta(json!({"content": null, "tool_calls": [call(json!({"name": "f", "arguments": "{\"a\":1}"}))]})),
        finish("tool_calls"),
        json!({"model": "m", "choices": null, "usage": usage}),
    ];
    let message = json!({"role": "assistant", "content": "hé", "tool_calls": [call(json!({"name": "f", "arguments": "{\"a\":1}"}))]});
    let whole = json!({"model": "m", "choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage});
    let expected = read(whole.to_string().as_bytes(), &Conversation::default()).unwrap();
    assert_eq!((expected.message.tool_calls.len(), expected.usage.cached_tokens), (1, 3));
    for (name, chunks) in [("openai", &openai[..]), ("deepseek", &deepseek), ("vllm", &vllm), ("sglang", &sglang)] {
        assert_eq!(of(chunks).unwrap(), expected, "{name}");
    }
}

#[test]
fn calls_are_told_apart() {
    let f = |name: &str, arguments: &str| json!({"name": name, "arguments": arguments});
    let two = [ToolCall::new("a", "f", "{}"), ToolCall::new("b", "g", "[]")];
    let interleaved = [
        json!({"index": 1, "id": "b", "function": f("g", "")}),
        json!({"index": 0, "id": "a", "function": f("f", "{")}),
        json!({"index": 1, "function": {"arguments": "["}}),
        json!({"index": 0, "id": "", "function": f("", "}")}),
        json!({"index": 1, "id": "b", "function": f("g", "]")}),
    ];
    let without_index = [
        json!({"id": "a", "function": f("f", "{")}),
        json!({"function": {"arguments": "}"}}),
        json!({"id": "b", "function": f("g", "[")}),
        json!({"id": null, "function": {"name": null, "arguments": "]"}}),
    ];
    let all_of_index_0 = [
        json!({"index": 0, "id": "a", "function": f("f", "{}")}),
        json!({"index": 0, "id": "b", "function": f("g", "[")}),
        json!({"index": 0, "function": {"arguments": "]"}}),
    ];
    assert_eq!(calls(&interleaved), two);
    assert_eq!(calls(&without_index), two);
    assert_eq!(calls(&all_of_index_0), two);
    let unnamed = [json!({"function": f("f", "{}")}), json!({"function": f("g", "[]")})];
    assert_eq!(calls(&unnamed), [ToolCall::new("call_0_0", "f", "{}"), ToolCall::new("call_0_1", "g", "[]")]);
    let odd = [json!({"index": 4_000_000_000_u64, "id": 7, "function": {"arguments": { "a": [1] }}})];
    assert_eq!(calls(&odd), [ToolCall::new("7", "", r#"{"a":[1]}"#)]);
    let old = [delta(json!({"function_call": {"name": "f", "arguments": "{"}})), delta(json!({"function_call": {"arguments": "}"}}))];
    assert_eq!(of(&old).unwrap().message.tool_calls, [ToolCall::new("call_0_0", "f", "{}")]);
}

#[test]
fn unknown_fields_are_kept() {
    let reply = of(&[
        delta(json!({"content": "a", "refusal": null, "audio": {}, "reasoning_details": [{"index": 0, "type": "t", "text": "x"}]})),
        delta(json!({"reasoning_details": [{"index": 0, "type": "t", "text": "y"}, {"index": 1, "type": "u"}], "refusal": "n"})),
        delta(json!({"refusal": "o", "score": 1.5})),
        finish("stop"),
    ]);
    let details = json!([{"index": 0, "type": "t", "text": "xy"}, {"index": 1, "type": "u"}]);
    let extra = json!({"reasoning_details": details, "refusal": "no", "score": 1.5, "usage_missing": true});
    assert_eq!(Value::Object(reply.unwrap().extra), extra);
    let parts =
        of(&[delta(json!({"content": [{"type": "thinking", "thinking": [{"text": "hm"}]}]})), delta(json!({"content": "b"}))]).unwrap();
    assert_eq!((parts.message.content.as_str(), parts.message.reasoning_content.as_str()), ("b", "hm"));
}

#[test]
fn a_stream_that_ends_early_is_no_reply() {
    let call = r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{\"a\":"}}]}}]}"#;
    let whole = format!(r#"{call}{}data: {{"choices":[{{"delta":{{}},"finish_reason":"tool_calls"}}]}}{}"#, "\n\n", "\n\n");
    for at in 0..whole.len() - 2 {
        let got = folded(&whole.as_bytes()[..at], MAX);
        assert!(matches!(got, Err(Broken::Unreadable(_))), "cut at {at}: {got:?}");
    }
    // All that is missing is a blank line.
    assert_eq!(folded(whole.trim_end().as_bytes(), MAX).unwrap().message.tool_calls.len(), 1);
    // A proxy says good-bye for a host that broke off: not the half of a call is taken.
    assert!(matches!(folded(format!("{call}\n\ndata: [DONE]\n\n").as_bytes(), MAX), Err(Broken::Unreadable(_))));
    let text = br#"data: {"choices":[{"delta":{"content":"a"}}]}"#;
    assert!(folded(text, MAX).is_err());
    assert_eq!(folded(&[&text[..], b"\n\ndata: [DONE]"].concat(), MAX).unwrap().message.content, "a");
}

#[test]
fn errors_within_the_stream() {
    let said = r#"data: {"choices":[{"delta":{"content":"a"}}]}"#;
    let error = json!({"code": 429, "message": "slow"});
    for event in [
        format!("data: {}", json!({"error": error})),
        format!("event: error\ndata: {}", json!({"error": error})),
        format!("event: error\ndata: {error}"),
        format!("data: {}", json!({"error": error, "choices": [{"delta": {}, "finish_reason": "error"}]})),
        format!("data: {}", json!({"choices": [{"delta": {"content": ""}, "error": error}]})),
        json!({"error": error}).to_string(),
    ] {
        let said = if event.starts_with('{') { "" } else { said };
        for end in ["\n\n", "\r\n\r\n", ""] {
            let text = format!("{said}\n\n{event}{end}");
            assert_eq!(folded(text.as_bytes(), 5), Err(Broken::Error(error.clone())), "{text}");
        }
    }
    let vllm = json!({"object": "error", "message": "m", "code": 400});
    assert_eq!(folded(format!("data: {vllm}\n\n").as_bytes(), MAX), Err(Broken::Error(vllm)));
    for garbage in [
        "",
        "<html>",
        "data: {]\n\n",
        "data: 7\n\n",
        "data: {\"choices\":7}\n\n",
        ": keep-alive\n\n",
        "data: {\"choices\":[{\"delta\":7}]}\n\n",
    ] {
        assert!(matches!(folded(garbage.as_bytes(), MAX), Err(Broken::Unreadable(_))), "{garbage}");
    }
}

#[test]
fn what_is_heard_and_counted() {
    let mut fold = Fold::new(MAX);
    assert_eq!(fold.push(b": keep-alive\n\ndata: {\"choi"), Heard::Alive);
    assert_eq!(fold.push(b"ces\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}"), Heard::Nothing);
    assert_eq!(fold.push(b"\n\n"), Heard::Alive, "a role says nothing");
    for n in 1..4 {
        assert_eq!(fold.push(b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n"), Heard::Said);
        assert_eq!((fold.tokens(), fold.is_whole()), (n, false));
    }
    fold.push(b"data: {\"choices\":[],\"usage\":{\"completion_tokens\":9}}\n\n");
    assert_eq!(fold.tokens(), 9);
    fold.push(b"data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n");
    assert!(fold.is_whole());
    assert_eq!(fold.push(b"data: [DONE]\n\n"), Heard::Ended);
    assert_eq!(fold.push(b"data: {\"error\":1}\n\n"), Heard::Ended, "what comes after the end changes nothing");
    assert_eq!(fold.reply(&Conversation::default()).unwrap().message.content, "xxx");
}

#[test]
fn a_reply_is_bounded_however_it_grows() {
    let line = |json: &str| format!("data: {json}\n\n");
    let grown = |delta: &str| line(&format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#)).repeat(1000);
    for text in [
        grown(r#"{"content":"0123456789"}"#),
        grown(r#"{"reasoning":"0123456789"}"#),
        grown(r#"{"content":[7777777777]}"#),
        grown(r#"{"other":[{}]}"#),
        grown(r#"{"tool_calls":[{"id":"a","function":{"name":"f"}},{"id":"b","function":{"name":"f"}}]}"#),
        "x".repeat(5000),
        format!("data: {}\n", "1".repeat(100)).repeat(50),
        format!("{{\n{}", " \n".repeat(2500)),
    ] {
        let mut fold = Fold::new(4000);
        let ended = text.as_bytes().chunks(100).any(|piece| fold.push(piece) == Heard::Ended);
        assert!(ended && format!("{:?}", fold.reply(&Conversation::default())).contains("max_reply_bytes"), "{}", &text[..60]);
    }
    let mut fold = Fold::new(4000);
    let small = grown(r#"{"content":"x"}"#);
    assert!(small.len() > 20_000 && fold.push(small.as_bytes()) == Heard::Said, "what surrounds the text does not count");
}

#[test]
fn odd_bytes_cost_what_they_are() {
    let of = |inside: &[u8]| {
        let bytes = [&b"data: {\"choices\":[{\"delta\":{\"content\":\""[..], inside, b"\"},\"finish_reason\":\"stop\"}]}\n\n"].concat();
        folded(&bytes, 3).unwrap().message.content
    };
    assert_eq!(of(br"a\ud83db\n\ud83d\ude00"), "a\u{fffd}b\n\u{1f600}");
    assert_eq!(of(b"a\xffb"), "a\u{fffd}b");
    // Hosts that leave out the blank lines, and those that do not stream though asked.
    let bare = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n".repeat(2) + "data: [DONE]\n";
    assert_eq!(folded(bare.as_bytes(), 9).unwrap().message.content, "aa");
    let whole = b"\n: wait\n\n{\n \"choices\": [\n{\"message\": {\"content\": \"data: a\"}}]}";
    assert_eq!(folded(whole, 4).unwrap(), read(whole, &Conversation::default()).unwrap());
    let two =
        of_choices(json!([{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}]));
    assert_eq!(two.message.content, "yes");
}

fn of_choices(choices: Value) -> Reply {
    of(&[json!({"choices": choices})]).unwrap()
}

/// Numbers without end out of a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn split(&mut self, text: &str) -> Vec<String> {
        let mut pieces = vec![String::new()];
        for c in text.chars() {
            if self.below(3) == 0 {
                pieces.push(String::new());
            }
            pieces.last_mut().unwrap().push(c);
        }
        pieces
    }
}

/// The deltas of a message, each of its parts in order, all of them shuffled into each other.
fn deltas(message: &Map<String, Value>, dice: &mut Dice) -> Vec<Value> {
    let mut lines: Vec<Vec<Value>> = Vec::new();
    for (key, value) in message {
        match (key.as_str(), value) {
            ("tool_calls", Value::Array(calls)) => {
                for (index, call) in calls.iter().enumerate() {
                    let function = &call["function"];
                    let mut pieces = dice.split(function["arguments"].as_str().unwrap()).into_iter();
                    let mut first = call.clone();
                    first["index"] = index.into();
                    first["function"]["arguments"] = pieces.next().into();
                    let rest = pieces.map(|piece| json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}));
                    lines.push([json!({"tool_calls": [first]})].into_iter().chain(rest).collect());
                }
            }
            (_, Value::String(text)) => lines.push(dice.split(text).into_iter().map(|piece| json!({ key: piece })).collect()),
            (_, Value::Array(items)) => lines.push(items.iter().map(|item| json!({ key: [item] })).collect()),
            _ => lines.push(vec![json!({ key: value })]),
        }
    }
    let mut all = vec![json!({"role": "assistant", "content": null})];
    lines.iter_mut().for_each(|line| line.reverse());
    while !lines.is_empty() {
        let at = dice.below(lines.len());
        all.extend(lines[at].pop());
        lines.retain(|line| !line.is_empty());
    }
    all
}

fn stream(message: &Map<String, Value>, finish_reason: &str, usage: Option<&Value>, dice: &mut Dice) -> Vec<u8> {
    let end = ["\n", "\r\n", "\r"][dice.below(3)];
    let mut chunks: Vec<Value> = deltas(message, dice).into_iter().map(delta).collect();
    chunks.push(finish(finish_reason));
    chunks.extend(usage.map(|usage| json!({"model": "m", "choices": [], "usage": usage})));
    let mut text = String::new();
    for chunk in chunks {
        if dice.below(4) == 0 {
            text += &format!(": keep-alive{end}{end}");
        }
        text += &format!("data: {chunk}{end}{end}");
    }
    if dice.below(2) == 0 {
        text += &format!("data: [DONE]{end}{end}");
    }
    text.into_bytes()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => ".{0,40}", 1 => "[\\\\\"\n\r\t:{}é😀]{0,20}", 1 => Just("data: [DONE]\n\n".to_owned()), 1 => Just(String::new())]
}

fn message() -> impl Strategy<Value = Map<String, Value>> {
    let id = prop_oneof![Just(Value::Null), Just(json!("")), "[a-c]".prop_map(Value::from)];
    let call = (id, "[a-z]{0,6}", text())
        .prop_map(|(id, name, arguments)| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
    let other = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        text().prop_map(Value::from),
        prop::collection::vec(text(), 0..4).prop_map(Value::from),
        text().prop_map(|text| json!({"a": {"b": text}}))
    ];
    let field = |name: &'static str, value: BoxedStrategy<Value>| {
        prop::option::of(value).prop_map(move |value| value.map(|v| (name.to_owned(), v)))
    };
    (
        field("content", prop_oneof![text().prop_map(Value::from), Just(Value::Null)].boxed()),
        field("reasoning_content", text().prop_map(Value::from).boxed()),
        field("reasoning", text().prop_map(Value::from).boxed()),
        field("tool_calls", prop::collection::vec(call, 0..4).prop_map(Value::from).boxed()),
        prop::collection::btree_map("x_[a-d]", other, 0..3),
    )
        .prop_map(|(a, b, c, d, others)| [a, b, c, d].into_iter().flatten().chain(others).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_reply_in_any_pieces_is_the_reply(message in message(), counted in any::<bool>(), seed in any::<u64>()) {
        let usage = json!({"prompt_tokens": 7, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}});
        let usage = counted.then_some(&usage);
        let mut whole = message.clone();
        whole.insert("role".into(), "assistant".into());
        let earlier: Conversation = [Message { tool_calls: vec![ToolCall::new("a", "f", "")], ..Message::new(Role::Assistant, "") }].iter().collect();
        let body = json!({"model": "m", "choices": [{"index": 0, "message": whole, "finish_reason": "stop"}], "usage": usage});
        let expected = read(body.to_string().as_bytes(), &earlier).unwrap();

        let mut dice = Dice(seed);
        let bytes = stream(&message, "stop", usage, &mut dice);
        let (mut fold, mut rest) = (Fold::new(MAX), &bytes[..]);
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(1 + dice.below(rest.len().min(90)));
            fold.push(piece);
            rest = more;
        }
        let got = fold.reply(&earlier).unwrap();
        prop_assert_eq!(serde_json::to_string(&got.extra).unwrap(), serde_json::to_string(&expected.extra).unwrap());
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'{'), Just(b'"'), any::<u8>()], 0..200), size in 1..50_usize) {
        let text = [b"data: ", &bytes[..]].concat();
        prop_assert_eq!(folded(&text, size), folded(&text, MAX));
        prop_assert_eq!(folded(&bytes, size), folded(&bytes, MAX));
    }
}
