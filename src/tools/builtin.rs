//! The embedded schemas, each scaffold's in the order in which the model sees them.

macro_rules! schemas {
    ($scaffold:literal: $($tool:literal),*) => {
        &[$((concat!($tool, ".json"), include_str!(concat!("../../tools/", $scaffold, "/", $tool, ".json")))),*]
    };
}

/// File name and text of every schema of a scaffold; none where there is no such scaffold.
#[must_use]
pub fn schemas(scaffold: &str) -> Option<&'static [(&'static str, &'static str)]> {
    match scaffold {
        "scale-swe" => Some(schemas!("scale-swe": "execute_bash", "str_replace_editor", "think", "finish")),
        "sweroll" => Some(schemas!("sweroll": "bash", "edit", "search", "submit")),
        _ => None,
    }
}
