# What runs in the machine of scripts/vm.sh, as its first process: sourced by the
# script that vm.sh writes. The root is the host's, below a layer in memory.

# vm_init IMAGE RUN SHARED mounts what a system has, and the directories that the
# host shares.
vm_init() {
  image=$1 run=$2 shared=$3
  export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  mount -t proc proc /proc
  mount -t sysfs sys /sys
  mount -t tmpfs -o mode=755 run /run
  mkdir -p /dev/pts /dev/shm /run/lock
  mount -t devpts devpts /dev/pts
  mount -t tmpfs shm /dev/shm
  mount -t tmpfs tmp /var/tmp
  mount -t debugfs debug /sys/kernel/debug
  p9=trans=virtio,version=9p2000.L,msize=512000
  mount -t 9p -o "$p9" run "$run"
  if [ -n "$shared" ]; then mount -t 9p -o "$p9" shared "$shared"; fi
  mkdir -p /lib/modules
  mount --bind "$image/modules/lib/modules" /lib/modules
  # strongSwan tries every algorithm of AF_ALG at start, which loads them all, for
  # a minute.
  mkdir -p /run/modprobe.d
  echo install af_alg /bin/false >/run/modprobe.d/vm.conf
  # The device of one must be there before it is opened; the other is waited for
  # for ever when a link of its kind asks for it.
  modprobe -a tun xfrm_interface
  ip link set lo up
  hostname caponier-vm
  export CAPONIER_VM="$image" # says to a test where it is
}

# vm_run COMMAND... runs it with its output to the host, keeps its status, and
# ends the machine.
vm_run() {
  out=/dev/$(ls /sys/class/virtio-ports) # there is one
  "$@" </dev/null >"$out" 2>&1
  echo $? >"$run/status"
  sync
  poweroff -f
}
