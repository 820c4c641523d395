package afxdp

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setsockopt sets an option of AF_XDP, which x/sys/unix has no function for.
func setsockopt(fd, option int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0)
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// getsockopt reads an option of AF_XDP.
func getsockopt(fd, option int, value unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value),
		uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}

// wakeTransmit has the kernel look at the transmit ring.
func wakeTransmit(fd uintptr) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_SENDTO, fd, 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

// wakeReceive has the kernel look at the fill ring.
func wakeReceive(fd uintptr) {
	// What it answers does not matter: it has looked.
	_, _, _ = unix.Syscall6(unix.SYS_RECVFROM, fd, 0, 0, unix.MSG_DONTWAIT, 0, 0)
}
