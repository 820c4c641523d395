#!/usr/bin/env bash
# Runs every fuzz target of the tree, one after the other.
# Usage: fuzz.sh AMOUNT    a number of inputs each (5000x) or a time each (10m)
#
# Inputs are counted where the result is judged: at the end of a time, the fuzzing
# engine may report its own deadline as a failure of the target. Interesting inputs
# are not minimised, which would take most of the time here.
set -euo pipefail
amount=${1:?usage: $0 AMOUNT}

grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's/:[0-9]+:func /:/' | sort -u |
while IFS=: read -r file target; do
  go test -run '^$' -fuzz "^${target}\$" -fuzztime "$amount" -fuzzminimizetime 1x -parallel 2 "$(dirname "$file")" </dev/null
done
