#!/usr/bin/env bash
# Runs every fuzz target of the tree for a while, one after the other.
# Usage: fuzz.sh TIME
set -euo pipefail
time=${1:?usage: $0 TIME}

grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's/:[0-9]+:func /:/' | sort -u |
while IFS=: read -r file target; do
  go test -run '^$' -fuzz "^${target}\$" -fuzztime "$time" -parallel 2 "$(dirname "$file")" </dev/null
done
