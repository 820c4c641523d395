package aggfrag

// Packer fills payloads with packets. The payloads that one packet is spread over
// must get consecutive sequence numbers of one SA (RFC 9347, Section 2.2.3).
//
// The zero value has no payload under way. It belongs to one goroutine.
type Packer struct {
	payload []byte
	head    int // octets of the header
	used    int
	packets int
}

// firstPiece is the least that is begun with of a packet that goes on in the next
// payload, so that its header stands in one piece; and split is which part of a
// payload must be left for it, where it would fit the next payload whole: with
// less, the room is not worth that one lost payload takes two packets along.
const (
	firstPiece = 40
	split      = 4
)

// Start begins the payload dst, which is longer than HeaderLen, with what is left
// of a packet that earlier payloads hold a part of: rest octets, or 0.
func (p *Packer) Start(dst []byte, rest int) {
	putHeader(dst, rest)
	p.payload, p.head, p.used, p.packets = dst, HeaderLen, HeaderLen, 0
}

// StartReport is Start for a payload that brings a report, and is longer than
// ReportLen.
func (p *Packer) StartReport(dst []byte, rest int, report *Report) {
	report.put(dst, rest)
	p.payload, p.head, p.used, p.packets = dst, ReportLen, ReportLen, 0
}

// Open reports whether a payload is under way.
func (p *Packer) Open() bool { return p.payload != nil }

// Room is how many octets are left in the payload.
func (p *Packer) Room() int { return len(p.payload) - p.used }

// Packets is how many packets end in the payload.
func (p *Packer) Packets() int { return p.packets }

// Add takes the whole packet b, and returns what is to follow in the next
// payload: nothing if all of it has found room, all of b if it is better begun
// there, or may not be spread. With spread, b may be of any length.
func (p *Packer) Add(b []byte, spread bool) (rest []byte) {
	room := p.Room()
	if len(b) > room {
		whole := len(b) <= len(p.payload)-p.head // it fits the next payload
		if !spread || room < firstPiece || whole && room < len(p.payload)/split {
			return b
		}
	}
	return p.Continue(b)
}

// Continue takes as much as fits of b, the rest of a packet, and returns what is
// still to follow.
func (p *Packer) Continue(b []byte) (rest []byte) {
	n := copy(p.payload[p.used:], b)
	p.used += n
	if n == len(b) {
		p.packets++
	}
	return b[n:]
}

// Finish ends the payload and returns it, cut to what was used.
func (p *Packer) Finish() []byte {
	b := p.payload[:p.used]
	p.payload = nil
	return b
}

// Pad ends the payload and returns it in its full length, with a pad block where
// there is room.
func (p *Packer) Pad() []byte {
	b := p.payload
	clear(b[p.used:])
	p.payload = nil
	return b
}
