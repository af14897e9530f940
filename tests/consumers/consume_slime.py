#!/usr/bin/env python3
"""slime is not on PyPI: its documented rules for SFT, followed by this script, loss mask types `qwen` and `qwen3`.

    consume_slime.py DIR EXPECTED

It renders message by message, behind a fixed user turn for `qwen3`, masks the tokens of the generation prompt, and takes the messages
with `step_loss_mask` 1. Of a reply that begins with a line feed it does not train on the token that the header shares.
"""
import sys
import tempfile

import check
import oracle

PREFIX = [{"role": "user", "content": "FOR CALCULATING LOSS MASK ONLY"}]


def main(folder: str, expected: str):
    import pyarrow.parquet
    import transformers

    score, records = check.Score("slime, by its rules", "transformers", "pyarrow"), check.load(expected)
    with tempfile.TemporaryDirectory() as cache:
        tokenizer = transformers.AutoTokenizer.from_pretrained(oracle.model_folder(cache))

        def tokens(messages, **more):
            return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **more)

        prefix = tokens(PREFIX)
        header = len(tokens(PREFIX, add_generation_prompt=True)) - len(prefix)
        for file in [file for files in check.splits(folder).values() for file in files]:
            for row in pyarrow.parquet.read_table(file).to_pylist():
                for kind in ("qwen", "qwen3"):
                    ids, mask = [], []
                    for at, message in enumerate(row["messages"]):
                        if kind == "qwen":
                            made = tokens([message])
                        else:
                            made = tokens(PREFIX + [message])[len(prefix) :] if at else tokens([message] + PREFIX)[: -len(prefix)]
                        trains = message["role"] == "assistant" and message["step_loss_mask"] == 1
                        ids, mask = ids + made, mask + [int(trains and n >= header) for n in range(len(made))]
                    score.tokens(records[row["trajectory_id"]], ids, mask, header_apart=True)
    score.done(at_least=2 * check.report(folder)["written"]["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
