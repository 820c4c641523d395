package ipsec

import (
	"net/netip"
	"time"

	"caponier/internal/secret"
)

// SAID identifies an SA in the SAD of this gateway. An inbound SA is found by
// SPI and protocol alone (RFC 4301, Section 4.1, unicast); the SPI of an
// outbound SA was chosen by the peer, so that its address belongs to the name.
type SAID struct {
	Direction Direction  `json:"direction"`
	Protocol  Protocol   `json:"protocol"`
	SPI       SPI        `json:"spi"`
	Peer      netip.Addr `json:"peer,omitzero"` // the zero Addr for inbound SAs
}

// SA is one direction of a security association, as control hands it to a
// Backend (RFC 4301, Section 4.4.2.1).
type SA struct {
	SPI       SPI
	Protocol  Protocol
	Mode      Mode
	Direction Direction

	// Local and Remote are the outer addresses as this gateway sees them. The
	// ports are used only where Encap is set.
	Local, Remote netip.AddrPort
	// Encap asks for ESP in UDP (RFC 3948).
	Encap bool

	// Original are the addresses that the peer knows the two ends by, and makes
	// checksums with, where a NAT stands between them in transport mode: its own
	// is Remote (RFC 7296, Section 2.23.1). Nil without a NAT.
	Original *Pair

	Encr, Integ       Transform // Integ is zero for combined-mode Encr; Encr is zero for AH
	EncrKey, IntegKey secret.Key
	ESN               bool
	// Sequence is the last sequence number that earlier use of the keys of an
	// outbound SA may have taken: the first packet gets the next one. It is 0
	// for fresh keys, which IKE's always are.
	Sequence uint64
	// ReplayWindow is the anti-replay window in packets; 0 asks for the default
	// of the Backend, never for none.
	ReplayWindow uint32

	Lifetime Lifetime

	// Outer says how tunnel mode builds and reads the outer header.
	Outer Outer
	// Fit says what becomes of packets that are too long.
	Fit Fit
	// Aggfrag says whether packets share the payloads of ESP in tunnel mode.
	Aggfrag AggfragSA

	// Kernel holds what only the Linux kernel's plane can do with the SA.
	Kernel KernelSA

	// ReqID ties the SA to the policies that it serves.
	ReqID uint32
	// LocalTS and RemoteTS are the traffic selectors negotiated for this SA,
	// from this gateway's view in both directions.
	LocalTS, RemoteTS []Selector

	// Connection and Tunnel are the names in the configuration.
	Connection, Tunnel string
}

// Pair is the addresses of two ends, from this gateway's view.
type Pair struct{ Local, Remote netip.Addr }

// ID returns the name of the SA in the SAD.
func (sa *SA) ID() SAID {
	id := SAID{Direction: sa.Direction, Protocol: sa.Protocol, SPI: sa.SPI}
	if sa.Direction == Out {
		id.Peer = sa.Remote.Addr()
	}
	return id
}

// Limit ends an SA by time or by use, whichever comes first. A zero field sets
// no limit.
type Limit struct {
	Time    time.Duration // since the SA was added
	Bytes   uint64        // of inner packets
	Packets uint64
}

// Lifetime has a soft limit, at which the SA should be replaced, and a hard
// one, at which it stops carrying traffic (RFC 4301, Section 4.4.2.1). Jitter
// has already been applied.
type Lifetime struct {
	Soft, Hard Limit
}

// SAStatus is what a Backend knows of an SA in use. It holds no key.
type SAStatus struct {
	ID                 SAID           `json:"id"`
	Mode               Mode           `json:"mode"`
	Local              netip.AddrPort `json:"local"`
	Remote             netip.AddrPort `json:"remote"`
	Encap              bool           `json:"encap"`
	Aggfrag            bool           `json:"aggfrag,omitempty"`
	Encr               Transform      `json:"-"`
	Integ              Transform      `json:"-"`
	ESN                bool           `json:"esn"`
	ReplayWindow       uint32         `json:"replay_window,omitempty"`
	ReqID              uint32         `json:"reqid"`
	LocalTS            []Selector     `json:"local_ts"`
	RemoteTS           []Selector     `json:"remote_ts"`
	Connection         string         `json:"connection"`
	Tunnel             string         `json:"tunnel"`
	Added              time.Time      `json:"added"`
	Used               time.Time      `json:"used,omitzero"` // last packet, to the second
	Bytes              uint64         `json:"bytes"`
	Packets            uint64         `json:"packets"`
	ReplayDrops        uint64         `json:"replay_drops"`
	IntegrityDrops     uint64         `json:"integrity_drops"`
	SelectorDrops      uint64         `json:"selector_drops"`
	OutOfLifetimeDrops uint64         `json:"out_of_lifetime_drops"`
	Sequence           uint64         `json:"sequence"` // last sent, or highest received
	// Tripped says that an outbound SA of a constant rate sends nothing any more,
	// for the peer has reported too long that too much was lost.
	Tripped bool `json:"tripped,omitempty"`
	// PathMTU is the longest packet that the way to the peer takes, of an outbound
	// SA, and InnerMTU the longest inner packet that fits, in octets; 0 where that
	// is not known, InnerMTU also in AGGFRAG mode, where there is no such length.
	PathMTU  int `json:"path_mtu,omitempty"`
	InnerMTU int `json:"inner_mtu,omitempty"`
	// PathMTUUntil is until when PathMTU is believed where a router has told it.
	PathMTUUntil time.Time `json:"path_mtu_until,omitzero"`
}
