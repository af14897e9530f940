//! The tools that a request offers, understood from their schemas, so that a policy can say what it wants done.

use super::{listing, policy::Call};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What a policy wants of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    Shell {
        command: String,
        /// Seconds, given where the tool takes one.
        timeout: Option<u64>,
    },
    /// Lines of a file, 1-based and inclusive.
    View {
        path: String,
        from: i64,
        /// -1: to the end.
        to: i64,
    },
    Create {
        path: String,
        text: String,
    },
    Replace {
        path: String,
        old: String,
        new: String,
    },
    Undo {
        path: String,
    },
    Search {
        pattern: String,
        path: String,
    },
    Think(String),
    Finish,
}

/// Tools and what each is for.
#[derive(Debug, Default)]
pub struct Toolset {
    tools: Vec<Tool>,
    /// No schemas were offered: calls are written into the text.
    pub inline: bool,
}

#[derive(Debug)]
pub struct Tool {
    pub name: String,
    pub fields: Vec<Field>,
}

#[derive(Debug)]
pub struct Field {
    pub name: String,
    pub kind: String,
    pub choices: Vec<String>,
    pub required: bool,
}

const COMMAND: &[&str] = &["command", "cmd", "script"];
const TIMEOUT: &[&str] = &["timeout", "timeout_s", "timeout_seconds"];
const OPERATION: &[&str] = &["command", "operation", "op", "action", "mode", "kind", "by"];
const REPLACE: &[&str] = &["str_replace", "replace", "edit"];
const PATH: &[&str] = &["path", "file", "file_path", "filename", "directory"];
const OLD: &[&str] = &["old_str", "old", "old_text", "old_string"];
const NEW: &[&str] = &["new_str", "new", "new_text", "new_string"];
const TEXT: &[&str] = &["file_text", "content", "text", "contents"];
const RANGE: &[&str] = &["view_range", "range", "lines"];
const FIRST: &[&str] = &["first", "start", "start_line"];
const LAST: &[&str] = &["last", "end", "end_line"];
const PATTERN: &[&str] = &["pattern", "query", "regex"];
const THOUGHT: &[&str] = &["thought", "thoughts"];

type Given<'a> = (&'a [&'a str], Value);

impl Tool {
    fn field(&self, names: &[&str]) -> Option<&Field> {
        names.iter().find_map(|name| self.fields.iter().find(|f| f.name == *name))
    }

    /// The field that chooses among operations, with the first of `wanted` that it offers.
    fn operation(&self, wanted: &[&str]) -> Option<(String, Value)> {
        let field = OPERATION.iter().find_map(|name| self.fields.iter().find(|f| f.name == *name && !f.choices.is_empty()))?;
        let choice = wanted.iter().find(|w| field.choices.iter().any(|c| c == *w))?;
        Some((field.name.clone(), json!(choice)))
    }

    fn call(&self, operation: Option<(String, Value)>, given: Vec<Given<'_>>) -> Option<Call> {
        let mut arguments: Map<String, Value> = operation.into_iter().collect();
        for (names, value) in given {
            arguments.insert(self.field(names)?.name.clone(), value);
        }
        for field in self.fields.iter().filter(|f| f.required) {
            arguments.entry(field.name.clone()).or_insert_with(|| field.filler());
        }
        Some(Call::new(&self.name, &arguments))
    }
}

impl Field {
    fn filler(&self) -> Value {
        match (self.choices.first(), self.kind.as_str()) {
            (Some(choice), _) => json!(choice),
            (None, "integer" | "number") => json!(1),
            (None, "boolean") => json!(false),
            (None, "array") => json!([]),
            (None, "object") => json!({}),
            (None, _) => json!("."),
        }
    }
}

#[derive(Deserialize)]
struct Schema {
    function: FunctionSchema,
}

#[derive(Deserialize)]
struct FunctionSchema {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize, Default)]
struct Parameters {
    #[serde(default)]
    properties: Map<String, Value>,
    #[serde(default)]
    required: Vec<String>,
}

impl Toolset {
    /// From the request's `tools`, a JSON array that is not empty.
    ///
    /// # Errors
    /// Where it is not a list of function schemas, in serde's words.
    pub fn parse(tools: &str) -> Result<Self, String> {
        let schemas: Vec<Schema> = serde_json::from_str(tools).map_err(|e| format!("`tools` is not a list of function schemas: {e}"))?;
        let tool = |schema: Schema| {
            let Parameters { properties, required } = schema.function.parameters;
            let field = |(name, schema): (String, Value)| {
                let kind = schema.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
                let choices = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
                let choices = choices.filter_map(|c| c.as_str().map(str::to_owned)).collect();
                Field { kind, choices, required: required.contains(&name), name }
            };
            Tool { name: schema.function.name, fields: properties.into_iter().map(field).collect() }
        };
        Ok(Toolset { tools: schemas.into_iter().map(tool).collect(), inline: false })
    }

