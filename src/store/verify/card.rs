//! The dataset card: the files that its configs name, and what a loader takes by them. Pure.

use globset::Glob;

/// What is wrong with a card, when the dataset has these files of trajectories and others, named from the dataset's root.
pub(super) fn check(card: &str, trajectories: &[String], others: &[String]) -> Vec<String> {
    let Some(matter) = front_matter(card) else { return vec!["it does not begin with YAML between lines of ---".into()] };
    let patterns: Vec<&str> = named(matter).collect();
    if patterns.is_empty() && trajectories.is_empty() {
        return Vec::new();
    }
    if patterns.is_empty() {
        return vec!["its configs name no file in data/".into()];
    }
    let mut wrong = Vec::new();
    let mut matchers = Vec::new();
    for pattern in patterns {
        match Glob::new(pattern) {
            Ok(glob) => {
                let matcher = glob.compile_matcher();
                if !trajectories.iter().chain(others).any(|file| matcher.is_match(file)) {
                    wrong.push(format!("its configs name {pattern}, and there is no such file"));
                }
                matchers.push(matcher);
            }
            Err(e) => wrong.push(format!("its configs name {pattern}, which is no pattern: {e}")),
        }
    }
    let missed = trajectories.iter().filter(|file| !matchers.iter().any(|matcher| matcher.is_match(file)));
    wrong.extend(missed.map(|file| format!("its configs leave out {file}")));
    wrong
}

fn front_matter(card: &str) -> Option<&str> {
    let rest = card.strip_prefix("---\n")?;
    rest.find("\n---").map(|end| &rest[..end])
}

/// Every value that names something in `data/`, however the YAML is laid out.
fn named(matter: &str) -> impl Iterator<Item = &str> {
    matter.split(|c: char| c.is_whitespace() || "\"'[],".contains(c)).filter(|word| word.starts_with("data/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_must_name_all_trajectories_and_nothing_else() {
        let files = ["data/trajectories-00000.jsonl.zst".to_owned(), "data/trajectories-00001.jsonl.zst".to_owned()];
        let card =
            |paths: &str| format!("---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {paths}\n---\n# x\n");
        let check = |paths: &str| check(&card(paths), &files, &[]);
        assert!(check("data/trajectories-*.jsonl.zst").is_empty());
        assert!(check("[\"data/trajectories-00000.jsonl.zst\", 'data/trajectories-00001.jsonl.zst']").is_empty());
        assert!(check("data/trajectories-00000.jsonl.zst")[0].contains("leave out data/trajectories-00001"));
        assert!(check("data/*.parquet")[0].contains("data/*.parquet"));
        assert!(check("shards/x")[0].contains("no file"));
        assert!(super::check("# x\n", &files, &[])[0].contains("YAML"));
    }
}
