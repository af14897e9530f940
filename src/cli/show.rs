//! `sweroll show`: one trajectory, to read as its trainer would.

use super::{CliError, Outcome, print, render};
use crate::{
    domain::{EpisodeId, Message, Role, Trajectory},
    store::View,
};
use clap::Args as ClapArgs;
use std::{fmt::Write, path::PathBuf};

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  sweroll show runs/first pypi_click_pr2219@0\n  sweroll show runs/first pypi_click_pr2219@0 --attempt 1 --format json"
)]
pub struct Args {
    /// Directory of the run
    pub dir: PathBuf,
    /// The episode, written INSTANCE@SAMPLE
    pub episode: EpisodeId,
    /// Another attempt than the one that counts
    #[arg(long, value_name = "N", env = "SWEROLL_ATTEMPT", help_heading = "Selection")]
    pub attempt: Option<u32>,
    #[arg(long, value_enum, default_value = "text", env = "SWEROLL_SHOW_FORMAT", help_heading = "Output")]
    pub format: TextOrJson,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TextOrJson {
    Text,
    Json,
}

pub fn run(args: &Args) -> Outcome {
    let view = View::open(&args.dir).map_err(CliError::usage)?;
    let attempts = view.attempts(&args.episode).map_err(CliError::usage)?;
    let counting = view.state.episode(&args.episode).and_then(|e| e.counting()).map(|c| c.attempt);
    let wanted = args.attempt.map(crate::domain::Attempt).or(counting);
    let found = match wanted {
        Some(attempt) => attempts.iter().find(|a| a.id.attempt == attempt),
        None => attempts.last(),
    };
    let Some(committed) = found else {
        let have: Vec<String> = attempts.iter().map(|a| a.id.attempt.to_string()).collect();
        let have = if have.is_empty() { "no attempt is committed yet".to_owned() } else { format!("it has {}", have.join(", ")) };
        return Err(CliError::failed(format!("{}: no such attempt; {have}", args.episode)));
    };
    let trajectory = view.read(&committed.location).map_err(CliError::failed)?;
    match args.format {
        TextOrJson::Json => print(&render::json(&trajectory)),
        TextOrJson::Text => print(&text(&trajectory)),
    }
}

fn text(t: &Trajectory) -> String {
    let mut out = String::new();
    let _ =
        writeln!(out, "{}  {}  {} turns  {} tokens  {}", t.trajectory_id, t.model, t.num_turns, t.num_tokens, render::word(&t.exit_reason));
    for message in &t.messages {
        out += &section(message);
    }
    if !t.model_patch.is_empty() {
        let _ = writeln!(out, "\n--- model_patch\n{}", visible(t.model_patch.trim_end()));
    }
    let verdict = match i8::from(t.resolved) {
        1 => "resolved",
        0 => "not resolved",
        _ => "no verdict",
    };
    let _ = writeln!(out, "\n--- {verdict}");
    if let Ok(meta) = t.meta() {
        if let Some(grade) = meta.grade {
            let _ = writeln!(
                out,
                "FAIL_TO_PASS {}/{}  PASS_TO_PASS {}/{}",
                grade.fail_to_pass.passed, grade.fail_to_pass.total, grade.pass_to_pass.passed, grade.pass_to_pass.total
            );
            for (id, status) in grade.tests.iter().filter(|(_, s)| **s != crate::domain::TestStatus::Passed).take(20) {
                let _ = writeln!(out, "  {}  {}", render::word(status), visible(id));
            }
        }
        if let Some(failure) = meta.failure {
            let _ = writeln!(out, "{} {}: {}", failure.class(), render::word(&failure.kind), visible(&failure.message));
        }
    }
    out
}

fn section(message: &Message) -> String {
    let mut out = format!("\n--- {}", message.role.as_str());
    if message.role == Role::Tool {
        let _ = write!(out, " {}", visible(&message.tool_call_id));
    }
    out.push('\n');
    if !message.reasoning_content.is_empty() {
        let _ = writeln!(out, "<think>\n{}\n</think>", visible(message.reasoning_content.trim()));
    }
    if !message.content.is_empty() {
        let _ = writeln!(out, "{}", visible(&message.content));
    }
    for call in &message.tool_calls {
        let _ = writeln!(out, "[{}] {} {}", visible(&call.id), visible(&call.function.name), visible(&call.function.arguments));
    }
    out
}

/// What came out of a sandbox or a model must not drive the reader's terminal.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn escape_sequences_are_shown_not_sent() {
        assert_eq!(super::visible("a\x1b[2Jb\n\tc\r\u{9b}"), "a\\u{1b}[2Jb\n\tc\\r\\u{9b}");
    }
}
