//! Makes the golden change through the tools of the scaffold, checks that it is there, and submits.
//!
//! Hunks that are plain text edits go through the edit tool; then one shell script ensures them and applies the rest.
//! What was said before decides the step, so a step whose call was cut is made again.

use super::{
    LOOK, Move, root,
    script::{commands, here},
};
use crate::endpoint::server::{
    conversation::Conversation,
    patch::{self, FilePatch},
    playbook::Play,
    toolset::{Want, quoted},
};
use std::{fmt::Write, sync::OnceLock};

/// Hunks made by the edit tool; the rest goes through the shell.
const MAX_EDITS: usize = 8;
/// Calls of a turn.
const BATCH: usize = 4;
/// Bytes of the line that names a part which failed.
const MAX_PART: usize = 32;
/// Seconds for the command that applies.
const APPLY_S: u64 = 120;

/// An instance's steps, worked out once for each way of calling: with an edit tool or not, native or inline.
#[derive(Debug, Default)]
pub struct GoldPlans([OnceLock<Plan>; 4]);

#[derive(Debug)]
struct Plan {
    /// The wants of each turn.
    steps: Vec<Vec<Want>>,
    mark: String,
    /// Taken when `mark` was not seen.
    again: Vec<Vec<Want>>,
    again_mark: String,
}

#[must_use]
pub fn gold(talk: &Conversation<'_>, play: &Play) -> Move {
    let edits = talk.tools.can_replace();
    let plan =
        play.plans.0[usize::from(edits) + 2 * usize::from(talk.tools.inline)].get_or_init(|| Plan::new(play, edits, talk.tools.inline));
    let done = talk.done();
    let made = || talk.observed(&plan.mark) || talk.observed(&plan.again_mark);
    let step = match (plan.steps.get(done), done.checked_sub(plan.steps.len()).and_then(|n| plan.again.get(n))) {
        (Some(step), _) => Ok((say(step), step)),
        (None, _) if made() => Err(Move::say("The change is in place. I submit it.")),
        (None, Some(step)) => Ok(("That did not work as a whole. I apply what is missing.", step)),
        (None, None) => Err(Move { failed: true, ..Move::say(failure(talk, play)) }),
    };
    let (say, step) = match step {
        Ok(step) => step,
        Err(end) => return end.with(talk.tools.call(&Want::Finish)),
    };
    let root = root(talk, play);
    step.iter().fold(Move::say(say), |reply, want| reply.with(talk.tools.call(&placed(want, root))))
}

fn failure(talk: &Conversation<'_>, play: &Play) -> String {
    let mut lines = talk.observations().flat_map(str::lines);
    let part = lines.find(|line| line.starts_with("part ") && line.ends_with(": FAILED") && line.len() < MAX_PART);
    let part = part.map_or(String::new(), |part| format!(" ({part})"));
    format!("The golden patch of {} does not apply here{part}. I submit what there is.", play.name())
}

/// A want of the plan, whose paths are relative, in the repository at `root`.
fn placed(want: &Want, root: &str) -> Want {
    let at = |path: &str| format!("{root}/{path}");
    match want.clone() {
        Want::Shell { command, timeout: Some(s) } => shell(format!("cd {} && {command}", quoted(root)), Some(s)),
        Want::View { path, from, to } => Want::View { path: at(&path), from, to },
        Want::Replace { path, old, new } => Want::Replace { path: at(&path), old, new },
        other => other,
    }
}

fn say(step: &[Want]) -> &'static str {
    match step.first() {
        Some(Want::Shell { timeout: None, .. }) => "Let me look around first.",
        Some(Want::View { .. }) => "This is where the problem is. Let me read it.",
        Some(Want::Replace { .. }) => "Now I make the change.",
        _ => "Now I apply the rest and check that all of it is there.",
    }
}

