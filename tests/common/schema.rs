//! The JSON Schema of the record, applied to a record and to the JSON in its strings.
#![allow(dead_code)]

use serde_json::{Value, json};

pub struct Schema {
    pub document: Value,
    record: jsonschema::Validator,
    /// Of each column that holds JSON.
    columns: Vec<(String, jsonschema::Validator)>,
}

impl Schema {
    /// `docs/trajectory.schema.json`, applied as it says itself: `contentSchema` to the parsed string.
    pub fn read() -> Self {
        let document: Value = serde_json::from_str(include_str!("../../docs/trajectory.schema.json")).unwrap();
        let columns = document["properties"].as_object().unwrap().iter().filter_map(|(name, of)| {
            assert_eq!(of.get("contentSchema").is_some(), of.get("contentMediaType").is_some(), "{name}");
            let mut schema = of.get("contentSchema")?.clone();
            assert_eq!(of["contentMediaType"], "application/json");
            schema["$schema"] = document["$schema"].clone();
            schema["$defs"] = document["$defs"].clone();
            Some((name.clone(), jsonschema::validator_for(&schema).unwrap()))
        });
        let columns = columns.collect();
        Schema { record: jsonschema::validator_for(&document).unwrap(), columns, document }
    }

    /// All that is wrong with a record.
    pub fn errors(&self, record: &Value) -> Vec<String> {
        let mut errors: Vec<String> =
            self.record.iter_errors(record).map(|e| format!("{e} at {:?}", e.instance_path().to_string())).collect();
        for (name, validator) in &self.columns {
            let Some(inner) = record[name].as_str().map(serde_json::from_str::<Value>) else { continue };
            match inner {
                Ok(inner) => errors.extend(validator.iter_errors(&inner).map(|e| format!("{name}: {e}"))),
                Err(e) => errors.push(format!("{name} is no JSON: {e}")),
            }
        }
        errors
    }

    /// Names of the columns that hold JSON.
    pub fn columns(&self) -> Vec<&str> {
        self.columns.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Where the keys of a value are not those of the schema, in its order. `schema` is a part of the document.
    pub fn disorder(&self, value: &Value, schema: &Value) -> Option<String> {
        if let Some(name) = schema["$ref"].as_str() {
            return self.disorder(value, &self.document["$defs"][name.trim_start_matches("#/$defs/")]);
        }
        if let Some(any) = schema["anyOf"].as_array() {
            return if value.is_null() { None } else { self.disorder(value, &any[0]) };
        }
        match (value, schema["properties"].as_object()) {
            (Value::Object(map), Some(properties)) => {
                let (found, wanted): (Vec<&String>, Vec<&String>) = (map.keys().collect(), properties.keys().collect());
                if found != wanted || schema["required"] != json!(wanted) {
                    return Some(format!("{found:?} where the schema has {wanted:?}"));
                }
                properties.iter().find_map(|(key, inner)| self.disorder(&map[key], inner))
            }
            (Value::Array(list), _) => list.iter().find_map(|inner| self.disorder(inner, &schema["items"])),
            (Value::String(text), _) if schema.get("contentSchema").is_some() => {
                self.disorder(&serde_json::from_str(text).unwrap(), &schema["contentSchema"])
            }
            _ => None,
        }
    }
}
