package afxdp

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"caponier/internal/netio/frame"
	"caponier/internal/netio/frame/frametest"
)

// captures are those that every machine of ours has.
var captures = map[string]frametest.Opener{
	"native":  opener(Options{Mode: Native}),
	"generic": opener(Options{Mode: Generic}),
}

func opener(o Options) frametest.Opener {
	return func(names ...string) (frame.Capture, error) { return Open(names, o) }
}

func TestMain(m *testing.M) { frametest.Main(m, captures) }

func TestCapture(t *testing.T) { frametest.Run(t, captures) }

// pair adds to the network what concerns AF_XDP alone.
type pair struct{ *frametest.Pair }

func newPair(t testing.TB) pair { return pair{frametest.NewPair(t)} }

func (l pair) capture(o Options, s frame.Steering) *Capture {
	l.Helper()
	return l.Pair.Capture(opener(o), s).(*Capture)
}

// stripVLAN has near's interface take VLAN tags off, or leave them.
func (l pair) stripVLAN(on bool) {
	l.Helper()
	l.Must(l.Near.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := struct{ cmd, data uint32 }{cmd: ethtoolFlags}
		if err := ethtool(fd, "eth0", unsafe.Pointer(&value)); err != nil {
			return err
		}
		const setFlags = 0x26 // ETHTOOL_SFLAGS
		if value.cmd, value.data = setFlags, value.data&^flagStripsVLAN; on {
			value.data |= flagStripsVLAN
		}
		return ethtool(fd, "eth0", unsafe.Pointer(&value))
	}))
}