impl Plan {
    fn new(play: &Play, edits: bool, inline: bool) -> Self {
        let diff = patch::plain_heads(&play.patch);
        let files = patch::parse(&diff);
        let parts = Parts::new(&diff, files.as_deref(), if edits { MAX_EDITS } else { 0 }, inline);
        let mut steps = vec![vec![shell(LOOK.into(), None)]];
        steps.extend(parts.view.into_iter().map(|view| vec![view]));
        steps.extend(parts.edits.chunks(if inline { 1 } else { BATCH }).map(<[Want]>::to_vec));
        let run = |script: &str| commands(script).into_iter().map(|c| vec![shell(c, Some(APPLY_S))]).collect::<Vec<_>>();
        let (script, mark) = apply(&parts.ensure, &parts.rest, "golden change");
        steps.extend(run(&script));
        let all: Vec<_> = parts.ensure.into_iter().chain(parts.rest).collect();
        let (script, again_mark) = apply(&all, &[], "golden change, again");
        Plan { steps, mark, again: run(&script), again_mark }
    }
}

fn shell(command: String, timeout: Option<u64>) -> Want {
    Want::Shell { command, timeout }
}

/// A golden patch taken apart.
struct Parts {
    view: Option<Want>,
    edits: Vec<Want>,
    /// Diffs of the hunks that were edited, one each.
    ensure: Vec<String>,
    /// Diffs of all else, one a file.
    rest: Vec<String>,
}

impl Parts {
    fn new(diff: &str, files: Option<&[FilePatch<'_>]>, max_edits: usize, inline: bool) -> Self {
        let mut parts = Parts { view: None, edits: Vec::new(), ensure: Vec::new(), rest: Vec::new() };
        let Some(files) = files else {
            let newline = if diff.ends_with('\n') { "" } else { "\n" };
            parts.rest.extend((!diff.trim().is_empty()).then(|| format!("{diff}{newline}")));
            return parts;
        };
        for file in files {
            let mut edited = vec![false; file.hunks.len()];
            if let Some(name) = file.path() {
                let path = name.to_owned();
                let first = file.hunks.first().map_or(1, patch::Hunk::old_start).cast_signed() as i64;
                parts.view.get_or_insert_with(|| Want::View { path: path.clone(), from: first.max(1), to: first + 20 });
                for (at, edited) in edited.iter_mut().enumerate() {
                    let edit = file.edit(at).filter(|e| parts.edits.len() < max_edits && !(inline && (tags(&e.old) || tags(&e.new))));
                    if let Some(patch::Edit { old, new }) = edit {
                        *edited = true;
                        parts.edits.push(Want::Replace { path: path.clone(), old, new });
                    }
                }
            }
            let ensure = (0..edited.len()).filter(|&at| edited[at]);
            parts.ensure.extend(ensure.filter_map(|at| file.part(|n| n == at, |n| n < at && edited[n])));
            parts.rest.extend(file.part(|n| !edited[n], |n| edited[n]));
        }
        parts
    }
}

/// The text would end an inline call.
fn tags(text: &str) -> bool {
    ["<parameter", "</parameter", "<function", "</function"].iter().any(|tag| text.contains(tag))
}

/// A script that ensures some diffs and applies others, and the mark which it prints when all went well. A diff that does not
/// apply is tried with plain line ends: patches come with CRLF for files that are without.
fn apply(ensure: &[String], rest: &[String], what: &str) -> (String, String) {
    let mut script = String::from(
        "(t=${TMPDIR:-/tmp}/golden-$$.diff; n=0; bad=0\n\
         plain() { sed \"s/$(printf '\\r')\\$//\" $t > $t.lf && ! cmp -s $t $t.lf && git apply --whitespace=nowarn $t.lf; }\n\
         make() { if git apply --whitespace=nowarn $t || plain; then echo \"part $n: applied\"; else echo \"part $n: FAILED\"; bad=1; fi; }\n\
         add() { cat > $t; n=$((n+1)); make; }\n\
         ensure() { cat > $t; n=$((n+1)); if git apply -R --check --whitespace=nowarn $t 2>/dev/null; then echo \"part $n: there\"; else make; fi; }\n",
    );
    for (verb, diffs) in [("ensure", ensure), ("add", rest)] {
        for diff in diffs {
            let _ = write!(script, "{verb} {}", here(diff));
        }
    }
    let _ = writeln!(script, "rm -f $t $t.lf; [ $bad = 0 ] && echo \"{what}: all $n parts in place\")");
    (script, format!("{what}: all {} parts in place", ensure.len() + rest.len()))
}
