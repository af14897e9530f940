#!/usr/bin/env bash
# floor.sh IMAGE BASE COUNT CONCURRENCY [ROOT]: the machine's own cost of COUNT graded episodes of six turns, with no engine:
# 2 x COUNT sandboxes, in each the very commands that the episode or its grading runs, by one shell each. Sandboxes are containers;
# with ROOT, a directory that `docker export` of IMAGE was unpacked into, the commands are bare: an overlay of ROOT and chroot, in
# mount, pid and network namespaces, by root. Prints the seconds.
set -euo pipefail
image=$1 base=$2 count=$3 concurrency=$4 root=${5:-}
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
scratch=$(mktemp -d /var/tmp/floor.XXXXXX)
trap 'rm -rf "$scratch"' EXIT

in_container() {
  docker run --rm --network none --log-driver none "$image" sh -c "$1" >/dev/null 2>&1
}
bare() {
  local at
  at=$(mktemp -d "$scratch/XXXXXX")
  mkdir "$at/upper" "$at/work" "$at/root"
  unshare --mount --pid --net --fork --kill-child sh -c "
    mount -t overlay -o 'lowerdir=$root,upperdir=$at/upper,workdir=$at/work' overlay '$at/root' &&
    mount -t proc proc '$at/root/proc' && mount --rbind /dev '$at/root/dev' && mount -t tmpfs tmpfs '$at/root/tmp' &&
    exec env -i PATH='$path' HOME=/root chroot '$at/root' sh -c \"\$0\"" "$1" >/dev/null 2>&1
}
path=$(docker image inspect "$image" --format '{{range .Config.Env}}{{println .}}{{end}}' | sed -n 's/^PATH=//p')
run=in_container
[ -z "$root" ] || run=bare
export image root scratch path agent grade run
export -f in_container bare
begun=$(date +%s%N)
seq "$count" | xargs -P "$concurrency" -I{} bash -c '$run "$agent"; $run "$grade" || echo "episode {} is not resolved" >&2'
echo "$((($(date +%s%N) - begun) / 10000000))" | sed 's/..$/.&/'
