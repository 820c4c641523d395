package ah

import (
	"encoding/binary"
	"fmt"

	"caponier/internal/drop"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/replay"
)

// Inbound verifies the packets of one inbound SA and guards it against replay.
// It belongs to one goroutine.
type Inbound struct {
	format
	mode   ipsec.Mode
	window replay.Window
}

// NewInbound makes the receiving half of sa. It keeps no reference to sa; the
// keys remain the caller's. The anti-replay window is always on: a ReplayWindow
// of 0 is replay.DefaultSize.
func NewInbound(sa *ipsec.SA) (*Inbound, error) {
	f, err := newFormat(sa, ipsec.In)
	if err != nil {
		return nil, err
	}
	in := &Inbound{format: f, mode: sa.Mode}
	if err := in.window.Init(int(sa.ReplayWindow)); err != nil {
		f.Wipe()
		return nil, fmt.Errorf("ah: SA %s: %w", sa.SPI, err)
	}
	return in, nil
}

// OpenItem is one packet for OpenBatch: the argument of Open and its results.
type OpenItem struct {
	Packet []byte
	Inner  []byte // result: a part of Packet
	Seq    uint64 // result
	Err    error  // result: nil or a drop.Reason
}

// Open verifies the whole IP packet pkt, as it arrived, and takes AH off in
// place. inner is a part of pkt: in tunnel mode the packet inside, cut to the
// length that its header says; in transport mode the packet without AH, whose
// payload may be that of another IPsec protocol. seq is the full sequence number,
// also with an error, and 0 where it could not be told.
//
// The error is a drop.Reason. All but NextHeader and Inner come from packets that
// may be forged; after those two the packet was authentic and its sequence number
// is used up. The octets of pkt are undefined after an error.
func (in *Inbound) Open(pkt []byte) (inner []byte, seq uint64, err error) {
	l, n, err := in.expect(pkt)
	if err != nil {
		return nil, 0, err
	}
	pkt = pkt[:l.total]
	seq, ok := in.window.Expect(binary.BigEndian.Uint32(pkt[l.at+8:]), in.esn)
	if !ok {
		return nil, seq, drop.Replay
	}
	masked, err := in.mask(pkt, l, false)
	if err != nil {
		return nil, seq, err
	}
	in.authenticate(masked, pkt, l.at, seq)
	if !in.mac.Verify(pkt[l.at+fixedLen:][:in.icvLen]) {
		return nil, seq, drop.Integrity
	}
	in.window.Update(seq)
	if in.mode == ipsec.Tunnel {
		inner, err = decapsulate(pkt[l.at+n:], pkt[l.at])
	} else {
		inner = remove(pkt, l, n)
	}
	return inner, seq, err
}

// OpenBatch opens each item in order.
func (in *Inbound) OpenBatch(items []OpenItem) {
	for i := range items {
		it := &items[i]
		it.Inner, it.Seq, it.Err = in.Open(it.Packet)
	}
}

// expect returns where the AH header of pkt is and how long, if it has the form
// of one.
func (in *Inbound) expect(pkt []byte) (l layout, n int, err error) {
	if l, err = locate(pkt); err != nil {
		return l, 0, err
	}
	if l.total-l.at < fixedLen+in.icvLen {
		return l, 0, drop.Short
	}
	n = (int(pkt[l.at+1]) + 2) * 4
	switch {
	case n > l.total-l.at:
		return l, 0, drop.Short
	case n == in.HeaderLen(l.version):
	case n == in.HeaderLen(6):
		// Linux pads to 8 octets in IPv4 too, unless told otherwise.
	default:
		return l, 0, drop.Header
	}
	return l, n, nil
}

// Top returns the highest sequence number received, or 0.
func (in *Inbound) Top() uint64 { return in.window.Top() }

// ReplayWindow returns the size of the anti-replay window in packets.
func (in *Inbound) ReplayWindow() int { return in.window.Size() }

// decapsulate returns the IP packet at the start of b.
func decapsulate(b []byte, nextHeader uint8) ([]byte, error) {
	inner, isIP := packet.Inner(b, nextHeader)
	switch {
	case !isIP:
		return nil, drop.NextHeader
	case inner == nil:
		return nil, drop.Inner
	}
	return inner, nil
}

// remove takes the AH header of n octets out of pkt: the headers before it move
// up to what follows it.
func remove(pkt []byte, l layout, n int) []byte {
	pkt[l.pointer] = pkt[l.at]
	copy(pkt[n:], pkt[:l.at])
	pkt = pkt[n:]
	resize(pkt[:l.at], len(pkt))
	return pkt
}

// resize writes the length of a packet of n octets, and the checksum, to its IP
// headers.
func resize(header []byte, n int) {
	if header[0]>>4 == 6 {
		binary.BigEndian.PutUint16(header[4:], uint16(n-packet.IPv6HeaderLen))
		return
	}
	binary.BigEndian.PutUint16(header[2:], uint16(n))
	clear(header[10:12])
	binary.BigEndian.PutUint16(header[10:], packet.Checksum(header))
}
