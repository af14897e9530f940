#!/usr/bin/env python3
"""SWE-bench's predictions loader, `get_predictions_from_file`, on every file, and what the rows say against the records.

    consume_swe_bench_preds.py DIR RECORDS...
"""
import json
import sys
from pathlib import Path

import check
import oracle


def main(folder: str, *paths: str):
    from swebench.harness.utils import get_predictions_from_file

    score = check.Score("swe-bench-preds", "swebench")
    records = [record for record in map(json.loads, oracle.read(*paths))]
    expected = {(record["instance_id"], f"{record['model']}@{record['sample']}"): record["model_patch"] for record in records}
    for file in sorted(Path(folder).rglob("*.jsonl")):
        rows = get_predictions_from_file(str(file), "", "")
        instances = [row["instance_id"] for row in rows]
        score.equal(f"{file}: one row an instance", len(set(instances)), len(instances))
        for row in rows:
            score.rows += 1
            key = (row["instance_id"], row["model_name_or_path"])
            score.equal(f"{file}: {key}", row["model_patch"], expected.get(key))
    score.done(at_least=check.report(folder)["written"]["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
