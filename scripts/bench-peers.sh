#!/usr/bin/env bash
# Builds the peers that `caponier bench` compares with and that no Debian package
# brings, once, outside the product's go.mod. Usage: bench-peers.sh [DIR]
set -euo pipefail
wireguard=golang.zx2c4.com/wireguard@v0.0.0-20260522210424-ecfc5a8d5446
tailscale=github.com/tailscale/wireguard-go@v0.0.0-20260928213032-417aef361226
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/caponier-bench}
export CGO_ENABLED=0
mkdir -p "$dir"

# The commit stands in the name: a new pin is a new file.
name() { echo "$dir/$1-${2##*-}"; }

if [ ! -x "$(name wireguard-go "$wireguard")" ]; then
  echo "building $wireguard (once)"
  GOBIN=$dir/bin go install "$wireguard"
  mv "$dir/bin/wireguard" "$(name wireguard-go "$wireguard")"
fi
ln -sf "$(name wireguard-go "$wireguard")" "$dir/wireguard-go"

if [ ! -x "$(name tailscale-wireguard-go "$tailscale")" ]; then
  echo "building $tailscale (once)"
  # Its module has another path than its go.mod says, which `go install` refuses.
  src=$(cd / && go mod download -json "$tailscale" | sed -n 's/^\s*"Dir": "\(.*\)",$/\1/p')
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cp -r --no-preserve=mode "$src/." "$work"
  (cd "$work" && go build -trimpath -o "$(name tailscale-wireguard-go "$tailscale")" .)
fi
ln -sf "$(name tailscale-wireguard-go "$tailscale")" "$dir/tailscale-wireguard-go"
