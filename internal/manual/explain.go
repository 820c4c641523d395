package manual

import (
	"errors"
	"fmt"
	"syscall"

	"caponier/internal/config"
	"caponier/internal/control"
	"caponier/internal/dataplane"
)

// explain says why the data plane did not take an association, with the code
// and the cure for an operator.
func explain(a *config.Association, err error) error {
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e
	}
	out := &control.Error{Code: control.CodeFailed, Message: fmt.Sprintf("association %s is not installed: %v", a.Name, err)}
	errno, _ := errors.AsType[syscall.Errno](err)
	switch {
	case errors.Is(err, dataplane.ErrExists), errno == syscall.EEXIST:
		out.Code = control.CodeExists
		out.Message = fmt.Sprintf("association %s is not installed: there is an SA with SPI %s already, which IKE or another program has made", a.Name, a.SPI)
		out.Cure = "choose another SPI; caponier sa list --spi " + a.SPI.String() + " shows it if it is ours"
	case errors.Is(err, dataplane.ErrLimit), errno == syscall.ENOBUFS, errno == syscall.ENOMEM:
		out.Code = control.CodeLimit
		out.Cure = "caponier sa flush removes SAs that were keyed by hand"
	case errors.Is(err, dataplane.ErrTransform), errno == syscall.ENOSYS, errno == syscall.EPROTONOSUPPORT, errno == syscall.EOPNOTSUPP:
		out.Code = control.CodeUnsupported
		out.Message = fmt.Sprintf("association %s is not installed: this data plane cannot do %s in %s mode with %s (%v)",
			a.Name, a.Protocol, a.Mode, a.Algorithms, err)
		out.Cure = "choose other algorithms or another mode, or the other data plane (gateway.dataplane)"
	case errors.Is(err, dataplane.ErrClosed):
		out.Code = control.CodeInterrupted
		out.Message = "the gateway is shutting down"
	case errno == syscall.EPERM, errno == syscall.EACCES:
		out.Code = control.CodeForbidden
		out.Message = fmt.Sprintf("association %s is not installed: the system does not let the gateway change SAs", a.Name)
		out.Cure = "give the daemon CAP_NET_ADMIN"
	case errno == syscall.ENODEV:
		out.Code = control.CodeRefused
		out.Message = fmt.Sprintf("association %s is not installed: there is no network device %q", a.Name, a.Kernel.Offload)
		out.Cure = "correct offload, or leave it out"
	case errno == syscall.EINVAL:
		out.Code = control.CodeRefused
		out.Message = fmt.Sprintf("association %s is not installed: the kernel refuses the combination of its parameters (%v)", a.Name, err)
		out.Cure = "the parameters that only the kernel has (mark, if-id, offload, cpu) are the first to look at"
	}
	return out
}
