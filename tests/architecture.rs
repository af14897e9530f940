//! Reads the `use crate::` lines and holds the direction of the house: domain <- pure cores <- adapters <- engine <- cli.

use std::{fs, path::Path};

/// A room (a path prefix below `src/`) and the modules of ours that it may name.
const RULES: [(&str, &[&str]); 23] = [
    ("domain/", &[]),
    ("scheduler/", &["domain", "scheduler"]),
    ("agent/machine.rs", &["domain"]),
    ("agent/history.rs", &["domain"]),
    ("agent/prompt.rs", &["domain", "tools"]),
    ("agent/runner.rs", &["agent", "domain", "endpoint", "sandbox", "toolbox", "tools"]),
    ("http.rs", &[]),
    ("endpoint/", &["domain", "endpoint", "http"]),
    ("tools/", &["domain", "toolbox", "tools"]),
    ("toolbox/", &["toolbox"]),
    ("linux.rs", &[]),
    ("images/", &["domain", "http", "images", "linux"]),
    ("sandbox/", &["domain", "images", "linux", "sandbox", "toolbox"]),
    ("grading/", &["domain", "grading", "sandbox", "toolbox"]),
    ("store/", &["domain", "store"]),
    ("tokens/", &["domain", "tokens"]),
    ("export/", &["domain", "export", "tokens"]),
    ("reporter/", &["domain", "reporter"]),
    ("config/", &["agent", "endpoint", "grading", "images", "sandbox", "scheduler", "store", "tokens", "tools", "config"]),
    (
        "engine",
        &[
            "agent",
            "config",
            "domain",
            "endpoint",
            "engine",
            "grading",
            "images",
            "linux",
            "reporter",
            "sandbox",
            "scheduler",
            "store",
            "tokens",
            "toolbox",
            "tools",
        ],
    ),
    (
        "bench/",
        &[
            "agent",
            "bench",
            "config",
            "domain",
            "endpoint",
            "engine",
            "images",
            "reporter",
            "sandbox",
            "scheduler",
            "store",
            "tokens",
            "toolbox",
        ],
    ),
    (
        "cli/",
        &[
            "bench",
            "cli",
            "config",
            "domain",
            "endpoint",
            "engine",
            "export",
            "images",
            "reporter",
            "scheduler",
            "store",
            "tokens",
            "tools",
        ],
    ),
    ("", &[]),
];

/// Rooms that decide: they may not know time, tasks, files or chance.
const PURE: [&str; 44] = [
    "domain/",
    "scheduler/budget.rs",
    "bench/limits",
    "bench/plot.rs",
    "endpoint/limiter/bucket.rs",
    "endpoint/limiter/core.rs",
    "endpoint/limiter/told.rs",
    "endpoint/pool.rs",
    "endpoint/server/brownout.rs",
    "endpoint/server/queue.rs",
    "endpoint/server/rate.rs",
    "scheduler/core.rs",
    "scheduler/images.rs",
    "scheduler/message.rs",
    "scheduler/pace.rs",
    "scheduler/policy.rs",
    "scheduler/queue.rs",
    "bench/schedule/fate.rs",
    "agent/machine.rs",
    "agent/history.rs",
    "endpoint/share/part.rs",
    "grading/course.rs",
    "grading/plan.rs",
    "grading/record.rs",
    "grading/report.rs",
    "grading/validation",
    "grading/verdict.rs",
    "grading/hygiene.rs",
    "grading/restore.rs",
    "grading/shadow.rs",
    "grading/suspicion.rs",
    "grading/runners/cargo.rs",
    "grading/runners/go.rs",
    "grading/runners/logs/",
    "grading/runners/printed.rs",
    "grading/runners/toolchain.rs",
    "grading/runners/unittest.rs",
    "images/registry/challenge.rs",
    "images/registry/manifest.rs",
    "images/registry/patience.rs",
    "images/registry/reference.rs",
    "sandbox/native/cgroup/host.rs",
    "sandbox/native/filter",
    "sandbox/native/launcher/user.rs",
];
const IMPURE: [&str; 7] = ["tokio", "std::fs", "std::net", "std::process", "Instant::now", "SystemTime::now", "rand::"];

fn sources(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Source text without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

/// Every top-level module of ours that the text names by `crate::`, grouped imports included.
fn modules_named(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let group = rest.strip_prefix('{').map(|inside| {
            let mut depth = 1;
            let end = inside.find(|c| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth == 0
            });
            &inside[..end.unwrap_or(inside.len())]
        });
        match group {
            Some(inside) => {
                let mut depth = 0;
                let mut word = String::new();
                for c in inside.chars().chain([',']) {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            let name: String = word.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                            if !name.is_empty() {
                                names.push(name);
                            }
                            word.clear();
                        }
                        c if depth == 0 => word.push(c),
                        _ => {}
                    }
                }
            }
            None => names.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()),
        }
    }
    names
}

#[test]
fn imports_follow_the_direction_of_the_house() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 30, "the sources were not found");
    let mut wrong = Vec::new();
    for file in files {
        let name = file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        if name == "lib.rs" || name == "main.rs" {
            continue;
        }
        let (_, allowed) = RULES.iter().find(|(room, _)| name.starts_with(room)).unwrap();
        let text = code(&file);
        for module in modules_named(&text) {
            if !allowed.contains(&module.as_str()) {
                wrong.push(format!("{name} names crate::{module}"));
            }
        }
        if PURE.iter().any(|room| name.starts_with(room)) {
            wrong.extend(IMPURE.iter().filter(|word| text.contains(**word)).map(|word| format!("{name} is pure and names {word}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn grouped_imports_are_read() {
    let text = "use crate::{domain::{A, B}, store};\nuse crate::tools::{X, Y};\n crate::engine::run()";
    assert_eq!(modules_named(text), ["domain", "store", "tools", "engine"]);
}

/// Concrete adapters are named in `engine.rs` only.
#[test]
fn only_the_engine_names_concrete_adapters() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let name = file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        if name == "engine.rs" || name.starts_with("sandbox/") || name.starts_with("endpoint/") {
            continue;
        }
        for adapter in ["Docker::connect(", "Local::new", "OpenAi::new"] {
            assert!(!code(&file).contains(adapter), "{name} names {adapter}");
        }
    }
}

/// What a port offers by default, its decorator would answer in the backend's place.
#[test]
fn the_bounded_backend_hands_on_every_word_of_its_ports() {
    let sandbox = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sandbox");
    let (ports, bounded) = (code(&sandbox.join("mod.rs")), code(&sandbox.join("bounded.rs")));
    for port in ["pub trait Sandbox", "pub trait Provider"] {
        let body = ports.split_once(port).unwrap().1.split_once("\n}").unwrap().0;
        let words = body.lines().filter_map(|line| line.strip_prefix("    fn ")?.split(['(', '<']).next());
        for word in words {
            assert!(bounded.contains(&format!("inner.{word}(")), "src/sandbox/bounded.rs does not hand on {port}'s {word}");
        }
    }
}
