#!/usr/bin/env bash
# Installs the Debian packages that the demonstration or the tests need, and
# only those that are missing. Usage: setup.sh demo|test|bench
set -euo pipefail

demo=(iproute2 iputils-ping)
bench=("${demo[@]}" iperf3 strongswan-swanctl charon-systemd libcharon-extra-plugins
  libstrongswan-extra-plugins libstrongswan-standard-plugins)
test=("${bench[@]}" strongswan-pki
  tshark python3-scapy python3-cryptography tcpdump nftables openssl gcc libc6-dev)

case "${1:-}" in
  demo) packages=("${demo[@]}") ;;
  test) packages=("${test[@]}") ;;
  bench) packages=("${bench[@]}") ;;
  *) echo "usage: $0 demo|test|bench" >&2; exit 2 ;;
esac

missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "these packages are missing, and installing them needs root: ${missing[*]}" >&2
  exit 1
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
# The package starts a daemon of its own on the real ports; the tests run theirs
# in namespaces.
systemctl disable --now strongswan 2>/dev/null || true
