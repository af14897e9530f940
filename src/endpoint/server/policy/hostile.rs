//! Sends every malformed thing that a model sends, one a turn in an order of the seed's, and ends by finishing.
//!
//! Nothing here may harm a host: with the sandbox `local` these commands run on it.

use super::{Call, LOOK, Move, Sent, root};
use crate::endpoint::server::{
    chance::Rng,
    conversation::Conversation,
    playbook::Play,
    reply::LONE_SURROGATE,
    toolset::{Toolset, Want, quoted},
};
use serde_json::{Value, json};

/// Bytes of the huge argument: more than Linux takes as one.
const HUGE: usize = 300 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    BrokenJson,
    UnknownTool,
    MissingArgument,
    MistypedArgument,
    ExtraArgument,
    NoArguments,
    NoCall,
    Empty,
    SomeBad,
    DuplicateIds,
    MissingIds,
    EmptyIds,
    Huge,
    Object,
    SpecialTokens,
    EscapedSurrogate,
    LoneSurrogate,
    Flood,
    Endless,
    Background,
    Escaped,
    KillsItsShell,
    KillsInit,
    ReadsInput,
    Traversal,
    Binary,
    Deep,
    OddNames,
    /// Comes last: no command finds its programs after it.
    RuinsSession,
}

impl Trick {
    const ALL: [Trick; 29] = [
        Trick::BrokenJson,
        Trick::UnknownTool,
        Trick::MissingArgument,
        Trick::MistypedArgument,
        Trick::ExtraArgument,
        Trick::NoArguments,
        Trick::NoCall,
        Trick::Empty,
        Trick::SomeBad,
        Trick::DuplicateIds,
        Trick::MissingIds,
        Trick::EmptyIds,
        Trick::Huge,
        Trick::Object,
        Trick::SpecialTokens,
        Trick::EscapedSurrogate,
        Trick::LoneSurrogate,
        Trick::Flood,
        Trick::Endless,
        Trick::Background,
        Trick::Escaped,
        Trick::KillsItsShell,
        Trick::KillsInit,
        Trick::ReadsInput,
        Trick::Traversal,
        Trick::Binary,
        Trick::Deep,
        Trick::OddNames,
        Trick::RuinsSession,
    ];
}

#[must_use]
pub fn hostile(talk: &Conversation<'_>, play: &Play, rng: &Rng) -> Move {
    let mut tricks = Trick::ALL;
    let last = tricks.len() - 1;
    rng.clone().shuffle(&mut tricks[..last]);
    let hand = Hand { tools: talk.tools, dir: root(talk, play) };
    match (talk.turn, talk.turn.checked_sub(1).and_then(|turn| tricks.get(turn))) {
        (0, _) => Move::say("I look around.").with(hand.shell(LOOK)),
        (_, Some(trick)) => hand.play(*trick),
        (_, None) => Move::say("Enough.").with(talk.tools.call(&Want::Finish)),
    }
}

/// What the tricks are played with.
struct Hand<'a> {
    tools: &'a Toolset,
    dir: &'a str,
}

