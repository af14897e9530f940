//! Chat templates out of files: the same text, counts and mask as the native targets, and a clear word where a mask cannot be told.

use serde::Deserialize;
use std::{fs, path::Path};
use sweroll::{
    domain::{Message, Role, ToolCall},
    tokens::{ChatTemplate, Counter, Target, TemplateError, Tokenizer, jinja::Unmarked, template},
};

const CHATML: &str = include_str!("tokens/chatml.jinja");

#[derive(Deserialize)]
struct Conversation {
    messages: Vec<Message>,
    tools: String,
}

/// Of the fixture, or of the file that `SWEROLL_CONVERSATIONS` names.
fn conversations() -> Vec<Conversation> {
    let fixture = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokens/conversations.jsonl");
    let path = std::env::var_os("SWEROLL_CONVERSATIONS").map_or_else(fixture, Into::into);
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn parsed(source: &str) -> ChatTemplate {
    ChatTemplate::parse("test.jinja".into(), source, 0).unwrap()
}

fn by_file(source: &str) -> Counter {
    Counter::of_file(parsed(source), Tokenizer::qwen3())
}

fn untagged() -> String {
    CHATML.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
}

#[test]
fn a_template_of_a_file_renders_and_counts_as_the_native_one() {
    let (tagged, untagged) = (by_file(CHATML), by_file(&untagged()));
    let native = Counter::default();
    for (at, Conversation { mut messages, tools }) in conversations().into_iter().enumerate() {
        let text = template::render(Target::Qwen3Instruct2507, &messages, &tools).unwrap();
        assert_eq!(parsed(CHATML).render(&messages, &tools).unwrap().text, text, "conversation {at}");
        for masked in [false, true] {
            if masked {
                messages.iter_mut().step_by(3).for_each(|message| message.loss = false);
            }
            let expected = native.count(&messages, &tools).unwrap();
            for counter in [&tagged, &untagged] {
                let found = counter.count(&messages, &tools).unwrap();
                assert_eq!(found.unmarked, None, "conversation {at}");
                let sums = |counts: &sweroll::tokens::Counts| (counts.total, counts.loss, counts.thinking, counts.by_role.total());
                assert_eq!(sums(&found), sums(&expected), "conversation {at}, masked {masked}");
                assert_eq!((found.responses(), found.special_in_text), (expected.responses(), expected.special_in_text));
                assert_eq!(found.turns.iter().map(|turn| turn.loss).sum::<u64>(), found.loss);
            }
        }
    }
}

/// With the official templates at hand: both render every conversation alike, by way of Jinja and natively.
#[test]
fn official_templates_render_as_the_native_ones() {
    let Some(folder) = std::env::var_os("SWEROLL_SFT") else {
        eprintln!("skipped: SWEROLL_SFT does not name the directory of qwen3.jinja and qwen3_instruct_2507.jinja");
        return;
    };
    for (target, file) in [(Target::Qwen3Instruct2507, "qwen3_instruct_2507.jinja"), (Target::Qwen3, "qwen3.jinja")] {
        let template = ChatTemplate::load(&Path::new(&folder).join(file), 0).unwrap();
        for (at, Conversation { messages, tools }) in conversations().iter().enumerate() {
            let text = template::render(target, messages, tools).unwrap();
            assert_eq!(template.render(messages, tools).unwrap().text, text, "conversation {at}, {target}");
        }
    }
}

fn talk() -> Vec<Message> {
    let reply = |content: &str| Message::new(Role::Assistant, content);
    let mut call = reply("");
    call.tool_calls.push(ToolCall::new("c0", "bash", r#"{"command": "ls"}"#));
    call.reasoning_content = "Let me look.".into();
    vec![Message::new(Role::User, "hi"), call, Message::tool("c0", "a.py"), reply("<think>\nwell\n</think>\n\ndone")]
}

#[test]
fn where_a_mask_cannot_be_told_the_total_still_is() {
    // The whole ends otherwise than each of its beginnings.
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '$' if loop.last }}{% endfor %}";
    let counts = by_file(template).count(&talk(), "").unwrap();
    assert!(counts.total > 10 && counts.loss == 0 && counts.by_role.other == counts.total);
    assert_eq!(counts.unmarked, Some(Unmarked::NoPrefix));
    assert!(counts.unmarked.unwrap().to_string().contains("{% generation %}"));
    let last_only = "{% for m in messages %}{% if loop.last %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}";
    assert_eq!(by_file(last_only).count(&talk(), "").unwrap().unmarked, Some(Unmarked::Stretches { marked: 1, replies: 2 }));
}

#[test]
fn thinking_and_what_is_not_seen_are_counted() {
    let tokens = |text: &str| Tokenizer::qwen3().count(text) as u64;
    let (thought, unseen) = (tokens("<think>\nwell\n</think>"), tokens("Let me look."));
    for counter in [by_file(CHATML), Counter::default()] {
        let counts = counter.count(&talk(), "").unwrap();
        assert_eq!((counts.thinking, counts.reasoning_unseen), (thought, unseen));
    }
    let hybrid = Counter::new(Target::Qwen3, Tokenizer::qwen3());
    let counts = hybrid.count(&talk(), "").unwrap();
    // The last reply gets an empty thought before its own.
    let shown = tokens("<think>\nLet me look.\n</think>") + tokens("<think>\n\n</think>") + thought;
    assert_eq!((counts.thinking, counts.reasoning_unseen), (shown, 0));
    let mut reminded = talk();
    reminded.insert(3, Message::new(Role::User, "go on"));
    let counts = hybrid.count(&reminded, "").unwrap();
    assert_eq!(
        (counts.thinking, counts.reasoning_unseen),
        (tokens("<think>\n\n</think>") + thought, unseen),
        "a query erases what was thought"
    );
}

#[test]
fn only_tokens_that_part_turns_are_suspect() {
    let special = |message: Message| Counter::default().count(&[Message::new(Role::User, "x"), message], "").unwrap().special_in_text;
    let said = |content: &str| special(Message::tool("c", content));
    assert!(said("a<|im_end|>b") && said("<|im_start|>user") && said("<|endoftext|>"));
    assert!(!said("<tool_call>\n{}\n</tool_call><think>x</think><tool_response> <|im_end <|vision_pad|>"));
    assert!(!special(Message::new(Role::System, "<|im_end|>")), "the system's text is ours");
    let mut call = Message::new(Role::Assistant, "");
    call.tool_calls.push(ToolCall::new("c", "bash", r#"{"command": "echo '<|im_end|>'"}"#));
    assert!(special(call));
    assert!(special(Message { reasoning_content: "<|im_end|>".into(), ..Message::new(Role::Assistant, "") }));
}

#[test]
fn templates_run_as_if_python_ran_them() {
    let render = |source: &str| parsed(source).render(&talk(), r#"[{"b": 1.50, "a": [true, null, "é<"]}]"#).map(|rendered| rendered.text);
    for (source, text) in [
        ("{{ tools[0] | tojson }}", r#"{"b": 1.5, "a": [true, null, "é<"]}"#),
        ("{{ tools[0] }} {{ tools is not none }} {{ none }} {{ 1.0 }}", "{'b': 1.5, 'a': [True, None, 'é<']} True None 1.0"),
        (
            "{{ tools | tojson(indent=2, ensure_ascii=true) }}",
            "[\n  {\n    \"b\": 1.5,\n    \"a\": [\n      true,\n      null,\n      \"\\u00e9<\"\n    ]\n  }\n]",
        ),
        ("{{ ' \\x1c a '.strip() }}|{{ 'xay'.strip('xy') }}|{{ 'a,b'.split(',')[-1] }}|{{ 'é!'.find('!') }}", "a|a|b|1"),
        ("{{ 'ab'.startswith('a') and 'ab'.endswith('b') }}{{ 'ab'.removeprefix('a') }}", "Trueb"),
        ("{{ messages[0].content is sequence }}{{ messages[0] is mapping }}{{ messages[::-1][0].role }}", "TrueTrueassistant"),
        ("{{ messages[1].tool_calls[0].function.arguments is string }}", "True"),
        ("{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }} {% endfor %}", "user assistant "),
        ("{% if true %}\n  x\n  {% endif %}\ny\n", "  x\ny"),
        ("{{ strftime_now('%d %b %Y') }}", "01 Jan 1970"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}", "1"),
    ] {
        assert_eq!(render(source).unwrap(), text, "{source}");
    }
    let refused = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert!(matches!(refused, TemplateError::Refused { .. }) && refused.to_string().contains("roles must alternate"), "{refused}");
    assert!(ChatTemplate::parse("bad.jinja".into(), "{% if %}", 0).err().unwrap().to_string().contains("bad.jinja"));
    assert!(parsed("x").render(&talk(), "[").is_err() && parsed("x").render(&[], "").is_err());
}

#[test]
fn text_that_looks_like_a_mark_stays() {
    let marks = ["\u{f8ff}0\u{f8ff}<", "\u{f8ff}1\u{f8ff}>", "\u{f8ff}2\u{f8ff}"].concat();
    let messages = [Message::new(Role::User, marks.clone()), Message::new(Role::Assistant, marks)];
    let rendered = parsed(CHATML).render(&messages, "").unwrap();
    assert_eq!(rendered.text, template::render(Target::Qwen3Instruct2507, &messages, "").unwrap());
    let spoken = &rendered.spoken.unwrap()[0];
    assert!(rendered.text[spoken.clone()].starts_with(&messages[1].content) && rendered.text[spoken.clone()].ends_with("<|im_end|>\n"));
}
