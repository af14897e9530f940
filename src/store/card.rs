//! The dataset card, `README.md`: how loaders find the files and their types, and what is in them.

use super::{
    StoreError,
    fact::Stream,
    files::{self, Disk},
    sealed::{IndexLine, Sealed, SealedFile},
    seek::IndexLines,
};
use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    fs, io,
    path::Path,
};

/// A card without this line is its user's own.
const MARK: &str =
    "<!-- Written by sweroll and rewritten when the data is sealed again. Remove this line to keep the file as you edit it. -->";

/// Writes the card of the dataset in `dir`. False where the file there is the user's own, which stays.
///
/// # Errors
/// Where an index cannot be read or the card cannot be written.
pub fn write(dir: &Path, sealed: &Sealed, disk: &Disk) -> Result<bool, StoreError> {
    let path = dir.join("README.md");
    let old = match fs::read(&path) {
        Ok(old) => Some(old),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(StoreError::io("read", &path, &e)),
    };
    let is_ours = |text: &Vec<u8>| text.split(|byte| *byte == b'\n').any(|line| line.trim_ascii() == MARK.as_bytes());
    if old.as_ref().is_some_and(|text| !is_ours(text)) {
        return Ok(false);
    }
    let mut figures = Figures::default();
    for file in sealed.files.iter().filter(|file| file.stream == Stream::Trajectories) {
        for line in IndexLines::open(dir, file)? {
            figures.add(&line?);
        }
    }
    let text = text(sealed, figures).into_bytes();
    if old.as_ref() != Some(&text) {
        files::replace(&path, disk, &text)?;
    }
    Ok(true)
}

/// What the indexes of the trajectories say; a few bytes each.
#[derive(Debug, Default)]
struct Figures {
    instances: HashSet<String>,
    resolved_instances: HashSet<String>,
    tokens: Vec<i64>,
    loss_tokens: Vec<i64>,
}

impl Figures {
    fn add(&mut self, line: &IndexLine) {
        let instance = line.id.episode.instance.as_str();
        if !self.instances.contains(instance) {
            self.instances.insert(instance.to_owned());
        }
        if i8::from(line.resolved) == 1 && !self.resolved_instances.contains(instance) {
            self.resolved_instances.insert(instance.to_owned());
        }
        if line.tokens >= 0 {
            self.tokens.push(line.tokens);
            self.loss_tokens.push(line.loss_tokens);
        }
    }
}

fn text(sealed: &Sealed, figures: Figures) -> String {
    let of = |stream| Sums::new(sealed.files.iter().filter(|file| file.stream == stream));
    let (trajectories, attempts) = (of(Stream::Trajectories), of(Stream::Attempts));
    let configs: Vec<(&str, Stream)> = [("default", Stream::Trajectories, &trajectories), ("attempts", Stream::Attempts, &attempts)]
        .into_iter()
        .filter(|(.., sums)| sums.rows > 0)
        .map(|(name, stream, _)| (name, stream))
        .collect();
    let mut text = front(&configs);
    let _ = writeln!(text, "\n{MARK}\n\n# Trajectories of software-engineering agents\n");
    let _ = writeln!(
        text,
        "One row is one agent's whole work on one instance: its messages, tools, diff, verdict of the instance's own tests, token\n\
         counts and loss mask. Rows of one instance lie side by side.\n"
    );
    table(&mut text, ["", "trajectories", "attempts"], &rows(&trajectories, &attempts));
    let _ = writeln!(
        text,
        "\n`trajectories` (the configuration `default`) train: of each episode the attempt that counts. `attempts` are all others: what\n\
         infrastructure failed, was interrupted, or was done again. They are kept because they were paid for.\n"
    );
    let (instances, resolved) = (figures.instances.len(), figures.resolved_instances.len());
    let _ = writeln!(text, "The trajectories are of {instances} instances, {resolved} of them resolved at least once.\n");
    if !figures.tokens.is_empty() {
        spread(&mut text, figures);
    }
    exits(&mut text, &trajectories, &attempts);
    counts(&mut text, sealed);
    runs(&mut text, sealed);
    loading(&mut text, &configs);
    text
}

