//! What sweroll makes of records, for the reference to be held against: `tests/consumers/reference.py` runs this.

use serde_json::json;
use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
};
use sweroll::{
    domain::Trajectory,
    tokens::{Counter, Target, Tokenizer, template},
};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: tests/consumers/reference.py sets it and runs this"))
}

/// Reads records from the lines of SWEROLL_REFERENCE_IN; writes to SWEROLL_REFERENCE_OUT, for each and each target in order, one line:
/// the text, its token ids, and `[role, first message, messages, tokens, trained]` of every turn.
#[test]
#[ignore = "run by tests/consumers/reference.py"]
fn what_sweroll_makes_of_records() {
    let records = BufReader::new(File::open(variable("SWEROLL_REFERENCE_IN")).unwrap());
    let mut out = BufWriter::new(File::create(variable("SWEROLL_REFERENCE_OUT")).unwrap());
    let counters = Target::ALL.map(|target| Counter::new(target, Tokenizer::qwen3()));
    for record in records.lines() {
        let Trajectory { messages, tools, .. } = Trajectory::parse(record.unwrap().as_bytes()).unwrap();
        for counter in &counters {
            let text = template::render(counter.target, &messages, &tools).unwrap();
            let ids = counter.tokenizer.encode(&text);
            let counts = counter.count(&messages, &tools).unwrap();
            let turns: Vec<_> =
                counts.turns.iter().map(|turn| json!([turn.role, turn.first, turn.messages, turn.tokens, turn.loss])).collect();
            let made =
                json!({ "target": counter.target, "text": text, "ids": ids, "tokens": counts.total, "loss": counts.loss, "turns": turns });
            writeln!(out, "{made}").unwrap();
        }
    }
    out.flush().unwrap();
}
