#!/usr/bin/env python3
"""SWE-agent's `.traj` files. SWE-agent is not on PyPI (the package of that name is an empty one): by script, what its readers take.

    consume_swe_agent_traj.py DIR RECORDS...

The keys that its inspector, its statistics and `merge-preds` read, with their types, and what they say against the records.
"""
import json
import sys
from pathlib import Path

import check
import oracle

STEP = {"action": str, "observation": str, "response": str, "thought": str, "execution_time": float, "state": dict, "query": list,
        "extra_info": dict}
STATS = {"instance_cost": float, "tokens_sent": int, "tokens_received": int, "api_calls": int}


def keys(score, where: str, value: dict, of: dict):
    wrong = [key for key, kind in of.items() if not isinstance(value.get(key), (int, float) if kind is float else kind)]
    score.equal(f"{where}: keys of another type", wrong, [])


def main(folder: str, *paths: str):
    score = check.Score("swe-agent-traj, by its rules")
    records = {record["trajectory_id"].rsplit(".", 1)[0]: record for record in map(json.loads, oracle.read(*paths))}
    for file in sorted(Path(folder).rglob("*.traj")):
        score.rows += 1
        read, record = json.loads(file.read_text()), records[file.stem]
        keys(score, file.name, read, {"trajectory": list, "history": list, "info": dict, "environment": str})
        keys(score, file.name, read["info"]["model_stats"], STATS)
        for step in read["trajectory"]:
            keys(score, file.name, step, STEP)
        replies = [message for message in record["messages"] if message["role"] == "assistant"]
        score.equal(f"{file.name}, responses", [step["response"] for step in read["trajectory"]], [reply["content"] for reply in replies])
        history = [(item["role"], item["content"]) for item in read["history"]]
        score.equal(f"{file.name}, history", history, [(message["role"], message["content"]) for message in record["messages"]])
        score.equal(f"{file.name}, submission", read["info"]["submission"] or "", record["model_patch"] if record["model_patch"].strip() else "")
        score.equal(f"{file.name}, exit status", isinstance(read["info"]["exit_status"], str), True)
    score.done(at_least=check.report(folder)["written"]["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
