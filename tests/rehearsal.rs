//! The scripted endpoint over real HTTP: its policies change real trees, its faults are real, and it catches
//! every mispaired request.

#[path = "rehearsal/cases.rs"]
mod cases;
#[path = "rehearsal/client.rs"]
mod client;
#[path = "rehearsal/sandbox.rs"]
mod sandbox;

use cases::{CASES, build};
use client::{Http, Rehearsal, listed, scale_swe, sweroll};
use sandbox::{Episode, Sandbox, git, tree};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};
use sweroll::{
    domain::Instance,
    endpoint::server::{Playbook, Script, Settings},
};

fn instance(id: &str, workdir: &Path, patch: &str, statement: &str) -> Instance {
    Instance {
        instance_id: id.parse().unwrap(),
        repo: "o/r".into(),
        language: "shell".into(),
        workdir: workdir.to_str().unwrap().to_owned(),
        image: String::new(),
        problem_statement: statement.into(),
        base_commit: String::new(),
        fix_commit: String::new(),
        patch: patch.into(),
        test_patch: String::new(),
        test_script: String::new(),
        fail_to_pass: vec!["t.sh".into()],
        pass_to_pass: Vec::new(),
        pre_commands: String::new(),
        test_cmd: String::new(),
        log_parser: String::new(),
        url: String::new(),
    }
}

fn settings(script: Script) -> Settings {
    Settings { script, ..Settings::default() }
}

fn with_fault(script: Script, fault: &str) -> Settings {
    Settings { faults: vec![fault.parse().unwrap()], ..settings(script) }
}

const STATEMENT: &str = "The greeting is wrong: say hello to everybody.";

/// `tools`: schemas, or the system prompt that lists them.
fn prompt(tools: Option<&Value>) -> Value {
    let system = tools.and_then(Value::as_str).unwrap_or("You mend code.");
    let messages = json!([{"role": "system", "content": system}, {"role": "user", "content": format!("<issue>\n{STATEMENT}\n</issue>")}]);
    match tools.filter(|tools| tools.is_array()) {
        Some(tools) => json!({"model": "m", "messages": messages, "tools": tools}),
        None => json!({"model": "m", "messages": messages}),
    }
}

/// Plays one episode and gives the tree that it leaves, with the episode.
fn play(settings: Settings, dir: &Path, patch: &str, tools: Option<Value>, sandbox: Sandbox) -> (sandbox::Tree, Episode, Rehearsal) {
    let rehearsal = Rehearsal::new(Playbook::new([instance("case", dir, patch, STATEMENT)]), settings);
    let episode = Episode::play(&rehearsal, prompt(tools.as_ref()), sandbox);
    (tree(dir), episode, rehearsal)
}

