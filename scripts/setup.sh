#!/usr/bin/env bash
# Installs the Debian packages that the demonstration or the tests need, and
# only those that are missing, and for the tests the virtual machine's kernel.
# Usage: setup.sh demo|vm|test|bench
set -euo pipefail

demo=(iproute2 iputils-ping)
bench=("${demo[@]}" iperf3 strongswan-swanctl charon-systemd libcharon-extra-plugins
  libstrongswan-extra-plugins libstrongswan-standard-plugins)
# The last two lines are what Libreswan's package needs, which conflicts with
# strongSwan's and is unpacked for the virtual machine only.
vm=("${bench[@]}" strongswan-pki qemu-system-x86 busybox-static kmod cpio gzip
  iptables libnss3-tools libcurl3-nss libevent-core-2.1-7 libevent-pthreads-2.1-7
  libldns3 libunbound8 libldap-2.5-0 libcap-ng0 dns-root-data bind9-host)
test=("${vm[@]}" qemu-user-static
  tshark python3-scapy python3-cryptography tcpdump nftables openssl gcc libc6-dev)

case "${1:-}" in
  demo) packages=("${demo[@]}") ;;
  vm) packages=("${vm[@]}") ;;
  test) packages=("${test[@]}") ;;
  bench) packages=("${bench[@]}") ;;
  *) echo "usage: $0 demo|vm|test|bench" >&2; exit 2 ;;
esac

missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
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
fi
case "$1" in
  vm | test) "$(dirname "$0")/vm-image.sh" >/dev/null ;;
esac
