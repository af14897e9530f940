//! Calls written in the reply's text:
//!
//! ```text
//! <function=NAME>
//! <parameter=KEY>
//! VALUE
//! </parameter>
//! </function>
//! ```
//!
//! Where a newline follows `<parameter=KEY>`, it and one newline before `</parameter>` belong to the format; all else is the
//! value, to the byte, so that `<parameter=KEY>VALUE</parameter>` is exact as well. A value ends at the first `</parameter>` that is followed, white space aside, by `<parameter=` or
//! `</function>`, so that it may hold tags of its own. There is no escape: a value that holds such an end cannot be written, and
//! one that holds the seam of two calls (`</function>` followed by `<function=`) is refused as a forgotten end.
//! `<function=NAME>` opens a call at the beginning of a line, or where a parameter or the end follows; elsewhere it is prose.

use super::{
    route::Kind,
    spec::{Toolset, Type},
    text::clip,
};
use crate::domain::ToolCall;
use serde_json::{Map, Value};

const OPEN: &str = "<function=";
const CLOSE: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";
/// Bytes of a name.
const MAX_NAME: usize = 128;

/// A call that cannot be read, and so is never run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Its id and name; its arguments are the text as it stands.
    pub call: ToolCall,
    /// The text ends before the call does: the reply was cut.
    pub unclosed: bool,
    /// The observation that teaches the call.
    pub message: String,
}

enum Stop {
    /// The text ends within the call.
    Unclosed,
    /// What is wrong, and where to read on.
    Broken(String, usize),
}

/// The calls of a reply in their order; ids are `inline_{turn}_{n}`, from 0.
#[must_use]
pub fn parse(text: &str, turn: u32, toolset: &Toolset) -> Vec<Result<ToolCall, Malformed>> {
    let (mut calls, mut at) = (Vec::new(), 0);
    while let Some((name, inside)) = open(text, at) {
        let id = format!("inline_{turn}_{}", calls.len());
        let (stop, raw) = match parameters(text, inside) {
            Ok((given, end)) => {
                calls.push(Ok(ToolCall::new(id, name, typed(toolset, name, given).to_string())));
                at = end;
                continue;
            }
            Err(stop @ Stop::Unclosed) => (stop, &text[inside..]),
            Err(Stop::Broken(what, end)) => (Stop::Broken(what, end), &text[inside..end]),
        };
        let (what, unclosed, next) = match stop {
            Stop::Unclosed => ("the reply ends before the call does.".to_owned(), true, text.len()),
            Stop::Broken(what, end) => (what, false, end),
        };
        let message = match toolset.get(name) {
            Some(spec) => toolset.teach(spec, None, &what),
            None => format!("error: the call was not run: {what}\nThe tools are {}.", toolset.names()),
        };
        calls.push(Err(Malformed { call: ToolCall::new(id, clip(name, MAX_NAME), raw), unclosed, message }));
        at = next;
    }
    calls
}

/// The next call: its name and where its parameters begin.
fn open(text: &str, mut at: usize) -> Option<(&str, usize)> {
    while let Some(found) = text[at..].find(OPEN) {
        let start = at + found;
        at = start + OPEN.len();
        let begins_line = text[..start].trim_end_matches([' ', '\t']).chars().next_back().is_none_or(|c| c == '\n');
        match tag_name(text, at) {
            Some((name, end)) => {
                let rest = text[end..].trim_start();
                let follows = [PARAMETER, CLOSE].iter().any(|tag| rest.starts_with(tag) || (!rest.is_empty() && tag.starts_with(rest)));
                if follows || begins_line {
                    return Some((name, end));
                }
            }
            None if begins_line && text.len() - at <= MAX_NAME && !text[at..].contains(['\n', '>']) => {
                return Some((&text[at..], text.len()));
            }
            None => {}
        }
    }
    None
}

/// A name and where the text goes on after its `>`.
fn tag_name(text: &str, at: usize) -> Option<(&str, usize)> {
    let window = &text[at..text.floor_char_boundary(at + MAX_NAME + 1)];
    let end = window.find(['>', '\n']).filter(|end| *end > 0 && window.as_bytes()[*end] == b'>')?;
    Some((&window[..end], at + end + 1))
}

