//! Exports: what a trainer renders of a row is what the model saw, and it trains on what the record says.

mod common;

use common::{expect, sweroll};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{fs, path::Path};
use sweroll::{
    domain::{Message, Role, Trajectory},
    export::{Format, Reasoning},
    tokens::{Target, template},
};

const TEXT: [Format; 7] =
    [Format::Flat, Format::MsSwift, Format::LlamaFactory, Format::Verl, Format::Axolotl, Format::NemoRl, Format::Slime];
const CLOSE: &str = "<|im_end|>\n";

fn trajectory(messages: Vec<Message>, tools: &str) -> Trajectory {
    let record = json!({
        "schema_version": 2, "trajectory_id": "o__r-1@0.1", "instance_id": "o__r-1", "repo": "o/r", "base_commit": "", "sample": 0,
        "attempt": 1, "model": "m", "scaffold": "sweroll", "messages": messages, "tools": tools, "model_patch": "", "resolved": 1,
        "reward": 1.0, "exit_reason": "submitted", "num_turns": 2, "num_tokens": 90, "num_loss_tokens": 30, "cost_usd": 0.0,
        "suspect": "[]", "usage": "{}", "meta": "{}",
    });
    Trajectory::parse(record.to_string().as_bytes()).unwrap()
}

#[derive(Deserialize)]
struct Conversation {
    messages: Vec<Message>,
    tools: String,
}

fn conversations() -> Vec<Trajectory> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokens/conversations.jsonl")).unwrap();
    let of = |line: &str| serde_json::from_str(line).unwrap();
    text.lines().map(of).map(|Conversation { messages, tools }| trajectory(messages, &tools)).collect()
}

fn row(format: Format, trajectory: &Trajectory, reasoning: Reasoning) -> Result<Value, String> {
    let mut out = Vec::new();
    format.write(trajectory, reasoning, &mut out).map_err(|unfit| unfit.to_string())?;
    assert!(!out.contains(&b'\n'), "{format}");
    Ok(serde_json::from_slice(&out).unwrap())
}

/// As [`row`], with what the form drops by default.
fn default_row(format: Format, trajectory: &Trajectory) -> Result<Value, String> {
    row(format, trajectory, format.reasoning_default())
}

fn rendered(messages: &[Message], tools: &str) -> String {
    template::render(Target::Qwen3Instruct2507, messages, tools).unwrap()
}

fn messages(row: &Value) -> Vec<Message> {
    serde_json::from_value(row["messages"].clone()).unwrap()
}

/// The conversation cut where what is trained on begins and ends: texts and whether they are.
fn mask(trajectory: &Trajectory) -> Vec<(String, bool)> {
    let mut pieces = Vec::new();
    template::turns(Target::Qwen3Instruct2507, &trajectory.messages, &trajectory.tools, |turn| {
        let trained = turn.role == Role::Assistant && trajectory.messages[turn.messages.start].loss;
        let (header, said) = turn.text.split_at(turn.header);
        push(&mut pieces, header, false);
        push(&mut pieces, said, trained);
    })
    .unwrap();
    pieces
}

fn push(pieces: &mut Vec<(String, bool)>, text: &str, trained: bool) {
    match pieces.last_mut() {
        Some((last, same)) if *same == trained => last.push_str(text),
        _ => pieces.push((text.to_owned(), trained)),
    }
}

/// What a trainer of text makes of a row: each message in the template's marks, a turn of the assistant trained on by its flag, or
/// where there is none, always.
fn mask_of_text(row: &Value) -> Vec<(String, bool)> {
    let mut pieces = Vec::new();
    for message in row["messages"].as_array().unwrap() {
        let role = message["role"].as_str().unwrap();
        let flag = ["loss", "train", "step_loss_mask"].iter().find_map(|key| message.get(key));
        let trained = role == "assistant" && flag.is_none_or(|flag| flag == &json!(true) || flag == &json!(1));
        push(&mut pieces, &format!("<|im_start|>{role}\n"), false);
        push(&mut pieces, &format!("{}{CLOSE}", message["content"].as_str().unwrap()), trained);
    }
    pieces
}

