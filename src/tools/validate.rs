//! A call's argument text to typed arguments, or an observation that teaches the call.
//!
//! Lenient only where it cannot be wrong: no text at all for a function without required parameters, null for an optional
//! argument, a number in a string, an integer written as a float, an array written as a JSON string.

use super::{
    CallFormat,
    route::Usage,
    spec::{Param, Spec, Toolset, Type},
    text::clip,
};
use crate::domain::ToolCall;
use serde_json::{Map, Value};

/// Arguments that have the names and types of their function's schema; every required one is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Arguments(Map<String, Value>);

impl Arguments {
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    #[must_use]
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.as_i64()
    }

    #[must_use]
    pub fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }

    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    #[must_use]
    pub fn integers(&self, name: &str) -> Option<Vec<i64>> {
        Some(self.0.get(name)?.as_array()?.iter().filter_map(Value::as_i64).collect())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Toolset {
    /// # Errors
    /// The observation that teaches the right call.
    pub fn validate(&self, call: &ToolCall) -> Result<(&Spec, Arguments), String> {
        let name = &call.function.name;
        let Some(spec) = self.get(name) else {
            return Err(format!("error: there is no tool `{}`. The tools are {}.", clip(name, 100), self.names()));
        };
        match self.arguments(spec, &call.function.arguments) {
            Ok(arguments) => Ok((spec, arguments)),
            Err(what) => Err(self.teach(spec, None, &what)),
        }
    }

    /// What is wrong with a call, and its right form: that of one command where it is known which.
    #[must_use]
    pub fn teach(&self, spec: &Spec, usage: Option<&Usage>, what: &str) -> String {
        format!("error: the call was not run: {what}\nThe form of the call:\n{}", form(spec, usage, self.format))
    }

    fn arguments(&self, spec: &Spec, text: &str) -> Result<Arguments, String> {
        let max = self.bounds.arguments_bytes;
        if text.len() > max {
            return Err(format!("its arguments are {} bytes, over the limit of {max}. Do it in smaller parts.", text.len()));
        }
        if text.trim().is_empty() {
            return object(spec, Map::new());
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(given)) => object(spec, given),
            Ok(other) => Err(format!("its arguments are {}, not a JSON object.", kind_of(&other))),
            Err(e) => Err(format!("its arguments are not valid JSON: {e}{}.", around(text, e.line(), e.column()))),
        }
    }
}

fn object(spec: &Spec, given: Map<String, Value>) -> Result<Arguments, String> {
    let mut typed = Map::new();
    for (name, value) in given {
        let Some(param) = spec.param(&name) else {
            let names: Vec<String> = spec.params.iter().map(|p| format!("`{}`", p.name)).collect();
            let takes = if names.is_empty() { "no arguments".to_owned() } else { names.join(", ") };
            return Err(format!("`{}` is not an argument of {}, which takes {takes}.", clip(&name, 100), spec.name));
        };
        if value.is_null() && !param.required {
            continue;
        }
        typed.insert(name, fit(param, value)?);
    }
    match spec.params.iter().find(|p| p.required && !typed.contains_key(&p.name)) {
        Some(missing) => Err(format!("the argument `{}` is missing.", missing.name)),
        None => Ok(Arguments(typed)),
    }
}

fn fit(param: &Param, value: Value) -> Result<Value, String> {
    let Some(fitted) = coerce(param.kind, &value) else {
        let shown = clip(&value.to_string(), 60).into_owned();
        return Err(format!("the argument `{}` must be {}, not {} ({shown}).", param.name, article(param.kind), kind_of(&value)));
    };
    if let Some(text) = fitted.as_str().filter(|text| !param.values.is_empty() && !param.values.iter().any(|v| v == text)) {
        return Err(format!("the argument `{}` must be one of {}, not {:?}.", param.name, param.values.join(", "), clip(text, 60)));
    }
    if let Some(number) = fitted.as_f64() {
        if let Some(least) = param.minimum.filter(|least| number < *least) {
            return Err(format!("the argument `{}` must be at least {least}, not {number}.", param.name));
        }
        if let Some(most) = param.maximum.filter(|most| number > *most) {
            return Err(format!("the argument `{}` must be at most {most}, not {number}.", param.name));
        }
    }
    Ok(fitted)
}

