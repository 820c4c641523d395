package packet

import "encoding/binary"

// fragmentHeaderLen is the length of the IPv6 fragment header (RFC 8200, Section
// 4.5).
const fragmentHeaderLen = 8

// fragmentUnit is what the offsets of fragments count in, in octets.
const fragmentUnit = 8

// maxIPv4Header is the length of an IPv4 header with all options.
const maxIPv4Header = 60

// Fragmenter cuts an IP packet into fragments (RFC 791, Section 3.2; RFC 8200,
// Section 4.5). An IPv4 packet may be a fragment itself, and its DF bit is not
// looked at. The zero value is ready for Start.
type Fragmenter struct {
	b       []byte
	headers [maxIPv4Header]byte // of the later fragments: only options that are copied
	first   int                 // length of the unfragmentable headers in b
	later   int                 // and of headers
	room    int                 // octets of payload in each fragment but the last
	at      int                 // octets of payload that are done
	offset  int                 // of b itself, where it is a fragment
	id      uint32
	more    bool // b is a fragment, and not the last
	version uint8
	next    uint8 // what follows the unfragmentable headers of IPv6
}

// Start begins to cut b, decoded to p, into fragments of at most mtu octets. id
// identifies the fragments of an IPv6 packet; those of IPv4 keep the packet's. It
// returns the number of fragments, and false for a packet that cannot be cut so:
// mtu has no room for any payload, or it is an IPv6 packet with extension
// headers.
func (f *Fragmenter) Start(b []byte, p *Info, mtu int, id uint32) (n int, ok bool) {
	*f = Fragmenter{version: p.Version, id: id}
	switch p.Version {
	case 4:
		f.first = int(b[0]&0x0f) * 4
		f.later = copyHeader4(f.headers[:], b[:f.first])
		f.offset, f.more = p.FragmentOffset, p.MoreFragments
		f.room = (mtu - f.first) / fragmentUnit * fragmentUnit
	case 6:
		if p.HeaderLen != IPv6HeaderLen || p.IsFragment() {
			return 0, false
		}
		f.first, f.later, f.next = IPv6HeaderLen, IPv6HeaderLen, b[6]
		copy(f.headers[:], b[:IPv6HeaderLen])
		f.room = (mtu - IPv6HeaderLen - fragmentHeaderLen) / fragmentUnit * fragmentUnit
	}
	if f.room < fragmentUnit || p.TotalLen > len(b) {
		return 0, false
	}
	f.b = b[:p.TotalLen]
	return (len(f.b) - f.first + f.room - 1) / f.room, true
}

// copyHeader4 writes the header of later fragments: options without the copied
// flag stand in the first only (RFC 791, Section 3.1).
func copyHeader4(dst, header []byte) int {
	n := copy(dst, header[:IPv4HeaderLen])
	for options := header[IPv4HeaderLen:]; len(options) > 0; {
		size := 1
		switch {
		case options[0] == 0: // the end
			options = nil
			continue
		case options[0] == 1: // no operation
		case len(options) < 2 || options[1] < 2 || int(options[1]) > len(options):
			options = nil // malformed: whoever reads it finds that in the first
			continue
		default:
			size = int(options[1])
		}
		if options[0]&0x80 != 0 {
			n += copy(dst[n:], options[:size])
		}
		options = options[size:]
	}
	for n%4 != 0 {
		dst[n] = 0
		n++
	}
	dst[0] = 4<<4 | byte(n/4)
	return n
}

// Next writes the next fragment to dst, which must have room for mtu octets, and
// returns its length, or 0 after the last. dst must not overlap the packet.
func (f *Fragmenter) Next(dst []byte) int {
	payload := f.b[min(f.first, len(f.b)):]
	if f.at >= len(payload) {
		return 0
	}
	headers := f.headers[:f.later]
	if f.at == 0 {
		headers = f.b[:f.first]
	}
	piece := payload[f.at:min(f.at+f.room, len(payload))]
	offset := f.offset + f.at
	f.at += len(piece)
	more := f.more || f.at < len(payload)

	n := copy(dst, headers)
	if f.version == 6 {
		dst[6] = ProtocolFragment
		binary.BigEndian.PutUint16(dst[ipv6LengthAt:], uint16(fragmentHeaderLen+len(piece)))
		h := dst[n : n+fragmentHeaderLen]
		h[0], h[1] = f.next, 0
		field := uint16(offset)
		if more {
			field |= 1
		}
		binary.BigEndian.PutUint16(h[2:], field)
		binary.BigEndian.PutUint32(h[4:], f.id)
		return n + fragmentHeaderLen + copy(dst[n+fragmentHeaderLen:], piece)
	}
	field := binary.BigEndian.Uint16(dst[6:])&0xc000 | uint16(offset/fragmentUnit)
	if more {
		field |= 0x2000
	}
	binary.BigEndian.PutUint16(dst[6:], field)
	n += copy(dst[n:], piece)
	binary.BigEndian.PutUint16(dst[ipv4LengthAt:], uint16(n))
	dst[ipv4ChecksumAt], dst[ipv4ChecksumAt+1] = 0, 0
	binary.BigEndian.PutUint16(dst[ipv4ChecksumAt:], Checksum(dst[:len(headers)]))
	return n
}