/// Up to the end of what is trained on last.
fn cut(mut pieces: Vec<(String, bool)>) -> Vec<(String, bool)> {
    while pieces.last().is_some_and(|(_, trained)| !trained) {
        pieces.pop();
    }
    pieces
}

fn check(trajectory: &Trajectory) -> usize {
    let saw = rendered(&trajectory.messages, &trajectory.tools);
    for format in [Format::OpenAi, Format::Trl] {
        let row = default_row(format, trajectory).unwrap();
        assert_eq!(rendered(&messages(&row), row["tools"].as_str().unwrap()), saw, "{format}");
    }
    let openai = messages(&default_row(Format::OpenAi, trajectory).unwrap());
    assert_eq!(openai, trajectory.messages);
    let exact = [Format::Flat, Format::Axolotl, Format::Slime];
    let mut fit = 0;
    for format in TEXT {
        let row = match default_row(format, trajectory) {
            Ok(row) => row,
            Err(why) => {
                assert!(!exact.contains(&format), "{format}: {why}");
                continue;
            }
        };
        fit += 1;
        let text = rendered(&messages(&row), "");
        if exact.contains(&format) {
            assert_eq!(text, saw, "{format}");
            assert_eq!(mask_of_text(&row), mask(trajectory), "{format}");
        } else {
            assert!(saw.starts_with(&text), "{format}: {text}\nis not the beginning of\n{saw}");
            assert_eq!(cut(mask_of_text(&row)), cut(mask(trajectory)), "{format}");
        }
        // A trainer that renders message by message gets the same.
        let apart: String = messages(&row).iter().map(|message| rendered(std::slice::from_ref(message), "")).collect();
        assert_eq!(apart, text, "{format}");
        if [Format::MsSwift, Format::LlamaFactory, Format::NemoRl].contains(&format) {
            let turns = messages(&row).into_iter().skip_while(|message| message.role == Role::System);
            for (at, message) in turns.enumerate() {
                assert_eq!(message.role, if at % 2 == 0 { Role::User } else { Role::Assistant }, "{format}");
            }
            assert_eq!(messages(&row).last().unwrap().role, Role::Assistant, "{format}");
        }
    }
    fit
}

#[test]
fn rows_render_to_what_the_model_saw() {
    let conversations = conversations();
    let fit: usize = conversations.iter().map(check).sum();
    assert!(fit > conversations.len() * 5, "{fit} of {} rows", conversations.len() * TEXT.len());
}

#[test]
fn rows_of_a_run_render_to_what_the_model_saw() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo");
    expect(sweroll().arg("demo").arg("--out").arg(&out), 0);
    let shard = fs::File::open(out.join("shards/trajectories-00000.jsonl.zst")).unwrap();
    let text = zstd::decode_all(shard).unwrap();
    let mut seen = 0;
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let trajectory = Trajectory::parse(line).unwrap();
        assert_eq!(check(&trajectory), TEXT.len(), "{}", trajectory.trajectory_id);
        seen += 1;
    }
    assert!(seen >= 8, "{seen}");
}

#[test]
fn a_trainer_learns_what_the_record_says() {
    for mut trajectory in conversations() {
        let turns: Vec<usize> = (0..trajectory.messages.len()).filter(|at| trajectory.messages[*at].role == Role::Assistant).collect();
        for untrained in 0..turns.len().min(4) {
            trajectory.messages.iter_mut().for_each(|message| message.loss = message.role == Role::Assistant);
            turns.iter().skip(untrained).step_by(2).for_each(|at| trajectory.messages[*at].loss = false);
            check(&trajectory);
        }
    }
}

fn example() -> Trajectory {
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "bash", "arguments": "{\"command\":\"ls\"}"}});
    let say = |role: &str, content: &str| json!({"role": role, "content": content, "reasoning_content": "", "tool_calls": [], "tool_call_id": ""});
    let mut acts = say("assistant", "I look.");
    acts["reasoning_content"] = json!("\nhm\n");
    acts["tool_calls"] = json!([call("a"), call("b")]);
    let messages = [
        say("system", "Be good."),
        say("user", "Fix it."),
        acts,
        say("tool", "x.py"),
        say("tool", ""),
        say("user", "Go on."),
        say("assistant", "Done."),
        say("user", "Bye."),
    ];
    trajectory(serde_json::from_value(json!(messages)).unwrap(), "[{\"type\":\"function\",\"function\":{\"name\":\"bash\"}}]")
}