fn coerce(kind: Type, value: &Value) -> Option<Value> {
    match kind {
        Type::String => value.as_str().map(Value::from),
        Type::Boolean => value.as_bool().map(Value::from),
        Type::Integer => integer(value).map(Value::from),
        Type::Number => match value {
            Value::Number(_) => Some(value.clone()),
            Value::String(text) => text.trim().parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::from),
            _ => None,
        },
        Type::Integers => match value {
            Value::Array(items) => items.iter().map(integer).map(|n| n.map(Value::from)).collect::<Option<Vec<_>>>().map(Value::Array),
            Value::String(text) => match serde_json::from_str(text) {
                Ok(array @ Value::Array(_)) => coerce(kind, &array),
                _ => None,
            },
            _ => None,
        },
    }
}

fn integer(value: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() <= EXACT).map(|f| f as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn article(kind: Type) -> &'static str {
    match kind {
        Type::String => "a string",
        Type::Integer => "an integer",
        Type::Number => "a number",
        Type::Boolean => "true or false",
        Type::Integers => "an array of integers",
    }
}

/// The text before the place of a JSON error. `column` counts bytes from 1.
fn around(text: &str, line: usize, column: usize) -> String {
    let Some(line) = text.split('\n').nth(line.saturating_sub(1)) else { return String::new() };
    let end = line.floor_char_boundary(column.min(line.len()));
    let start = line.floor_char_boundary(end.saturating_sub(40));
    if start == end { String::new() } else { format!(", after `{}`", &line[start..end]) }
}

