#!/usr/bin/env bash
# Runs every fuzz target of the tree, or those whose package or name matches.
# Usage: fuzz.sh AMOUNT [PATTERN]    a number of inputs each (5000x) or a time each (10m)
#
# Inputs are counted where the result is judged: at the end of a time, the fuzzing
# engine may report its own deadline as a failure of the target. Interesting inputs
# are not minimised, which would take most of the time here.
#
# With FUZZ_RECORD=FILE, a line of JSON is appended to FILE for each target: the day,
# the revision, the inputs, the seconds, and whether it passed.
set -euo pipefail
amount=${1:?usage: $0 AMOUNT [PATTERN]}
pattern=${2:-.}
revision=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
output=$(mktemp)
trap 'rm -f "$output"' EXIT

grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's/:[0-9]+:func /:/' | sort -u | grep -E -- "$pattern" |
while IFS=: read -r file target; do
  began=$(date +%s) result=pass
  go test -run '^$' -fuzz "^${target}\$" -fuzztime "$amount" -fuzzminimizetime 1x -parallel 2 "$(dirname "$file")" </dev/null 2>&1 |
    tee "$output" || result=fail
  if [ -n "${FUZZ_RECORD:-}" ]; then
    inputs=$(sed -nE 's/^fuzz: elapsed: .* execs: ([0-9]+) .*/\1/p' "$output" | tail -1)
    printf '{"day":"%s","revision":"%s","package":"%s","target":"%s","inputs":%d,"seconds":%d,"result":"%s"}\n' \
      "$(date -u +%F)" "$revision" "$(dirname "${file#./}")" "$target" "${inputs:-0}" "$(($(date +%s) - began))" "$result" >>"$FUZZ_RECORD"
  fi
  [ "$result" = pass ]
done
