//! A scaffold: prompts and toolset under one name, embedded, each file replaceable by one of a directory.
//!
//! All files are minijinja templates: an undefined name is an error, nothing is escaped, and what is inserted is never itself
//! evaluated. Schemas see `limits`, prompts all of [`PROMPT_VARIABLES`].

use crate::domain::{Instance, Message, Role};
use crate::tools::{Bounds, CallFormat, SpecError, Toolset, builtin, inline, route::Kind};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
};

/// Names of the embedded scaffolds.
pub const NAMES: [&str; 2] = ["scale-swe", "sweroll"];
/// What a prompt may print.
pub const PROMPT_VARIABLES: &str = "problem_statement, repo, language, workdir, tools, limits.turns, limits.command_timeout_s, \
    limits.max_command_timeout_s, limits.output_bytes, limits.search_results, inline, submit, names, example";
/// Largest file of a scaffold, bytes.
const MAX_FILE: u64 = 1 << 20;

macro_rules! prompts {
    ($scaffold:literal: $($file:literal),*) => {
        &[$(($file, include_str!(concat!("../../prompts/", $scaffold, "/", $file)))),*]
    };
}

fn embedded(scaffold: &str) -> Option<&'static [(&'static str, &'static str)]> {
    match scaffold {
        "scale-swe" => Some(prompts!("scale-swe": "system.j2", "instance.j2", "reminder.j2", "length_cut.j2")),
        "sweroll" => Some(prompts!("sweroll": "system.j2", "instance.j2", "reminder.j2", "length_cut.j2")),
        _ => None,
    }
}

