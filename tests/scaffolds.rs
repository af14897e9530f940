//! What the model sees of each scaffold, whole, so that a change of it is seen in review; and scaffolds replaced by a directory.

use sweroll::agent::prompt::{NAMES, Scaffold, ScaffoldError, Settings};
use sweroll::domain::{Instance, Message, Role, ToolCall};
use sweroll::tools::{Bounds, CallFormat, Plan};

const STATEMENT: &str = "`add(1, 2)` returns 3.0 & not `3`.\n\n```python\n>>> add(1, 2)  # {{ not }} {% evaluated %}\n3.0\n```";

fn instance() -> Instance {
    serde_json::from_value(serde_json::json!({
        "instance_id": "tiny_1", "repo": "tiny/adder", "language": "python", "workdir": "/testbed", "image": "tiny:1",
        "problem_statement": format!("\n  {STATEMENT}\n\n"),
        "base_commit": "", "fix_commit": "", "patch": "", "test_patch": "", "test_script": "", "fail_to_pass": [], "pass_to_pass": [],
        "pre_commands": "", "url": ""
    }))
    .unwrap()
}

fn settings(name: &str, format: CallFormat) -> Settings {
    Settings { name: name.to_owned(), format, ..Settings::default() }
}

fn first_request(scaffold: &Scaffold) -> String {
    let messages = scaffold.render(&instance(), "/testbed").unwrap();
    let mut text: String = messages.iter().map(|m| format!("===== {} =====\n{}\n", m.role.as_str(), m.content)).collect();
    text += &format!("===== no call =====\n{}\n===== cut by length =====\n{}\n", scaffold.reminder(), scaffold.length_cut());
    let sent = scaffold.toolset.sent();
    if !sent.is_empty() {
        let schemas: serde_json::Value = serde_json::from_str(&sent).unwrap();
        text += &format!("===== tools =====\n{}\n", serde_json::to_string_pretty(&schemas).unwrap());
    }
    text
}

#[test]
fn first_requests() {
    for name in NAMES {
        for format in [CallFormat::Native, CallFormat::Inline] {
            let scaffold = Scaffold::load(&settings(name, format), 100).unwrap();
            insta::assert_snapshot!(format!("{name}-{format:?}").to_lowercase(), first_request(&scaffold));
        }
    }
}