const SYSTEM: &str = "Be good.\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
    You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n\
    {\"type\": \"function\", \"function\": {\"name\": \"bash\"}}\n</tools>\n\nFor each function call, return a json object with function \
    name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": \
    <args-json-object>}\n</tool_call>";
const ACTS: &str = "I look.\n<tool_call>\n{\"name\": \"bash\", \"arguments\": {\"command\":\"ls\"}}\n</tool_call>\n<tool_call>\n\
    {\"name\": \"bash\", \"arguments\": {\"command\":\"ls\"}}\n</tool_call>";
const ANSWERS: &str = "<tool_response>\nx.py\n</tool_response>\n<tool_response>\n\n</tool_response>";

fn about(row: &mut Value) -> Value {
    let messages = row["messages"].take();
    let expected = json!({
        "messages": null, "trajectory_id": "o__r-1@0.1", "instance_id": "o__r-1", "repo": "o/r", "model": "m", "resolved": 1,
        "reward": 1.0, "exit_reason": "submitted", "num_turns": 2, "num_tokens": 90, "num_loss_tokens": 30,
    });
    assert_eq!(*row, expected);
    messages
}

#[test]
fn rows_of_text_are_golden() {
    let with = |key: &str, [no, yes]: [Value; 2]| {
        let say = |role: &str, content: &str, value: &Value| json!({"role": role, "content": content, key: value});
        let said = [
            ("system", SYSTEM),
            ("user", "Fix it."),
            ("assistant", ACTS),
            ("user", ANSWERS),
            ("user", "Go on."),
            ("assistant", "Done."),
            ("user", "Bye."),
        ];
        said.map(|(role, content)| say(role, content, if role == "assistant" { &yes } else { &no }))
    };
    for (format, key, values) in [
        (Format::Flat, "loss", [json!(false), json!(true)]),
        (Format::Axolotl, "train", [json!(false), json!(true)]),
        (Format::Slime, "step_loss_mask", [json!(0), json!(1)]),
    ] {
        let mut row = default_row(format, &example()).unwrap();
        assert_eq!(about(&mut row), json!(with(key, values)), "{format}");
    }
    let joined = format!("{ANSWERS}<|im_end|>\n<|im_start|>user\nGo on.");
    let said = [("system", SYSTEM), ("user", "Fix it."), ("assistant", ACTS), ("user", &joined), ("assistant", "Done.")];
    let plain = said.map(|(role, content)| json!({"role": role, "content": content}));
    for format in [Format::LlamaFactory, Format::NemoRl] {
        assert_eq!(about(&mut default_row(format, &example()).unwrap()), json!(plain), "{format}");
    }
    let flagged = said.map(|(role, content)| json!({"role": role, "content": content, "loss": role == "assistant"}));
    assert_eq!(about(&mut default_row(Format::MsSwift, &example()).unwrap()), json!(flagged));
    let verl = about(&mut default_row(Format::Verl, &example()).unwrap());
    assert_eq!(verl.as_array().unwrap().len(), 7);
    assert_eq!(verl[3], json!({"role": "user", "content": ANSWERS}));
}

#[test]
fn native_rows_are_golden() {
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "bash", "arguments": "{\"command\":\"ls\"}"}});
    for (format, flag) in [(Format::OpenAi, true), (Format::Trl, false)] {
        let mut row = default_row(format, &example()).unwrap();
        assert_eq!(row.as_object_mut().unwrap().shift_remove("tools"), Some(json!(example().tools)));
        let messages = about(&mut row);
        let mut acts = json!({"role": "assistant", "content": "I look.", "reasoning_content": "\nhm\n", "tool_calls": [call("a"), call("b")], "tool_call_id": ""});
        if flag {
            acts["loss"] = json!(true);
        }
        assert_eq!(messages[2], acts, "{format}");
        assert_eq!(messages[4]["content"], "");
    }
}

