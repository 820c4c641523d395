#!/usr/bin/env bash
# Makes the machine that scripts/vm.sh boots, once, and prints its directory:
#
#   vmlinuz            Debian's kernel
#   initrd             busybox and the modules that reach the host's files
#   modules            all modules of that kernel: lib/modules/VERSION
#   libreswan          the package unpacked: it conflicts with strongSwan's
#
# --fresh makes it anew, with the newest packages.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/caponier-tools
image=$cache/vm-2 # counted up when this script makes something else
[ "${1:-}" != --fresh ] || rm -rf "$image"
if [ -e "$image/initrd" ]; then
  echo "$image"
  exit
fi

for tool in dpkg apt-get depmod modprobe cpio busybox; do
  command -v "$tool" >/dev/null || { echo "$0: $tool is missing: scripts/setup.sh vm installs it" >&2; exit 1; }
done
mkdir -p "$cache"
new=$(mktemp -d "$cache/vm.XXXXXX")
trap 'rm -rf "$new"' EXIT
cd "$new"
# _apt may not write here; as root apt-get fetches by itself then.
fetch() { apt-get download -qq -o APT::Sandbox::User=root "$1" >&2 && dpkg -x "$1"_*.deb "$2" && rm "$1"_*.deb; }

kernel=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ { print $2 }')
[ -n "$kernel" ] || { echo "$0: no linux-image-amd64: is this Debian on amd64, and apt-get update done?" >&2; exit 1; }
echo "making the virtual machine with $kernel" >&2
fetch "$kernel" package
version=${kernel#linux-image-}
cp "package/boot/vmlinuz-$version" vmlinuz
mkdir -p modules/lib
mv package/lib/modules modules/lib
depmod -b modules "$version"
rm -r package
fetch libreswan libreswan

# The initial file system reaches the host's files; every other module is then
# loaded from there.
mkdir -p initramfs/{bin,dev,host,layer,modules,root}
cp "$(command -v busybox)" initramfs/bin
ldd initramfs/bin/busybox >/dev/null 2>&1 && { echo "$0: busybox is linked dynamically: scripts/setup.sh vm installs busybox-static" >&2; exit 1; }
for m in virtio_pci virtio_console 9pnet_virtio 9p overlay; do
  modprobe -d "$PWD/modules" -S "$version" --show-depends "$m"
done | awk '/^insmod/ && !seen[$2]++ { print $2 }' >order
while read -r file; do
  cp "$file" initramfs/modules
  echo "/modules/${file##*/}"
done <order >initramfs/modules/order
rm order
cat >initramfs/init <<'INIT'
#!/bin/busybox sh
# The host's own root, read-only, below a layer in memory, where the script that
# scripts/vm.sh names carries on.
set -e
busybox() { /bin/busybox "$@"; }
while read -r m; do busybox insmod "$m"; done </modules/order
busybox mount -t devtmpfs dev /dev
p9=trans=virtio,version=9p2000.L,msize=512000
busybox mount -t 9p -o ro,cache=loose,$p9 host /host
busybox mount -t tmpfs -o mode=755 layer /layer
busybox mkdir /layer/upper /layer/work
busybox mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /root
busybox mount --move /dev /root/dev
exec busybox switch_root /root /bin/sh "$vm_init"
INIT
chmod +x initramfs/init
(cd initramfs && find . | cpio -o -H newc --quiet) | gzip -1 >initrd
rm -r initramfs

trap - EXIT
chmod 755 "$new"
# Two that made it at the same time made the same.
mv -T "$new" "$image" 2>/dev/null || rm -rf "$new"
echo "$image"
