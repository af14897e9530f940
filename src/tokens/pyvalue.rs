//! Template values as Python has them: from JSON, to `json.dumps`, to `str`.

use super::pyjson::{self, MAX_DEPTH, Object, PyJsonError};
use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};
use serde_json::value::RawValue;
use std::fmt::Write as _;

/// A JSON text as a value: keys in order, integers of up to 38 digits exact.
///
/// # Errors
/// Where the text is no JSON, or out of all measure.
pub fn parse(text: &str) -> Result<Value, PyJsonError> {
    value(text, 0)
}

fn value(text: &str, depth: usize) -> Result<Value, PyJsonError> {
    if depth > MAX_DEPTH {
        return Err(PyJsonError::Deep);
    }
    let text = text.trim();
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let Object(members) = serde_json::from_str(text)?;
            let members = members.into_iter().map(|(key, member)| Ok((key, value(member.get(), depth + 1)?)));
            members.collect::<Result<Vec<_>, PyJsonError>>()?.into_iter().collect()
        }
        Some(b'[') => {
            let members: Vec<&RawValue> = serde_json::from_str(text)?;
            Value::from(members.iter().map(|member| value(member.get(), depth + 1)).collect::<Result<Vec<_>, _>>()?)
        }
        Some(b'-' | b'0'..=b'9') => match text.parse::<i64>() {
            Ok(integer) => Value::from(integer),
            Err(_) => text.parse::<i128>().map_or_else(|_| Value::from(text.parse().unwrap_or(f64::INFINITY)), Value::from),
        },
        _ => Value::from_serialize(serde_json::from_str::<serde_json::Value>(text)?),
    })
}

/// The `tojson` of chat templates: `json.dumps`, with its options.
///
/// # Errors
/// Where a value has no JSON.
pub fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = indent
        .filter(|indent| !indent.is_none())
        .map(|indent| indent.as_usize().map_or_else(|| indent.to_string(), |spaces| " ".repeat(spaces.min(64))));
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators are two texts")),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let json = Json {
        indent,
        item,
        key,
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    json.write(value, 0, &mut out)?;
    Ok(out)
}

struct Json {
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Json {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson of what is nested deeper than {MAX_DEPTH}")));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => number(value, out),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => {
                let mut members: Vec<(Value, Value)> =
                    value.try_iter()?.map(|key| value.get_item(&key).map(|member| (key, member))).collect::<Result<_, _>>()?;
                if self.sort_keys {
                    members.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.list(members.len(), '{', '}', depth, out, |at, out| {
                    let (key, member) = &members[at];
                    let mut text = String::new();
                    match key.as_str() {
                        Some(key) => text.push_str(key),
                        None => self.write(key, depth + 1, &mut text)?,
                    }
                    self.string(&text, out);
                    out.push_str(&self.key);
                    self.write(member, depth + 1, out)
                })?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let members: Vec<Value> = value.try_iter()?.collect();
                self.list(members.len(), '[', ']', depth, out, |at, out| self.write(&members[at], depth + 1, out))?;
            }
            kind => return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson of {kind}"))),
        }
        Ok(())
    }

    fn list(
        &self,
        len: usize,
        open: char,
        close: char,
        depth: usize,
        out: &mut String,
        mut member: impl FnMut(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        out.push(open);
        for at in 0..len {
            out.push_str(if at > 0 { &self.item } else { "" });
            line(depth + 1, out);
            member(at, out)?;
        }
        if len > 0 {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        let start = out.len();
        pyjson::string(text, out);
        if self.ensure_ascii && !out.is_ascii() {
            let written = out.split_off(start);
            for c in written.chars() {
                if matches!(c, ' '..='~') {
                    out.push(c);
                } else {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
            }
        }
    }
}

fn number(value: &Value, out: &mut String) {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => pyjson::float(float, out),
        _ => out.push_str(&value.to_string()),
    }
}

/// As `str(value)`; texts within lists and dicts as `repr`.
pub fn str(value: &Value, out: &mut String) {
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        _ => repr(value, 0, out),
    }
}

fn repr(value: &Value, depth: usize, out: &mut String) {
    let members = || value.try_iter().into_iter().flatten();
    match value.kind() {
        _ if depth > MAX_DEPTH => out.push_str("..."),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(float) if !float.is_finite() => out.push_str(if float.is_nan() {
                "nan"
            } else if float < 0.0 {
                "-inf"
            } else {
                "inf"
            }),
            _ => number(value, out),
        },
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (at, member) in members().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                repr(&member, depth + 1, out);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (at, key) in members().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                repr(&key, depth + 1, out);
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or_default(), depth + 1, out);
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
}

fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumped(value: &Value, options: &[(&str, Value)]) -> String {
        let options = options.iter().map(|(name, option)| ((*name).to_owned(), option.clone()));
        tojson(value, options.collect()).unwrap()
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        let value = parse(r#"{"b": [1.0, -0, 1e400, 100000000000000000000, true, null], "a": "é'\n"}"#).unwrap();
        let json = |options: &[(&str, Value)]| dumped(&value, options);
        assert_eq!(json(&[]), "{\"b\": [1.0, 0, Infinity, 100000000000000000000, true, null], \"a\": \"é'\\n\"}");
        assert_eq!(
            json(&[("sort_keys", true.into()), ("ensure_ascii", true.into()), ("separators", vec![",", ":"].into())]),
            "{\"a\":\"\\u00e9'\\n\",\"b\":[1.0,0,Infinity,100000000000000000000,true,null]}"
        );
        assert!(json(&[("indent", 2.into())]).starts_with("{\n  \"b\": [\n    1.0,\n    0,"));
        assert_eq!(dumped(&parse("[{}, []]").unwrap(), &[("indent", 1.into())]), "[\n {},\n []\n]");
        let mut text = String::new();
        str(&value, &mut text);
        assert_eq!(text, "{'b': [1.0, 0, inf, 100000000000000000000, True, None], 'a': \"é'\\n\"}");
    }
}