#[test]
fn reasoning_is_kept_inlined_or_dropped() {
    let inlined = format!("<think>\nhm\n</think>\n\n{ACTS}");
    for format in TEXT {
        let row = row(format, &example(), Reasoning::Inline).unwrap();
        assert_eq!(row["messages"][2]["content"], inlined, "{format}");
        assert_eq!(row["messages"][3]["content"].as_str().unwrap().find("<think>"), None);
        // The text is no longer the one that was counted.
        assert_eq!((&row["num_tokens"], &row["num_loss_tokens"]), (&json!(-1), &json!(-1)));
    }
    for format in [Format::OpenAi, Format::Trl] {
        let of = |reasoning| row(format, &example(), reasoning).unwrap()["messages"][2].clone();
        let (kept, inline, dropped) = (of(Reasoning::Keep), of(Reasoning::Inline), of(Reasoning::Drop));
        assert_eq!((&kept["content"], &kept["reasoning_content"]), (&json!("I look."), &json!("\nhm\n")));
        assert_eq!((&inline["content"], &inline["reasoning_content"]), (&json!("<think>\nhm\n</think>\n\nI look."), &json!("")));
        assert_eq!((&dropped["content"], &dropped["reasoning_content"]), (&json!("I look."), &json!("")));
    }
}

#[test]
fn what_a_form_cannot_hold_is_said() {
    let mut untrained = example();
    untrained.messages.iter_mut().for_each(|message| message.loss = false);
    let mut twice = example();
    twice.messages.insert(3, Message::new(Role::Assistant, "And again."));
    let mut first = example();
    first.messages = vec![Message::new(Role::Assistant, "Hello.")];
    for format in [Format::MsSwift, Format::LlamaFactory, Format::NemoRl] {
        assert_eq!(default_row(format, &untrained).unwrap_err(), "no turn of it is trained on");
        assert_eq!(default_row(format, &twice).unwrap_err(), "turn 3, of the assistant, does not follow one of the user");
        assert_eq!(default_row(format, &first).unwrap_err(), "turn 1, of the assistant, does not follow one of the user");
    }
    for (format, placeholder) in [(Format::LlamaFactory, "{{idx}}"), (Format::MsSwift, "{{ROUND1}}")] {
        let mut trajectory = example();
        trajectory.messages[2].content = placeholder.to_owned();
        default_row(format, &trajectory).unwrap();
        trajectory.messages[3].content = format!("a {placeholder} b");
        assert!(default_row(format, &trajectory).unwrap_err().contains(placeholder));
    }
    let mut torn = example();
    torn.tools = "[{".to_owned();
    let mut empty = example();
    empty.messages.clear();
    for format in TEXT.into_iter().chain([Format::OpenAi, Format::Trl]) {
        assert!(default_row(format, &torn).unwrap_err().contains("tools"), "{format}");
        assert!(default_row(format, &empty).unwrap_err().contains("at least one message"), "{format}");
    }
}

#[test]
fn hostile_content_stays_whole() {
    let hostile = "\"quotes\" \\ \\ud800 \u{2028}\u{2029}\u{0}\u{1b}[0m\r\n\t\u{feff}𝕏 <|im_end|>\n<|im_start|>assistant\n</tool_response> {% raw %} '''";
    let long = "0123456789abcdef\n\"".repeat((10 << 20) / 18);
    for content in [hostile, &long] {
        let mut trajectory = example();
        trajectory.messages[3].content = content.to_owned();
        trajectory.messages[2].tool_calls[0].function.arguments = content.to_owned();
        assert_eq!(check(&trajectory), TEXT.len());
        for format in [Format::OpenAi, Format::Trl] {
            let row = default_row(format, &trajectory).unwrap();
            assert_eq!(row["messages"][3]["content"], content, "{format}");
            assert_eq!(row["messages"][2]["tool_calls"][0]["function"]["arguments"], content, "{format}");
        }
    }
}

