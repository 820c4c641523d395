package esp

import (
	"encoding/binary"
	"fmt"

	"caponier/internal/aggfrag"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/replay"
)

// Inbound opens the packets of one inbound SA and guards it against replay. It
// belongs to one goroutine.
type Inbound struct {
	format
	window replay.Window
}

// NewInbound makes the opening half of sa. It keeps no reference to sa; the
// keys remain the caller's. The anti-replay window is always on: a ReplayWindow
// of 0 is replay.DefaultSize.
func NewInbound(sa *ipsec.SA) (*Inbound, error) {
	f, err := newFormat(sa, ipsec.In)
	if err != nil {
		return nil, err
	}
	in := &Inbound{format: f}
	if err := in.window.Init(int(sa.ReplayWindow)); err != nil {
		f.Wipe()
		return nil, fmt.Errorf("esp: SA %s: %w", sa.SPI, err)
	}
	return in, nil
}

// OpenItem is one packet for OpenBatch: the argument of Open and its results.
type OpenItem struct {
	Packet     []byte
	Inner      []byte // result: a part of Packet
	Seq        uint64 // result
	NextHeader uint8  // result
	Err        error  // result: nil or a Drop
}

// Open verifies and decrypts the ESP packet pkt in place. In tunnel mode, inner
// is the IP packet inside, a part of pkt, cut to the length that its header says
// (RFC 4303, Section 2.7), and nextHeader is NextIPv4 or NextIPv6. In transport
// mode, inner is what follows the IP header, and nextHeader its protocol; in AGGFRAG
// mode, inner is the payload, and nextHeader aggfrag.NextHeader. seq is
// the full sequence number, also with an error, and 0 where it could not be told.
//
// The error is a Drop. ErrShort and ErrReplay come before any cryptography;
// after any other than ErrIntegrity the packet was authentic and its sequence
// number is used up. The octets of pkt are undefined after an error.
func (in *Inbound) Open(pkt []byte) (inner []byte, nextHeader uint8, seq uint64, err error) {
	if seq, err = in.expect(pkt); err != nil {
		return nil, 0, seq, err
	}
	head := in.HeadRoom()
	sealed := pkt[head:]
	aad, tail := in.authenticated(pkt, seq, &in.scratch)
	if in.awake().Open(sealed, pkt[HeaderLen:head], sealed, aad, tail) != nil {
		return nil, 0, seq, ErrIntegrity
	}
	in.window.Update(seq)
	inner, nextHeader, err = in.unwrap(pkt)
	return inner, nextHeader, seq, err
}

// expect returns the sequence number of pkt, if it has the form of an ESP packet
// and may be new.
func (in *Inbound) expect(pkt []byte) (seq uint64, err error) {
	bodyLen := len(pkt) - in.HeadRoom() - int(in.icvLen)
	if align := int(in.align); bodyLen < align || bodyLen&(align-1) != 0 {
		return 0, ErrShort
	}
	seq, ok := in.window.Expect(binary.BigEndian.Uint32(pkt[4:]), in.esn)
	if !ok {
		return seq, ErrReplay
	}
	return seq, nil
}

// unwrap returns the packet inside of pkt, which is authentic and decrypted.
func (in *Inbound) unwrap(pkt []byte) (inner []byte, nextHeader uint8, err error) {
	body := pkt[in.HeadRoom() : len(pkt)-int(in.icvLen)]
	padLen := int(body[len(body)-2])
	nextHeader = body[len(body)-1]
	end := len(body) - trailerLen - padLen
	if end < 0 {
		return nil, nextHeader, ErrPadding
	}
	for i, b := range body[end : len(body)-trailerLen] {
		if b != byte(i+1) {
			return nil, nextHeader, ErrPadding
		}
	}
	if nextHeader == NextDummy {
		return nil, nextHeader, ErrDummy
	}
	switch {
	case in.aggfrag && nextHeader != aggfrag.NextHeader: // RFC 9347, Section 2.3: nothing else
		return nil, nextHeader, ErrNextHeader
	case in.aggfrag, in.transport:
		return body[:end], nextHeader, nil
	}
	inner, err = cut(body[:end], nextHeader)
	return inner, nextHeader, err
}

// Top returns the highest sequence number received, or 0.
func (in *Inbound) Top() uint64 { return in.window.Top() }

// ReplayWindow returns the size of the anti-replay window in packets.
func (in *Inbound) ReplayWindow() int { return in.window.Size() }

// cut returns the IP packet at the start of b, without the padding that may follow
// for traffic flow confidentiality.
func cut(b []byte, nextHeader uint8) ([]byte, error) {
	inner, isIP := packet.Inner(b, nextHeader)
	switch {
	case !isIP:
		return nil, ErrNextHeader
	case inner == nil:
		return nil, ErrInner
	}
	return inner, nil
}
