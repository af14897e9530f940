#!/usr/bin/env python3
"""What a trainer must make of each record, by `transformers` and the template of Qwen3-30B-A3B-Instruct-2507.

    expected.py OUT.jsonl SHARD|DIR...

A line a record: its id, text, token ids, and each reply: `trained`, its `first` and `last` token, whether its header shares the first
(`merged`: it begins with a line feed), and what it says, as the tokenizer normalises it.
"""
import json
import sys

import oracle

TARGET = "qwen3-instruct-2507"


def reply(reference, made, begin: int, end: int, trained: bool) -> dict:
    first, last = made.char_to_token(begin), made.char_to_token(end - 1)
    merged = made.char_to_token(begin - 1) == first
    said = reference.tokenizer.decode(made["input_ids"][first : last + 1])
    return {"trained": trained, "first": first, "last": last, "merged": merged, "said": said.removeprefix("\n") if merged else said}


def main(out: str, *records: str):
    reference, number = oracle.Oracle(), 0
    template, official = reference.marked[TARGET], reference.official[TARGET]
    with open(out, "w") as file:
        for line in oracle.read(*records):
            record = json.loads(line)
            messages, tools = record["messages"], record["tools"]
            text = reference.render(template, messages, tools)
            assert text == reference.render(official, messages, tools)
            made = reference.tokenizer(text, add_special_tokens=False)
            replies = [reply(reference, made, *each) for each in reference.replies(template, messages, tools)]
            row = {"id": record["trajectory_id"], "text": text, "ids": made["input_ids"], "replies": replies}
            file.write(json.dumps(row) + "\n")
            number += 1
    print(f"expected: {number} records, {oracle.versions('transformers', 'tokenizers')}")


if __name__ == "__main__":
    main(*sys.argv[1:])