/// A call with types in the places of values.
fn form(spec: &Spec, usage: Option<&Usage>, format: CallFormat) -> String {
    let value = |p: &Param| match (p.values.is_empty(), p.kind, usage) {
        (false, _, Some(usage)) if p.name == "command" => usage.command.to_owned(),
        (false, ..) => p.values.join("|"),
        (true, kind, _) => kind.as_str().to_owned(),
    };
    let taken = spec.params.iter().filter(|p| usage.is_none_or(|u| u.takes(&p.name)));
    let (needed, optional): (Vec<&Param>, Vec<&Param>) =
        taken.partition(|p| p.required || usage.is_some_and(|u| u.needs.contains(&p.name.as_str())));
    match format {
        CallFormat::Native => {
            let quote = |p: &Param| if p.values.is_empty() { value(p) } else { format!("{:?}", value(p)) };
            let needed = needed.iter().map(|p| format!("\"{}\": {}", p.name, quote(p)));
            let optional = optional.iter().map(|p| format!("\"{}\"?: {}", p.name, quote(p)));
            format!("{} {{{}}}", spec.name, needed.chain(optional).collect::<Vec<_>>().join(", "))
        }
        CallFormat::Inline => {
            let needed: String = needed.iter().map(|p| format!("<parameter={}>\n{}\n</parameter>\n", p.name, value(p))).collect();
            let optional: Vec<String> = optional.iter().map(|p| format!("{} ({})", p.name, value(p))).collect();
            let optional = if optional.is_empty() { String::new() } else { format!("\nOptional parameters: {}", optional.join(", ")) };
            format!("<function={}>\n{needed}</function>{optional}", spec.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bounds, builtin};
    use super::*;
    use proptest::prelude::*;

    fn toolset(scaffold: &str) -> Toolset {
        Toolset::parse(builtin::schemas(scaffold).unwrap().iter().copied(), CallFormat::Native, Bounds::default()).unwrap()
    }

    fn validate(name: &str, arguments: &str) -> Result<Arguments, String> {
        toolset("scale-swe").validate(&ToolCall::new("c", name, arguments)).map(|(_, arguments)| arguments)
    }

    #[test]
    fn what_cannot_be_wrong_is_taken() {
        for empty in ["", "  \n", "{}"] {
            assert!(validate("finish", empty).is_ok(), "{empty:?}");
        }
        let args = validate("execute_bash", r#"{"command": "ls", "timeout": "30"}"#).unwrap();
        assert_eq!(args.number("timeout"), Some(30.0));
        assert_eq!(validate("execute_bash", r#"{"command": "ls", "timeout": null}"#).unwrap().number("timeout"), None);
        let view = |range: &str| {
            validate("str_replace_editor", &format!(r#"{{"command":"view","path":"/a","view_range":{range}}}"#))
                .map(|args| args.integers("view_range").unwrap())
        };
        for range in ["[1, 20]", "[1.0, 20.0]", r#"["1", "20"]"#, r#""[1, 20]""#] {
            assert_eq!(view(range).unwrap(), [1, 20], "{range}");
        }
        for range in ["[1.5, 20]", "1", r#""1, 20""#, r#"{"a": 1}"#, "[true, 2]"] {
            assert!(view(range).is_err(), "{range}");
        }
    }

    #[test]
    fn each_mistake_is_named_with_the_right_form() {
        for (name, arguments, says) in [
            ("execute_bash", "", "`command` is missing"),
            ("execute_bash", "{\"command\": \"ls", "not valid JSON"),
            ("execute_bash", "{\"command\": \"ls\" \"x\"}", "after `{\"command\": \"ls\" \""),
            ("execute_bash", "[\"ls\"]", "an array, not a JSON object"),
            ("execute_bash", r#"{"command": 3}"#, "must be a string, not a number (3)"),
            ("execute_bash", r#"{"command": null}"#, "must be a string, not null"),
            ("execute_bash", r#"{"command": "ls", "timeout": "soon"}"#, "must be a number, not a string (\"soon\")"),
            ("execute_bash", r#"{"cmd": "ls"}"#, "`cmd` is not an argument of execute_bash, which takes `command`, `timeout`"),
            ("str_replace_editor", r#"{"command": "delete", "path": "/a"}"#, "one of view, create, str_replace, insert, undo_edit"),
            ("str_replace_editor", r#"{"command": "insert", "path": "/a", "insert_line": -1}"#, "at least 0"),
        ] {
            let error = validate(name, arguments).unwrap_err();
            assert!(error.contains(says), "{error}");
            assert!(error.contains(&format!("The form of the call:\n{name} {{")), "{error}");
        }
        let error = validate("bash", "{}").unwrap_err();
        assert_eq!(error, "error: there is no tool `bash`. The tools are `execute_bash`, `str_replace_editor`, `think`, `finish`.");
    }

    #[test]
    fn oversized_arguments_are_refused_and_not_echoed() {
        let error = validate("think", &format!(r#"{{"thought": "{}"}}"#, "x".repeat(2 << 20))).unwrap_err();
        assert!(error.contains("over the limit of 1048576") && error.len() < 1000);
        assert!(validate("execute_bash", &"[".repeat(100_000)).unwrap_err().len() < 1000);
        assert!(validate(&"n".repeat(1 << 20), "{}").unwrap_err().len() < 1000);
    }

    proptest! {
        #[test]
        fn no_text_panics(scale_swe: bool, tool in 0usize..5, text in r#"\PC*|[\[\]{}":,a-z0-9\\ \n]*"#) {
            let toolset = toolset(if scale_swe { "scale-swe" } else { "sweroll" });
            let name = toolset.specs().get(tool).map_or("none", |s| s.name.as_str()).to_owned();
            let _ = toolset.plan(&ToolCall::new("c", name, text));
        }

        #[test]
        fn any_argument_values_are_taken_or_taught(tool in 0usize..4, values in proptest::collection::vec(
            prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from), any::<String>().prop_map(Value::from),
                Just(Value::Null), any::<bool>().prop_map(Value::from), any::<Vec<i64>>().prop_map(Value::from)], 8)) {
            for scaffold in ["scale-swe", "sweroll"] {
                let toolset = toolset(scaffold);
                let spec = &toolset.specs()[tool];
                let arguments: Map<String, Value> = spec.params.iter().map(|p| p.name.clone()).zip(values.iter().cloned()).collect();
                if let Ok((_, args)) = toolset.validate(&ToolCall::new("c", &spec.name, Value::Object(arguments).to_string())) {
                    for param in spec.params.iter().filter(|p| p.required) {
                        prop_assert!(args.names().any(|name| name == param.name));
                    }
                }
            }
        }
    }
}