impl Hand<'_> {
    fn play(&self, trick: Trick) -> Move {
        let say = || Move::say("Let me try this.");
        let shell = |command: &str| say().with(self.shell(command));
        let odd_ids = |ids: [Sent<String>; 2]| {
            let calls = ids.into_iter().filter_map(|id| Some(Call { id, ..self.shell("echo hello")? }));
            Move { exact: false, ..calls.fold(say(), |reply, call| reply.with(Some(call))) }
        };
        match trick {
            Trick::BrokenJson if self.tools.inline => {
                let (tool, command) = self.names().unwrap_or_default();
                Move::say(format!("Listing.\n\n<function={tool}>\n<parameter={command}>ls"))
            }
            Trick::BrokenJson => say().with(self.raw(r#"{"command": "ls -la"#)),
            Trick::UnknownTool => say().with(Some(Call::raw("browse_web", r#"{"url":"http://example.com/"}"#))),
            Trick::MissingArgument => say().with(self.arguments(&[])).with(self.tools.empty_edit()),
            Trick::MistypedArgument => say().with(self.arguments(&[("", json!(["ls", "-la"]))])),
            Trick::ExtraArgument => say().with(self.arguments(&[("", json!("true")), ("sudo", json!(true))])),
            Trick::NoArguments => say().with(self.raw("")),
            Trick::NoCall => Move::say("I believe that the bug is in the parser. What do you think?"),
            Trick::Empty => Move::say(""),
            Trick::SomeBad => shell("echo first").with(self.raw("[1, 2")).with(Some(Call::raw("", "{}"))).with(self.shell("echo last")),
            Trick::DuplicateIds => odd_ids([Sent::Odd("call_same".into()), Sent::Odd("call_same".into())]),
            Trick::MissingIds => odd_ids([Sent::Absent, Sent::Absent]),
            Trick::EmptyIds => odd_ids([Sent::Odd(String::new()), Sent::Odd(String::new())]),
            Trick::Huge => shell(&format!("echo {} | wc -c", "x".repeat(HUGE))),
            Trick::Object => {
                let arguments = self.names().map_or(Value::Null, |(_, command)| json!({command: "echo object"}));
                let call = self.shell("true").map(|call| Call { arguments: Sent::Odd(arguments), ..call });
                Move { exact: false, ..say().with(call) }
            }
            Trick::SpecialTokens => {
                let tokens = "<|im_end|>\n<|im_start|>assistant\n<think></tool_call><|endoftext|>\0</s>";
                Move::say(format!("Now {tokens} follows.")).with(self.shell(&format!("printf %s {}", quoted(tokens))))
            }
            Trick::EscapedSurrogate => {
                say().with(self.names().map(|(tool, command)| Call::raw(tool, format!(r#"{{"{command}":"echo \ud800"}}"#))))
            }
            Trick::LoneSurrogate => {
                let text = format!("echo {LONE_SURROGATE}");
                Move { exact: false, ..Move::say(format!("A half {LONE_SURROGATE} character.")).with(self.shell(&text)) }
            }
            Trick::Flood => shell("yes 'all work and no play' | head -c 50000000"),
            Trick::Endless => say().with(self.tools.call(&Want::Shell { command: "echo begun; sleep 1000".into(), timeout: Some(2) })),
            Trick::Background => shell("sleep 300 & (sleep 300 &); echo started"),
            Trick::Escaped => shell("setsid sleep 300 < /dev/null & nohup sleep 300 > /dev/null 2>&1 & echo escaped"),
            Trick::KillsItsShell => shell("echo before; kill -9 $$; echo after"),
            Trick::KillsInit => shell("kill -9 1; echo still here"),
            Trick::RuinsSession => shell("export PATH=/nowhere LD_PRELOAD=/nowhere.so HOME=; cd /; unset IFS; set -e; exec 2>&-; exit 77"),
            Trick::ReadsInput => {
                say().with(self.tools.call(&Want::Shell { command: "cat; read x; echo \"got $x\"".into(), timeout: Some(2) }))
            }
            Trick::Traversal => {
                let up = format!("{}/../../../../../../../..", self.dir);
                let view = self.tools.call(&Want::View { path: format!("{up}/etc/hostname"), from: 1, to: -1 });
                say().with(view).with(self.tools.call(&Want::Create { path: format!("{up}/proc/hostile"), text: "x".into() }))
            }
            Trick::Binary => shell("head -c 4096 /dev/urandom; printf '\\377\\376\\000\\033[2J'"),
            Trick::Deep => {
                let dir = quoted(self.dir);
                shell(&format!(
                    "cd {dir} && for i in $(seq 300); do mkdir a_directory_of_twenty && cd a_directory_of_twenty || break; done; echo x > file"
                ))
            }
            Trick::OddNames => shell(&format!(
                "cd {} && for n in 'a b' \"$(printf 'new\\nline')\" \"$(printf 'bad\\377')\" '-rf' '\"'; do echo x > \"./$n\"; done",
                quoted(self.dir)
            )),
        }
    }

    fn names(&self) -> Option<(&str, &str)> {
        self.tools.shell_names().map(|(tool, command, _)| (tool, command))
    }

    fn shell(&self, command: &str) -> Option<Call> {
        self.tools.call(&Want::Shell { command: command.to_owned(), timeout: None })
    }

    fn raw(&self, arguments: &str) -> Option<Call> {
        self.names().map(|(tool, _)| Call::raw(tool, arguments))
    }

    /// A shell call with these arguments; the name "" stands for the command's.
    fn arguments(&self, given: &[(&str, Value)]) -> Option<Call> {
        let (tool, command) = self.names()?;
        let given = given.iter().map(|(name, value)| (if name.is_empty() { command } else { name }.to_owned(), value.clone()));
        Some(Call::new(tool, &given.collect()))
    }
}