/// Every row has the columns of the schema, in order, and no null: what Arrow would infer of one is what it would of any other.
#[cfg(feature = "parquet")]
#[test]
fn rows_are_of_one_type() {
    use arrow_schema::{DataType, Fields};
    fn fits(value: &Value, of: &DataType) -> bool {
        match of {
            DataType::Utf8 => value.is_string(),
            DataType::Int64 => value.is_i64(),
            DataType::Float64 => value.is_f64(),
            DataType::Boolean => value.is_boolean(),
            DataType::List(item) => value.as_array().is_some_and(|values| values.iter().all(|value| fits(value, item.data_type()))),
            DataType::Struct(fields) => value.is_object() && fit(value, fields),
            _ => false,
        }
    }
    fn fit(row: &Value, fields: &Fields) -> bool {
        let keys = row.as_object().unwrap().keys().map(String::as_str);
        keys.eq(fields.iter().map(|field| field.name().as_str())) && fields.iter().all(|field| fits(&row[field.name()], field.data_type()))
    }
    let mut rows = 0;
    for trajectory in conversations().iter().chain([&example()]) {
        for format in Format::ALL {
            let Some(schema) = format.schema() else { continue };
            for reasoning in [Reasoning::Keep, Reasoning::Inline, Reasoning::Drop] {
                let Ok(row) = row(format, trajectory, reasoning) else { continue };
                assert!(fit(&row, &schema.fields), "{format}: {row} is not {schema:?}");
                rows += 1;
            }
        }
    }
    assert!(rows > 500, "{rows}");
}

#[test]
fn companions_name_every_file_and_column() {
    let files = [
        ("train".to_owned(), vec!["data/train-0.x".to_owned(), "data/train-1.x".to_owned()]),
        ("val".to_owned(), vec!["data/val-0.x".to_owned()]),
    ];
    for format in TEXT.into_iter().chain([Format::OpenAi, Format::Trl]) {
        let companions = format.companions(&files);
        let (name, card) = &companions[0];
        assert_eq!(name, "README.md");
        let card = String::from_utf8(card.clone()).unwrap();
        let mut head = card.strip_prefix("---\n").unwrap().split("---\n").next().unwrap().lines();
        let configs: Value = serde_json::from_str(head.next().unwrap().strip_prefix("configs: ").unwrap()).unwrap();
        let splits = json!([{"split": "train", "path": ["data/train-0.x", "data/train-1.x"]}, {"split": "val", "path": ["data/val-0.x"]}]);
        assert_eq!(configs[0], json!({"config_name": "default", "data_files": splits}), "{format}");
        assert!(card.contains("{\"dtype\":\"string\",\"name\":\"trajectory_id\"}"), "{card}");
    }
    let card = String::from_utf8(Format::MsSwift.companions(&files[1..]).remove(0).1).unwrap();
    assert!(card.contains("--dataset DIR:val --max_length"), "{card}");
    let card = String::from_utf8(Format::Verl.companions(&files).remove(0).1).unwrap();
    assert!(
        card.contains("'data.train_files=[DIR/data/train-0.x,DIR/data/train-1.x]' \\\n  'data.val_files=[DIR/data/val-0.x]'"),
        "{card}"
    );
    let card = |format: Format, files| String::from_utf8(format.companions(files).remove(0).1).unwrap();
    assert!(card(Format::NemoRl, &files[..]).contains("data_path: DIR/data/train-*.x\n"));
    assert!(card(Format::NemoRl, &files[1..]).contains("data_path: DIR/data/val-0.x\n"));
    assert!(card(Format::Slime, &files[..]).contains("# 1 more files are not read"));
    assert!(!card(Format::Slime, &files[1..]).contains("not read"));
    let companions = Format::LlamaFactory.companions(&files);
    let info: Value = serde_json::from_slice(&companions[1].1).unwrap();
    assert_eq!(companions[1].0, "dataset_info.json");
    let card = String::from_utf8(Format::MsSwift.companions(&files).remove(0).1).unwrap();
    assert!(card.contains(r#"{"config_name":"val","data_files":[{"split":"train","path":["data/val-0.x"]}]}"#), "{card}");
    assert!(card.contains("--val_dataset DIR:val"), "{card}");
    assert_eq!((&info["sweroll_val"]["split"], &info["sweroll_train"]["tags"]["role_tag"]), (&json!("val"), &json!("role")));
}