    /// For calls that are written into the text: the tools that the system prompt lists, or those of scaffold `scale-swe`
    /// where it lists none that run commands.
    #[must_use]
    pub fn inline(listed: &str) -> Self {
        let listed = Toolset { tools: listing::tools(listed), inline: true };
        if listed.shell().is_some() { listed } else { Toolset::scale_swe(true) }
    }

    pub(super) fn scale_swe(inline: bool) -> Self {
        let field = |name: &str, kind: &str, required| Field { name: name.into(), kind: kind.into(), choices: Vec::new(), required };
        let text = |name: &str| field(name, "string", false);
        let operations = ["view", "create", "str_replace", "insert", "undo_edit"].map(str::to_owned).to_vec();
        let operation = Field { choices: operations, ..field("command", "string", true) };
        let edits = vec![operation, text("path"), text("file_text"), text("old_str"), text("new_str"), field("view_range", "array", false)];
        let tool = |name: &str, fields| Tool { name: name.into(), fields };
        let tools = vec![
            tool("execute_bash", vec![text("command"), field("timeout", "integer", false)]),
            tool("str_replace_editor", edits),
            tool("think", vec![text("thought")]),
            tool("finish", Vec::new()),
        ];
        Toolset { tools, inline }
    }

    fn shell(&self) -> Option<&Tool> {
        self.tools.iter().find(|t| t.field(COMMAND).is_some_and(|f| f.choices.is_empty()) && t.field(PATH).is_none())
    }

    /// A call that would replace text, without saying which.
    #[must_use]
    pub fn empty_edit(&self) -> Option<Call> {
        let tool = self.edits()?;
        Some(Call::new(&tool.name, &tool.operation(REPLACE).into_iter().collect()))
    }

    /// Name of the shell tool and of its fields for the command and the timeout.
    #[must_use]
    pub fn shell_names(&self) -> Option<(&str, &str, Option<&str>)> {
        let tool = self.shell()?;
        Some((&tool.name, &tool.field(COMMAND)?.name, tool.field(TIMEOUT).map(|f| f.name.as_str())))
    }

    fn edits(&self) -> Option<&Tool> {
        self.tools.iter().find(|t| t.field(PATH).is_some() && t.field(OLD).is_some())
    }

    fn with(&self, names: &[&str]) -> Option<&Tool> {
        self.tools.iter().find(|t| t.field(names).is_some() && t.field(OLD).is_none())
    }

    fn finish(&self) -> Option<&Tool> {
        let named = |name: &&str| self.tools.iter().find(|t| t.name == *name);
        ["finish", "submit", "done"].iter().find_map(named).or_else(|| self.tools.iter().find(|t| t.fields.is_empty()))
    }

    /// The tools can replace a text in a file.
    #[must_use]
    pub fn can_replace(&self) -> bool {
        self.direct(&Want::Replace { path: String::new(), old: String::new(), new: String::new() }).is_some()
    }

    /// The call that does what is wanted, through the shell where no tool is made for it; none where nothing can.
    #[must_use]
    pub fn call(&self, want: &Want) -> Option<Call> {
        self.direct(want).or_else(|| {
            let command = match want {
                Want::View { path, from, to } => {
                    format!("sed -n {from},{}p {}", if *to < 0 { "$".into() } else { to.to_string() }, quoted(path))
                }
                Want::Create { path, text } => format!("printf %s {} > {}", quoted(text), quoted(path)),
                Want::Search { pattern, path } => format!("grep -rnE -m 5 -e {} {} | head -n 40", quoted(pattern), quoted(path)),
                _ => return None,
            };
            self.direct(&Want::Shell { command, timeout: None })
        })
    }

    fn direct(&self, want: &Want) -> Option<Call> {
        let edit = |wanted: &[&str], given| {
            let tool = self.edits()?;
            tool.call(Some(tool.operation(wanted)?), given)
        };
        match want {
            Want::Shell { command, timeout } => {
                let tool = self.shell()?;
                let mut given = vec![(COMMAND, json!(command))];
                given.extend(timeout.filter(|_| tool.field(TIMEOUT).is_some()).map(|t| (TIMEOUT, json!(t))));
                tool.call(None, given)
            }
            Want::View { path, from, to } => {
                let in_one = self.edits()?.field(RANGE).is_some();
                let mut given = vec![(PATH, json!(path))];
                match (in_one, *to) {
                    (true, _) => given.push((RANGE, json!([from, to]))),
                    (false, -1) => given.push((FIRST, json!(from))),
                    (false, _) => given.extend([(FIRST, json!(from)), (LAST, json!(to))]),
                }
                edit(&["view", "read"], given)
            }
            Want::Create { path, text } => edit(&["create", "write"], vec![(PATH, json!(path)), (TEXT, json!(text))]),
            Want::Undo { path } => edit(&["undo_edit", "undo"], vec![(PATH, json!(path))]),
            Want::Replace { path, old, new } => {
                let tool = self.edits()?;
                let operation = tool.operation(REPLACE);
                tool.call(operation, vec![(PATH, json!(path)), (OLD, json!(old)), (NEW, json!(new))])
            }
            Want::Search { pattern, path } => {
                let tool = self.with(PATTERN)?;
                let mut given = vec![(PATTERN, json!(pattern))];
                given.extend(tool.field(PATH).map(|_| (PATH, json!(path))));
                tool.call(tool.operation(&["content", "text", "grep"]), given)
            }
            Want::Think(thought) => self.with(THOUGHT)?.call(None, vec![(THOUGHT, json!(thought))]),
            Want::Finish => self.finish()?.call(None, Vec::new()),
        }
    }
}

