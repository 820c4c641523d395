package frame

import (
	"net/netip"
	"sync/atomic"
)

// Pair is what the way of a packet depends on.
type Pair struct {
	Src, Dst netip.Addr
	// Own says that the packet is one of the gateway's, with its mark; otherwise
	// it comes out of a tunnel and is forwarded.
	Own bool
}

// Way is how packets leave. It is constant; what may change is the neighbour.
type Way struct {
	// Port is the number of the interface whose sockets carry them; 0 is for
	// packets that the kernel is to carry.
	Port int
	// Src is the link address of this side.
	Src [6]byte
	// VLAN is that of the tag that frames get, where Tagged.
	VLAN   uint16
	Tagged bool
	// MTU is the length of the longest packet, in octets.
	MTU      int
	Neighbor *Neighbor
}

// Ways finds ways.
type Ways interface {
	// Generation changes when ways that were found may be wrong.
	Generation() uint64
	// Find returns the way of packets, or nil while it is not known: then it is
	// asked for, and the kernel may carry the packet meanwhile. It does not wait.
	Find(Pair) *Way
	// Close ends the search. It is idempotent.
	Close() error
}

// Neighbor is the link address of a host or router, as long as it is known. It may
// be used by several goroutines. The zero value is one that is not known.
type Neighbor struct {
	state atomic.Uint64
	used  atomic.Bool
}

// The state of a Neighbor: its address in 48 bits, and above them whether it is
// known, and whether the kernel wants to see it confirmed.
const (
	neighborKnown = 1 << 48
	neighborStale = 1 << 49
)

// Set says what the kernel knows.
func (n *Neighbor) Set(mac [6]byte, stale bool) {
	x := uint64(neighborKnown)
	for i, b := range mac {
		x |= uint64(b) << (8 * i)
	}
	if stale {
		x |= neighborStale
	}
	n.state.Store(x)
}

// Forget says that the kernel knows nothing.
func (n *Neighbor) Forget() { n.state.Store(0) }

// MAC returns the link address, and false where it is not known. It notes that it
// was asked.
func (n *Neighbor) MAC() (mac [6]byte, known bool) {
	x := n.state.Load()
	if !n.used.Load() {
		n.used.Store(true)
	}
	for i := range mac {
		mac[i] = byte(x >> (8 * i))
	}
	return mac, x&neighborKnown != 0
}

// Wanted reports whether somebody has asked for the address since the last call,
// and the kernel should look whether it still holds or, where it is not known,
// find it.
func (n *Neighbor) Wanted() bool {
	x := n.state.Load()
	return n.used.Swap(false) && (x&neighborKnown == 0 || x&neighborStale != 0)
}
