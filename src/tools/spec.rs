//! Function schemas as the model sees them, parsed and checked against what can be routed.

use super::{Bounds, CallFormat, route::Kind};
use serde_json::Value;
use std::sync::Arc;

/// The types that an argument can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    String,
    Integer,
    Number,
    Boolean,
    /// An array of integers.
    Integers,
}

impl Type {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
            Type::Integers => "array of integers",
        }
    }

    fn parse(schema: &Value) -> Option<Type> {
        match schema["type"].as_str()? {
            "string" => Some(Type::String),
            "integer" => Some(Type::Integer),
            "number" => Some(Type::Number),
            "boolean" => Some(Type::Boolean),
            "array" if schema["items"]["type"] == "integer" => Some(Type::Integers),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Param {
    pub name: String,
    pub kind: Type,
    pub required: bool,
    pub description: String,
    /// Allowed values of a string; empty: any.
    pub values: Vec<String>,
    /// Least and most of an integer or number.
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
}

/// One function.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub kind: Kind,
    pub description: String,
    pub params: Vec<Param>,
}

impl Spec {
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|p| p.name == name)
    }
}

/// A file that is not the schema of a function that we have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tool schema {file}: {message}")]
pub struct SpecError {
    pub file: String,
    pub message: String,
}

/// The functions that a model may call, how it calls them, and their bounds.
#[derive(Debug, Clone)]
pub struct Toolset {
    pub format: CallFormat,
    pub bounds: Bounds,
    pub(super) specs: Vec<Spec>,
    schemas: Arc<str>,
}

impl Toolset {
    /// From pairs of file name and text; a file is named after its function.
    ///
    /// # Errors
    /// The file, what is wrong with it, and the mend.
    pub fn parse<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>, format: CallFormat, bounds: Bounds) -> Result<Self, SpecError> {
        let (mut specs, mut schemas) = (Vec::new(), Vec::new());
        for (file, text) in files {
            let fail = |message: String| SpecError { file: file.to_owned(), message };
            let schema: Value = serde_json::from_str(text).map_err(|e| fail(format!("not JSON: {e}")))?;
            let spec = function(&schema).map_err(fail)?;
            if file != format!("{}.json", spec.name) {
                return Err(fail(format!("describes `{0}`: a file is named after its function, {0}.json", spec.name)));
            }
            specs.push(spec);
            schemas.push(schema);
        }
        Ok(Toolset { format, bounds, specs, schemas: Value::Array(schemas).to_string().into() })
    }

    /// The schemas as the endpoint gets them: a JSON array, keys in the order of the files. Empty with inline calls.
    #[must_use]
    pub fn sent(&self) -> Arc<str> {
        match self.format {
            CallFormat::Native => Arc::clone(&self.schemas),
            CallFormat::Inline => "".into(),
        }
    }

    /// The schemas, a JSON array, whatever the format.
    #[must_use]
    pub fn schemas(&self) -> &Arc<str> {
        &self.schemas
    }

    #[must_use]
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Spec> {
        self.specs.iter().find(|s| s.name == name)
    }

    /// Name of the function of a kind; empty where the toolset has none.
    #[must_use]
    pub fn name_of(&self, kind: Kind) -> &str {
        self.specs.iter().find(|s| s.kind == kind).map_or("", |s| &s.name)
    }

    /// All names, in order, for a sentence.
    #[must_use]
    pub fn names(&self) -> String {
        self.specs.iter().map(|s| format!("`{}`", s.name)).collect::<Vec<_>>().join(", ")
    }
}

const WANTED: &str =
    r#"write {"type": "function", "function": {"name", "description", "parameters": {"type": "object", "properties", "required"}}}"#;