/// Which scaffold, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `scale-swe` (the default) or `sweroll`.
    pub name: String,
    /// A directory whose files (`system.j2`, `bash.json`, ...) replace the embedded ones of the same name.
    pub dir: Option<PathBuf>,
    /// `native` (the default) or `inline`.
    pub format: CallFormat,
    pub bounds: Bounds,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { name: NAMES[0].to_owned(), dir: None, format: CallFormat::Native, bounds: Bounds::default() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    #[error("there is no scaffold {0:?}: use one of scale-swe, sweroll")]
    Unknown(String),
    #[error("scaffold file {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("scaffold file {path} replaces nothing: rename or remove it; the files of {scaffold} are {known}")]
    UnknownFile { path: PathBuf, scaffold: String, known: String },
    #[error("{file}, line {line}: {message}")]
    Template { file: String, line: usize, message: String },
    #[error("{file}: {message}")]
    Prompt { file: String, message: String },
    #[error("limits of tool calls: {0}")]
    Bounds(String),
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// Prompts, toolset, call format and limits, checked by rendering them once.
#[derive(Debug, Clone)]
pub struct Scaffold {
    pub name: String,
    /// SHA-256 over the names and texts of all its files, hexadecimal.
    pub digest: String,
    pub toolset: Toolset,
    env: Environment<'static>,
    files: Vec<File>,
    turns: u32,
    reminder: String,
    length_cut: String,
}

#[derive(Debug, Clone)]
struct File {
    name: &'static str,
    text: Cow<'static, str>,
    /// Where it lies, for messages.
    place: String,
}

impl Scaffold {
    /// `turns` is the limit of turns that the prompts may tell the model.
    ///
    /// # Errors
    /// The file and line that are wrong, and the mend.
    pub fn load(settings: &Settings, turns: u32) -> Result<Scaffold, ScaffoldError> {
        settings.bounds.check().map_err(ScaffoldError::Bounds)?;
        let files = files(settings)?;
        let digest = digest(&files);
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        for file in &files {
            env.add_template_owned(file.name, file.text.clone()).map_err(|e| template(file, &e, ""))?;
        }
        let (toolset, limits) = (settings.toolset(&env, &files)?, limits(&settings.bounds, turns));
        let mut scaffold = Scaffold {
            name: settings.name.clone(),
            digest,
            toolset,
            env,
            files,
            turns,
            reminder: String::new(),
            length_cut: String::new(),
        };
        let about = scaffold.about_calls(&limits);
        scaffold.reminder = scaffold.print("reminder.j2", about.clone())?;
        scaffold.length_cut = scaffold.print("length_cut.j2", about)?;
        scaffold.check()?;
        Ok(scaffold)
    }

    /// The first request: system message, user message. The latter holds the trimmed problem statement to the letter.
    ///
    /// # Errors
    /// [`ScaffoldError::Template`] where a template fails on this instance.
    pub fn render(&self, instance: &Instance, workdir: &str) -> Result<Vec<Message>, ScaffoldError> {
        let statement = instance.problem_statement.trim();
        self.first(statement, &instance.repo, &instance.language, workdir)
    }

    /// For a reply without a call.
    #[must_use]
    pub fn reminder(&self) -> &str {
        &self.reminder
    }

    /// For a reply that was cut at the length limit.
    #[must_use]
    pub fn length_cut(&self) -> &str {
        &self.length_cut
    }

    fn first(&self, statement: &str, repo: &str, language: &str, workdir: &str) -> Result<Vec<Message>, ScaffoldError> {
        let tools = match self.toolset.format {
            CallFormat::Native => String::new(),
            CallFormat::Inline => inline::describe(&self.toolset),
        };
        let about = self.about_calls(&limits(&self.toolset.bounds, self.turns));
        let values = context! { problem_statement => statement, repo, language, workdir, tools, ..about };
        let system = self.print("system.j2", values.clone())?;
        let user = self.print("instance.j2", values)?;
        Ok(vec![Message::new(Role::System, system.trim_end()), Message::new(Role::User, user.trim_end())])
    }

    fn about_calls(&self, limits: &Value) -> Value {
        let tools = &self.toolset;
        context! {
            limits,
            inline => tools.format == CallFormat::Inline,
            submit => tools.name_of(Kind::Submit),
            names => tools.names(),
            example => inline::example(tools),
        }
    }

    fn print(&self, name: &str, values: Value) -> Result<String, ScaffoldError> {
        print(&self.env, &self.files, name, values, PROMPT_VARIABLES)
    }

    /// What every instance's prompt must hold, tried on one.
    fn check(&self) -> Result<(), ScaffoldError> {
        let statement = "{{ statement }} {% of %} {# one #}\n\t<instance> & \"more\"";
        let messages = self.first(statement, "owner/name", "python", "/repository")?;
        let fail = |file: &str, message: &str| {
            let file = self.files.iter().find(|f| f.name == file).map_or(file, |f| &f.place).to_owned();
            Err(ScaffoldError::Prompt { file, message: message.to_owned() })
        };
        if !messages[1].content.contains(statement) {
            return fail("instance.j2", "it does not print the problem statement as it is: write {{ problem_statement }}, without filters");
        }
        let told = messages.iter().any(|m| m.content.contains("<function="));
        if self.toolset.format == CallFormat::Inline && !told {
            return fail("system.j2", "inline calls need the tools in the prompt: write {{ tools }}");
        }
        Ok(())
    }
}

impl Settings {
    fn toolset(&self, env: &Environment<'_>, files: &[File]) -> Result<Toolset, ScaffoldError> {
        let limits = limits(&self.bounds, 0);
        let schemas: Vec<(&File, String)> = files
            .iter()
            .filter(|file| file.name.ends_with(".json"))
            .map(|file| Ok((file, print(env, files, file.name, context! { limits }, "limits.*")?)))
            .collect::<Result<_, ScaffoldError>>()?;
        let pairs = schemas.iter().map(|(file, text)| (file.name, text.as_str()));
        Toolset::parse(pairs, self.format, self.bounds.clone()).map_err(|mut e| {
            e.file = files.iter().find(|f| f.name == e.file).map_or(e.file, |f| f.place.clone());
            e.into()
        })
    }
}

fn limits(bounds: &Bounds, turns: u32) -> Value {
    let Bounds { command_timeout_s, max_command_timeout_s, output_bytes, search_results, .. } = *bounds;
    context! { turns, command_timeout_s, max_command_timeout_s, output_bytes, search_results }
}

fn print(env: &Environment<'_>, files: &[File], name: &str, values: Value, known: &str) -> Result<String, ScaffoldError> {
    env.get_template(name).and_then(|t| t.render(values)).map_err(|e| {
        match files.iter().find(|f| Some(f.name) == e.name().or(Some(name))) {
            Some(file) => template(file, &e, known),
            None => ScaffoldError::Prompt { file: name.to_owned(), message: e.to_string() },
        }
    })
}

fn template(file: &File, error: &minijinja::Error, known: &str) -> ScaffoldError {
    let detail = error.detail().unwrap_or_default();
    let colon = if detail.is_empty() { "" } else { ": " };
    let mend = match error.kind() {
        minijinja::ErrorKind::UndefinedError => format!("; what can be printed here: {known}"),
        _ => String::new(),
    };
    ScaffoldError::Template {
        file: file.place.clone(),
        line: error.line().unwrap_or(1),
        message: format!("{}{colon}{detail}{mend}", error.kind()),
    }
}

/// The embedded files, with those of the directory in their places.
fn files(settings: &Settings) -> Result<Vec<File>, ScaffoldError> {
    let name = settings.name.as_str();
    let (Some(prompts), Some(schemas)) = (embedded(name), builtin::schemas(name)) else {
        return Err(ScaffoldError::Unknown(name.to_owned()));
    };
    let origin = |file: &str| if file.ends_with(".json") { format!("tools/{name}/{file}") } else { format!("prompts/{name}/{file}") };
    let mut files: Vec<File> =
        prompts.iter().chain(schemas).map(|&(name, text)| File { name, text: text.into(), place: origin(name) }).collect();
    let Some(dir) = &settings.dir else { return Ok(files) };
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|source| ScaffoldError::Read { path: dir.clone(), source })?;
    paths.sort();
    for path in paths {
        let base = path.file_name().unwrap_or_default().to_string_lossy();
        if base.starts_with('.') {
            continue;
        }
        let known = || files.iter().map(|f| f.name).collect::<Vec<_>>().join(", ");
        let Some(at) = files.iter().position(|f| f.name == base) else {
            return Err(ScaffoldError::UnknownFile { known: known(), scaffold: name.to_owned(), path });
        };
        files[at].text = read(&path)?.into();
        files[at].place = path.display().to_string();
    }
    Ok(files)
}

fn read(path: &Path) -> Result<String, ScaffoldError> {
    let fail = |source| ScaffoldError::Read { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(fail)?.len();
    if size > MAX_FILE {
        return Err(fail(io::Error::new(io::ErrorKind::InvalidData, format!("{size} bytes, over the limit of {MAX_FILE}"))));
    }
    fs::read_to_string(path).map_err(fail)
}

fn digest(files: &[File]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update((file.name.len() as u64).to_be_bytes());
        hash.update(file.name);
        hash.update((file.text.len() as u64).to_be_bytes());
        hash.update(file.text.as_bytes());
    }
    format!("{:x}", hash.finalize())
}