/// Names and values as written.
type Given<'a> = Vec<(&'a str, &'a str)>;

fn parameters(text: &str, mut at: usize) -> Result<(Given<'_>, usize), Stop> {
    let mut given = Given::new();
    loop {
        let rest = text[at..].trim_start();
        at = text.len() - rest.len();
        if rest.starts_with(CLOSE) {
            return Ok((given, at + CLOSE.len()));
        }
        let Some((name, inside)) = rest.strip_prefix(PARAMETER).and_then(|_| tag_name(text, at + PARAMETER.len())) else {
            let cut =
                [CLOSE, PARAMETER].iter().any(|tag| tag.starts_with(rest)) || (rest.starts_with(PARAMETER) && !rest.contains(['>', '\n']));
            return Err(if cut {
                Stop::Unclosed
            } else {
                broken(text, at, format!("`{PARAMETER}KEY>` or `{CLOSE}` must follow, not text."))
            });
        };
        let Some(end) = value_end(text, inside) else {
            let forgotten = text[inside..].trim_end().ends_with(CLOSE) || seam(&text[inside..]);
            return Err(match forgotten {
                true => Stop::Broken(format!("the parameter `{name}` is not ended by `{PARAMETER_END}`."), text.len()),
                false => Stop::Unclosed,
            });
        };
        let value = &text[inside..end];
        at = end + PARAMETER_END.len();
        if seam(value) {
            return Err(broken(text, at, format!("the parameter `{name}` is not ended by `{PARAMETER_END}`.")));
        }
        if given.iter().any(|(other, _)| *other == name) {
            return Err(broken(text, at, format!("the parameter `{name}` is given twice.")));
        }
        let block = value.strip_prefix('\n').map(|block| block.strip_suffix('\n').unwrap_or(block));
        given.push((name, block.unwrap_or(value)));
    }
}

/// Reads on after the end of the call, so that nothing inside it is taken for a call.
fn broken(text: &str, at: usize, what: String) -> Stop {
    let end = text[at..].find(CLOSE).map_or(text.len(), |found| at + found + CLOSE.len());
    Stop::Broken(what, end)
}

fn value_end(text: &str, from: usize) -> Option<usize> {
    text[from..].match_indices(PARAMETER_END).map(|(at, _)| from + at).find(|at| {
        let rest = text[at + PARAMETER_END.len()..].trim_start();
        rest.starts_with(CLOSE) || rest.starts_with(PARAMETER)
    })
}

/// Whether one call ends and another begins here.
fn seam(text: &str) -> bool {
    text.match_indices(CLOSE).any(|(at, _)| text[at + CLOSE.len()..].trim_start().starts_with(OPEN))
}

/// Values with the types of the schema where the text has them; validation tells the model where it has not.
fn typed(toolset: &Toolset, function: &str, given: Given<'_>) -> Value {
    let spec = toolset.get(function);
    let value = |name: &str, text: &str| {
        let param = spec.and_then(|s| s.param(name));
        let parsed = match param.map(|p| p.kind) {
            Some(Type::Integer) => text.trim().parse::<i64>().ok().map(Value::from),
            Some(Type::Number | Type::Boolean | Type::Integers) => {
                serde_json::from_str(text).ok().filter(|v: &Value| !v.is_string() && !v.is_object())
            }
            Some(Type::String) => param.and_then(|p| p.values.iter().find(|v| *v == text.trim())).map(|v| Value::from(v.as_str())),
            None => None,
        };
        parsed.unwrap_or_else(|| Value::from(text))
    };
    Value::Object(given.into_iter().map(|(name, text)| (name.to_owned(), value(name, text))).collect())
}

/// A call as text; none where the format cannot hold it (see the module's words).
#[must_use]
pub fn render(function: &str, arguments: &Map<String, Value>, toolset: &Toolset) -> Option<String> {
    let mut text = format!("{OPEN}{function}>\n");
    for (name, value) in arguments {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!("{PARAMETER}{name}>\n{value}\n{PARAMETER_END}\n"));
    }
    text.push_str(CLOSE);
    let survives = match parse(&text, 0, toolset).as_slice() {
        [Ok(call)] => call.function.name == function && serde_json::from_str(&call.function.arguments).ok().as_ref() == Some(arguments),
        _ => false,
    };
    survives.then_some(text)
}

