# Reads $fix (a commit that must not be there, or nothing); the working directory is the instance's.
set -eu
leak() { echo "$*"; exit 10; }

unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
GIT_NO_REPLACE_OBJECTS=1 GIT_OPTIONAL_LOCKS=0
export GIT_NO_REPLACE_OBJECTS GIT_OPTIONAL_LOCKS
git() { command git -c safe.directory='*' -c core.fsmonitor=false -c gc.auto=0 -c core.hooksPath=/dev/null "$@"; }

# Never beyond the working directory: what lies above can be somebody else's.
up=$(pwd -P)
GIT_CEILING_DIRECTORIES=${up%/*}
GIT_CEILING_DIRECTORIES=${GIT_CEILING_DIRECTORIES:-/}
export GIT_CEILING_DIRECTORIES
if [ ! -e .git ]; then
  while [ -n "$up" ]; do
    up=${up%/*}
    [ ! -e "$up/.git" ] || leak "$PWD lies inside the repository $up: make that the instance's workdir"
  done
  exit 0
fi
command -v git >/dev/null || leak "there is a repository, but no git in the image to scrub it with"
dir=$(git rev-parse --absolute-git-dir)
common=$(cd "$(git rev-parse --git-common-dir)" && pwd -P)
[ "$(cd "$dir" && pwd -P)" = "$common" ] || leak "$PWD is a linked worktree of $common: make it a clone of its own in the image"
[ ! -e "$common/reftable" ] || leak "the repository keeps its refs as a reftable: convert it to files in the image"
tmp=$(mktemp -d "$common/sweroll-scrub.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# A checkout of something else beside this one.
git worktree list --porcelain | sed -n 's/^worktree //p' | tail -n +2 | while IFS= read -r tree; do
  [ ! -e "$tree" ] || leak "another checkout of the repository lies at $tree: remove it in the image"
done

# Refs: the branch HEAD is on and the tags of the past.
rm -rf "$common/info/grafts" "$common/logs"
head=$(git rev-parse --verify -q HEAD^0 || true)
branch=$(git symbolic-ref -q HEAD || true)
: > "$tmp/tags"
[ -z "$head" ] || git for-each-ref --merged "$head" --format='%(refname)' refs/tags > "$tmp/tags" 2>/dev/null
{ cat "$tmp/tags"; [ -z "$head" ] || [ -z "$branch" ] || echo "$branch"; } | sort > "$tmp/kept"
git for-each-ref --format='%(refname)' 2>/dev/null | sort | comm -23 - "$tmp/kept" | sed 's/^/delete /' | git update-ref --no-deref --stdin
# What git calls broken it does not list.
(cd "$common" && find refs -type f) | sort | comm -23 - "$tmp/kept" | while IFS= read -r ref; do rm -f "$common/$ref"; done

# Remotes and what tracks them.
git config --local --name-only --get-regexp '^(remote|branch)\.' 2>/dev/null | sed 's/\.[^.]*$//' | sort -u | while IFS= read -r section; do
  git config --local --remove-section "$section" 2>/dev/null || true
done

# The repository's top holds only what belongs to every repository.
for entry in "$common"/* "$common"/.[!.]*; do
  case ${entry##*/} in
    HEAD | config | config.worktree | description | hooks | index | sharedindex.* | info | modules | objects | packed-refs | refs | shallow) ;;
    *) [ "$entry" = "$tmp" ] || rm -rf "$entry" ;;
  esac
done
rm -rf "$common/info/refs"

# Objects: what is there against what may stay.
objects=$common/objects
reachable() { { [ -z "$head" ] || echo "$head"; cat "$tmp/tags"; } | git rev-list --objects --indexed-objects --stdin; }
listed() { git cat-file --batch-all-objects --batch-check='%(objectname)' | sort -u; }
surplus() { cut -d' ' -f1 "$tmp/reachable" | sort -u > "$tmp/may"; listed > "$tmp/there"; comm -23 "$tmp/there" "$tmp/may"; }
strays() {
  find "$objects" -type f | while IFS= read -r file; do
    case ${file#"$objects"/} in
      [0-9a-f][0-9a-f]/*[!0-9a-f]*) echo "$file" ;;
      [0-9a-f][0-9a-f]/*) ;;
      pack/pack-*.pack) [ -e "${file%.pack}.idx" ] || echo "$file" ;;
      pack/pack-*.idx | pack/pack-*.rev) [ -e "${file%.*}.pack" ] || echo "$file" ;;
      *) echo "$file" ;;
    esac
  done
}
rm -rf "$objects/info/commit-graph" "$objects/info/commit-graphs"
reachable > "$tmp/reachable"
surplus > "$tmp/surplus"
if [ -s "$tmp/surplus" ] || [ -e "$objects/info/alternates" ]; then
  mkdir "$tmp/pack"
  git pack-objects -q --delta-base-offset "$tmp/pack/pack" < "$tmp/reachable" > /dev/null
  rm -rf "$objects"/*
  mkdir -p "$objects/info" "$objects/pack"
  [ ! -s "$tmp/reachable" ] || mv "$tmp/pack"/pack-* "$objects/pack/"
  reachable > "$tmp/reachable"
  surplus > "$tmp/surplus"
fi
strays | while IFS= read -r file; do rm -f "$file"; done

# Verified by what is there now.
[ ! -s "$tmp/surplus" ] || leak "$(wc -l < "$tmp/surplus") objects are there that HEAD does not reach, such as $(head -n 1 "$tmp/surplus")"
strays > "$tmp/strays"
[ ! -s "$tmp/strays" ] || leak "files lie among the objects, such as $(head -n 1 "$tmp/strays")"
[ ! -e "$objects/info/alternates" ] || leak "objects are borrowed from elsewhere"
[ ! -e "$common/logs" ] || leak "reflogs are there"
[ -z "$(git remote)" ] || leak "a remote is there"
git for-each-ref --format='%(refname)' | sort | comm -23 - "$tmp/kept" > "$tmp/refs"
[ ! -s "$tmp/refs" ] || leak "refs are there, such as $(head -n 1 "$tmp/refs")"
if [ -n "$fix" ] && git cat-file -e "$fix" 2>/dev/null; then
  git merge-base --is-ancestor "$fix" "$head" || leak "the fix $fix is there"
fi
