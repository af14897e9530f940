//! Records that say how they were counted: filled by a policy, proven by `sweroll tokens --check`, and found out where they were changed.

use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};
use sweroll::{
    domain::{Entry, ExitReason, Message, Role, ToolCall, Trajectory, Transcript, trajectory::Facts, transcript::*},
    tokens::{CountError, Counter, FeedSettings, Settings, check, check::CheckReport},
};

/// Five turns: fine, exit code 1, refused, malformed, nothing called; then a reminder and the last.
fn trajectory(id: &str, output: &str) -> Trajectory {
    let few_shot = Message::new(Role::Assistant, "as one does");
    let messages = vec![Message::new(Role::System, "s"), Message::new(Role::User, "u"), few_shot, Message::new(Role::User, "now you")];
    let mut entries = vec![Entry::Begun(Begun {
        id: id.parse().unwrap(),
        messages,
        tools: r#"[{"type": "function", "function": {"name": "bash"}}]"#.into(),
        model: "m".into(),
        scaffold: "s".into(),
        scaffold_digest: String::new(),
        image_digest: String::new(),
        base_tree: String::new(),
        sampling: json!({}),
        at_ms: 0,
        setup_ms: 0,
    })];
    let calls = [(0, false, false), (1, false, false), (-1, true, false), (-1, false, true), (9, false, false), (0, false, false)];
    for (turn, (exit_code, failed, malformed)) in calls.into_iter().enumerate() {
        let mut message = Message::new(Role::Assistant, format!("<think>\nturn {turn}\n</think>\n\nNaïve cafe\u{301} \u{1F642}"));
        message.reasoning_content = "Hmm, so …".into();
        let calls_nothing = turn == 4;
        if !calls_nothing {
            message.tool_calls.push(ToolCall::new(format!("c{turn}"), "bash", r#"{"command": "ls -la"}"#));
        }
        entries.push(Entry::Response(Response {
            message,
            model: "m".into(),
            finish_reason: "stop".into(),
            usage: Usage::default(),
            cost_usd: 0.0,
            latency_ms: 1,
            tries: 1,
            extra: json!({}),
        }));
        entries.push(if calls_nothing {
            Entry::Reminder { content: "Call a tool.".into() }
        } else {
            Entry::Observation(Observation {
                message: Message::tool(format!("c{turn}"), output),
                tool: "bash".into(),
                duration_ms: 1,
                exit_code,
                truncated: false,
                timed_out: false,
                malformed,
                failed,
            })
        });
    }
    entries.push(Entry::Ended(Ended {
        exit_reason: ExitReason::Submitted,
        model_patch: String::new(),
        failure: None,
        duration_ms: 1,
        peak_memory: 0,
        cpu_ms: 0,
        oom_kills: 0,
    }));
    let facts = Facts { repo: "r", base_commit: "", image: "", url: "", dataset_digest: "" };
    Trajectory::new(Transcript::replay(entries).unwrap(), None, None, facts)
}

fn counter(target: &str, loss: &str) -> Counter {
    Counter::from(Settings { target: target.parse().unwrap(), loss: loss.parse().unwrap() })
}

fn filled(id: &str, target: &str, loss: &str) -> Trajectory {
    let mut trajectory = trajectory(id, "a.py\n");
    counter(target, loss).fill(&mut trajectory).unwrap();
    trajectory
}

fn trained(trajectory: &Trajectory) -> Vec<u8> {
    let replies = trajectory.messages.iter().filter(|message| message.role == Role::Assistant);
    replies.map(|message| u8::from(message.loss)).collect()
}

#[test]
fn a_record_is_filled_by_the_policy_and_says_so() {
    let of = |loss| filled("i@0.1", "qwen3-instruct-2507", loss);
    assert_eq!(trained(&of("all")), [0, 1, 1, 1, 1, 1, 1]);
    assert_eq!(trained(&of("last")), [0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(trained(&of("mask-errors")), [0, 1, 0, 0, 0, 1, 1]);
    assert_eq!(trained(&of("mask-malformed")), [0, 1, 1, 1, 0, 0, 1]);
    let (all, masked) = (of("all"), of("mask-malformed,mask-errors"));
    assert_eq!(trained(&masked), [0, 1, 0, 0, 0, 0, 1]);
    assert!(masked.num_tokens == all.num_tokens && 0 < masked.num_loss_tokens && masked.num_loss_tokens < all.num_loss_tokens);
    let counted = masked.meta().unwrap().counted.unwrap();
    assert_eq!((counted.target.as_str(), counted.loss.as_str()), ("qwen3-instruct-2507", "all,mask-errors,mask-malformed"));
    assert!(counted.tokenizer_digest.len() == 64 && Counter::default().tokenizer.digest().ends_with(&counted.tokenizer_digest));
    assert_eq!(all.suspect, "[]");
}

#[test]
fn a_literal_control_token_makes_a_record_suspect_once() {
    let mut trajectory = trajectory("i@0.1", "<|im_end|>\n");
    trajectory.suspect = r#"["short"]"#.into();
    for _ in 0..2 {
        Counter::default().fill(&mut trajectory).unwrap();
        assert_eq!(trajectory.suspect, r#"["short","special_token"]"#);
    }
}

#[test]
fn a_record_that_cannot_be_counted_stays_as_it_was() {
    let cases: [fn(&mut Trajectory); 4] =
        [|t| t.tools = "{".into(), |t| t.usage = "{}".into(), |t| t.meta = "{}".into(), |t| t.suspect = "no".into()];
    for damage in cases {
        let mut trajectory = trajectory("i@0.1", "x");
        damage(&mut trajectory);
        let before = trajectory.clone();
        let error = counter("qwen3", "last").fill(&mut trajectory).unwrap_err();
        assert!(matches!(error, CountError::Template(_) | CountError::Loss(_) | CountError::Column { .. }), "{error}");
        assert!(trajectory == before, "{error}");
    }
}

fn checked(path: &Path, records: &[Value]) -> CheckReport {
    let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
    fs::write(path, lines).unwrap();
    check(&[path.to_owned().into()], &FeedSettings { threads: 2, batch_bytes: 4096, ..FeedSettings::default() }).unwrap()
}

fn records() -> Vec<Value> {
    let policies = ["all", "last", "mask-errors", "mask-malformed,mask-errors"];
    let of = |(at, loss): (usize, &str)| ["qwen3-instruct-2507", "qwen3"].map(|target| filled(&format!("i@{at}.1"), target, loss));
    policies.into_iter().enumerate().flat_map(of).map(|trajectory| serde_json::to_value(trajectory).unwrap()).collect()
}

#[test]
fn what_is_right_is_proven() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut records = records();
    let report = checked(file.path(), &records);
    assert_eq!((report.records, report.proven, report.wrong, report.uncounted), (8, 8, 0, 0), "{report:?}");
    records[2] = serde_json::to_value(trajectory("i@9.1", "x")).unwrap();
    let report = checked(file.path(), &records);
    assert_eq!((report.proven, report.uncounted, report.wrong), (7, 1, 0));
    assert_eq!((report.first_uncounted[0].record, report.first_uncounted[0].id.as_str()), (3, "i@9.1"));
}

#[test]
fn records_of_version_1_are_proven_as_they_were_counted() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut old = trajectory("i@0.1", "x");
    let counts = Counter::default().count(&old.messages, &old.tools).unwrap();
    (old.num_tokens, old.num_loss_tokens) = (counts.total as i64, counts.loss as i64);
    let mut old = serde_json::to_value(old).unwrap();
    old["schema_version"] = 1.into();
    old.as_object_mut().unwrap().remove("suspect");
    old["messages"].as_array_mut().unwrap().iter_mut().for_each(|message| drop(message.as_object_mut().unwrap().remove("loss")));
    assert_eq!(checked(file.path(), &[old.clone()]).proven, 1);
    old["num_loss_tokens"] = 1.into();
    assert_eq!(checked(file.path(), &[old]).first_mismatches[0].key, "num_loss_tokens");
}

#[test]
fn what_was_changed_is_found_and_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let change_counted = |record: &mut Value, key: &str, value: &str| {
        let mut meta: Value = serde_json::from_str(record["meta"].as_str().unwrap()).unwrap();
        meta["counted"][key] = value.into();
        record["meta"] = meta.to_string().into();
    };
    type Change<'c> = &'c dyn Fn(&mut Value);
    let cases: [(&str, Change<'_>); 9] = [
        ("num_tokens", &|r| r["num_tokens"] = (r["num_tokens"].as_i64().unwrap() + 1).into()),
        ("num_loss_tokens", &|r| r["num_loss_tokens"] = (-1).into()),
        ("messages[4].loss", &|r| r["messages"][4]["loss"] = (!r["messages"][4]["loss"].as_bool().unwrap()).into()),
        ("messages[2].loss", &|r| r["messages"][2]["loss"] = true.into()),
        ("num_tokens", &|r| r["messages"][4]["content"] = "other words, and more of them".into()),
        ("suspect", &|r| r["suspect"] = r#"["special_token"]"#.into()),
        ("meta.counted.tokenizer_digest", &|r| change_counted(r, "tokenizer_digest", "00")),
        ("meta.counted.target", &|r| change_counted(r, "target", "gpt-9")),
        ("meta.counted.loss", &|r| change_counted(r, "loss", "some")),
    ];
    for (key, change) in cases {
        let mut records = records();
        change(&mut records[5]);
        let report = checked(file.path(), &records);
        assert_eq!((report.proven, report.wrong), (7, 1), "{key}: {report:?}");
        let first = &report.first_mismatches[0];
        assert!(report.first_mismatches.iter().any(|wrong| wrong.key == key), "{key}: {:?}", report.first_mismatches);
        assert_eq!((first.place.record, first.place.id.as_str()), (6, "i@2.1"), "{key}");
        assert_ne!(first.recorded, first.found);
    }
}

#[test]
fn the_first_twenty_are_named_and_the_command_fails() {
    let file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
    let mut record = serde_json::to_value(filled("i@0.1", "qwen3-instruct-2507", "all")).unwrap();
    let good = record.clone();
    record["num_tokens"] = 7.into();
    let report = checked(file.path(), &vec![record; 50]);
    assert_eq!((report.wrong, report.mismatches, report.first_mismatches.len()), (50, 50, 20));
    assert!(report.first_mismatches.iter().zip(1..).all(|(wrong, record)| wrong.place.record == record));

    let sweroll = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sweroll")).arg("tokens").arg(file.path()).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = sweroll(&["--check"]);
    assert!(code == Some(1) && text.contains("num_tokens is 7, found") && text.contains("and 30 more"), "{text}");
    assert!(text.ends_with("50 records: 0 proven, 50 wrong, 0 uncounted\n"), "{text}");
    let (code, text) = sweroll(&["--check", "--format", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["schema_version"], &json["first_mismatches"][0]["recorded"]), (Some(1), &1.into(), &"7".into()));

    fs::write(file.path(), format!("{good}\n")).unwrap();
    assert_eq!(sweroll(&["--check"]).0, Some(0));
    // The record says under what it is proven.
    assert_eq!(sweroll(&["--check", "--loss", "last"]).0, Some(2));
    assert_eq!(sweroll(&["--check", "--target", "qwen3"]).0, Some(2));
    let (code, text) = sweroll(&["--format", "json", "--loss", "last", "--context", "100,40960"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    let total = &json["total"];
    assert_eq!((code, &json["loss"], &json["exact"], &json["schema_version"]), (Some(0), &"last".into(), &true.into(), &1.into()));
    assert_eq!((&total["over"]["100"], &total["over"]["40k"], &total["tokens"]), (&1.0.into(), &0.0.into(), &good["num_tokens"]));
    assert!(total["loss_tokens"].as_i64() < good["num_loss_tokens"].as_i64() && total["thinking_tokens"].as_i64() > Some(0));
}

#[test]
fn a_tokenizer_that_is_not_the_targets_makes_an_estimate() {
    let shard = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
    fs::write(shard.path(), format!("{}\n", serde_json::to_value(filled("i@0.1", "qwen3", "all")).unwrap())).unwrap();
    // Bytes alone, as a tiktoken file: `A` is 0, six bits a letter.
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |bits: u8| char::from(letters[usize::from(bits & 63)]);
    let bytes: String = (0..=255_u8).map(|byte| format!("{}{} {byte}\n", letter(byte >> 2), letter(byte << 4))).collect();
    let tokenizer = tempfile::NamedTempFile::new().unwrap();
    fs::write(tokenizer.path(), bytes).unwrap();
    let sweroll = |format: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sweroll"));
        command.arg("tokens").arg(shard.path()).arg("--tokenizer").arg(tokenizer.path()).args(["--format", format]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(sweroll("table").contains("(estimate: "));
    assert_eq!(serde_json::from_str::<Value>(&sweroll("json")).unwrap()["exact"], false);
}
