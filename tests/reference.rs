//! What sweroll makes of records, for the reference to be held against: `tests/consumers/reference.py` runs this.

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::PathBuf,
};
use sweroll::{
    domain::{Message, Role, Trajectory},
    tokens::{
        ChatTemplate, Counter, Target,
        mask::{Counts, Template},
        template,
    },
};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: tests/consumers/reference.py sets it and runs this"))
}

/// The built-in counters, and those by the template files of SWEROLL_REFERENCE_TEMPLATES, a JSON object of paths by target.
fn counters() -> Vec<(Target, Counter)> {
    let files: BTreeMap<Target, PathBuf> = serde_json::from_str(&variable("SWEROLL_REFERENCE_TEMPLATES")).unwrap();
    let of_file = |(target, path): (Target, PathBuf)| (target, Counter::of_file(ChatTemplate::load(&path, 0).unwrap(), target.tokenizer()));
    let native = Target::ALL.map(|target| (target, Counter::new(target, target.tokenizer())));
    native.into_iter().chain(files.into_iter().map(of_file)).collect()
}

/// Reads records from the lines of SWEROLL_REFERENCE_IN; writes to SWEROLL_REFERENCE_OUT one line for each: a list of what was made of
/// it by every counter.
#[test]
#[ignore = "run by tests/consumers/reference.py"]
fn what_sweroll_makes_of_records() {
    let records = BufReader::new(File::open(variable("SWEROLL_REFERENCE_IN")).unwrap());
    let mut out = BufWriter::new(File::create(variable("SWEROLL_REFERENCE_OUT")).unwrap());
    let counters = counters();
    for record in records.lines() {
        let Trajectory { messages, tools, .. } = Trajectory::parse(record.unwrap().as_bytes()).unwrap();
        let made: Vec<Value> = counters.iter().map(|(target, counter)| made(*target, counter, &messages, &tools)).collect();
        writeln!(out, "{}", Value::from(made)).unwrap();
    }
    out.flush().unwrap();
}

fn made(target: Target, counter: &Counter, messages: &[Message], tools: &str) -> Value {
    let counts = counter.count(messages, tools).unwrap();
    let (path, text, mask) = match &counter.template {
        Template::Native(target) => ("native", template::render(*target, messages, tools).unwrap(), Some(mask(&counts))),
        Template::File(file) => ("file", file.render(messages, tools).unwrap().text, None),
    };
    let ids = counter.tokenizer.encode(&text);
    let replies: Vec<u64> = counts.turns.iter().filter(|turn| turn.role == Role::Assistant).map(|turn| turn.loss).collect();
    json!({
        "target": target, "path": path, "text": text, "ids": ids, "tokens": counts.total, "loss": counts.loss, "replies": replies,
        "mask": mask,
    })
}

/// A turn's trained tokens are its last. Where the template is ours the turns are all the text.
fn mask(counts: &Counts) -> Vec<u8> {
    let mut mask = Vec::new();
    for turn in &counts.turns {
        mask.extend((0..turn.tokens).map(|at| u8::from(at >= turn.tokens - turn.loss)));
    }
    mask
}
