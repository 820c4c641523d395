package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Capabilities that opening a device may need, named in its errors.
const (
	capNetAdmin       = "CAP_NET_ADMIN"
	capNetRaw         = "CAP_NET_RAW"
	capNetBindService = "CAP_NET_BIND_SERVICE"
)

// needs names the missing privilege, which the kernel's bare EPERM does not.
func needs(err error, capability string) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("needs %s: %w", capability, err)
	}
	return err
}

// closed takes the wrapping off net.ErrClosed.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	return err
}

// syscallError names the call that failed.
func syscallError(call string, errno unix.Errno) error { return os.NewSyscallError(call, errno) }
