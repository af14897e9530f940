#!/usr/bin/env python3
"""Holds sweroll's token ids, counts, texts and masks against `tokenizers` and `transformers`, record by record.

    reference.py [--sample 5000] [--seed 1] [SHARD|DIR...]

Generates so many conversations (0: none), adds the records of the shards and run directories, has sweroll render and count them
(`cargo test --test reference`), and compares, for both targets: the text with what jinja2 makes of the official template, as
`transformers` renders; the ids of the text; the counts; and the mask of trained tokens, token by token, with TRL's training template
where it renders the same text, and with the official template marked likewise everywhere. The same through the templates as files.
Exits with 1 and the first differing byte or token where anything differs.
"""
import argparse
import collections
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import conversations
import oracle

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", help="shards, run directories, sealed datasets")
    parser.add_argument("--sample", type=int, default=5000, help="conversations that are generated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--show", type=int, default=10, help="mismatches that are shown")
    given = parser.parse_args()
    print("versions:", oracle.versions("tokenizers", "transformers", "jinja2", "trl"))
    with tempfile.TemporaryDirectory() as folder:
        records, made = Path(folder) / "records.jsonl", Path(folder) / "made.jsonl"
        number = write(records, given)
        sweroll(records, made, marked_templates(Path(folder)))
        sys.exit(compare(records, made, number, given))


def write(records: Path, given) -> int:
    number = 0
    with open(records, "wb") as out:
        for n in range(given.sample):
            out.write(json.dumps(conversations.record(n, given.seed), ensure_ascii=False).encode() + b"\n")
            number += 1
        for line in oracle.read(*given.records) if given.records else ():
            out.write(line.rstrip(b"\n") + b"\n")
            number += 1
    print(f"records: {number}, of them generated {given.sample}")
    return number


def marked_templates(folder: Path) -> dict:
    """Template files by target: what `--chat-template` takes, with marks."""
    files = {}
    for target, name in oracle.TARGETS.items():
        files[target] = folder / f"{name}.jinja"
        files[target].write_text(oracle.marked((oracle.sft() / f"{name}.jinja").read_text()))
    return files


def sweroll(records: Path, made: Path, templates: dict):
    command = ["cargo", "test", "--quiet", "--locked", "--test", "reference", "--", "--ignored"]
    environment = os.environ | {
        "SWEROLL_REFERENCE_IN": str(records),
        "SWEROLL_REFERENCE_OUT": str(made),
        "SWEROLL_REFERENCE_TEMPLATES": json.dumps({target: str(path) for target, path in templates.items()}),
    }
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"sweroll could not render the records:\n{done.stdout[-4000:]}")


def compare(records: Path, made: Path, number: int, given) -> int:
    started, sums, bad = time.monotonic(), collections.Counter(), []
    with open(records, "rb") as lines, open(made, "rb") as others, multiprocessing.Pool(given.jobs, begin) as pool:
        pairs = zip(range(number), lines, others, strict=True)
        for counted, wrong in pool.imap(check, pairs, chunksize=8):
            sums.update(counted)
            bad += wrong
            for message in wrong[: max(0, given.show - len(bad) + len(wrong))]:
                print("MISMATCH", message, flush=True)
    for what, n in sorted(sums.items()):
        print(f"{what}: {n}")
    print(f"mismatches: {len(bad)} ({time.monotonic() - started:.0f} s)")
    if sums["records"] != number or not sums["tokens"]:
        print("not every record was compared")
        return 1
    return 1 if bad else 0


def begin():
    global ORACLE
    ORACLE = oracle.Oracle()


def check(pair) -> tuple:
    n, line, made = pair
    record, sums, wrong = json.loads(line), collections.Counter(records=1), []
    for mine in json.loads(made):
        target, path = mine["target"], mine["path"]
        where = f"conversation {n} ({record['trajectory_id']}), {target}, {path}"
        counted = (json.loads(record["meta"]).get("counted") or {"target": "qwen3-instruct-2507"})["target"]
        if record["num_tokens"] >= 0 and (target, path) == (counted, "native"):
            sums["records that say their counts"] += 1
            said, found = (record["num_tokens"], record["num_loss_tokens"]), (mine["tokens"], mine["loss"])
            if said != found:
                wrong.append(f"{where}: the record says {said[0]} tokens, {said[1]} trained; counted are {found[0]}, {found[1]}")
        try:
            wrong += [f"{where}: {what}" for what in differences(record["messages"], record["tools"], mine, sums)]
        except Exception as error:  # the reference refuses what sweroll took: a difference too
            wrong.append(f"{where}: the reference fails: {error!r}")
    return sums, wrong


def differences(messages: list, tools: str, mine: dict, sums: collections.Counter):
    target, name = mine["target"], f"{mine['target']}, {mine['path']}"
    text = ORACLE.render(ORACLE.official[target], messages, tools)
    sums[f"texts equal, {name}"] += text == mine["text"]
    if text != mine["text"]:
        yield "text differs at " + first(text, mine["text"], 40)
        return
    ids = ORACLE.ids(text)
    sums["tokens"] += len(ids)
    sums[f"ids equal, {name}"] += ids == mine["ids"]
    if ids != mine["ids"]:
        yield "ids differ at token " + first(ids, mine["ids"], 4)
        return
    if mine["tokens"] != len(ids):
        yield f"{mine['tokens']} tokens counted, there are {len(ids)}"
    masks = {"marked": ORACLE.marked[target]}
    if ORACLE.render(ORACLE.marked[target], messages, tools) != text:
        yield "the marked template renders another text: mend oracle.py"
    if ORACLE.render(ORACLE.training[target], messages, tools) == text:
        masks["TRL"] = ORACLE.training[target]
    for kind, template in masks.items():
        mask, replies = ORACLE.mask(template, messages, tools)
        is_equal = replies == mine["replies"] and mine["mask"] in (None, mask)
        sums[f"masks equal to the {kind} template's, {name}"] += is_equal
        if mine["mask"] not in (None, mask):
            yield f"mask differs from that of the {kind} template at token " + first(mask, mine["mask"], 8)
        elif replies != mine["replies"]:
            yield f"trained tokens differ from those of the {kind} template at reply " + first(replies, mine["replies"], 4)
        if sum(mask) != mine["loss"]:
            yield f"{mine['loss']} trained tokens counted, the {kind} template has {sum(mask)}"


def first(theirs, ours, around: int) -> str:
    """The first place that differs, and both sides of it."""
    at = next((at for at, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(theirs), len(ours)))
    cut = slice(max(0, at - around), at + around)
    return f"{at} of {len(theirs)} and {len(ours)}: reference {theirs[cut]!r}, sweroll {ours[cut]!r}"


if __name__ == "__main__":
    main()
