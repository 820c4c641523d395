package vm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/secret"
	"caponier/internal/suite"
	"caponier/test/interop"
)

// keyed is a tunnel, or what transport mode has instead, that both gateways are
// given by hand.
type keyed struct {
	// esp and ah are the algorithms; one of them may be missing.
	esp, ah ipsec.Proposal
	mode    ipsec.Mode
	esn     bool
	encap   bool
	v6      bool // between IPv6 addresses
	number  int  // makes the SPIs and keys its own
}

const reqID = 7

// side is what a gateway sees of the network.
type side struct {
	local, remote *interop.Site
	index         ipsec.SPI // 0 or 1
}

func (k *keyed) outer(s *interop.Site) netip.AddrPort {
	if k.v6 {
		return netip.AddrPortFrom(s.Outside6, 4500)
	}
	return netip.AddrPortFrom(s.Outside, 4500)
}

// selectors are what is protected: the networks behind the gateways, or in
// transport mode the datagrams of exchange between the gateways. Neighbour
// discovery stays in clear, which finds the address that ESP would go to, and so
// do the datagrams that hold ESP.
func (k *keyed) selectors(s *interop.Site) []ipsec.Selector {
	if k.mode == ipsec.Transport {
		a := k.outer(s).Addr()
		udp := ipsec.FromPrefix(netip.PrefixFrom(a, a.BitLen()))
		udp.Protocol, udp.FirstPort, udp.LastPort = packet.ProtocolUDP, testPort, testPort
		return []ipsec.Selector{udp}
	}
	return []ipsec.Selector{ipsec.FromPrefix(s.LAN), ipsec.FromPrefix(s.LAN6)}
}

// bundle says that ESP is inside AH.
func (k *keyed) bundle() bool { return len(k.esp) > 0 && len(k.ah) > 0 }

func (k *keyed) policies(s side) []ipsec.Policy {
	p := ipsec.Policy{
		Name: "peer/lan", Action: ipsec.Protect, ReqID: reqID, Protocol: ipsec.ESP, Mode: k.mode, WithAH: k.bundle(),
		Local: k.selectors(s.local), Remote: k.selectors(s.remote), Connection: "peer", Tunnel: "lan",
	}
	if len(k.esp) == 0 {
		p.Protocol = ipsec.AH
	}
	return []ipsec.Policy{p}
}

// sas are the SAs of a gateway, ESP before AH, inbound before outbound.
func (k *keyed) sas(s side) []ipsec.SA {
	var list []ipsec.SA
	for _, protocol := range []ipsec.Protocol{ipsec.ESP, ipsec.AH} {
		proposal := k.esp
		mode := k.mode
		if protocol == ipsec.AH {
			proposal = k.ah
			if k.bundle() {
				mode = ipsec.Transport
			}
		}
		if len(proposal) == 0 {
			continue
		}
		for _, d := range []ipsec.Direction{ipsec.In, ipsec.Out} {
			to := s.index // an SA has the number of who receives
			if d == ipsec.Out {
				to = 1 - s.index
			}
			sa := ipsec.SA{
				SPI: 0xc0000000 + ipsec.SPI(k.number)<<4 + to, Protocol: protocol, Mode: mode, Direction: d,
				Local: k.outer(s.local), Remote: k.outer(s.remote), Encap: k.encap && protocol == ipsec.ESP,
				Encr: proposal.First(ipsec.TypeEncr), Integ: proposal.First(ipsec.TypeInteg), ESN: k.esn, ReqID: reqID,
				LocalTS: k.selectors(s.local), RemoteTS: k.selectors(s.remote), Connection: "peer", Tunnel: "lan",
			}
			encr, integ, err := suite.KeyLengths(sa.Encr, sa.Integ)
			if err != nil {
				panic(err) // the algorithms are the registry's own
			}
			sa.EncrKey = key("encr", protocol, sa.SPI, encr)
			sa.IntegKey = key("integ", protocol, sa.SPI, integ)
			list = append(list, sa)
		}
	}
	return list
}

// key derives a key from its name, so that both gateways have the same.
func key(use string, protocol ipsec.Protocol, spi ipsec.SPI, n int) secret.Key {
	var out []byte
	for i := 0; len(out) < n; i++ {
		b := binary.BigEndian.AppendUint32(fmt.Appendf(nil, "%s %s %d ", use, protocol, i), uint32(spi))
		sum := sha256.Sum256(b)
		out = append(out, sum[:]...)
	}
	return secret.New(out[:n])
}
