package netio

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Capabilities that opening a device may need, named in its errors.
const (
	capNetAdmin       = "CAP_NET_ADMIN"
	capNetRaw         = "CAP_NET_RAW"
	capNetBindService = "CAP_NET_BIND_SERVICE"
)

// missing is a refusal for want of a capability.
type missing struct {
	capability string
	error
}

func (m missing) Error() string { return "needs " + m.capability + ": " + m.error.Error() }

func (m missing) Unwrap() error { return m.error }

// needs names the missing privilege, which the kernel's bare EPERM does not,
// unless the call that failed has named another already.
func needs(err error, capability string) error {
	if _, named := errors.AsType[missing](err); named || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return missing{capability, err}
}

// IsTooLong reports whether a packet was not sent because it is longer than the MTU
// of its device.
func IsTooLong(err error) bool { return errors.Is(err, unix.EMSGSIZE) }

// syscallError names the call that failed.
func syscallError(call string, errno unix.Errno) error { return os.NewSyscallError(call, errno) }