fn function(schema: &Value) -> Result<Spec, String> {
    let function = &schema["function"];
    let (name, description) = match (&schema["type"], &function["name"], &function["description"]) {
        (Value::String(kind), Value::String(name), Value::String(description)) if kind == "function" => (name, description),
        _ => return Err(format!("not a function schema: {WANTED}")),
    };
    let parameters = &function["parameters"];
    let Some(properties) = parameters["properties"].as_object().filter(|_| parameters["type"] == "object") else {
        return Err(format!("`parameters` is not an object schema: {WANTED}"));
    };
    let required: Vec<&str> = match &parameters["required"] {
        Value::Null => Vec::new(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => return Err("`required` is not a list of names".to_owned()),
    };
    if let Some(name) = required.iter().find(|name| !properties.contains_key(**name)) {
        return Err(format!("`required` names `{name}`, which is not among the properties"));
    }
    let kind =
        Kind::of(name).ok_or_else(|| format!("there is no function `{name}` to be described; there are {}", Kind::NAMES.join(", ")))?;
    let params =
        properties.iter().map(|(key, value)| param(key, value, required.contains(&key.as_str()))).collect::<Result<Vec<_>, _>>()?;
    agree(name, kind, &params)?;
    Ok(Spec { name: name.clone(), kind, description: description.clone(), params })
}

fn param(name: &str, schema: &Value, required: bool) -> Result<Param, String> {
    let kind = Type::parse(schema)
        .ok_or_else(|| format!("parameter `{name}` needs a `type` of string, integer, number, boolean, or array with integer `items`"))?;
    let values = schema["enum"].as_array().map(|v| v.iter().filter_map(Value::as_str).map(str::to_owned).collect()).unwrap_or_default();
    Ok(Param {
        name: name.to_owned(),
        kind,
        required,
        description: schema["description"].as_str().unwrap_or_default().to_owned(),
        values,
        minimum: schema["minimum"].as_f64(),
        maximum: schema["maximum"].as_f64(),
    })
}

/// What a schema offers must be what the router can do.
fn agree(name: &str, kind: Kind, params: &[Param]) -> Result<(), String> {
    let known = kind.parameters();
    for param in params {
        let Some((_, wanted, _)) = known.iter().find(|(key, ..)| *key == param.name) else {
            let names: Vec<&str> = known.iter().map(|(key, ..)| *key).collect();
            return Err(format!("`{name}` has no parameter `{}`; it has: {}", param.name, names.join(", ")));
        };
        if param.kind != *wanted && !(param.kind == Type::Integer && *wanted == Type::Number) {
            return Err(format!("parameter `{}` of `{name}` is of type {}, not {}", param.name, wanted.as_str(), param.kind.as_str()));
        }
    }
    match known.iter().find(|(key, _, needed)| *needed && !params.iter().any(|p| p.name == *key)) {
        Some((key, ..)) => Err(format!("`{name}` needs its parameter `{key}` described")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::builtin;
    use super::*;

    fn parse(file: &str, text: &str) -> Result<Toolset, SpecError> {
        Toolset::parse([(file, text)], CallFormat::Native, Bounds::default())
    }

    #[test]
    fn schemas_keep_the_key_order_of_their_files() {
        for scaffold in ["scale-swe", "sweroll"] {
            let files = builtin::schemas(scaffold).unwrap();
            let toolset = Toolset::parse(files.iter().copied(), CallFormat::Native, Bounds::default()).unwrap();
            let parsed: Vec<Value> = serde_json::from_str(toolset.schemas()).unwrap();
            assert_eq!(parsed.len(), files.len());
            for (schema, (file, text)) in parsed.iter().zip(files) {
                let squeeze = |s: &str| s.split_whitespace().collect::<String>();
                assert_eq!(squeeze(&schema.to_string()), squeeze(text), "{file}");
            }
        }
    }

    #[test]
    fn a_file_that_is_no_schema_is_refused_by_name() {
        let schema = |name: &str, properties: &str| {
            format!(
                r#"{{"type":"function","function":{{"name":"{name}","description":"","parameters":{{"type":"object","properties":{properties}}}}}}}"#
            )
        };
        for (file, text, says) in [
            ("bash.json", "{".to_owned(), "not JSON"),
            ("bash.json", "{}".to_owned(), "not a function schema"),
            ("bash.json", schema("fly", "{}"), "no function `fly`"),
            ("bash.json", schema("submit", "{}"), "submit.json"),
            ("bash.json", schema("bash", "{}"), "needs its parameter `command`"),
            ("bash.json", schema("bash", r#"{"command":{"type":"integer"}}"#), "is of type string, not integer"),
            ("bash.json", schema("bash", r#"{"command":{"type":"string"},"x":{"type":"string"}}"#), "no parameter `x`"),
            ("bash.json", schema("bash", r#"{"command":{"type":"object"}}"#), "needs a `type`"),
        ] {
            let error = parse(file, &text).unwrap_err().to_string();
            assert!(error.contains("bash.json") && error.contains(says), "{error}");
        }
    }
}
