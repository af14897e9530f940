//! What sweroll makes of records, for the reference to be held against: `tests/consumers/reference.py` runs this.

use serde_json::{Value, json};
use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
};
use sweroll::{
    domain::{Message, Role, Trajectory},
    tokens::{Counter, Target, template},
};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: tests/consumers/reference.py sets it and runs this"))
}

/// Reads records from the lines of SWEROLL_REFERENCE_IN; writes to SWEROLL_REFERENCE_OUT one line for each: a list of what was made of
/// it for every target.
#[test]
#[ignore = "run by tests/consumers/reference.py"]
fn what_sweroll_makes_of_records() {
    let records = BufReader::new(File::open(variable("SWEROLL_REFERENCE_IN")).unwrap());
    let mut out = BufWriter::new(File::create(variable("SWEROLL_REFERENCE_OUT")).unwrap());
    let counters = Target::ALL.map(|target| (target, Counter::new(target, target.tokenizer())));
    for record in records.lines() {
        let Trajectory { messages, tools, .. } = Trajectory::parse(record.unwrap().as_bytes()).unwrap();
        let made: Vec<Value> = counters
            .iter()
            .map(|(target, counter)| {
                let text = template::render(*target, &messages, &tools).unwrap();
                made(*target, "native", text, counter, &messages, &tools)
            })
            .collect();
        writeln!(out, "{}", Value::from(made)).unwrap();
    }
    out.flush().unwrap();
}

fn made(target: Target, path: &str, text: String, counter: &Counter, messages: &[Message], tools: &str) -> Value {
    let ids = counter.tokenizer.encode(&text);
    let counts = counter.count(messages, tools).unwrap();
    let mut mask = Vec::with_capacity(ids.len());
    for turn in &counts.turns {
        let before = if turn.role == Role::Assistant { turn.tokens - turn.loss } else { turn.tokens };
        mask.extend((0..turn.tokens).map(|at| u8::from(at >= before)));
    }
    json!({ "target": target, "path": path, "text": text, "ids": ids, "tokens": counts.total, "loss": counts.loss, "mask": mask })
}
