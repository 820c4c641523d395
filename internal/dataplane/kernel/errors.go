package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"caponier/internal/dataplane"
	"caponier/internal/dataplane/kernel/xfrm"
)

// MissingError says what the kernel lacks, and what would bring it.
type MissingError struct {
	What  string // "AH over IPv4"
	Needs string // "CONFIG_INET_AH or module ah4"
}

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("this kernel cannot do %s: it needs %s", e.What, e.Needs)
}

// Unwrap makes every missing feature a transform that is not supported.
func (e *MissingError) Unwrap() error { return dataplane.ErrTransform }

// ForeignError says that a policy of somebody else is in the way of ours.
type ForeignError struct {
	Policy string // ours, by its name
	Theirs string // theirs, as `ip xfrm policy` shows it
	// Same says that it stands in the very place of ours; otherwise it overlaps
	// and comes before.
	Same     bool
	Priority uint32
}

// Error implements error.
func (e *ForeignError) Error() string {
	how := fmt.Sprintf("overlaps policy %s and, with priority %d, would decide before it", e.Policy, e.Priority)
	if e.Same {
		how = fmt.Sprintf("stands in the place of policy %s", e.Policy)
	}
	return fmt.Sprintf("somebody else's policy in the kernel (%s) %s: stop who made it, or `ip xfrm policy delete %s`", e.Theirs, how, e.Theirs)
}

// transforms are what brings a protocol to a family.
var transforms = map[[2]bool]MissingError{ // AH, IPv6
	{false, false}: {"ESP over IPv4", "CONFIG_INET_ESP or module esp4"},
	{false, true}:  {"ESP over IPv6", "CONFIG_INET6_ESP or module esp6"},
	{true, false}:  {"AH over IPv4", "CONFIG_INET_AH or module ah4"},
	{true, true}:   {"AH over IPv6", "CONFIG_INET6_AH or module ah6"},
}

const offloadNeeds = "a device and driver with ESP offload (ethtool -k shows esp-hw-offload)"

// explainState says in words why the kernel refused a state.
func explainState(err error, s *xfrm.State) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("the kernel has a state of this SPI and destination already: %w", dataplane.ErrExists)
	case errors.Is(err, unix.ESRCH):
		return dataplane.ErrNotFound
	case errors.Is(err, unix.EPROTONOSUPPORT):
		m := transforms[[2]bool{s.ID.Proto == 51, s.ID.Dst.Is6()}]
		return &m
	case errors.Is(err, unix.ENOSYS):
		return &MissingError{What: algorithmsOf(s), Needs: modulesOf(s)}
	case errors.Is(err, unix.ENOENT):
		return &MissingError{What: algorithmsOf(s), Needs: modulesOf(s) + ", and CONFIG_CRYPTO_AUTHENC, SEQIV, ECHAINIV, DRBG or their modules"}
	case errors.Is(err, unix.EOPNOTSUPP) && s.Offload.IfIndex != 0:
		return &MissingError{What: "offload to this network device", Needs: offloadNeeds}
	case errors.Is(err, fs.ErrPermission):
		return needsAdmin(err)
	default:
		return fmt.Errorf("the kernel refuses it: %w", spoken(err))
	}
}

// algorithmsOf are the kernel's names of a state's algorithms.
func algorithmsOf(s *xfrm.State) string {
	var names []string
	for _, a := range []*xfrm.Algorithm{&s.AEAD, &s.Crypt, &s.Auth} {
		if a.Name != "" {
			names = append(names, a.Name)
		}
	}
	return strings.Join(names, " with ")
}

// modulesOf is what brings a state's algorithms to the kernel.
func modulesOf(s *xfrm.State) string {
	var names []string
	for _, a := range []*xfrm.Algorithm{&s.AEAD, &s.Crypt, &s.Auth} {
		if a.Name != "" {
			names = append(names, modules[a.Name])
		}
	}
	return strings.Join(names, ", and ")
}

func needsAdmin(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("needs CAP_NET_ADMIN: %w", spoken(err))
	}
	return err
}

// spoken prefers the kernel's own words to the number of its error.
func spoken(err error) error {
	if op, ok := errors.AsType[*netlink.OpError](err); ok {
		if op.Message != "" {
			return &wordedError{strings.TrimSuffix(op.Message, "."), op.Err}
		}
		return op.Err
	}
	return err
}

type wordedError struct {
	words string
	err   error
}

func (e *wordedError) Error() string { return e.words }

func (e *wordedError) Unwrap() error { return e.err }
