"""Encodes texts (a JSON string a line) with a tokenizer.json; prints tokens, seconds of the encoding alone, and a digest of the ids."""

import array
import hashlib
import json
import sys
import time

import tokenizers

BATCH = 64
TIMES = 2

with open(sys.argv[1], encoding="utf-8") as lines:
    texts = [json.loads(line) for line in lines]
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[2])
encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
encode(texts[:2], add_special_tokens=False)
best = None
for _ in range(TIMES):
    seconds, tokens, digest = 0.0, 0, hashlib.sha256()
    for at in range(0, len(texts), BATCH):
        began = time.perf_counter()
        encoded = encode(texts[at : at + BATCH], add_special_tokens=False)
        seconds += time.perf_counter() - began
        for one in encoded:
            ids = array.array("I", one.ids)
            tokens += len(ids)
            digest.update(ids.tobytes())
    best = seconds if best is None else min(best, seconds)
print(json.dumps({"version": tokenizers.__version__, "tokens": tokens, "seconds": best, "digest": digest.hexdigest()}))
