#!/usr/bin/env python3
"""Forms `openai` and `flat`: rendered by `transformers` they are the bytes that the model saw, and the same tokens.

    consume_chat.py DIR EXPECTED
"""
import json
import sys
import tempfile

import check
import oracle


def main(folder: str, expected: str):
    import datasets
    import transformers

    score, records = check.Score("chat " + check.report(folder)["form"], "transformers", "datasets"), check.load(expected)
    with tempfile.TemporaryDirectory() as cache:
        tokenizer = transformers.AutoTokenizer.from_pretrained(oracle.model_folder(cache))
        for split in datasets.load_dataset(folder, cache_dir=cache).values():
            for row in split:
                record, tools = records[row["trajectory_id"]], json.loads(row.get("tools", "[]"))
                score.rows += 1
                text = tokenizer.apply_chat_template(row["messages"], tools=tools or None, tokenize=False)
                if score.equal(f"{record.id}, text", text, record.text):
                    score.equal(f"{record.id}, ids", tokenizer(text)["input_ids"], record.ids)
                trained = [said["loss"] for said in row["messages"] if said["role"] == "assistant"]
                score.equal(f"{record.id}, loss", trained, [reply["trained"] for reply in record.replies])
    score.done(at_least=check.report(folder)["written"]["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
