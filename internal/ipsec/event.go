package ipsec

import "net/netip"

// Event is what a Backend tells control: Acquire, Expire, AddressChanged or
// FirstUse.
type Event interface{ event() }

// Flow is the header of the packet that raised an event.
type Flow struct {
	Src      netip.Addr `json:"src"`
	Dst      netip.Addr `json:"dst"`
	Protocol uint8      `json:"protocol"`
	SrcPort  uint16     `json:"src_port,omitempty"`
	DstPort  uint16     `json:"dst_port,omitempty"`
}

// Acquire asks for an SA: a packet met a Protect policy that has none. It is
// raised once for each policy until an SA is added or the wait times out.
type Acquire struct {
	Policy             string
	Connection, Tunnel string
	ReqID              uint32
	Flow               Flow
}

// Expire says that an SA reached its soft limit, or its hard one. After the
// hard limit the Backend has removed the SA already.
type Expire struct {
	ID                 SAID
	Connection, Tunnel string
	Hard               bool
}

// AddressChanged says that authenticated packets of an inbound SA came from
// another address or port than the SA's: the NAT in between has a new mapping
// (RFC 3947, RFC 7296, Section 2.23).
type AddressChanged struct {
	ID                 SAID // of the inbound SA
	Connection, Tunnel string
	Remote             netip.AddrPort
}

// FirstUse says that the first packet passed an inbound SA: its peer has
// installed its side.
type FirstUse struct {
	ID                 SAID
	Connection, Tunnel string
}

func (Acquire) event()        {}
func (Expire) event()         {}
func (AddressChanged) event() {}
func (FirstUse) event()       {}
