package v2

import (
	"testing"
	"time"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// ahPair configures one tunnel of AH.
func (w *world) ahPair(words string, change ...func(l, r *Connection)) (l, r *Connection) {
	return w.pskPair(append([]func(l, r *Connection){func(l, r *Connection) {
		l.Children, r.Children = l.Children[:1], r.Children[:1]
		for _, c := range []*Child{l.Children[0], r.Children[0]} {
			c.Protocol, c.Proposals = ipsec.AH, proposals(w.t, suite.ParseAH, words)
		}
	}}, change...)...)
}

// RFC 7296, Section 2.17 and 3.3.3: AH has integrity, and keys for it alone.
func TestAH(t *testing.T) {
	for words, want := range map[string]struct {
		integ uint16
		key   int
		esn   bool
	}{
		"sha256-x25519":           {ipsec.IntegHMACSHA256128, 32, false},
		"sha512-sha256-esn-noesn": {ipsec.IntegHMACSHA512256, 64, true},
		"md5-modp768":             {ipsec.IntegHMACMD596, 16, false},
		"sha1-modp1024":           {ipsec.IntegHMACSHA196, 20, false},
		"aesxcbc-ecp256":          {ipsec.IntegAESXCBC96, 16, false},
		"aescmac":                 {ipsec.IntegAESCMAC96, 16, false},
	} {
		for _, mode := range []ipsec.Mode{ipsec.Tunnel, ipsec.Transport} {
			w := newWorld(t, 1)
			w.ahPair(words, func(l, r *Connection) {
				if mode == ipsec.Transport {
					a, b := l.Children[0], r.Children[0]
					a.Mode, a.Local, a.Remote = mode, oneHost(leftAddr), oneHost(rightAddr)
					b.Mode, b.Local, b.Remote = mode, oneHost(rightAddr), oneHost(leftAddr)
				}
			})
			w.up(Initiate{})
			check := func() {
				t.Helper()
				w.check(1)
				for _, g := range []*gateway{w.left, w.right} {
					for _, sa := range g.sad {
						if sa.Protocol != ipsec.AH || sa.Mode != mode || sa.Encap || sa.Encr != (ipsec.Transform{}) || !sa.EncrKey.IsZero() ||
							sa.Integ.ID != want.integ || sa.IntegKey.Len() != want.key || sa.ESN != want.esn {
							t.Errorf("%s, %s: %s has %s with %v and %v, keys of %d and %d octets, ESN %t", words, mode, g.name,
								sa.Protocol, sa.Encr, sa.Integ, sa.EncrKey.Len(), sa.IntegKey.Len(), sa.ESN)
						}
					}
				}
			}
			check()
			for _, g := range []*gateway{w.left, w.right} {
				g.order1(RekeyChild{Name: "lan"})
				w.run(30 * time.Second)
				check()
			}
			w.left.order1(DeleteChild{Name: "lan"})
			w.run(30 * time.Second)
			w.check(0)
			w.right.order1(CreateChild{Child: w.right.conns[0].Children[0]})
			w.run(30 * time.Second)
			check()
		}
	}
}

// The ends differ in the protocol of the tunnel.
func TestProtocolsDiffer(t *testing.T) {
	for _, left := range []bool{true, false} {
		w := newWorld(t, 1)
		w.ahPair("sha256-x25519", func(l, r *Connection) {
			c := l.Children[0]
			if left {
				c = r.Children[0]
			}
			c.Protocol, c.Proposals = ipsec.ESP, proposals(t, suite.ParseESP, "null-sha256-x25519")
		})
		w.initiate(Initiate{})
		w.run(30 * time.Second)
		w.left.mustReport(t, ChildFailed, fault.CodeOf(message.NoProposalChosen))
		w.right.mustReport(t, ChildFailed, fault.CodeOf(message.NoProposalChosen))
		w.check(0)
	}
}

// RFC 3715, Section 2.1: no NAT lets AH through, so that there is no SA of it. An
// IKE SA with tunnels of both protocols keeps those of ESP.
func TestAHThroughNAT(t *testing.T) {
	w := newWorld(t, 1)
	w.nat = &natBox{shift: 20000}
	w.ahPair("sha256-x25519")
	w.initiate(Initiate{})
	w.run(30 * time.Second)
	w.left.mustReport(t, IKEFailed, fault.CodeThroughNAT)
	w.check(0)

	w = newWorld(t, 1)
	w.nat = &natBox{shift: 20000}
	w.pskPair(func(l, r *Connection) {
		for _, c := range []*Child{l.Children[1], r.Children[1]} {
			c.Protocol, c.Proposals = ipsec.AH, proposals(t, suite.ParseAH, "sha256-x25519")
		}
	})
	w.initiate(Initiate{})
	w.run(30 * time.Second)
	for _, g := range []*gateway{w.left, w.right} {
		g.order1(CreateChild{Child: g.conns[0].Children[1]})
		w.run(30 * time.Second)
		g.mustReport(t, ChildFailed, fault.CodeThroughNAT)
		w.check(1)
	}
}
