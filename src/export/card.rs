//! The dataset card beside an export: which files are which split, the type of every column, so that no reader has to guess, and how
//! the trainer is started.

use super::{
    Format,
    shape::{Column, features},
};
use serde_json::{Value, json};

/// A split's name and its files.
type Files = [(String, Vec<String>)];

/// Markdown behind a YAML head. The head's values are JSON, which is YAML: names of files need no quoting of our own.
pub(super) fn card(format: Format, columns: &[Column], files: &Files) -> String {
    let configs = configs(format, files);
    let features = features(columns);
    let info: Vec<Value> = configs.iter().map(|config| json!({"config_name": config["config_name"], "features": features})).collect();
    let (configs, info) = (Value::from(configs), Value::from(info));
    let usage = usage(format, files);
    format!(
        "---\nconfigs: {configs}\ndataset_info: {info}\n---\n\n# Trajectories in the form `{format}`\n\n\
         Written by `sweroll export`, one row a trajectory. `DIR` stands for this directory.\n\n{usage}"
    )
}

fn configs(format: Format, files: &Files) -> Vec<Value> {
    let split = |name: &str, paths: &[String]| json!({"split": name, "path": paths});
    let all: Vec<Value> = files.iter().map(|(name, paths)| split(name, paths)).collect();
    let mut configs = vec![json!({"config_name": "default", "data_files": all})];
    if format == Format::MsSwift {
        // It takes a dataset's split `train` alone: any other split is a dataset of its own.
        let others = files.iter().filter(|(name, _)| name != "train");
        configs.extend(others.map(|(name, paths)| json!({"config_name": name, "data_files": [split("train", paths)]})));
    }
    configs
}

const MODEL: &str = "Qwen/Qwen3-30B-A3B-Instruct-2507";

fn usage(format: Format, files: &Files) -> String {
    // The first split is trained on where none is called so.
    let of = |split: &str| files.iter().find(|(name, _)| name == split);
    let Some((split, paths)) = of("train").or(files.first()) else { return String::new() };
    let val = files.iter().find(|(name, _)| name != split);
    let first = paths.first().map_or("", String::as_str);
    let more = paths.len().saturating_sub(1);
    let block = |language: &str, text: String| format!("```{language}\n{text}\n```\n");
    match format {
        Format::OpenAi => block(
            "python",
            format!(
                "rows = datasets.load_dataset(\"DIR\", split=\"{split}\")\n\
                 tokenizer.apply_chat_template(rows[0][\"messages\"], tools=json.loads(rows[0][\"tools\"]), tokenize=False)"
            ),
        ),
        Format::Flat => block(
            "python",
            format!(
                "rows = datasets.load_dataset(\"DIR\", split=\"{split}\")\n\
                 tokenizer.apply_chat_template(rows[0][\"messages\"], tokenize=False)"
            ),
        ),
        Format::MsSwift => {
            let val = val.map(|(name, _)| format!(" --val_dataset DIR:{name}")).unwrap_or_default();
            let subset = if split == "train" { String::new() } else { format!(":{split}") };
            block("sh", format!("swift sft --model {MODEL} --dataset DIR{subset}{val} --max_length 32768"))
        }
        Format::LlamaFactory => {
            let val = val.map(|(name, _)| format!(" --eval_dataset sweroll_{name}")).unwrap_or_default();
            block(
                "sh",
                format!(
                    "llamafactory-cli train --stage sft --do_train --model_name_or_path {MODEL} --template qwen3_nothink \\\n  \
                     --dataset_dir DIR --dataset sweroll_{split}{val} --cutoff_len 32768 --output_dir OUT"
                ),
            )
        }
        Format::Verl => {
            let list = |paths: &[String]| paths.iter().map(|path| format!("DIR/{path}")).collect::<Vec<_>>().join(",");
            let val = val.map(|(_, paths)| format!(" \\\n  'data.val_files=[{}]'", list(paths))).unwrap_or_default();
            block(
                "sh",
                format!(
                    "torchrun --nproc_per_node 8 -m verl.trainer.sft_trainer model.path={MODEL} \\\n  \
                     'data.train_files=[{}]'{val} \\\n  data.messages_key=messages data.max_length=32768 data.truncation=right",
                    list(paths)
                ),
            )
        }
        Format::Trl => block(
            "python",
            format!(
                "rows = datasets.load_dataset(\"DIR\", split=\"{split}\")\n\
                 args = trl.SFTConfig(assistant_only_loss=True, max_length=32768)\n\
                 trl.SFTTrainer(model=\"{MODEL}\", args=args, train_dataset=rows).train()"
            ),
        ),
        Format::Axolotl => block(
            "yaml",
            format!(
                "base_model: {MODEL}\nsequence_len: 32768\nchat_template: tokenizer_default\ndatasets:\n  - path: DIR\n    split: {split}\n    \
                 type: chat_template\n    field_messages: messages\n    message_field_training: train\n    roles_to_train: []\n    \
                 train_on_eos: turn"
            ),
        ),
        Format::NemoRl => block(
            "yaml",
            format!(
                "policy:\n  model_name: {MODEL}\n  tokenizer:\n    name: {MODEL}\n    chat_template: default\n  \
                 max_total_sequence_length: 32768\ndata:\n  add_bos: false\n  add_eos: true\n  add_generation_prompt: true\n  train:\n    \
                 dataset_name: openai_format\n    data_path: DIR/{}\n    chat_key: messages\n    tool_key: null",
                if more > 0 { pattern(split, first) } else { first.to_owned() }
            ),
        ),
        Format::Slime => block(
            "sh",
            unread(more)
                + &format!(
                    "python3 train_async.py --hf-checkpoint {MODEL} --prompt-data DIR/{first} --input-key messages \\\n  \
                 --rollout-function-path slime.rollout.sft_rollout.generate_rollout --loss-mask-type qwen3 \\\n  \
                 --loss-type sft_loss --calculate-per-token-loss --disable-compute-advantages-and-returns --debug-train-only"
                ),
        ),
        Format::SweAgentTraj | Format::Atif | Format::SweBenchPreds => String::new(),
    }
}

/// Of all files of a split that has more than one.
fn pattern(split: &str, first: &str) -> String {
    let begin = format!("{split}-");
    let parts = first.split_once(&begin).and_then(|(dir, rest)| Some((dir, rest.split_once('.')?.1)));
    parts.map_or_else(|| first.to_owned(), |(dir, extension)| format!("{dir}{begin}*.{extension}"))
}

/// For a trainer that reads one file.
fn unread(more: usize) -> String {
    if more == 0 {
        String::new()
    } else {
        format!("# {more} more files are not read: export without --buckets, with larger --shard-bytes\n")
    }
}
