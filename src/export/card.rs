//! The dataset card beside an export: which files are which split, and the type of every column, so that no reader has to guess.

use super::{
    Format,
    shape::{Column, features},
};
use serde_json::json;

/// Markdown behind a YAML head. The head's values are JSON, which is YAML: names of files need no quoting of our own.
pub(super) fn card(format: Format, columns: &[Column], files: &[(String, Vec<String>)]) -> String {
    let data_files: Vec<_> = files.iter().map(|(split, names)| json!({"split": split, "path": names})).collect();
    let configs = json!([{"config_name": "default", "data_files": data_files}]);
    let info = json!({"config_name": "default", "features": features(columns)});
    format!(
        "---\nconfigs: {configs}\ndataset_info: {info}\n---\n\n# Trajectories in the form `{format}`\n\nWritten by `sweroll export`. One row a trajectory.\n"
    )
}
