//! Chat templates out of files, rendered as `transformers` renders them with jinja2.

use super::{
    generation, pymethods,
    pyvalue::{self, tojson},
    template::TemplateError,
};
use crate::domain::{Message, Role};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value, context};
use sha2::{Digest, Sha256};
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// Largest template that is read, bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    #[error("cannot read the chat template {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} has {bytes} bytes: a chat template has at most {MAX_FILE_BYTES}")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("the chat template {name}: {why}")]
    Syntax { name: String, why: String },
}

/// Why it cannot be said which tokens of a rendered conversation are trained on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmarked {
    #[error(
        "the template has no {{% generation %}} tags, and what it renders of the first messages is not how the whole begins: \
         put {{% generation %}} and {{% endgeneration %}} around what the assistant says"
    )]
    NoPrefix,
    #[error("its {{% generation %}} tags mark {marked} stretches, and the conversation has {replies} messages of the assistant")]
    Stretches { marked: usize, replies: usize },
}

/// A conversation as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// The bytes of what each message of the assistant says, in order.
    pub spoken: Result<Vec<Range<usize>>, Unmarked>,
}

/// A chat template. Gets `messages` as the record has them, arguments of calls as text, `tools` parsed, and none where there are none.
pub struct ChatTemplate {
    env: Environment<'static>,
    name: String,
    digest: String,
    source: String,
    has_tags: bool,
}

const TEMPLATE: &str = "chat";

impl ChatTemplate {
    /// `now`: what `strftime_now` tells, seconds since the Unix epoch.
    ///
    /// # Errors
    /// Where the file cannot be read or is no template.
    pub fn load(path: &Path, now: u64) -> Result<Self, ChatTemplateError> {
        let read = |source| ChatTemplateError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(ChatTemplateError::TooLarge { path: path.to_owned(), bytes });
        }
        let source = std::fs::read_to_string(path).map_err(read)?;
        let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        ChatTemplate::parse(name, &source, now)
    }

    /// # Errors
    /// Where the source is no template.
    pub fn parse(name: String, source: &str, now: u64) -> Result<Self, ChatTemplateError> {
        let tagged = generation::rewrite(source);
        let has_tags = tagged.is_some();
        let mut env = environment(now);
        env.add_template_owned(TEMPLATE, tagged.unwrap_or_else(|| source.to_owned()))
            .map_err(|e| ChatTemplateError::Syntax { name: name.clone(), why: e.to_string() })?;
        Ok(ChatTemplate { env, name, digest: format!("{:x}", Sha256::digest(source)), source: source.to_owned(), has_tags })
    }

    /// Name of the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the file, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// # Errors
    /// Where `tools` is no JSON array, or the template refuses the conversation.
    pub fn render(&self, messages: &[Message], tools: &str) -> Result<Rendered, TemplateError> {
        if messages.is_empty() {
            return Err(TemplateError::NoMessages);
        }
        let tools = if tools.is_empty() { Value::from(()) } else { pyvalue::parse(tools)? };
        let tools = if tools.len() == Some(0) { Value::from(()) } else { tools };
        let values: Vec<Value> = messages.iter().map(Value::from_serialize).collect();
        let replies: Vec<usize> = (0..messages.len()).filter(|at| messages[*at].role == Role::Assistant).collect();
        if !self.has_tags {
            let text = self.run(&values, &tools, false, "")?;
            let spoken = self.by_prefixes(&text, &values, &tools, &replies);
            return Ok(Rendered { text, spoken });
        }
        let mut tool_texts = String::new();
        pyvalue::str(&tools, &mut tool_texts);
        let mark = generation::mark(messages.iter().flat_map(texts).chain([tool_texts.as_str(), &self.source]));
        let (text, marked) = generation::take_out(&self.run(&values, &tools, false, &mark)?, &mark);
        let unmarked = Unmarked::Stretches { marked: marked.len(), replies: replies.len() };
        let spoken = if marked.len() == replies.len() { Ok(marked) } else { Err(unmarked) };
        Ok(Rendered { text, spoken })
    }

    fn run(&self, messages: &[Value], tools: &Value, add_generation_prompt: bool, mark: &str) -> Result<String, TemplateError> {
        let refused = |e: Error| TemplateError::Refused { template: self.name.clone(), why: said(&e) };
        let template = self.env.get_template(TEMPLATE).map_err(refused)?;
        let tools = tools.clone();
        let context = context! { messages, tools, documents => (), add_generation_prompt, sweroll_generation_mark => mark };
        template.render(context).map_err(refused)
    }

    /// Each reply is what the text has beyond the prompt for it.
    fn by_prefixes(&self, text: &str, messages: &[Value], tools: &Value, replies: &[usize]) -> Result<Vec<Range<usize>>, Unmarked> {
        let length_of = |messages: &[Value], prompt: bool| {
            let part = self.run(messages, tools, prompt, "").ok()?;
            text.starts_with(&part).then_some(part.len())
        };
        let spoken = |at: &usize| Some(length_of(&messages[..*at], true)?..length_of(&messages[..=*at], false)?);
        replies.iter().map(|at| spoken(at).filter(|range| range.start <= range.end).ok_or(Unmarked::NoPrefix)).collect()
    }
}

fn texts(message: &Message) -> impl Iterator<Item = &str> + Clone {
    let calls = message.tool_calls.iter().flat_map(|call| [call.function.name.as_str(), call.function.arguments.as_str(), &call.id]);
    [message.content.as_str(), &message.reasoning_content, &message.tool_call_id].into_iter().chain(calls)
}

/// As `transformers` sets jinja2 up.
fn environment(now: u64) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_unknown_method_callback(pymethods::method);
    env.set_formatter(|out, _, value| {
        let mut text = String::new();
        let text = value.as_str().unwrap_or_else(|| {
            pyvalue::str(value, &mut text);
            &text
        });
        out.write_str(text).map_err(Error::from)
    });
    env.add_filter("tojson", |value: &Value, options| tojson(value, options));
    env.add_filter("trim", pymethods::trim);
    env.add_filter("string", |value: &Value| {
        let mut text = String::new();
        pyvalue::str(value, &mut text);
        text
    });
    env.add_filter(generation::FILTER, |state: &State<'_, '_>, text: &str| match state.lookup(generation::MARK) {
        Some(mark) if !mark.as_str().unwrap_or_default().is_empty() => {
            let mark = mark.as_str().unwrap_or_default();
            [&generation::opening(mark), text, &generation::closing(mark)].concat()
        }
        _ => text.to_owned(),
    });
    env.add_test("sequence", |value: &Value| pymethods::is_sequence(value));
    env.add_test("iterable", |value: &Value| pymethods::is_iterable(value));
    env.add_function("raise_exception", |why: &str| Err::<Value, _>(Error::new(ErrorKind::InvalidOperation, why.to_owned())));
    env.add_function("strftime_now", move |format: &str| pymethods::strftime(format, now));
    env
}

/// What the engine says, in one line.
fn said(error: &Error) -> String {
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned) + &line
}
