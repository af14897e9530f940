#!/usr/bin/env python3
"""Harbor's own validator of the Agent Trajectory Interchange Format, and what the files say against the records.

    consume_atif.py DIR RECORDS...
"""
import json
import sys
from pathlib import Path

import check
import oracle


def main(folder: str, *paths: str):
    from harbor.models.trajectories import Trajectory
    from harbor.utils.trajectory_validator import TrajectoryValidator

    score = check.Score("atif", "harbor")
    records = {record["trajectory_id"]: record for record in map(json.loads, oracle.read(*paths))}
    for file in sorted(Path(folder).rglob("trajectory.json")):
        validator = TrajectoryValidator()
        score.rows += 1
        if not validator.validate(file):
            score.fail(f"{file}: {validator.get_errors()[:3]}")
            continue
        read = Trajectory.model_validate_json(file.read_text())
        record = records[read.trajectory_id if read.trajectory_id in records else read.session_id]
        replies = [message for message in record["messages"] if message["role"] == "assistant"]
        steps = [step for step in read.steps if step.source == "agent"]
        where = record["trajectory_id"]
        score.equal(f"{where}, texts", [step.message for step in steps], [reply["content"] for reply in replies])
        calls = [[call.tool_call_id for call in step.tool_calls or []] for step in steps]
        score.equal(f"{where}, calls", calls, [[call["id"] for call in reply["tool_calls"]] for reply in replies])
        observed = [result.content or "" for step in read.steps for result in (step.observation.results if step.observation else [])]
        answers = [message["content"] for message in record["messages"] if message["role"] == "tool"]
        score.equal(f"{where}, observations", sorted(observed), sorted(answers))
    score.done(at_least=check.report(folder)["written"]["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
