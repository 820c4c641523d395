#!/usr/bin/env bash
# Runs a command inside a virtual machine with Debian's kernel, which has ESP and
# AH, and prints what the command prints, both outputs in one. It ends with the
# command's status; 124 is for a time-out, 125 for a machine that did not run it.
#
#   scripts/vm.sh [-t SECONDS] [-s DIRECTORY] COMMAND [ARGUMENT]...
#   go test -tags vm -exec "$PWD/scripts/vm.sh" ./internal/dataplane/kernel
#
# Inside are the caller's files, directory and environment. What the command
# writes is lost with the machine, except below the DIRECTORY of -s. There is no
# network but the loopback device and what the command makes. The machine has all
# processors, and 2 GiB; VM_TIMEOUT is the default of -t, 600 seconds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
seconds=${VM_TIMEOUT:-600} shared=
while getopts t:s: o; do
  case $o in
    t) seconds=$OPTARG ;;
    s) shared=$(cd "$OPTARG" && pwd) ;;
    *) exit 125 ;;
  esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n '2,/^set/s/^#\( \|$\)//p' "$0" >&2; exit 125; }

command -v qemu-system-x86_64 >/dev/null || {
  echo "$0: qemu-system-x86_64 is missing: scripts/setup.sh vm installs it" >&2
  exit 125
}
image=$("$here/vm-image.sh") || exit 125
run=$(mktemp -d -t caponier-vm.XXXXXX)
trap 'rm -rf "$run"' EXIT

# What happens inside: the file systems, then the command, then its status.
cat >"$run/init" <<INIT
. $(printf %q "$here/vm-init.sh")
vm_init $(printf '%q ' "$image" "$run" "$shared")
$(export -p | sed '/^declare -x \(VM_\|_=\|SHLVL\|OLDPWD\)/d; s/^declare -x/export/')
cd $(printf %q "$PWD")
vm_run $(printf '%q ' "$@")
INIT

# The machine's output needs an input that is open and silent.
mkfifo "$run/silence"
exec 3<>"$run/silence"
share() { echo -virtfs "local,path=$2,mount_tag=$1,security_model=none,multidevs=remap${3:-}"; }
# The machine ends with this script, whatever ends it, and with its watchman.
bound() { echo setpriv --pdeathsig KILL; }
# shellcheck disable=SC2046
$(bound) timeout --foreground --kill-after 5 "$seconds" \
  $(bound) qemu-system-x86_64 -accel "${VM_ACCEL:-tcg,thread=multi}" -cpu max -smp "$(nproc)" -m 2048 \
  -nodefaults -no-user-config -no-reboot -display none -nic none \
  -kernel "$image/vmlinuz" -initrd "$image/initrd" \
  -append "console=ttyS0 quiet panic=-1 vm_init=$run/init" \
  -serial "file:$run/console" \
  -device virtio-serial-pci -chardev stdio,id=out,signal=off -device virtserialport,chardev=out,name=out \
  -device virtio-rng-pci \
  $(share host / ,readonly=on) $(share run "$run") ${shared:+$(share shared "$shared")} \
  <&3 2>"$run/qemu" && status=0 || status=$?
if [ -s "$run/status" ]; then
  exit "$(cat "$run/status")"
fi
if [ "$status" = 124 ] || [ "$status" = 137 ]; then
  echo "$0: $1 did not end within $seconds seconds" >&2
  status=124
else
  status=125
fi
echo "$0: the machine said:" >&2
tail -n 30 "$run/qemu" "$run/console" >&2
exit "$status"
