//! An agent and a sandbox of the plainest kind: commands run in a directory, edits are made on its files.

use super::client::Rehearsal;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Path to its kind or mode, and its bytes or target.
pub type Tree = BTreeMap<PathBuf, (String, Vec<u8>)>;

pub fn tree(dir: &Path) -> Tree {
    fn walk(root: &Path, dir: &Path, out: &mut Tree) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap).filter(|e| e.file_name() != ".git") {
            let (path, meta) = (entry.path(), entry.path().symlink_metadata().unwrap());
            let name = path.strip_prefix(root).unwrap().to_owned();
            if meta.is_dir() {
                walk(root, &path, out);
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                out.insert(name, ("link".into(), target.to_string_lossy().into_owned().into_bytes()));
            } else {
                out.insert(name, (format!("{:o}", meta.permissions().mode() & 0o100), fs::read(&path).unwrap()));
            }
        }
    }
    let mut out = Tree::new();
    walk(dir, dir, &mut out);
    out
}

pub fn git(dir: &Path, args: &[&str]) -> String {
    let who = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.quotepath=true"];
    let ran = Command::new("git").args(who).args(args).current_dir(dir).output().unwrap();
    assert!(ran.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

pub struct Sandbox {
    pub dir: PathBuf,
    /// Edits report an error and change nothing.
    pub edits_fail: bool,
    /// Edits report success and change nothing.
    pub edits_lie: bool,
    /// The first observation with this text is replaced by an error, and the command undone.
    pub lose: Option<String>,
    pub tmp: tempfile::TempDir,
    pub undo: Option<(PathBuf, Vec<u8>)>,
}

impl Sandbox {
    pub fn new(dir: &Path) -> Self {
        Sandbox { dir: dir.to_owned(), edits_fail: false, edits_lie: false, lose: None, undo: None, tmp: tempfile::tempdir().unwrap() }
    }

    fn bash(&mut self, command: &str) -> String {
        assert!(command.len() < 128 << 10, "a command of {} bytes", command.len());
        let ran = Command::new("bash").args(["-c", command]).current_dir(&self.dir).env("TMPDIR", self.tmp.path()).output().unwrap();
        let output = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        if self.lose.as_ref().is_some_and(|mark| output.contains(mark)) {
            self.lose = None;
            return "The command timed out.".into();
        }
        output
    }

    fn edit(&mut self, of: &Map<String, Value>) -> Result<String, String> {
        let text = |names: [&str; 2]| names.iter().find_map(|n| of.get(*n)).and_then(Value::as_str).map(str::to_owned);
        let path = PathBuf::from(text(["path", "path"]).unwrap());
        assert!(path.is_absolute() && path.starts_with(&self.dir), "{}", path.display());
        let read = || fs::read_to_string(&path).map_err(|e| e.to_string());
        match of["command"].as_str().unwrap() {
            "view" => read(),
            "create" if path.exists() => Err("exists".into()),
            "create" => fs::write(&path, text(["file_text", "text"]).unwrap()).map(|()| String::new()).map_err(|e| e.to_string()),
            "undo" | "undo_edit" => {
                let (path, bytes) = self.undo.take().ok_or("nothing to undo")?;
                fs::write(path, bytes).map(|()| "undone".into()).map_err(|e| e.to_string())
            }
            "str_replace" | "replace" => {
                let (old, new) = (text(["old_str", "old"]).unwrap(), text(["new_str", "new"]).unwrap());
                let before = read()?;
                match before.matches(&old).count() {
                    _ if self.edits_fail => Err("no space left".into()),
                    _ if self.edits_lie => Ok("edited".into()),
                    1 => {
                        self.undo = Some((path.clone(), before.clone().into_bytes()));
                        fs::write(&path, before.replace(&old, &new)).unwrap();
                        Ok("edited".into())
                    }
                    n => Err(format!("old text is there {n} times")),
                }
            }
            other => panic!("{other}"),
        }
    }
}

/// What came of an episode.
#[derive(Default)]
pub struct Episode {
    pub turns: usize,
    /// Turns of several calls.
    pub several: usize,
    pub edits: usize,
    pub failed_edits: usize,
    pub cut: usize,
    pub finished: bool,
    messages: Vec<Value>,
}

struct Call {
    id: Option<Value>,
    name: String,
    arguments: Map<String, Value>,
}

impl Episode {
    pub fn play(rehearsal: &Rehearsal, mut body: Value, mut sandbox: Sandbox) -> Self {
        let mut episode = Episode::default();
        while !episode.finished && episode.turns < 100 {
            let reply = rehearsal.post(&body);
            assert_eq!(reply.status, 200, "{}", reply.body);
            let reply: Value = serde_json::from_str(&reply.body).unwrap();
            let choice = &reply["choices"][0];
            let answers = episode.turn(choice, &mut sandbox);
            let messages = body["messages"].as_array_mut().unwrap();
            messages.push(choice["message"].clone());
            messages.extend(answers);
            episode.messages.clone_from(messages);
        }
        episode
    }

    pub fn text(&self) -> String {
        let cut = |m: &Value| m.to_string().chars().take(2000).collect::<String>();
        self.messages.iter().map(cut).collect::<Vec<_>>().join("\n")
    }

    fn turn(&mut self, choice: &Value, sandbox: &mut Sandbox) -> Vec<Value> {
        self.turns += 1;
        let message = &choice["message"];
        if choice["finish_reason"] == "length" {
            self.cut += 1;
            let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
            let cut = |c: &Value| json!({"role": "tool", "tool_call_id": c["id"], "content": "cut by length, not done"});
            return if calls.is_empty() {
                vec![json!({"role": "user", "content": "cut by length"})]
            } else {
                calls.iter().map(cut).collect()
            };
        }
        let calls = calls(message);
        assert!(!calls.is_empty(), "{message}");
        self.several += usize::from(calls.len() > 1);
        calls.into_iter().map(|call| self.answer(&call, sandbox)).collect()
    }

    fn answer(&mut self, call: &Call, sandbox: &mut Sandbox) -> Value {
        let content = match call.name.as_str() {
            "bash" | "execute_bash" => sandbox.bash(call.arguments["command"].as_str().unwrap()),
            "edit" | "str_replace_editor" => {
                let result = sandbox.edit(&call.arguments);
                let replaces = call.arguments["command"].as_str().unwrap().contains("replace");
                self.edits += usize::from(replaces);
                self.failed_edits += usize::from(replaces && result.is_err());
                result.unwrap_or_else(|e| format!("Error: {e}"))
            }
            "finish" | "submit" => {
                self.finished = true;
                "bye".into()
            }
            "search" => {
                assert!(call.arguments.contains_key("pattern"));
                "nothing".into()
            }
            "think" => call.arguments["thought"].as_str().unwrap().to_owned(),
            other => panic!("{other}"),
        };
        match &call.id {
            Some(id) => json!({"role": "tool", "tool_call_id": id, "content": content}),
            None => json!({"role": "user", "content": content}),
        }
    }
}

/// A value between newlines of its own is without them.
fn bare(value: &str) -> &str {
    value.strip_prefix('\n').map_or(value, |block| block.strip_suffix('\n').unwrap())
}

fn calls(message: &Value) -> Vec<Call> {
    if let Some(calls) = message["tool_calls"].as_array() {
        let call = |c: &Value| Call {
            id: Some(c["id"].clone()),
            name: c["function"]["name"].as_str().unwrap().to_owned(),
            arguments: serde_json::from_str(c["function"]["arguments"].as_str().unwrap()).unwrap(),
        };
        return calls.iter().map(call).collect();
    }
    let content = message["content"].as_str().unwrap();
    let inside = content.split("<function=").skip(1).map(|c| c.split("</function>").next().unwrap());
    let call = |text: &str| {
        let (name, rest) = text.split_once('>').unwrap();
        let parameters = rest.split("<parameter=").skip(1).map(|p| p.split("</parameter>").next().unwrap().split_once('>').unwrap());
        let arguments = parameters.map(|(key, value)| (key.to_owned(), json!(bare(value)))).collect();
        Call { id: None, name: name.to_owned(), arguments }
    };
    inside.map(call).collect()
}