#[test]
fn observations_that_teach() {
    let mut text = String::new();
    for (format, name) in [(CallFormat::Native, "scale-swe"), (CallFormat::Inline, "scale-swe"), (CallFormat::Native, "sweroll")] {
        let toolset = Scaffold::load(&settings(name, format), 100).unwrap().toolset;
        let shell = toolset.specs()[0].name.clone();
        let editor = toolset.specs()[1].name.clone();
        for (tool, arguments) in [
            ("rm", "{}"),
            (shell.as_str(), r#"{"command": "ls"#),
            (shell.as_str(), r#"{"command": "ls", "timeout": 9999}"#),
            (editor.as_str(), r#"{"command": "insert", "path": "/a"}"#),
            (editor.as_str(), r#"{"command": "create", "path": "/a", "new": "x"}"#),
        ] {
            let Plan::Malformed(taught) = toolset.plan(&ToolCall::new("c", tool, arguments)) else {
                panic!("{tool} {arguments} was accepted")
            };
            text += &format!("===== {name} {format:?}: {tool} {arguments}\n{taught}\n");
        }
    }
    insta::assert_snapshot!("teaching", text);
}

#[test]
fn the_statement_is_verbatim_and_never_a_template() {
    for name in NAMES {
        let messages = Scaffold::load(&settings(name, CallFormat::Native), 100).unwrap().render(&instance(), "/testbed").unwrap();
        assert_eq!(messages.iter().map(|m| m.role).collect::<Vec<_>>(), [Role::System, Role::User]);
        assert!(messages[1].content.contains(STATEMENT), "{name}");
    }
}

#[test]
fn the_model_is_told_the_limits_that_hold() {
    let bounds = Bounds { command_timeout_s: 77, max_command_timeout_s: 177, output_bytes: 12_345, ..Bounds::default() };
    for name in NAMES {
        let scaffold = Scaffold::load(&Settings { bounds: bounds.clone(), ..settings(name, CallFormat::Native) }, 100).unwrap();
        for number in ["77", "177", "12345"] {
            assert!(scaffold.toolset.schemas().contains(number), "{name} {number}");
        }
        let shell = &scaffold.toolset.specs()[0].name;
        let plan = |arguments: &str| scaffold.toolset.plan(&ToolCall::new("c", shell, arguments));
        assert!(matches!(plan(r#"{"command": "ls", "timeout": 178}"#), Plan::Malformed(text) if text.contains("at most 177")));
        let Plan::Run { op: sweroll::toolbox::protocol::Op::Run(run), .. } = plan(r#"{"command": "ls"}"#) else { panic!() };
        assert!(run.session && run.deadline_ms == 77_000);
    }
}

#[test]
fn limits_that_cannot_hold_are_refused() {
    let default = Bounds::default();
    for (bounds, says) in [
        (Bounds { command_timeout_s: 700, ..default.clone() }, "command_timeout_s = 700 must be from 1 to max_command_timeout_s = 600"),
        (Bounds { output_bytes: 10, ..default.clone() }, "output_bytes = 10"),
        (Bounds { arguments_bytes: usize::MAX, ..default.clone() }, "arguments_bytes"),
        (Bounds { calls_per_turn: 0, ..default }, "at least 1"),
    ] {
        let error = Scaffold::load(&Settings { bounds, ..Settings::default() }, 100).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

fn with_file(name: &str, text: &str) -> Result<Scaffold, ScaffoldError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), text).unwrap();
    Scaffold::load(&Settings { dir: Some(dir.path().to_owned()), ..Settings::default() }, 100)
}

#[test]
fn a_directory_replaces_files_and_changes_the_digest() {
    let plain = Scaffold::load(&Settings::default(), 100).unwrap();
    let other = with_file("system.j2", "Be brief in {{ repo }}.").unwrap();
    let messages = other.render(&instance(), "/testbed").unwrap();
    assert_eq!(messages[0], Message::new(Role::System, "Be brief in tiny/adder."));
    assert_eq!(messages[1], plain.render(&instance(), "/testbed").unwrap()[1]);
    assert_ne!(plain.digest, other.digest);
    assert_eq!(plain.digest.len(), 64);
    let same = std::fs::read_to_string("prompts/scale-swe/system.j2").unwrap();
    assert_eq!(plain.digest, with_file("system.j2", &same).unwrap().digest);
}

#[test]
fn a_bad_file_is_named_with_line_and_mend() {
    for (file, text, says) in [
        ("sytem.j2", "x", "the files of scale-swe are system.j2, instance.j2, reminder.j2, length_cut.j2, execute_bash.json"),
        ("system.j2", "one\n{{ repro }}", "line 2: undefined value"),
        ("system.j2", "{{ repro }}", "what can be printed here: problem_statement, repo"),
        ("system.j2", "one\n\n{% if tools %}", "line 3: syntax error"),
        ("reminder.j2", "{{ workdir }}", "undefined value"),
        ("instance.j2", "Fix it.", "write {{ problem_statement }}"),
        ("instance.j2", "{{ problem_statement | upper }}", "without filters"),
        ("think.json", "{}", "not a function schema"),
        ("think.json", "{{ limit }}", "line 1: undefined value"),
    ] {
        let error = with_file(file, text).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(says), "{error}");
    }
    let unknown = Scaffold::load(&settings("openhands", CallFormat::Native), 100).unwrap_err().to_string();
    assert!(NAMES.iter().all(|name| unknown.contains(name)), "{unknown}");
}

#[test]
fn real_statements_are_verbatim() {
    let Ok(path) = std::env::var("SWEROLL_REALSET") else {
        assert!(std::env::var("CI").is_err(), "set SWEROLL_REALSET to the path of instances.jsonl");
        eprintln!("skipped: SWEROLL_REALSET is not set");
        return;
    };
    let rows = std::fs::read_to_string(path).unwrap();
    let scaffolds = NAMES.map(|name| Scaffold::load(&settings(name, CallFormat::Inline), 100).unwrap());
    for row in rows.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()) {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        let instance =
            Instance { repo: text("repo"), language: text("language"), problem_statement: text("problem_statement"), ..instance() };
        for scaffold in &scaffolds {
            let messages = scaffold.render(&instance, &text("workdir")).unwrap();
            assert!(messages[1].content.contains(instance.problem_statement.trim()), "{}", row["instance_id"]);
        }
    }
}
