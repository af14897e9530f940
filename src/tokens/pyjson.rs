//! JSON as Python's `json.dumps(json.loads(text), ensure_ascii=False)` writes it, which is what chat templates put into prompts.

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{collections::HashMap, fmt, fmt::Write as _};

/// Deepest nesting that is followed.
pub(super) const MAX_DEPTH: usize = 100;

#[derive(Debug, thiserror::Error)]
pub enum PyJsonError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("it is nested deeper than {MAX_DEPTH}")]
    Deep,
}

/// The members of a JSON array, each as Python writes it.
///
/// # Errors
/// Where the text is no JSON array.
pub fn array_members(text: &str) -> Result<Vec<String>, PyJsonError> {
    let members: Vec<&RawValue> = serde_json::from_str(text)?;
    let written = |member: &&RawValue| {
        let mut out = String::with_capacity(member.get().len() * 5 / 4);
        write(member.get(), 1, &mut out).map(|()| out)
    };
    members.iter().map(written).collect()
}

fn write(text: &str, depth: usize, out: &mut String) -> Result<(), PyJsonError> {
    if depth > MAX_DEPTH {
        return Err(PyJsonError::Deep);
    }
    match text.as_bytes().first() {
        Some(b'{') => {
            let Object(members) = serde_json::from_str(text)?;
            out.push('{');
            for (at, (key, value)) in members.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                string(key, out);
                out.push_str(": ");
                write(value.get(), depth + 1, out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let members: Vec<&RawValue> = serde_json::from_str(text)?;
            out.push('[');
            for (at, value) in members.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write(value.get(), depth + 1, out)?;
            }
            out.push(']');
        }
        Some(b'"') => string(&serde_json::from_str::<String>(text)?, out),
        Some(b'-' | b'0'..=b'9') => number(text, out),
        _ => out.push_str(text),
    }
    Ok(())
}

/// Members in order; of a key that comes twice the first place and the last value, as a Python dict keeps them.
pub(super) struct Object<'t>(pub Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let (mut members, mut places) = (Vec::new(), HashMap::new());
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    match places.get(&key) {
                        Some(&at) => members[at] = (key, value),
                        None => {
                            places.insert(key.clone(), members.len());
                            members.push((key, value));
                        }
                    }
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

pub(super) fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Integers of any size as they stand, all else as `repr(float)`.
fn number(text: &str, out: &mut String) {
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return out.push_str(if text == "-0" { "0" } else { text });
    }
    float(text.parse().unwrap_or(f64::INFINITY), out);
}

/// As `json.dumps` writes a float; `repr` but for what is not finite.
pub(super) fn float(value: f64, out: &mut String) {
    if !value.is_finite() {
        let infinity = if value < 0.0 { "-Infinity" } else { "Infinity" };
        return out.push_str(if value.is_nan() { "NaN" } else { infinity });
    }
    let scientific = shortest(value);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..16).contains(&exponent) {
        let _ = write!(out, "{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
        return;
    }
    let digits = mantissa.trim_start_matches('-').replace('.', "");
    out.push_str(if mantissa.starts_with('-') { "-" } else { "" });
    match usize::try_from(exponent) {
        Ok(exponent) if exponent + 1 < digits.len() => out.extend([&digits[..=exponent], ".", &digits[exponent + 1..]]),
        Ok(exponent) => {
            let _ = write!(out, "{digits:0<width$}.0", width = exponent + 1);
        }
        Err(_) => {
            let _ = write!(out, "0.{digits:0>width$}", width = digits.len() + exponent.unsigned_abs() as usize - 1);
        }
    }
}

/// The fewest digits that read back as the number, as `d.ddde±x`; of two such texts equally near, the even one, as Python has it.
fn shortest(value: f64) -> String {
    let any = format!("{value:e}");
    let digits = any.split('e').next().unwrap_or_default().bytes().filter(u8::is_ascii_digit).count();
    let nearest = format!("{value:.*e}", digits.saturating_sub(1));
    if nearest.parse() == Ok(value) { nearest } else { any }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_python_writes_it() {
        let text = r#"[{"b":1,"a":[1.0,-0,-0.0,1e5,1E16,1.5e-5,0.0001,123456789012345680.0,1e400,18446744073709551616,911742462393885.25,-12.50],"b":null},
            "é\u00e9\/\"\\\u0000\u001f\u007f\b\f😀\ud83d\ude00", [], {}, true ]"#;
        let expected = [
            r#"{"b": null, "a": [1.0, 0, -0.0, 100000.0, 1e+16, 1.5e-05, 0.0001, 1.2345678901234568e+17, Infinity, 18446744073709551616, 911742462393885.2, -12.5]}"#,
            "\"éé/\\\"\\\\\\u0000\\u001f\u{7f}\\b\\f😀😀\"",
            "[]",
            "{}",
            "true",
        ];
        assert_eq!(array_members(text).unwrap(), expected);
    }

    #[test]
    fn what_is_no_array_is_an_error() {
        for text in ["", "{}", "[1", "[1]x", "[\"\\ud800\"]", &format!("[{}{}]", "[".repeat(200), "]".repeat(200))] {
            assert!(array_members(text).is_err(), "{text}");
        }
    }
}
