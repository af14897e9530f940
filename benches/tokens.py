"""Tokens counted by Hugging Face `tokenizers` and by `sweroll tokens`, on the same records and cores.

    cargo build --release && cargo build --release --bench bulk
    python benches/tokens.py --sweroll SWEROLL --bulk BULK --tokenizer tokenizer.json SHARD...

BULK is the built bench (`target/*/release/deps/bulk-*`): it renders the conversations. `tokenizers` is given the rendered texts in
memory, and only its encoding is timed, alone, as one call of its batch methods; of sweroll the whole process is timed: reading,
decompressing, parsing, rendering and counting. Both must find the same number of tokens. Needs `tokenizers`.
"""

import argparse
import json
import os
import subprocess
import sys
import time

BATCH = 64


def sweroll(arguments, threads):
    """Seconds and tokens of one run of the command."""
    began = time.perf_counter()
    command = [arguments.sweroll, "tokens", "--threads", str(threads), "--format", "json", *arguments.shards]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return time.perf_counter() - began, report["total"]["tokens"]


def hugging_face(arguments, threads, method, share):
    """Seconds and tokens of one process of its own, over the first `share` of the texts."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1).lower()}
    command = [sys.executable, __file__, "--worker", method, "--share", str(share)]
    command += ["--sweroll", arguments.sweroll, "--bulk", arguments.bulk, "--tokenizer", arguments.tokenizer, *arguments.shards]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(result.stdout)


def worker(arguments):
    from tokenizers import Tokenizer

    rendered = subprocess.run([arguments.bulk, "texts", *arguments.shards], check=True, stdout=subprocess.PIPE).stdout
    texts = [json.loads(line) for line in rendered.splitlines()]
    del rendered
    texts = texts[: int(len(texts) * arguments.share)]
    tokenizer = Tokenizer.from_file(arguments.tokenizer)
    encode = getattr(tokenizer, arguments.worker)
    encode(texts[:2], add_special_tokens=False)
    tokens, began = 0, time.perf_counter()
    for at in range(0, len(texts), BATCH):
        tokens += sum(len(encoding) for encoding in encode(texts[at : at + BATCH], add_special_tokens=False))
    json.dump({"seconds": time.perf_counter() - began, "tokens": tokens, "bytes": sum(len(t.encode()) for t in texts)}, sys.stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--sweroll", required=True)
    parser.add_argument("--bulk", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--share", type=float, default=1.0, help="of the texts, for the slower runs of `tokenizers`")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--worker")
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)

    import tokenizers

    print(f"tokenizers {tokenizers.__version__}\n")
    print("| threads | counted by | tokens | s | Mtok/s | sweroll is faster |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for threads in sorted({1, arguments.threads}):
        times, tokens = zip(*[sweroll(arguments, threads) for _ in range(arguments.times)])
        ours = tokens[0] / min(times)
        print(f"| {threads} | sweroll tokens | {tokens[0]:,} | {min(times):.2f} | {ours / 1e6:.2f} | |")
        for method in ["encode_batch_fast", "encode_batch"]:
            share = arguments.share if method == "encode_batch" or threads == 1 else 1.0
            found = [hugging_face(arguments, threads, method, share) for _ in range(1 if threads == 1 else arguments.times)]
            best = min(found, key=lambda one: one["seconds"])
            speed = best["tokens"] / best["seconds"]
            print(f"| {threads} | `{method}` | {best['tokens']:,} | {best['seconds']:.2f} | {speed / 1e6:.2f} | {ours / speed:.1f} |", flush=True)
            if share == 1.0 and best["tokens"] != tokens[0]:
                sys.exit(f"the counts differ: {best['tokens']} and {tokens[0]}")


main()
