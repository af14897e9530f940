//! The command line as its users see it.

mod common;

use common::{expect, stderr, stdout, sweroll};
use std::collections::BTreeMap;

const COMMANDS: [&str; 27] = [
    "run",
    "rerun",
    "tokens",
    "seal",
    "merge",
    "summary",
    "verify",
    "validate",
    "export",
    "grade",
    "images",
    "images pull",
    "images import",
    "images list",
    "images rm",
    "images gc",
    "show",
    "endpoint",
    "bench",
    "bench all",
    "bench files",
    "bench store",
    "bench tokens",
    "bench limits",
    "bench images",
    "bench schedule",
    "demo",
];

fn help(command: &str) -> String {
    stdout(&expect(sweroll().args(command.split(' ')).arg("--help"), 0))
}

#[test]
fn help_is_as_reviewed() {
    insta::assert_snapshot!("help", stdout(&expect(sweroll().arg("--help"), 0)));
    for command in COMMANDS {
        insta::assert_snapshot!(format!("help_{}", command.replace(' ', "_")), help(command));
    }
}

/// Each option of a run that is a setting has an environment variable, named in its help; each command has an example.
#[test]
fn help_has_examples_and_names_the_environment() {
    let mut named: BTreeMap<String, String> = BTreeMap::new();
    for command in COMMANDS {
        let text = help(command);
        assert!(text.contains("Example:"), "{command}");
        // One paragraph an option: the line with its dashes and the indented lines below it.
        let mut options: Vec<String> = Vec::new();
        for line in text.split("Example:").next().unwrap().lines() {
            // One with a blank behind it is a possible value.
            if line.trim_start().starts_with('-') && !line.trim_start().starts_with("- ") {
                options.push(line.trim().to_owned());
            } else if let Some(last) = options.last_mut().filter(|_| line.starts_with("        ")) {
                last.push(' ');
                last.push_str(line.trim());
            }
        }
        for option in options.iter().filter(|o| !["--help", "--version"].iter().any(|free| o.contains(free))) {
            assert!(option.contains("[env: SWEROLL_"), "{command}: {option}");
            // A variable is of one kind in all commands, so that one environment serves them all.
            let text = option.replace("[env: ", "[env:");
            let value = text.split_whitespace().find(|word| word.starts_with('<')).filter(|value| option.find(*value) < Some(40));
            let variable = text.split("[env:").nth(1).unwrap().split('=').next().unwrap().to_owned();
            let of = value.unwrap_or_default().to_owned();
            let first = named.entry(variable.clone()).or_insert_with(|| of.clone());
            assert_eq!(*first, of, "{command}: {variable}");
        }
    }
}

#[test]
fn the_environment_is_read_and_flags_win_over_it() {
    let temp = tempfile::tempdir().unwrap();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/demo.jsonl");
    let mut command = sweroll();
    command.args(["run", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--dry-run", "--out"]).arg(temp.path().join("x"));
    command.env("SWEROLL_INSTANCES", demo).env("SWEROLL_SAMPLES", "3");
    assert!(stdout(&expect(&mut command, 0)).starts_with("5 instances, 15 episodes"));
    assert!(stdout(&expect(command.args(["--samples", "2"]), 0)).starts_with("5 instances, 10 episodes"));
    let config = temp.path().join("sweroll.toml");
    std::fs::write(&config, "[instances]\nsamples = 7\n").unwrap();
    let mut file = sweroll();
    file.args(["run", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--dry-run", "--instances", demo, "--out"])
        .arg(temp.path().join("x"));
    assert!(stdout(&expect(file.arg("--config").arg(&config), 0)).starts_with("5 instances, 35 episodes"));
}

#[test]
fn usage_errors_name_the_mend() {
    for (args, part) in [
        (&["run", "--out", "x"][..], "--instances is needed"),
        (&["run", "--out", "x", "--set", "agent.turns"], "KEY=VALUE"),
        (&["run", "--out", "x", "--set", "agent.truns=1"], "truns"),
        (&["run", "--out", "x", "--sandbox", "podman"], "podman"),
        (&["summary", "no-such-dir"], "no-such-dir"),
        (&["show", "no-such-dir", "noat"], "INSTANCE@SAMPLE"),
        (&["grade", "--predictions", "x", "--out", "y"], "--instances is needed"),
        (&["grade", "--instances", "no-such-file", "--predictions", "x", "--out", "no-such-out"], "no-such-file"),
        (&["rerun", "no-such-dir", "--class", "weather"], "endpoint, infra, model"),
        (&["tokens", "no-such-shard.jsonl.zst"], "no-such-shard"),
        (&["endpoint", "--instances", "x", "--script", "silver"], "gold, noop, wander, hostile"),
        (&["endpoint", "--instances", "x", "--script", "gold", "--fault", "429:2"], "429:2"),
    ] {
        let output = expect(sweroll().args(args), 2);
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn completions_and_manual_are_printed() {
    assert!(stdout(&expect(sweroll().args(["completions", "bash"]), 0)).contains("sweroll"));
    assert!(stdout(&expect(sweroll().arg("man"), 0)).contains(".TH"));
}

/// `docs/settings.md` holds every setting with its default, and no other.
#[test]
fn every_setting_is_documented_with_its_default() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md")).unwrap();
    let block = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let documented: toml::Table = block.parse().unwrap();
    let defaults = sweroll::config::Settings::default().table().unwrap();
    assert_eq!(documented, defaults, "write docs/settings.md anew; the defaults are\n{}", toml::to_string(&defaults).unwrap());
    let mut above = "";
    for line in block.lines() {
        let is_key = line.contains(" = ") && !line.starts_with('#');
        assert!(!is_key || line.contains('#') || above.starts_with('#'), "{line:?} has no word on what it is");
        above = line;
    }
}
