#!/usr/bin/env bash
# Builds the pinned golangci-lint once, outside the product's go.mod, and runs it.
set -euo pipefail
version=v2.15.0
dir=${XDG_CACHE_HOME:-$HOME/.cache}/caponier-tools/$version
if [ ! -x "$dir/golangci-lint" ]; then
  echo "building golangci-lint $version (once)"
  GOBIN=$dir go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
fi
exec "$dir/golangci-lint" run ./...
