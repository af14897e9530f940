//! A call to the toolbox operation that performs it.

use super::{
    spec::{Toolset, Type},
    validate::Arguments,
};
use crate::domain::ToolCall;
use crate::toolbox::protocol::{Command, Op, Run, Search};

/// Bytes of a path, a glob or a pattern.
const MAX_PATH: usize = 4096;

/// What the engine does for a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// An operation with its input.
    Run { op: Op, blob: Vec<u8> },
    /// Answered without the sandbox.
    Say(String),
    /// The model is done.
    Submit,
    /// Not run; the text teaches the call.
    Malformed(String),
}

/// What a function does, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Shell,
    /// The editor of scaffold `scale-swe`.
    StrReplaceEditor,
    /// The editor of scaffold `sweroll`.
    Edit,
    Search,
    Think,
    Submit,
}

impl Kind {
    pub const NAMES: [&'static str; 8] = ["execute_bash", "bash", "str_replace_editor", "edit", "search", "think", "finish", "submit"];

    #[must_use]
    pub fn of(name: &str) -> Option<Kind> {
        match name {
            "execute_bash" | "bash" => Some(Kind::Shell),
            "str_replace_editor" => Some(Kind::StrReplaceEditor),
            "edit" => Some(Kind::Edit),
            "search" => Some(Kind::Search),
            "think" => Some(Kind::Think),
            "finish" | "submit" => Some(Kind::Submit),
            _ => None,
        }
    }

    /// Name and type of each parameter, and whether a schema must describe it.
    #[must_use]
    pub fn parameters(self) -> &'static [(&'static str, Type, bool)] {
        use Type::{Boolean, Integer, Integers, Number, String};
        match self {
            Kind::Shell => &[("command", String, true), ("timeout", Number, false)],
            Kind::StrReplaceEditor => &[
                ("command", String, true),
                ("path", String, true),
                ("file_text", String, false),
                ("old_str", String, false),
                ("new_str", String, false),
                ("insert_line", Integer, false),
                ("view_range", Integers, false),
            ],
            Kind::Edit => &[
                ("command", String, true),
                ("path", String, true),
                ("first", Integer, false),
                ("last", Integer, false),
                ("text", String, false),
                ("old", String, false),
                ("new", String, false),
                ("line", Integer, false),
            ],
            Kind::Search => &[
                ("pattern", String, true),
                ("glob", String, false),
                ("path", String, false),
                ("ignore_case", Boolean, false),
                ("context", Integer, false),
            ],
            Kind::Think => &[("thought", String, true)],
            Kind::Submit => &[],
        }
    }
}

impl Toolset {
    /// Decides on a call. Never panics, whatever the call holds.
    #[must_use]
    pub fn plan(&self, call: &ToolCall) -> Plan {
        let (spec, args) = match self.validate(call) {
            Ok(valid) => valid,
            Err(teaching) => return Plan::Malformed(teaching),
        };
        let planned = match spec.kind {
            Kind::Shell => self.shell(&args),
            Kind::StrReplaceEditor => str_replace_editor(&args),
            Kind::Edit => edit(&args),
            Kind::Search => self.search(&args),
            Kind::Think => Ok(Plan::Say("[thought noted]".to_owned())),
            Kind::Submit => Ok(Plan::Submit),
        };
        planned.unwrap_or_else(|what| Plan::Malformed(self.teach(spec, &what)))
    }

    fn shell(&self, args: &Arguments) -> Result<Plan, String> {
        let command = needed(args, "command")?;
        if command.trim().is_empty() {
            return Err("`command` is empty.".to_owned());
        }
        if command.contains('\0') {
            return Err("`command` holds a NUL character.".to_owned());
        }
        let most = self.bounds.max_command_timeout_s;
        let seconds = args.number("timeout").unwrap_or(self.bounds.command_timeout_s as f64);
        if !(seconds > 0.0 && seconds <= most as f64) {
            return Err(format!("`timeout` must be over 0 and at most {most} seconds, not {seconds}."));
        }
        Ok(run(Op::Run(Run {
            what: Command::Shell(command.to_owned()),
            session: true,
            cwd: None,
            env: Vec::new(),
            deadline_ms: (seconds * 1000.0).ceil() as u64,
            // Twice the observation, for what cleaning takes away.
            output_cap: self.bounds.output_bytes as u64 * 2,
        })))
    }

    fn search(&self, args: &Arguments) -> Result<Plan, String> {
        for name in ["pattern", "glob", "path"] {
            if args.text(name).is_some() {
                short(args, name)?;
            }
        }
        let path = args.text("path").unwrap_or(".").to_owned();
        let max_results = self.bounds.search_results;
        let glob = args.text("glob").map(str::to_owned);
        match (args.text("pattern"), glob) {
            (Some(pattern), glob) => Ok(run(Op::Search(Search {
                pattern: pattern.to_owned(),
                path,
                glob,
                case_insensitive: args.flag("ignore_case"),
                context: args.integer("context").unwrap_or(0).clamp(0, 10) as u64,
                max_results,
                max_bytes: self.bounds.output_bytes as u64,
            }))),
            (None, Some(pattern)) => Ok(run(Op::Find { pattern, path, max_results })),
            (None, None) => Err("give `pattern` to search contents, or `glob` alone to find files by name.".to_owned()),
        }
    }
}