fn ways() -> [(&'static str, Option<Value>); 5] {
    let listed = |scaffold| Some(listed(scaffold));
    let (scale_swe, sweroll) = (("scale-swe", Some(scale_swe())), ("sweroll", Some(sweroll())));
    [scale_swe, sweroll, ("inline", None), ("inline scale-swe", listed("scale-swe")), ("inline sweroll", listed("sweroll"))]
}

fn names(way: &str) -> [&'static str; 2] {
    if way.ends_with("sweroll") { ["bash", "submit"] } else { ["execute_bash", "finish"] }
}

#[test]
fn gold_makes_every_change_in_every_way_of_calling() {
    for case in CASES {
        for (way, tools) in ways() {
            let (dir, patch, want) = build(case);
            let before = tree(dir.path());
            let (got, episode, rehearsal) = play(settings(Script::Gold), dir.path(), &patch, tools, Sandbox::new(dir.path()));
            assert_ne!(before, want, "{}: nothing to do", case.name);
            assert_eq!(got, want, "{} by {way}:\n{}", case.name, episode.text());
            assert!(episode.finished && episode.turns < 30, "{} by {way}: {} turns", case.name, episode.turns);
            assert_eq!(rehearsal.stat().violations, Vec::<String>::new(), "{} by {way}", case.name);
        }
    }
}

#[test]
fn gold_edits_where_it_can() {
    let (dir, patch, _) = build(&CASES[0]);
    let (_, episode, _) = play(settings(Script::Gold), dir.path(), &patch, Some(sweroll()), Sandbox::new(dir.path()));
    assert_eq!((episode.edits, episode.failed_edits), (3, 0), "{}", episode.text());
    let (dir, patch, _) = build(CASES.iter().find(|c| c.name == "not-unique-out-of-sight").unwrap());
    let (_, episode, _) = play(settings(Script::Gold), dir.path(), &patch, Some(sweroll()), Sandbox::new(dir.path()));
    assert_eq!((episode.edits, episode.failed_edits), (1, 0), "{}", episode.text());
}

#[test]
fn gold_falls_back_to_the_shell_where_edits_fail_or_lie() {
    for case in &CASES[..3] {
        for (edits_fail, edits_lie) in [(true, false), (false, true)] {
            let (dir, patch, want) = build(case);
            let sandbox = Sandbox { edits_fail, edits_lie, ..Sandbox::new(dir.path()) };
            let (got, episode, _) = play(settings(Script::Gold), dir.path(), &patch, Some(scale_swe()), sandbox);
            assert_eq!(got, want, "{}:\n{}", case.name, episode.text());
        }
    }
}

#[test]
fn gold_tries_again_where_the_first_command_is_lost() {
    for case in CASES {
        let (dir, patch, want) = build(case);
        let sandbox = Sandbox { lose: Some("golden change: all".into()), ..Sandbox::new(dir.path()) };
        let (got, episode, _) = play(settings(Script::Gold), dir.path(), &patch, Some(scale_swe()), sandbox);
        assert_eq!(got, want, "{}:\n{}", case.name, episode.text());
    }
}

#[test]
fn gold_mends_the_line_ends_of_a_patch() {
    for name in ["edits", "new-and-empty", "deleted", "no-eol"] {
        for (way, tools) in ways() {
            let (dir, patch, want) = build(CASES.iter().find(|c| c.name == name).unwrap());
            let (got, episode, rehearsal) =
                play(settings(Script::Gold), dir.path(), &patch.replace('\n', "\r\n"), tools, Sandbox::new(dir.path()));
            let changed = want.iter().filter(|(path, file)| got.get(*path) != Some(*file)).map(|(path, _)| path).collect::<Vec<_>>();
            // A new file has the line ends of its patch.
            assert!(changed.is_empty() || name == "new-and-empty", "{name} by {way}: {changed:?}\n{}", episode.text());
            assert!(got.keys().eq(want.keys()), "{name} by {way}: {:?}", got.keys());
            assert_eq!(rehearsal.stat().gold_failed_count, 0, "{name} by {way}");
        }
    }
}

#[test]
fn gold_says_that_its_patch_does_not_apply() {
    let (dir, patch, _) = build(&CASES[0]);
    let before = tree(dir.path());
    for (way, tools) in ways() {
        let other = patch.replace("seven", "something else").replace("x = 1", "x = 3").replace("two", "too").replace("fourteen", "40");
        let (after, episode, rehearsal) = play(settings(Script::Gold), dir.path(), &other, tools, Sandbox::new(dir.path()));
        assert_eq!(before, after, "{way}");
        assert!(episode.finished && episode.text().contains("golden patch of case does not apply here (part 1: FAILED)"), "{way}");
        let stat = rehearsal.stat();
        assert_eq!((stat.gold_failed_count, stat.gold_failed), (1, vec!["case".to_owned()]), "{way}");
    }
}

#[test]
fn gold_survives_replies_cut_by_length() {
    for (way, tools) in ways() {
        let (dir, patch, want) = build(&CASES[1]);
        let (got, episode, rehearsal) = play(with_fault(Script::Gold, "length:0.5"), dir.path(), &patch, tools, Sandbox::new(dir.path()));
        assert!(episode.cut > 0, "{way}: no reply was cut");
        assert_eq!(got, want, "{way}:\n{}", episode.text());
        assert_eq!(rehearsal.stat().violations, Vec::<String>::new());
    }
}

#[test]
fn noop_and_wander_leave_the_tree_as_it_was() {
    for script in [Script::Noop, Script::Wander] {
        for (way, tools) in ways() {
            let (dir, patch, _) = build(&CASES[0]);
            let before = tree(dir.path());
            let (after, episode, rehearsal) = play(settings(script), dir.path(), &patch, tools, Sandbox::new(dir.path()));
            assert_eq!(before, after, "{script} by {way}:\n{}", episode.text());
            assert!(episode.finished);
            let turns = if script == Script::Noop { 1 } else { 10 };
            assert_eq!(episode.turns, turns, "{script} by {way}");
            assert_eq!(episode.several > 0, script == Script::Wander && !way.starts_with("inline"), "{script} by {way}");
            assert_eq!(rehearsal.stat().violation_count, 0);
        }
    }
}

#[test]
fn gold_needs_to_know_the_instance_and_wander_does_not() {
    let stranger = json!({"model": "m", "messages": [{"role": "user", "content": "Who are you?"}], "tools": scale_swe()});
    for (script, status) in [(Script::Gold, 400), (Script::Wander, 200), (Script::Hostile, 200), (Script::Noop, 200)] {
        let book = Playbook::new([instance("a", Path::new("/w"), "", STATEMENT)]);
        let reply = Rehearsal::new(book, settings(script)).post(&stranger);
        assert_eq!(reply.status, status, "{script}");
        assert!(status == 200 || reply.body.contains("problem statement"), "{}", reply.body);
    }
    let twins = ["a", "b"].map(|id| instance(id, Path::new("/w"), id, STATEMENT));
    let reply = Rehearsal::new(Playbook::new(twins), settings(Script::Gold)).post(&prompt(None));
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("a or b"), "{}", reply.body);
}

