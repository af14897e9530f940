#!/usr/bin/env python3
"""NeMo-RL on PyPI is an empty package: the rules of its dataset `openai_format`, followed by this script.

    consume_nemo_rl.py DIR EXPECTED

It renders each prefix of the conversation, takes what each message adds, tokenises it apart, and trains on the assistant's messages.
"""
import sys
import tempfile

import check
import oracle


def main(folder: str, expected: str):
    import datasets
    import transformers

    score, records = check.Score("nemo-rl, by its rules", "transformers", "datasets"), check.load(expected)
    with tempfile.TemporaryDirectory() as cache:
        tokenizer = transformers.AutoTokenizer.from_pretrained(oracle.model_folder(cache))
        for file in [file for files in check.splits(folder).values() for file in files]:
            for row in datasets.load_dataset("json", data_files=file, cache_dir=cache)["train"]:
                messages, before, ids, mask = row["messages"], "", [], []
                for at, message in enumerate(messages):
                    asks = message["role"] == "user"
                    text = tokenizer.apply_chat_template(messages[: at + 1], tokenize=False, add_generation_prompt=asks)
                    same = next((n for n, (a, b) in enumerate(zip(before, text)) if a != b), min(len(before), len(text)))
                    added, before = text[same:], text
                    if at == len(messages) - 1:
                        added = added.rstrip("\n")
                        added += "" if added.endswith(tokenizer.eos_token) else tokenizer.eos_token
                    made = tokenizer(added, add_special_tokens=False)["input_ids"]
                    ids, mask = ids + made, mask + [int(message["role"] == "assistant")] * len(made)
                # The last line feed is taken off by its rules.
                line = tokenizer("\n")["input_ids"]
                score.texts(records[row["trajectory_id"]], ids + line, mask + [1], tokenizer.decode)
    score.done(at_least=check.report(folder)["written"]["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