/// The tools and the form of a call, for the system prompt.
#[must_use]
pub fn describe(toolset: &Toolset) -> String {
    let mut text = String::from("# Tools\n");
    for spec in toolset.specs() {
        text.push_str(&format!("\n## {}\n{}\n", spec.name, spec.description));
        for (n, p) in spec.params.iter().enumerate() {
            let head = if n == 0 { "Parameters:\n" } else { "" };
            let values = if p.values.is_empty() { String::new() } else { format!(": {}", p.values.join(", ")) };
            let needed = if p.required { "required" } else { "optional" };
            text.push_str(&format!("{head}- {} ({}{values}; {needed}): {}\n", p.name, p.kind.as_str(), p.description));
        }
    }
    text.push_str(FORM);
    text
}

const FORM: &str = "
# How to call a tool
Write the call in your reply, each tag at the start of a line:

<function=NAME>
<parameter=KEY>
VALUE
</parameter>
</function>

* A value is taken literally: no quotes, no escaping, indentation is kept. The newline after `<parameter=KEY>` and the one before `</parameter>` are not part of it.
* Write integers as digits, booleans as true or false, and arrays as JSON: [1, 20].
* A reply may contain several calls; they run in order. Write nothing after the last `</function>`: the results arrive in the next message.";

/// A short call to teach by.
#[must_use]
pub fn example(toolset: &Toolset) -> String {
    format!("{OPEN}{}>\n{PARAMETER}command>\nls\n{PARAMETER_END}\n{CLOSE}", toolset.name_of(Kind::Shell))
}

#[cfg(test)]
mod tests {
    use super::super::{Bounds, CallFormat, Plan, builtin};
    use super::*;
    use proptest::prelude::*;

    fn toolset() -> Toolset {
        Toolset::parse(builtin::schemas("scale-swe").unwrap().iter().copied(), CallFormat::Inline, Bounds::default()).unwrap()
    }

    fn read(text: &str) -> Vec<Result<(String, String), (bool, String)>> {
        let calls = parse(text, 3, &toolset());
        calls.into_iter().map(|c| c.map(|c| (c.function.name, c.function.arguments)).map_err(|m| (m.unclosed, m.message))).collect()
    }

    fn one(text: &str) -> (String, String) {
        let mut calls = read(text);
        assert_eq!(calls.len(), 1, "{text}");
        calls.remove(0).unwrap()
    }

    #[test]
    fn white_space_is_exact() {
        for (written, value) in [
            ("ls", "ls"),
            ("\nls\n", "ls"),
            ("\n\n  ls \n\n", "\n  ls \n"),
            ("\n", ""),
            ("\n\n", ""),
            ("", ""),
            ("\n\tif a < b && c > d:\n\t\tpass\n", "\tif a < b && c > d:\n\t\tpass"),
            ("\n</parameter>\n", "</parameter>"),
            ("\r\nx\r\n", "\r\nx\r\n"),
            ("one\ntwo\n", "one\ntwo\n"),
            ("\none\ntwo", "one\ntwo"),
            ("\necho '</function>'\n", "echo '</function>'"),
        ] {
            let (name, arguments) = one(&format!("<function=execute_bash>\n<parameter=command>{written}</parameter>\n</function>"));
            let parsed: Value = serde_json::from_str(&arguments).unwrap();
            assert_eq!((name.as_str(), &parsed["command"]), ("execute_bash", &Value::from(value)), "{written:?}");
        }
    }