fn str_replace_editor(args: &Arguments) -> Result<Plan, String> {
    let command = needed(args, "command")?;
    let path = short(args, "path")?;
    let takes = |names: &[&str]| only(args, command, names);
    match command {
        "view" => {
            takes(&["view_range"])?;
            let range = match args.integers("view_range").as_deref() {
                None => None,
                Some(&[first, last]) => Some(range(first, last)?),
                Some(other) => return Err(format!("`view_range` must be [first, last], not {} numbers.", other.len())),
            };
            Ok(run(Op::View { path, range }))
        }
        "create" => {
            takes(&["file_text"])?;
            Ok(create(path, needed(args, "file_text")?))
        }
        "str_replace" => {
            takes(&["old_str", "new_str"])?;
            replace(path, needed(args, "old_str")?, args.text("new_str").unwrap_or_default())
        }
        "insert" => {
            takes(&["insert_line", "new_str"])?;
            insert(args, path, "insert_line", "new_str")
        }
        "undo_edit" => {
            takes(&[])?;
            Ok(run(Op::Undo { path }))
        }
        other => Err(format!("there is no command {other:?}.")),
    }
}

fn edit(args: &Arguments) -> Result<Plan, String> {
    let command = needed(args, "command")?;
    let path = short(args, "path")?;
    let takes = |names: &[&str]| only(args, command, names);
    match command {
        "view" => {
            takes(&["first", "last"])?;
            let range = match (args.integer("first"), args.integer("last")) {
                (None, None) => None,
                (first, last) => Some(range(first.unwrap_or(1), last.unwrap_or(-1))?),
            };
            Ok(run(Op::View { path, range }))
        }
        "create" => {
            takes(&["text"])?;
            Ok(create(path, needed(args, "text")?))
        }
        "replace" => {
            takes(&["old", "new"])?;
            replace(path, needed(args, "old")?, needed(args, "new")?)
        }
        "insert" => {
            takes(&["line", "text"])?;
            insert(args, path, "line", "text")
        }
        "undo" => {
            takes(&[])?;
            Ok(run(Op::Undo { path }))
        }
        other => Err(format!("there is no command {other:?}.")),
    }
}

fn run(op: Op) -> Plan {
    Plan::Run { op, blob: Vec::new() }
}

fn create(path: String, text: &str) -> Plan {
    Plan::Run { op: Op::Create { path, overwrite: false }, blob: text.as_bytes().to_vec() }
}

fn replace(path: String, old: &str, new: &str) -> Result<Plan, String> {
    if old.is_empty() {
        return Err("the text to be replaced is empty.".to_owned());
    }
    if old == new {
        return Err("the old and the new text are the same.".to_owned());
    }
    Ok(run(Op::Replace { path, old: old.to_owned(), new: new.to_owned() }))
}

fn insert(args: &Arguments, path: String, line: &str, text: &str) -> Result<Plan, String> {
    let at = args.integer(line).ok_or_else(|| format!("`insert` needs `{line}`."))?;
    let at = u64::try_from(at).map_err(|_| format!("`{line}` must be at least 0, not {at}."))?;
    Ok(run(Op::Insert { path, line: at, text: needed(args, text)?.to_owned() }))
}

fn range(first: i64, last: i64) -> Result<(i64, i64), String> {
    match (first, last) {
        (1.., -1) => Ok((first, last)),
        (1.., _) if last >= first => Ok((first, last)),
        (1.., _) => Err(format!("the last line, {last}, is before the first, {first}.")),
        _ => Err(format!("lines are counted from 1, and the range begins at {first}.")),
    }
}

fn needed<'a>(args: &'a Arguments, name: &str) -> Result<&'a str, String> {
    args.text(name).ok_or_else(|| match args.text("command") {
        Some(command) if name != "command" => format!("`{command}` needs `{name}`."),
        _ => format!("the argument `{name}` is missing."),
    })
}

/// A path or a pattern: not empty, bounded, no NUL.
fn short(args: &Arguments, name: &str) -> Result<String, String> {
    let text = needed(args, name)?;
    match text.len() {
        0 => Err(format!("`{name}` is empty.")),
        length if length > MAX_PATH => Err(format!("`{name}` is {length} bytes, over the limit of {MAX_PATH}.")),
        _ if text.contains('\0') => Err(format!("`{name}` holds a NUL character.")),
        _ => Ok(text.to_owned()),
    }
}

/// An argument that the command does not take shows that the model means something else.
fn only(args: &Arguments, command: &str, names: &[&str]) -> Result<(), String> {
    match args.names().find(|name| !["command", "path"].contains(name) && !names.contains(name)) {
        Some(extra) => {
            let takes: Vec<String> = ["path"].iter().chain(names).map(|n| format!("`{n}`")).collect();
            Err(format!("`{command}` takes {}, not `{extra}`.", takes.join(", ")))
        }
        None => Ok(()),
    }
}
