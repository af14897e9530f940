//! One layer: a table with some of the settings, set by dotted path.

use super::Settings;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}: give a readable settings file")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {message}")]
    Syntax { path: PathBuf, message: String },
    #[error("settings: {}; see docs/settings.md for names and types", .0.trim().replace('\n', " "))]
    Value(String),
    #[error("--set {0}: write KEY=VALUE, such as --set agent.turns=50")]
    Assignment(String),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layer(Table);

impl Layer {
    /// # Errors
    /// Unreadable file, bad TOML.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let table = text.parse::<Table>().map_err(|e| ConfigError::Syntax { path: path.to_owned(), message: e.to_string() })?;
        // A file's layer must stand alone, so that its errors name the file.
        let layer = Layer(table);
        layer.clone().settings().map_err(|e| ConfigError::Syntax { path: path.to_owned(), message: e.to_string() })?;
        Ok(layer)
    }

    #[must_use]
    pub fn from_table(table: Table) -> Self {
        Layer(table)
    }

    /// Sets `a.b.c`; nothing where there is no value.
    pub fn set(&mut self, path: &str, value: Option<impl Into<Value>>) {
        let Some(value) = value else { return };
        let mut table = &mut self.0;
        let mut keys = path.split('.').peekable();
        while let Some(key) = keys.next() {
            if keys.peek().is_none() {
                table.insert(key.to_owned(), value.into());
                return;
            }
            let entry = table.entry(key.to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if !entry.is_table() {
                *entry = Value::Table(Table::new());
            }
            let Value::Table(next) = entry else { return };
            table = next;
        }
    }

    /// `KEY=VALUE`; the value is TOML, or text where it is not.
    ///
    /// # Errors
    /// Where there is no `=` or no key.
    pub fn assign(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let (key, value) = assignment.split_once('=').ok_or_else(|| ConfigError::Assignment(assignment.to_owned()))?;
        if key.is_empty() || key.split('.').any(str::is_empty) {
            return Err(ConfigError::Assignment(assignment.to_owned()));
        }
        let parsed = format!("v = {value}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
        self.set(key, Some(parsed.unwrap_or_else(|| Value::String(value.to_owned()))));
        Ok(())
    }

    /// Lays `other` over this one.
    pub fn over(&mut self, other: Layer) {
        merge(&mut self.0, other.0);
    }

    /// # Errors
    /// [`ConfigError::Value`].
    pub fn settings(self) -> Result<Settings, ConfigError> {
        Settings::deserialize_table(self.0).map_err(ConfigError::Value)
    }
}

fn merge(base: &mut Table, top: Table) {
    for (key, value) in top {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_layers_win_key_by_key() {
        let mut file = Layer::default();
        file.set("agent.turns", Some(5));
        file.set("agent.reminders", Some(7));
        let mut flags = Layer::default();
        flags.set("agent.turns", Some(9));
        flags.assign("endpoint.model=some-model").unwrap();
        flags.assign("scheduler.concurrency=3").unwrap();
        let settings = super::super::resolve([file, flags]).unwrap();
        assert_eq!((settings.agent.turns, settings.agent.reminders), (9, 7));
        assert_eq!(settings.endpoint.model, "some-model");
        assert_eq!(settings.scheduler.concurrency, 3);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let mut layer = Layer::default();
        layer.set("agent.truns", Some(5));
        let error = layer.settings().unwrap_err().to_string();
        assert!(error.contains("truns"), "{error}");
        assert!(Layer::default().assign("nonsense").is_err());
    }
}