/// One word of a POSIX shell.
#[must_use]
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Toolsets by the text of their schemas, or of their list: a run offers one or two.
#[derive(Debug, Default)]
pub struct Toolsets(Mutex<HashMap<String, Arc<Toolset>>>);

/// Toolsets remembered.
const MAX_TOOLSETS: usize = 64;

impl Toolsets {
    /// `system` lists the tools where no schemas are offered.
    ///
    /// # Errors
    /// As [`Toolset::parse`].
    pub fn get(&self, schemas: Option<&str>, system: &str) -> Result<Arc<Toolset>, String> {
        let schemas = schemas.filter(|s| s.strip_prefix('[').is_none_or(|rest| rest.trim() != "]"));
        let key = schemas.unwrap_or_else(|| listing::section(system).unwrap_or_default());
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(toolset) = known().get(key) {
            return Ok(toolset.clone());
        }
        let toolset = Arc::new(if schemas.is_some() { Toolset::parse(key)? } else { Toolset::inline(key) });
        let mut known = known();
        if known.len() < MAX_TOOLSETS {
            known.insert(key.to_owned(), toolset.clone());
        }
        Ok(toolset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweroll() -> Toolset {
        let tools = json!([
            {"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "required": ["command"], "properties":
                {"command": {"type": "string"}, "timeout": {"type": "integer"}}}}},
            {"type": "function", "function": {"name": "edit", "parameters": {"type": "object", "required": ["command", "path"],
                "properties": {"command": {"type": "string", "enum": ["view", "create", "replace"]}, "path": {"type": "string"},
                "first": {"type": "integer"}, "last": {"type": "integer"},
                "old": {"type": "string"}, "new": {"type": "string"}}}}},
            {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "required": ["by", "pattern"], "properties":
                {"by": {"type": "string", "enum": ["name", "content"]}, "pattern": {"type": "string"}, "path": {"type": "string"}}}}},
            {"type": "function", "function": {"name": "submit", "parameters": {"type": "object", "properties": {}}}},
        ]);
        Toolset::parse(&tools.to_string()).unwrap()
    }

    fn view() -> Want {
        Want::View { path: "a b".into(), from: 1, to: 9 }
    }

    #[test]
    fn wants_become_calls_of_what_is_offered() {
        let tools = sweroll();
        let call = |want| tools.call(&want).map(|c| (c.name.clone(), c.text().to_owned())).unwrap();
        assert_eq!(call(view()), ("edit".into(), r#"{"command":"view","path":"a b","first":1,"last":9}"#.into()));
        let create = Want::Create { path: "f".into(), text: "it's".into() };
        assert_eq!(call(create), ("bash".into(), r#"{"command":"printf %s 'it'\\''s' > 'f'"}"#.into()), "no field for the text");
        let replace = Want::Replace { path: "f".into(), old: "a".into(), new: "b".into() };
        assert_eq!(call(replace), ("edit".into(), r#"{"command":"replace","path":"f","old":"a","new":"b"}"#.into()));
        let search = Want::Search { pattern: "x".into(), path: "/w".into() };
        assert_eq!(call(search), ("search".into(), r#"{"by":"content","pattern":"x","path":"/w"}"#.into()));
        assert_eq!(call(Want::Finish), ("submit".into(), "{}".into()));
        assert!(tools.call(&Want::Undo { path: "f".into() }).is_none());
    }

    #[test]
    fn inline_calls_use_the_names_of_scale_swe_where_none_are_listed() {
        let tools = Toolset::inline("");
        let call = |want| tools.call(&want).map(|c| (c.name.clone(), c.text().to_owned())).unwrap();
        assert_eq!(call(view()), ("str_replace_editor".into(), r#"{"command":"view","path":"a b","view_range":[1,9]}"#.into()));
        let shell = Want::Shell { command: "ls".into(), timeout: Some(3) };
        assert_eq!(call(shell), ("execute_bash".into(), r#"{"command":"ls","timeout":3}"#.into()));
        assert_eq!(call(Want::Finish), ("finish".into(), "{}".into()));
    }
}