/// Figures of all files of a stream.
#[derive(Default)]
struct Sums {
    rows: u64,
    resolved: u64,
    tokens: u64,
    loss_tokens: u64,
    uncounted: u64,
    files: u64,
    bytes: u64,
    raw_bytes: u64,
    exit_reasons: BTreeMap<String, u64>,
}

impl Sums {
    fn new<'a>(files: impl Iterator<Item = &'a SealedFile>) -> Self {
        let mut sums = Sums::default();
        for file in files {
            sums.rows += file.rows;
            sums.resolved += file.resolved;
            sums.tokens += file.tokens;
            sums.loss_tokens += file.loss_tokens;
            sums.uncounted += file.uncounted;
            sums.files += 1;
            sums.bytes += file.bytes;
            sums.raw_bytes += file.raw_bytes;
            for (reason, n) in &file.exit_reasons {
                let name = serde_json::to_value(reason).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
                *sums.exit_reasons.entry(name).or_default() += n;
            }
        }
        sums
    }
}

fn rows(trajectories: &Sums, attempts: &Sums) -> Vec<[String; 3]> {
    let row = |name: &str, figure: fn(&Sums) -> u64| [name.to_owned(), grouped(figure(trajectories)), grouped(figure(attempts))];
    let mut rows = vec![
        row("rows", |sums| sums.rows),
        row("resolved", |sums| sums.resolved),
        row("tokens", |sums| sums.tokens),
        row("trained tokens", |sums| sums.loss_tokens),
    ];
    if trajectories.uncounted + attempts.uncounted > 0 {
        rows.push(row("rows without a count", |sums| sums.uncounted));
    }
    rows.extend([row("files", |sums| sums.files), row("bytes", |sums| sums.bytes), row("bytes before compression", |sums| sums.raw_bytes)]);
    rows
}

const PERCENTILES: [u64; 6] = [5, 25, 50, 75, 95, 100];

fn spread(text: &mut String, mut figures: Figures) {
    let row = |name: &str, values: &mut Vec<i64>| {
        values.sort_unstable();
        let at = |percent: u64| grouped(values[nearest_rank(values.len(), percent)] as u64);
        format!("| {name} | {} |\n", PERCENTILES.map(at).join(" | "))
    };
    let heads = PERCENTILES.map(|percent| if percent == 100 { "max".to_owned() } else { format!("p{percent}") });
    let _ = writeln!(text, "| of a trajectory | {} |\n| --- |{}", heads.join(" | "), " ---: |".repeat(heads.len()));
    *text += &row("tokens", &mut figures.tokens);
    *text += &row("trained tokens", &mut figures.loss_tokens);
    text.push('\n');
}

/// Place of a percentile among `len` sorted values, by nearest rank.
fn nearest_rank(len: usize, percent: u64) -> usize {
    (len as u64 * percent).div_ceil(100).max(1) as usize - 1
}

fn exits(text: &mut String, trajectories: &Sums, attempts: &Sums) {
    let names: Vec<&String> = trajectories.exit_reasons.keys().chain(attempts.exit_reasons.keys()).collect();
    let names: std::collections::BTreeSet<&String> = names.into_iter().collect();
    let of = |sums: &Sums, name: &String| grouped(sums.exit_reasons.get(name).copied().unwrap_or(0));
    let rows: Vec<[String; 3]> = names.into_iter().map(|name| [format!("`{name}`"), of(trajectories, name), of(attempts, name)]).collect();
    table(text, ["the agent stopped by", "trajectories", "attempts"], &rows);
}

