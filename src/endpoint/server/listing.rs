//! Tools that a system prompt lists in words, for calls that are written into the text.

use super::toolset::{Field, Tool};

const BEGIN: &str = "# Tools\n";
const END: &str = "\n# ";

/// The part of a system prompt that lists the tools.
#[must_use]
pub fn section(prompt: &str) -> Option<&str> {
    let (_, rest) = match prompt.strip_prefix(BEGIN) {
        Some(rest) => ("", rest),
        None => prompt.split_once(&format!("\n{BEGIN}"))?,
    };
    Some(rest.split_once(END).map_or(rest, |(section, _)| section))
}

/// Each `## NAME` with its `- PARAMETER (KIND[: CHOICE, ...]; required|optional)` lines below `Parameters:`.
#[must_use]
pub fn tools(section: &str) -> Vec<Tool> {
    let mut tools: Vec<Tool> = Vec::new();
    let mut parameters = false;
    for line in section.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            tools.push(Tool { name: name.trim().to_owned(), fields: Vec::new() });
            parameters = false;
        } else if line == "Parameters:" {
            parameters = true;
        } else if let (true, Some(tool), Some(field)) = (parameters, tools.last_mut(), field(line)) {
            tool.fields.push(field);
        }
    }
    tools
}

fn field(line: &str) -> Option<Field> {
    let (name, rest) = line.strip_prefix("- ")?.split_once(" (")?;
    let (kind, needed) = rest.split_once("):")?.0.rsplit_once("; ")?;
    let (kind, choices) = kind.split_once(": ").unwrap_or((kind, ""));
    let kind = if kind.starts_with("array") { "array" } else { kind };
    let choices = choices.split(", ").filter(|c| !c.is_empty()).map(str::to_owned).collect();
    Some(Field { name: name.to_owned(), kind: kind.to_owned(), choices, required: needed == "required" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_read_from_the_words_that_list_them() {
        let prompt = "You mend code.\n\n# Tools\n\n## edit\nView files.\n* `view` [`first`]\nParameters:\n\
                      - command (string: view, replace; required): The command (to run).\n- lines (array of integers; optional): Which.\n\
                      \n## submit\nThe end.\n- no (string; required): parameter\n\n# How to call a tool\n## not a tool\n";
        let tools = tools(section(prompt).unwrap());
        let names: Vec<_> = tools.iter().map(|t| (t.name.as_str(), t.fields.len())).collect();
        assert_eq!(names, [("edit", 2), ("submit", 0)]);
        let [command, lines] = &tools[0].fields[..] else { panic!() };
        assert_eq!((command.name.as_str(), command.choices.join(" ").as_str(), command.required), ("command", "view replace", true));
        assert_eq!((lines.name.as_str(), lines.kind.as_str(), lines.required), ("lines", "array", false));
        assert_eq!(section("You mend code."), None);
    }
}
