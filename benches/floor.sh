#!/usr/bin/env bash
# floor.sh IMAGE BASE COUNT CONCURRENCY: the machine's own cost of COUNT graded episodes of six turns, with no engine:
# 2 x COUNT containers, in each the very commands that the episode or its grading runs, by one shell each.
set -euo pipefail
image=$1 base=$2 count=$3 concurrency=$4
agent="cd /testbed && git checkout -q $base
git log --oneline | head -3; ls
cat pkg/calc.py
grep -rn 'def add' pkg
sed -i 's/return a - b/return a + b/' pkg/calc.py
python -m pytest -q tests
git add -A && git diff --cached >/dev/null"
grade="cd /testbed && git checkout -q $base
sed -i 's/return a - b/return a + b/' pkg/calc.py
printf 'from pkg.calc import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n' > test_fail_to_pass.py
python -m pytest -q test_fail_to_pass.py tests"
export image agent grade
seq "$count" | xargs -P "$concurrency" -I{} sh -c '
  docker run --rm --network none --log-driver none "$image" sh -c "$agent" >/dev/null 2>&1
  docker run --rm --network none --log-driver none "$image" sh -c "$grade" >/dev/null 2>&1 || echo "episode {} is not resolved"'
