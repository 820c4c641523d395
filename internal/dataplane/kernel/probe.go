package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"caponier/internal/dataplane"
	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// Feature is something that the kernel can do, or not.
type Feature struct {
	Name string // "ESP over IPv4", "aes128gcm16"
	// Err is nil where the kernel has it, else a MissingError or what kept it from
	// being found out.
	Err error
}

// Wish is what is to be found out: a protocol with its algorithms over a family.
type Wish struct {
	Protocol    ipsec.Protocol
	IPv6        bool
	Encr, Integ ipsec.Transform
}

// Probe finds out what the kernel can do, by states between addresses of
// documentation that it adds and removes at once: nothing is left, and modules
// are loaded by the way. It fails where the kernel has no IPsec at all, or the
// caller may not ask.
func Probe(wishes []Wish) ([]Feature, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	// A dump, because opening the socket needs no privilege.
	if _, err := c.policies(func(*xfrm.Policy) {}); err != nil {
		return nil, err
	}
	var out []Feature
	seen := make(map[string]bool)
	add := func(name string, err error) {
		if !seen[name] {
			seen[name] = true
			out = append(out, Feature{name, err})
		}
	}
	for i := range wishes {
		w := &wishes[i]
		proto, family := c.probe(w)
		add(family, proto.transform)
		if proto.transform == nil {
			add(w.Name(), proto.algorithm)
		}
	}
	slices.SortStableFunc(out, func(a, b Feature) int { return cmp.Compare(rank(a.Name), rank(b.Name)) })
	return out, nil
}

// rank puts protocols before algorithms.
func rank(name string) int {
	for _, m := range transforms {
		if m.What == name {
			return 0
		}
	}
	return 1
}

// ProtocolName is the Feature of a wish's protocol.
func (w *Wish) ProtocolName() string { return transforms[[2]bool{w.Protocol == ipsec.AH, w.IPv6}].What }

// Name is the Feature of a wish's algorithms, by the configuration's words.
func (w *Wish) Name() string {
	name := suite.Name(w.Encr)
	switch {
	case w.Protocol == ipsec.AH:
		return "ah " + suite.Name(w.Integ)
	case w.Integ != (ipsec.Transform{}) && w.Integ.ID != ipsec.IntegNone:
		name += "-" + suite.Name(w.Integ)
	}
	return name
}

// probeCount keeps the SPIs of probes apart.
var probeCount atomic.Uint32

// answer is what the kernel said of a wish.
type answer struct{ transform, algorithm error }

func (c *conn) probe(w *Wish) (answer, string) {
	family := w.ProtocolName()
	sa := ipsec.SA{
		SPI: ipsec.SPI(ownMark | probeCount.Add(1)), Protocol: w.Protocol, Direction: ipsec.Out,
		Local: netip.MustParseAddrPort("192.0.2.1:0"), Remote: netip.MustParseAddrPort("192.0.2.2:0"),
		Encr: w.Encr, Integ: w.Integ,
		LocalTS:  []ipsec.Selector{ipsec.FromPrefix(netip.MustParsePrefix("192.0.2.1/32"))},
		RemoteTS: []ipsec.Selector{ipsec.FromPrefix(netip.MustParsePrefix("192.0.2.2/32"))},
	}
	if w.IPv6 {
		sa.Local, sa.Remote = netip.MustParseAddrPort("[2001:db8::1]:0"), netip.MustParseAddrPort("[2001:db8::2]:0")
		sa.LocalTS[0] = ipsec.FromPrefix(netip.MustParsePrefix("2001:db8::1/128"))
		sa.RemoteTS[0] = ipsec.FromPrefix(netip.MustParsePrefix("2001:db8::2/128"))
	}
	encr, integ, err := suite.KeyLengths(w.Encr, w.Integ)
	if err != nil {
		return answer{algorithm: fmt.Errorf("%w: %w", err, dataplane.ErrTransform)}, family
	}
	// Keys that are not zero, which some ciphers refuse, nor of equal parts.
	sa.EncrKey, sa.IntegKey = secret.New(probeKey(encr)), secret.New(probeKey(integ))
	s, err := stateOf(&sa)
	if err != nil {
		return answer{algorithm: err}, family
	}
	s.Seq = ownMark | uint32(sa.SPI)&^ownMask
	err = c.addState(&s)
	if err == nil {
		return answer{algorithm: c.deleteState(s.ID)}, family
	}
	if missing, ok := errors.AsType[*MissingError](err); ok && missing.What == family {
		return answer{transform: err}, family
	}
	if errors.Is(err, unix.EPERM) {
		return answer{transform: err}, family
	}
	return answer{algorithm: err}, family
}

func probeKey(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(3*i + 1)
	}
	return b
}
