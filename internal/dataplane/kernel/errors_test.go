package kernel

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"caponier/internal/dataplane"
	"caponier/internal/dataplane/kernel/xfrm"
)

// What a kernel lacks is said by the name that brings it, and never as a number.
func TestRefusalsAreExplained(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	state := func(dst netip.Addr, proto uint8) *xfrm.State {
		s := &xfrm.State{ID: xfrm.StateID{Dst: dst, SPI: 0x1000, Proto: proto}, AEAD: xfrm.Algorithm{Name: "rfc4106(gcm(aes))"}}
		if proto == 51 {
			s.AEAD, s.Auth = xfrm.Algorithm{}, xfrm.Algorithm{Name: "hmac(sm3)"}
		}
		return s
	}
	for _, c := range []struct {
		name  string
		err   error
		state *xfrm.State
		is    error
		says  string
	}{
		{"no ESP over IPv4", unix.EPROTONOSUPPORT, state(v4, 50), dataplane.ErrTransform, "ESP over IPv4: it needs CONFIG_INET_ESP or module esp4"},
		{"no ESP over IPv6", unix.EPROTONOSUPPORT, state(v6, 50), dataplane.ErrTransform, "CONFIG_INET6_ESP or module esp6"},
		{"no AH over IPv4", unix.EPROTONOSUPPORT, state(v4, 51), dataplane.ErrTransform, "CONFIG_INET_AH or module ah4"},
		{"no AH over IPv6", unix.EPROTONOSUPPORT, state(v6, 51), dataplane.ErrTransform, "CONFIG_INET6_AH or module ah6"},
		{"no cipher", unix.ENOSYS, state(v4, 50), dataplane.ErrTransform, "rfc4106(gcm(aes)): it needs CONFIG_CRYPTO_GCM or module gcm"},
		{"no MAC", unix.ENOSYS, state(v4, 51), dataplane.ErrTransform, "hmac(sm3): it needs CONFIG_CRYPTO_SM3_GENERIC"},
		{"no random numbers", unix.ENOENT, state(v4, 50), dataplane.ErrTransform, "DRBG"},
		{"there already", unix.EEXIST, state(v4, 50), dataplane.ErrExists, "of this SPI and destination already"},
		{"not there", unix.ESRCH, state(v4, 50), dataplane.ErrNotFound, "no such SA"},
		{"not allowed", unix.EPERM, state(v4, 50), unix.EPERM, "needs CAP_NET_ADMIN"},
		{"in the kernel's words", &netlink.OpError{Op: "xfrm", Err: unix.EINVAL, Message: "Replay window too big."}, state(v4, 50), unix.EINVAL, "refuses it: Replay window too big"},
	} {
		err := c.err
		if _, is := errors.AsType[*netlink.OpError](err); !is {
			err = &netlink.OpError{Op: "xfrm", Err: err}
		}
		got := explainState(err, c.state)
		if !errors.Is(got, c.is) || !strings.Contains(got.Error(), c.says) {
			t.Errorf("%s: %v, want %v with %q", c.name, got, c.is, c.says)
		}
	}
}