fn counts(text: &mut String, sealed: &Sealed) {
    let by = &sealed.counts;
    let loss = if by.loss.is_empty() { String::new() } else { format!(" Loss policy: `{}`.", by.loss) };
    let _ = writeln!(
        text,
        "\nTokens are counted under the chat template `{}` with the tokenizer `{}`; trained tokens are those of messages with `loss`.{loss}\n",
        by.target, by.tokenizer
    );
}

fn runs(text: &mut String, sealed: &Sealed) {
    let cell = |value: &str| format!("`{}`", value.replace(['`', '|', '\n'], " "));
    let rows: Vec<[String; 4]> =
        sealed.runs.iter().map(|run| [cell(&run.run), cell(&run.model), cell(&run.scaffold), grouped(run.attempts)]).collect();
    table(text, ["run", "model", "scaffold", "attempts"], &rows);
}

fn loading(text: &mut String, configs: &[(&str, Stream)]) {
    *text += "\n## Loading\n\n```python\nfrom datasets import load_dataset\n\n";
    for (name, stream) in configs {
        let named = if *name == "default" { String::new() } else { format!(", \"{name}\"") };
        let _ = writeln!(text, "{} = load_dataset(\"DIR\"{named}, split=\"train\")", stream.as_str());
    }
    *text += "```\n\nThe files are zstd-compressed JSON lines that any zstd reader reads (`zstdcat data/trajectories-*.jsonl.zst`). `data/sealed.json`\n\
              has the files' checksums; beside each file, `NAME.index.jsonl` has the place of every record.\n\n\
              ## License\n\nNot set. The records hold source code of the instances' repositories and replies of a model: what of it may be passed on, their\n\
              licenses say.\n";
}

fn table<const N: usize>(text: &mut String, head: [&str; N], rows: &[[String; N]]) {
    let _ = writeln!(text, "| {} |\n| --- |{}", head.join(" | "), " ---: |".repeat(N - 1));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}

/// 1234567 as 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The YAML at the head: which files are which configuration, and the type of each column. Told, the types of columns that are
/// empty in every row are not guessed.
fn front(configs: &[(&str, Stream)]) -> String {
    let mut text = "---\npretty_name: Trajectories of software-engineering agents\ntags:\n- agent\n- software-engineering\n".to_owned();
    if configs.is_empty() {
        return text + "---\n";
    }
    text += "configs:\n";
    for (name, stream) in configs {
        let _ = writeln!(text, "- config_name: {name}\n  data_files:\n  - split: train\n    path: data/{}-*.jsonl.zst", stream.as_str());
    }
    text += "dataset_info:\n";
    for (name, _) in configs {
        let _ = writeln!(text, "- config_name: {name}\n  features:\n{FEATURES}");
    }
    text + "---\n"
}

/// Columns of the record with their types, in the form of a dataset card.
const FEATURES: &str = "  - name: schema_version
    dtype: int64
  - name: trajectory_id
    dtype: string
  - name: instance_id
    dtype: string
  - name: repo
    dtype: string
  - name: base_commit
    dtype: string
  - name: sample
    dtype: int64
  - name: attempt
    dtype: int64
  - name: model
    dtype: string
  - name: scaffold
    dtype: string
  - name: messages
    list:
    - name: role
      dtype: string
    - name: content
      dtype: string
    - name: reasoning_content
      dtype: string
    - name: tool_calls
      list:
      - name: id
        dtype: string
      - name: type
        dtype: string
      - name: function
        struct:
        - name: name
          dtype: string
        - name: arguments
          dtype: string
    - name: tool_call_id
      dtype: string
    - name: loss
      dtype: bool
  - name: tools
    dtype: string
  - name: model_patch
    dtype: string
  - name: resolved
    dtype: int64
  - name: reward
    dtype: float64
  - name: exit_reason
    dtype: string
  - name: num_turns
    dtype: int64
  - name: num_tokens
    dtype: int64
  - name: num_loss_tokens
    dtype: int64
  - name: cost_usd
    dtype: float64
  - name: suspect
    dtype: string
  - name: usage
    dtype: string
  - name: meta
    dtype: string";