    #[test]
    fn several_calls_in_order_with_types_and_ids() {
        let text = "I look.\n<tool_call>\n<function=str_replace_editor>\n<parameter=command>view\n</parameter>\n<parameter=path>/a</parameter>\n\
            <parameter=view_range>[1, 20]</parameter>\n</function>\n</tool_call>\nand then <function=finish></function>";
        let calls: Vec<ToolCall> = parse(text, 3, &toolset()).into_iter().map(Result::unwrap).collect();
        assert_eq!(calls[0].function.arguments, r#"{"command":"view","path":"/a","view_range":[1,20]}"#);
        assert_eq!(
            (calls[1].id.as_str(), calls[1].function.name.as_str(), calls[1].function.arguments.as_str()),
            ("inline_3_1", "finish", "{}")
        );
        assert_eq!(toolset().plan(&calls[1]), Plan::Submit);
        let late = one("<function=execute_bash><parameter=command>x</parameter><parameter=timeout>soon</parameter></function>");
        assert_eq!(late.1, r#"{"command":"x","timeout":"soon"}"#);
    }

    #[test]
    fn a_cut_at_any_byte_runs_nothing() {
        let whole = "<function=str_replace_editor>\n<parameter=command>\nstr_replace\n</parameter>\n<parameter=old_str>\na </function> b\n\
            </parameter>\n<parameter=new_str>\nc\n</parameter>\n</function>";
        for end in 0..whole.len() {
            let calls = read(&whole[..end]);
            assert!(calls.iter().all(Result::is_err), "{}", &whole[..end]);
            if end > OPEN.len() && !whole[..end].trim_end().ends_with(CLOSE) {
                assert!(calls.len() == 1 && calls[0].as_ref().unwrap_err().0, "{}", &whole[..end]);
            }
        }
        assert!(read(whole)[0].is_ok());
    }

    #[test]
    fn what_cannot_be_read_is_taught_and_what_is_inside_is_not_run() {
        let shell = |inside: &str| format!("<function=execute_bash>{inside}</function>");
        for (text, says) in [
            (shell("\nls\n"), "must follow, not text"),
            (shell("\n<parameter=command>\nls\n"), "is not ended by"),
            (shell("<parameter=command>a</parameter><parameter=command>b</parameter>"), "given twice"),
            (shell("<parameter=>a</parameter>"), "must follow"),
            (
                shell("<parameter=command>\nls\n</function>\n<function=execute_bash>\n<parameter=command>rm x</parameter>"),
                "is not ended by",
            ),
        ] {
            let calls = read(&text);
            assert_eq!(calls.len(), 1, "{text}: {calls:?}");
            let (unclosed, message) = calls[0].clone().unwrap_err();
            assert!(!unclosed && message.contains(says) && message.contains("<parameter=command>\nstring\n</parameter>"), "{message}");
        }
    }

    #[test]
    fn prose_is_not_a_call() {
        assert!(read("Then I use `<function=execute_bash>` to run it, or <function=x.").is_empty());
        assert!(read("a < b and <parameter=command>x</parameter></function>").is_empty());
    }

    #[test]
    fn hostile_text_takes_linear_time() {
        for unit in
            ["<function=x>", "\n<function=x>", "<function=", "\n<function=a><parameter=b>", "</parameter>\n", " \n<function=a>x</function>"]
        {
            let text = format!("<function=a>\n<parameter=b>{}", unit.repeat(20_000));
            assert!(read(&text).iter().all(Result::is_err));
            let _ = read(&unit.repeat(20_000));
        }
    }

    fn value() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "\\PC{0,12}",
            2 => "[ \t\n\r]{0,4}",
            1 => proptest::sample::select(vec![PARAMETER_END, CLOSE, "<parameter=path>", "<function=finish>", "\n</parameter>\n</function>\n", "<"]).prop_map(str::to_owned),
        ];
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_back(path in value(), old in value(), line in any::<i64>(), range: Vec<i64>) {
            let toolset = toolset();
            let arguments: Map<String, Value> = [("command", Value::from("view")), ("path", path.clone().into()), ("old_str", old.clone().into()),
                ("insert_line", line.into()), ("view_range", range.into())].into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            match render("str_replace_editor", &arguments, &toolset) {
                Some(text) => {
                    let calls = parse(&format!("words\n{text}\nwords"), 0, &toolset);
                    prop_assert_eq!(calls.len(), 1);
                    let call = calls[0].as_ref().unwrap();
                    prop_assert_eq!(&serde_json::from_str::<Map<String, Value>>(&call.function.arguments).unwrap(), &arguments);
                }
                None => prop_assert!([path, old].iter().any(|v| v.contains(PARAMETER_END) || v.contains(CLOSE))),
            }
        }

        #[test]
        fn no_text_panics(pieces in proptest::collection::vec(value(), 0..8)) {
            let _ = parse(&pieces.concat(), 0, &toolset());
        }
    }
}
