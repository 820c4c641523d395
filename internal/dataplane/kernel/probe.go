package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

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
		if name := w.ProtocolName(); !seen[name] {
			add(name, c.protocol(*w))
		}
		if !seen[w.Name()] {
			add(w.Name(), c.algorithms(w))
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

// common are algorithms that most kernels have, with which to ask for a
// protocol: the kernel looks for the algorithms first.
var common = []struct{ encr, integ uint16 }{
	{ipsec.EncrAESCBC, ipsec.IntegHMACSHA196},
	{ipsec.EncrAESCTR, ipsec.IntegHMACSHA196},
	{ipsec.EncrAESCBC, ipsec.IntegHMACSHA256128},
	{ipsec.EncrAESGCM16, ipsec.IntegHMACMD596},
}

// protocol finds out whether the kernel has a wish's protocol. Where nothing
// tells, it is taken to be there: the algorithms will say what is missing.
func (c *conn) protocol(w Wish) error {
	tries := []Wish{w}
	for _, x := range common {
		try := w
		try.Integ = ipsec.Transform{Type: ipsec.TypeInteg, ID: x.integ}
		if w.Protocol == ipsec.ESP {
			try.Encr = ipsec.Transform{Type: ipsec.TypeEncr, ID: x.encr, KeyBits: 128}
			if ciphers[x.encr].icv != 0 {
				try.Integ = ipsec.Transform{}
			}
		}
		tries = append(tries, try)
	}
	for i := range tries {
		err := c.try(&tries[i])
		if missing, ok := errors.AsType[*MissingError](err); ok && missing.What != w.ProtocolName() {
			continue
		}
		return err
	}
	return nil
}

// algorithms finds out whether the kernel has a wish's algorithms.
func (c *conn) algorithms(w *Wish) error {
	err := c.try(w)
	if missing, ok := errors.AsType[*MissingError](err); ok && missing.What == w.ProtocolName() {
		return nil // which is said already
	}
	return err
}

// try adds a state as wished, and removes it.
func (c *conn) try(w *Wish) error {
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
		return fmt.Errorf("%w: %w", err, dataplane.ErrTransform)
	}
	sa.EncrKey, sa.IntegKey = secret.New(probeKey(encr)), secret.New(probeKey(integ))
	s, err := stateOf(&sa)
	if err != nil {
		return err
	}
	s.Seq = ownMark | uint32(sa.SPI)&^ownMask
	if err := c.addState(&s); err != nil {
		return err
	}
	return c.deleteState(s.ID)
}

// probeKey makes a key that no cipher refuses: it is not zero, nor of equal
// parts.
func probeKey(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(3*i + 1)
	}
	return b
}
