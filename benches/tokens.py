#!/usr/bin/env python3
"""`sweroll tokens` against Hugging Face `tokenizers`, on the same shards and cores; both figures, and that the tokens are the same.

    benches/tokens.py --sweroll target/release/sweroll --tokenizer tokenizer.json --template chat_template.jinja \
        [--threads N] [--rounds N] [--target NAME] SHARD...

Needs: pip install tokenizers jinja2 zstandard. The rounds of both alternate, and of each the best counts.
sweroll's time is all of it: process, decompression, parsing, rendering, counting, mask. Hugging Face's is told twice: its tokenizer
alone on texts that lie rendered in memory, and all of it (one process that reads and renders, the tokenizer on all threads).
"""
import argparse
import gzip
import io
import json
import os
import subprocess
import sys
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+", metavar="SHARD")
    parser.add_argument("--sweroll", default="target/release/sweroll")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--template", required=True)
    parser.add_argument("--target", default="qwen3-instruct-2507")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="trajectories that Hugging Face's tokenizer gets at a time")
    return parser.parse_args()


def lines(path):
    if path.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8")
    if path.endswith(".zst"):
        import zstandard

        stream = zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), read_across_frames=True)
        return io.TextIOWrapper(stream, encoding="utf-8", newline="\n")
    return open(path, encoding="utf-8", newline="\n")


def renderer(path):
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
    template = environment.from_string(open(path, encoding="utf-8").read())

    def render(record):
        tools = record.get("tools") or "[]"
        tools = json.loads(tools) if isinstance(tools, str) else tools
        return template.render(messages=record["messages"], tools=tools or None, add_generation_prompt=False)

    return render


def hugging_face(args, tokenizer, render):
    """Tokens, bytes of text, seconds of the tokenizer, seconds of all."""
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    began, tokens, size, encoding = time.perf_counter(), 0, 0, 0.0

    def flush(texts):
        nonlocal tokens, encoding
        start = time.perf_counter()
        tokens += sum(len(one) for one in encode(texts, add_special_tokens=False))
        encoding += time.perf_counter() - start

    texts = []
    for shard in args.shards:
        with lines(shard) as records:
            for line in records:
                if line.strip():
                    texts.append(render(json.loads(line)))
                    size += len(texts[-1].encode())
                if len(texts) == args.batch:
                    flush(texts)
                    texts = []
    flush(texts)
    return tokens, size, encoding, time.perf_counter() - began


def sweroll(args):
    command = [args.sweroll, "tokens", *args.shards, "--target", args.target, "--threads", str(args.threads), "--format", "json"]
    began = time.perf_counter()
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return report["total"]["tokens"], time.perf_counter() - began


def main():
    args = arguments()
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if args.threads > 1 else "false"
    import tokenizers

    tokenizer, render = tokenizers.Tokenizer.from_file(args.tokenizer), renderer(args.template)
    ours, theirs, theirs_all = [], [], []
    for _ in range(args.rounds):
        tokens, seconds = sweroll(args)
        ours.append(seconds)
        expected, size, encoding, everything = hugging_face(args, tokenizer, render)
        theirs.append(encoding)
        theirs_all.append(everything)
        if tokens != expected:
            sys.exit(f"sweroll counts {tokens} tokens, tokenizers {tokenizers.__version__} {expected}")
    print(f"{tokens:,} tokens, {size / 1e6:,.1f} MB of text, {args.threads} threads, best of {args.rounds}")
    best = min(ours)
    for name, seconds in [
        ("sweroll tokens, all of it", best),
        (f"tokenizers {tokenizers.__version__}, its encoding alone", min(theirs)),
        (f"tokenizers {tokenizers.__version__}, with reading and rendering", min(theirs_all)),
    ]:
        print(f"{name:50} {seconds:8.2f} s {tokens / seconds / 1e6:8.2f} Mtok/s {seconds / best:6.1f}x")


if __name__ == "__main__":
    main()