#[test]
fn hostile_sends_every_malformed_thing_and_then_finishes() {
    for (way, tools) in ways() {
        let rehearsal = Rehearsal::new(Playbook::new([]), settings(Script::Hostile));
        let mut body = prompt(tools.as_ref());
        let (mut seen, mut ended) = (String::new(), false);
        for _ in 0..40 {
            let reply = rehearsal.post(&body);
            assert_eq!(reply.status, 200, "{}", reply.body);
            let again = rehearsal.post(&body);
            let said = |body: &str| body.replace(&number(body), "NUMBER").split_once("\"choices\"").unwrap().1.to_owned();
            assert!(said(&reply.body) == said(&again.body), "not deterministic");
            seen += &reply.body;
            ended = ["\"finish\"", "\"submit\"", "<function=finish>", "<function=submit>"].iter().any(|end| reply.body.contains(end));
            if ended {
                break;
            }
            let messages = body["messages"].as_array_mut().unwrap();
            messages.push(json!({"role": "assistant", "content": "as it was"}));
            messages.push(json!({"role": "user", "content": "go on"}));
        }
        assert!(ended);
        let [shell, finish] = names(way);
        assert!(seen.contains(shell) && seen.contains(finish), "{way}");
        assert_eq!(seen.contains("execute_bash"), shell == "execute_bash", "{way}");
        for sign in
            ["browse_web", "\\ud800", "<|im_end|>", "\\u0000", "sleep 1000", "kill -9 1", "kill -9 $$", "sudo", "../../", "/dev/urandom"]
        {
            assert!(seen.contains(sign), "no {sign}");
        }
        if !way.starts_with("inline") {
            for sign in
                ["\"arguments\":{", "\"id\":\"\"", "{\"type\":\"function\"", "call_same", r#"{\"command\": \"ls"#, "\"arguments\":\"\""]
            {
                assert!(seen.contains(sign), "no {sign}");
            }
        }
        assert_eq!(rehearsal.stat().violation_count, 0);
    }
}

/// The number of a completion, which its id and unsealed call ids carry.
fn number(body: &str) -> String {
    let at = body.find("chatcmpl-").unwrap() + "chatcmpl-".len();
    body[at..at + 8].to_owned()
}

#[test]
fn every_fault_is_what_it_says() {
    let meet = |fault: &str| {
        let settings = Settings { stall_ms: 300, retry_after_s: 3, ..with_fault(Script::Noop, fault) };
        let rehearsal = Rehearsal::new(Playbook::new([]), settings);
        let reply =
            Http::connect(rehearsal.addr).send("POST", "/v1/chat/completions", &[], prompt(Some(&scale_swe())).to_string().as_bytes());
        let kind = fault.split(':').next().unwrap();
        assert_eq!(rehearsal.stat().faults.get(kind), Some(&1), "{fault}");
        reply
    };
    for (fault, status) in [("429:1", 429), ("500:1", 500), ("503:1", 503)] {
        let reply = meet(fault).unwrap();
        assert_eq!((reply.status, reply.header("retry-after")), (status, None), "{fault}");
        assert!(serde_json::from_str::<Value>(&reply.body).unwrap()["error"]["message"].is_string());
    }
    assert_eq!(meet("429-retry-after:1").unwrap().header("retry-after"), Some("3"));
    assert_eq!(meet("reset:1").unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(meet("stall:1").unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let truncated = meet("truncated:1").unwrap();
    let length: usize = truncated.header("content-length").unwrap().parse().unwrap();
    assert!(truncated.status == 200 && !truncated.body.is_empty() && truncated.body.len() < length, "{} of {length}", truncated.body.len());
    let cut: Value = serde_json::from_str(&meet("length:1").unwrap().body).unwrap();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert_eq!(cut["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{");
    let overflow = meet("overflow:1").unwrap();
    assert!(
        overflow.status == 400 && overflow.body.contains("maximum context length") && overflow.body.contains("context_length_exceeded")
    );
    let garbage = meet("garbage:1").unwrap();
    assert!(garbage.status == 200 && serde_json::from_str::<Value>(&garbage.body).is_err());
}

#[test]
fn a_seed_names_the_faults() {
    let count = |seed| {
        let rehearsal = Rehearsal::new(Playbook::new([]), Settings { seed, ..with_fault(Script::Noop, "429:0.3") });
        let mut line = Http::connect(rehearsal.addr);
        let body = prompt(None).to_string();
        let statuses: Vec<u16> = (0..200).map(|_| line.send("POST", "/chat/completions", &[], body.as_bytes()).unwrap().status).collect();
        assert_eq!((rehearsal.stat().accepted, rehearsal.stat().requests), (2, 200), "kept alive, and one for the counters");
        statuses
    };
    let refused = |statuses: &[u16]| statuses.iter().filter(|s| **s == 429).count();
    let first = count(1);
    assert_eq!(first, count(1));
    assert_ne!(first, count(2));
    assert_eq!(refused(&first), 68);
}

/// A whole turn of two calls, as a client should send it back.
fn two_calls(rehearsal: &Rehearsal) -> Vec<Value> {
    let mut messages = prompt(None)["messages"].as_array().unwrap().clone();
    let reply = rehearsal.post(&json!({"model": "m", "messages": messages, "tools": scale_swe()}));
    let reply: Value = serde_json::from_str(&reply.body).unwrap();
    let message = reply["choices"][0]["message"].clone();
    let calls = message["tool_calls"].as_array().unwrap().clone();
    assert_eq!(calls.len(), 2);
    messages.push(message);
    messages.extend(calls.iter().map(|c| json!({"role": "tool", "tool_call_id": c["id"], "content": "ok"})));
    messages
}

type Change = fn(&mut Vec<Value>);

#[test]
fn each_violation_is_told_and_counted() {
    let cases: &[(&str, Change)] = &[
        ("has no result", |m| drop(m.pop())),
        ("has no result", |m| m.insert(4, json!({"role": "user", "content": "and?"}))),
        ("has no result", |m| m.truncate(3)),
        ("did not make", |m| m[3]["tool_call_id"] = json!("call_other")),
        ("did not make", |m| m.insert(2, json!({"role": "tool", "tool_call_id": "x", "content": ""}))),
        ("answered twice", |m| m.push(m[3].clone())),
        ("without tool_call_id", |m| drop(m[3].as_object_mut().unwrap().remove("tool_call_id"))),
        ("there twice", |m| m[2]["tool_calls"][1]["id"] = m[2]["tool_calls"][0]["id"].clone()),
        ("empty", |m| m[2]["tool_calls"][0]["id"] = json!("")),
        ("expected a string", |m| m[2]["tool_calls"][0]["function"]["arguments"] = json!({})),
        ("missing field `id`", |m| drop(m[2]["tool_calls"][0].as_object_mut().unwrap().remove("id"))),
        ("of type", |m| m[2]["tool_calls"][0]["type"] = json!("tool")),
        ("not as it was sent", |m| {
            let arguments = m[2]["tool_calls"][0]["function"]["arguments"].as_str().unwrap().replace(':', ": ");
            m[2]["tool_calls"][0]["function"]["arguments"] = json!(arguments);
        }),
        ("not as it was sent", |m| m[2]["content"] = json!("")),
        ("not as it was sent", |m| {
            m[2]["tool_calls"].as_array_mut().unwrap().remove(1);
            m.pop();
        }),
        ("not the prompt that it answered", |m| m[0]["content"] = json!("You mend other code.")),
        ("not the prompt that it answered", |m| drop(m.remove(0))),
        ("an assistant message after assistant", |m| m.insert(2, json!({"role": "assistant", "content": "hm"}))),
        ("an assistant message after system", |m| drop(m.remove(1))),
        ("system message in mid-conversation", |m| m.push(json!({"role": "system", "content": "psst"}))),
        ("nothing is asked", |m| m.push(json!({"role": "assistant", "content": "done"}))),
        ("without content", |m| m[3]["content"] = Value::Null),
        ("unknown role", |m| m[0]["role"] = json!("robot")),
        ("there are none", Vec::clear),
    ];
    let book = || Playbook::new([instance("case", Path::new("/w"), "", STATEMENT)]);
    let rehearsal = Rehearsal::new(book(), settings(Script::Wander));
    let good = two_calls(&rehearsal);
    let ask = |messages: &[Value]| rehearsal.post(&json!({"model": "m", "messages": messages, "tools": scale_swe()}));
    assert_eq!(ask(&good).status, 200);
    for (n, (told, change)) in cases.iter().enumerate() {
        let mut messages = good.clone();
        change(&mut messages);
        let reply = ask(&messages);
        assert!(reply.status == 400 && reply.body.contains(told), "{n}: wanted {told:?}, got {} {}", reply.status, reply.body);
        let stat = rehearsal.stat();
        assert!(stat.violation_count == n as u64 + 1 && stat.violations[n].contains(told), "{n}");
    }
    let lenient = Rehearsal::new(book(), Settings { append_only: false, ..settings(Script::Wander) });
    let mut messages = good.clone();
    messages[0]["content"] = json!("You mend other code.");
    assert_eq!(lenient.post(&json!({"model": "m", "messages": messages, "tools": scale_swe()})).status, 200);
    let strict = Rehearsal::new(book(), Settings { reasoning: true, reasoning_required: true, ..settings(Script::Wander) });
    let mut messages = two_calls(&strict);
    assert_eq!(strict.post(&json!({"model": "m", "messages": messages, "tools": scale_swe()})).status, 200);
    messages[2].as_object_mut().unwrap().remove("reasoning_content");
    assert!(strict.post(&json!({"model": "m", "messages": messages, "tools": scale_swe()})).body.contains("not passed back"));
}

#[test]
fn an_inline_reply_is_sealed_too() {
    let rehearsal = Rehearsal::new(Playbook::new([]), settings(Script::Wander));
    let reply: Value = serde_json::from_str(&rehearsal.post(&prompt(None)).body).unwrap();
    let content = reply["choices"][0]["message"]["content"].as_str().unwrap();
    let ask = |system: &str, content: &str, next: &str| {
        let mut body = prompt(None);
        body["messages"][0]["content"] = json!(system);
        body["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": content}));
        body["messages"].as_array_mut().unwrap().push(json!({"role": next, "content": "ok"}));
        rehearsal.post(&body)
    };
    assert_eq!(ask("You mend code.", content, "user").status, 200);
    assert!(ask("You mend code.", &content.replace("<parameter", " <parameter"), "user").body.contains("not as it was sent"));
    assert!(ask("You break code.", content, "user").body.contains("not the prompt"));
    assert_eq!(ask("You mend code.", content, "assistant").status, 400);
}

#[test]
fn what_is_not_served_is_refused_in_the_words_of_the_api() {
    let settings = Settings { model_name: Some("m".into()), api_key: Some("k".into()), max_context_tokens: 1000, ..settings(Script::Noop) };
    let rehearsal = Rehearsal::new(Playbook::new([]), settings);
    let send = |method: &str, path: &str, key: &str, body: &Value| {
        Http::connect(rehearsal.addr)
            .send(method, path, &[("authorization", &format!("Bearer {key}"))], body.to_string().as_bytes())
            .unwrap()
    };
    let chat = |key: &str, body: &Value| send("POST", "/v1/chat/completions", key, body);
    let body = |key: &str, value: Value| {
        let mut body = prompt(Some(&scale_swe()));
        body[key] = value;
        body
    };
    assert_eq!(chat("k", &prompt(None)).status, 200);
    let wrong_key = chat("x", &prompt(None));
    assert!(wrong_key.status == 401 && wrong_key.body.contains("invalid_api_key"));
    let unknown = chat("k", &body("model", json!("n")));
    assert!(unknown.status == 404 && unknown.body.contains("model_not_found"));
    assert_eq!(chat("k", &json!("nonsense")).status, 400);
    assert_eq!(chat("k", &body("tools", json!("nonsense"))).status, 400);
    let long = chat("k", &body("messages", json!([{"role": "user", "content": "x".repeat(5000)}])));
    assert!(long.status == 400 && long.body.contains("maximum context length is 1000 tokens"), "{}", long.body);
    for path in ["/models", "/v1/models"] {
        assert!(send("GET", path, "k", &Value::Null).body.contains(r#""id":"m""#));
        assert_eq!(send("GET", path, "x", &Value::Null).status, 401);
    }
    assert_eq!(send("GET", "/v1/embeddings", "k", &Value::Null).status, 404);
    let stat: Value = serde_json::from_str(&send("GET", "/stat", "", &Value::Null).body).unwrap();
    assert_eq!((&stat["replies"]["401"], &stat["requests"], &stat["in_flight"]), (&json!(3), &json!(5), &json!(0)), "{stat}");
}

#[test]
fn many_connections_are_served_at_once() {
    let rehearsal = Rehearsal::new(Playbook::new([]), Settings { latency_ms: 400, ..settings(Script::Noop) });
    let body = prompt(Some(&scale_swe())).to_string();
    let mut lines: Vec<Http> = (0..300).map(|_| Http::connect(rehearsal.addr)).collect();
    lines.iter_mut().for_each(|line| line.ask("POST", "/v1/chat/completions", &[], body.as_bytes()).unwrap());
    assert!(lines.iter_mut().all(|line| line.answer().unwrap().status == 200));
    let stat = rehearsal.stat();
    assert!(stat.max_in_flight > 100 && stat.max_connections >= 300, "{} in flight", stat.max_in_flight);
    assert_eq!(stat.replies.get(&200), Some(&300));
    assert!(stat.prompt_tokens > 0 && stat.completion_tokens > 0 && stat.cached_tokens == 0);
}

#[test]
fn a_client_that_gives_up_ends_a_stall() {
    let rehearsal = Rehearsal::new(Playbook::new([]), with_fault(Script::Noop, "stall:1"));
    let mut line = Http::connect(rehearsal.addr);
    line.ask("POST", "/v1/chat/completions", &[], prompt(None).to_string().as_bytes()).unwrap();
    let until = |in_flight: u64| {
        (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            rehearsal.stat().in_flight == in_flight
        })
    };
    assert!(until(1), "the request never came");
    drop(line);
    assert!(until(0), "the request is still held");
}

/// On the files of the real images: needs Docker and the images of the set.
#[test]
fn gold_makes_the_real_changes() {
    let Ok(path) = std::env::var("SWEROLL_REALSET") else {
        assert!(std::env::var_os("CI").is_none(), "SWEROLL_REALSET is not set");
        return eprintln!("skipped: SWEROLL_REALSET is not set");
    };
    for line in fs::read_to_string(path).unwrap().lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| row[key].as_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let fetch = format!("cd {} && {{ {}\n}} >&2; tar c .", text("workdir"), text("pre_commands").trim_end().trim_end_matches("\\n"));
        let docker = ["run", "--rm", "--network", "none", "--label", "sweroll.test=rehearsal", text("image_url"), "bash", "-c", &fetch];
        let tar = Command::new("docker").args(docker).output().unwrap();
        assert!(tar.status.success(), "{}: {}", text("instance_id"), String::from_utf8_lossy(&tar.stderr));
        for (way, tools) in ways() {
            let at = dir.path().join(way);
            tar::Archive::new(&tar.stdout[..]).unpack(&at).unwrap();
            let (want, patch) = (dir.path().join("want"), dir.path().join("patch"));
            tar::Archive::new(&tar.stdout[..]).unpack(&want).unwrap();
            fs::write(&patch, text("patch")).unwrap();
            git(&want, &["apply", "--whitespace=nowarn", patch.to_str().unwrap()]);
            let (got, episode, rehearsal) = play(settings(Script::Gold), &at, text("patch"), tools, Sandbox::new(&at));
            assert!(got == tree(&want), "{} by {way}:\n{}", text("instance_id"), episode.text());
            assert!(episode.finished && rehearsal.stat().violation_count == 0);
            eprintln!(
                "{} by {way}: {} turns, {} edits, {} failed",
                text("instance_id"),
                episode.turns,
                episode.edits,
                episode.failed_edits
            );
            fs::remove_dir_all(&want).unwrap();
        }
    }
}
