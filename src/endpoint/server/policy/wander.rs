//! Explores: searches, views, harmless edits in a scratch file, test runs; then cleans up and submits.

use super::{LOOK, Move, root};
use crate::endpoint::server::{
    chance::Rng,
    conversation::Conversation,
    playbook::Play,
    toolset::{Want, quoted},
};

/// Seconds for a test run.
const TESTS_S: u64 = 60;
const WORDS: [&str; 6] = ["def ", "class ", "import ", "return ", "raise ", "TODO|FIXME"];

#[must_use]
pub fn wander(talk: &Conversation<'_>, play: &Play, rng: &Rng, turns: u64) -> Move {
    let turn = talk.turn as u64;
    let dir = root(talk, play);
    let scratch = format!("{dir}/scratch_{:08x}.txt", rng.fork(u64::MAX).draw() as u32);
    let mut rng = rng.fork(turn);
    let shell = |command: String| Want::Shell { command, timeout: None };
    if turn >= turns {
        let clean = talk.tools.call(&shell(format!("rm -f {}", quoted(&scratch))));
        let end = talk.tools.call(&Want::Finish);
        return match turn - turns {
            0 => Move::say("I clean up after myself.").with(clean.or(end)),
            _ => Move::say("I have seen enough.").with(end),
        };
    }
    let word = WORDS[rng.below(WORDS.len())];
    let search = Want::Search { pattern: word.to_owned(), path: ".".into() };
    let list = shell(LOOK.into());
    let read = shell(format!("cd {} && f=$(git ls-files | sed -n {}p); wc -l \"$f\"; head -n 40 \"$f\"", quoted(dir), 1 + rng.below(20)));
    let created = String::from("first line\nsecond line\n");
    let wants = match turn % 6 {
        0 => vec![list, search],
        1 => vec![read],
        2 => vec![Want::Create { path: scratch.clone(), text: created }, Want::View { path: scratch, from: 1, to: 2 }],
        3 => vec![
            Want::Replace { path: scratch.clone(), old: "second".into(), new: format!("number {}", rng.below(100)) },
            Want::Undo { path: scratch },
        ],
        4 => vec![Want::Shell { command: tests(dir, &play.test_ids), timeout: Some(TESTS_S) }],
        _ => vec![Want::Think(format!("What uses `{}` may matter here.", word.trim())), search, read, shell("pwd; env | wc -l".into())],
    };
    let most = if talk.tools.inline { 1 } else { wants.len() };
    let calls = wants.iter().filter_map(|want| talk.tools.call(want)).take(most);
    let reply = calls.fold(Move::say(format!("Step {}: let me see.", turn + 1)), |reply, call| reply.with(Some(call)));
    if reply.calls.is_empty() { reply.with(talk.tools.call(&shell(format!("ls {}", quoted(dir))))) } else { reply }
}

fn tests(dir: &str, ids: &[String]) -> String {
    let Some(file) = ids.first().and_then(|id| id.split("::").next()) else { return format!("cd {} && ls", quoted(dir)) };
    let file = quoted(file);
    format!("cd {} && case {file} in *.py) timeout {TESTS_S} python -m pytest -q -x {file} 2>&1 | tail -n 20;; *) ls;; esac", quoted(dir))
}
