# Reads $fix (a commit that must not be there, or nothing); the working directory is the instance's.
set -eu
leak() { echo "$*"; exit 10; }

unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
GIT_NO_REPLACE_OBJECTS=1 GIT_OPTIONAL_LOCKS=0
# As `git -c` hands them on: without a function around git, which would cost every call a process more.
GIT_CONFIG_PARAMETERS="'safe.directory=*' 'core.fsmonitor=false' 'gc.auto=0' 'core.hooksPath=/dev/null'"
export GIT_NO_REPLACE_OBJECTS GIT_OPTIONAL_LOCKS GIT_CONFIG_PARAMETERS
nl='
'

# Never beyond the working directory: what lies above can be somebody else's.
cd -P .
up=$PWD top=$PWD
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
found=$(git rev-parse --absolute-git-dir --git-common-dir)
cd -P "${found#*"$nl"}"
common=$PWD
cd -P "$top"
cd -P "${found%%"$nl"*}"
[ "$PWD" = "$common" ] || leak "$top is a linked worktree of $common: make it a clone of its own in the image"
cd -P "$top"
[ ! -e "$common/reftable" ] || leak "the repository keeps its refs as a reftable: convert it to files in the image"
tmp=$(mktemp -d "$common/sweroll-scrub.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# A checkout of something else beside this one.
[ ! -d "$common/worktrees" ] || git worktree list --porcelain | sed -n 's/^worktree //p' | tail -n +2 | while IFS= read -r tree; do
  [ ! -e "$tree" ] || leak "another checkout of the repository lies at $tree: remove it in the image"
done

# The repository's top holds only what belongs to every repository.
objects=$common/objects
set --
for entry in "$common"/* "$common"/.[!.]* "$common"/..?* "$common"/info/grafts "$common"/info/refs \
  "$objects"/info/commit-graph* "$objects"/info/packs; do
  case ${entry#"$common"/} in
    HEAD | config | config.worktree | description | hooks | index | sharedindex.* | info | modules | objects | packed-refs | refs | shallow) ;;
    *) [ "$entry" = "$tmp" ] || { [ ! -e "$entry" ] && [ ! -L "$entry" ]; } || set -- "$@" "$entry" ;;
  esac
done
[ $# = 0 ] || rm -rf "$@"

# Refs: the branch HEAD is on and the tags of the past.
head=$(git rev-parse --verify -q HEAD^0 2>/dev/null || true)
surplus_refs() { git for-each-ref --format='%(refname)' 2>/dev/null | sort | comm -23 - "$tmp/kept"; }
branch='' tags='' kept=''
if [ -n "$head" ]; then
  branch=$(git symbolic-ref -q HEAD || true)
  tags=$(git for-each-ref --merged "$head" --format='%(refname)' refs/tags 2>/dev/null)
  kept=$branch${branch:+${tags:+$nl}}$tags
fi
if [ "$(git for-each-ref --format='%(refname)' 2>/dev/null || true)" != "$kept" ]; then
  echo "$kept" | sort > "$tmp/kept"
  surplus_refs | sed 's/^/delete /' | git update-ref --no-deref --stdin
  surplus_refs > "$tmp/refs"
  [ ! -s "$tmp/refs" ] || leak "refs are there, such as $(head -n 1 "$tmp/refs")"
fi
# What git calls broken it does not list.
cd "$common"
find refs -type f > "$tmp/loose"
cd "$top"
while IFS= read -r ref; do
  case $nl$kept$nl in *"$nl$ref$nl"*) ;; *) rm -f "$common/$ref" ;; esac
done < "$tmp/loose"

# Remotes and what tracks them.
if [ -n "$(git config --name-only --get-regexp '^(remote|branch)\.' 2>/dev/null || true)" ]; then
  git config --local --name-only --get-regexp '^(remote|branch)\.' 2>/dev/null | sed 's/\.[^.]*$//' | sort -u | while IFS= read -r section; do
    git config --local --remove-section "$section" 2>/dev/null || true
  done
  [ -z "$(git remote)" ] || leak "a remote is there"
fi

# Objects: what is there against what may stay.
reachable() {
  git rev-list --objects --indexed-objects --stdin << END
$head${tags:+$nl$tags}
END
}
surplus() {
  git cat-file --batch-all-objects --batch-check='%(objectname)' > "$tmp/there"
  reachable > "$tmp/reachable"
  cut -d' ' -f1 "$tmp/reachable" | sort -u | comm -23 "$tmp/there" - > "$tmp/surplus"
}
strays() {
  cd "$objects"
  find . ! -type d ! \( -path './[0-9a-f][0-9a-f]/*' ! -path './*/*/*' ! -name '*[!0-9a-f]*' \) > "$tmp/odd"
  while IFS= read -r file; do
    case $file in
      ./pack/pack-*/*) echo "$file" ;;
      ./pack/pack-*.pack) [ -e "${file%.pack}.idx" ] || echo "$file" ;;
      ./pack/pack-*.idx | ./pack/pack-*.rev) [ -e "${file%.*}.pack" ] || echo "$file" ;;
      *) echo "$file" ;;
    esac
  done < "$tmp/odd" > "$tmp/strays"
  cd "$top"
}
surplus
if [ -s "$tmp/surplus" ] || [ -e "$objects/info/alternates" ]; then
  mkdir "$tmp/pack"
  git pack-objects -q --delta-base-offset "$tmp/pack/pack" < "$tmp/reachable" > /dev/null
  rm -rf "$objects"/*
  mkdir -p "$objects/info" "$objects/pack"
  [ ! -s "$tmp/reachable" ] || mv "$tmp/pack"/pack-* "$objects/pack/"
  surplus
  [ ! -s "$tmp/surplus" ] || leak "$(wc -l < "$tmp/surplus") objects are there that HEAD does not reach, such as $(head -n 1 "$tmp/surplus")"
  [ ! -e "$objects/info/alternates" ] || leak "objects are borrowed from elsewhere"
fi
strays
if [ -s "$tmp/strays" ]; then
  while IFS= read -r file; do rm -f "$objects/$file"; done < "$tmp/strays"
  strays
  [ ! -s "$tmp/strays" ] || leak "files lie among the objects, such as $(head -n 1 "$tmp/strays")"
fi
[ ! -e "$common/logs" ] || leak "reflogs are there"
if [ -n "$fix" ] && git cat-file -e "$fix" 2>/dev/null; then
  git merge-base --is-ancestor "$fix" "$head" || leak "the fix $fix is there"
fi
