package aggfrag

// Window is how many payloads a packet may be spread over, and by how many one of
// them may arrive too late or too early.
const Window = 64

// maxKept bounds the octets of pieces that wait for others, and maxFree the
// buffers that wait for pieces.
const (
	maxKept = 96 << 10
	maxFree = 4
)

// Drop is a reason why something was not delivered.
type Drop uint8

// The reasons. Malformed: a payload, or the rest of one, that cannot be read.
// Lost: the piece of a packet whose other pieces did not come in time, or did not
// fit. Limit: a piece for which there was no room.
const (
	DropMalformed Drop = iota
	DropLost
	DropLimit
	Drops
)

// Receiver takes packets out of the payloads of one SA. What a payload holds whole
// is there at once; a piece waits until those around it have come, in whatever
// order (RFC 9347, Section 2.5, the first way). Nothing waits for a payload that
// has no part in it, so that a lost one delays no packet, and there is no need for
// a timer: what waits is given up when the sequence numbers have moved on by
// Window.
//
// The zero value is ready. It belongs to one goroutine.
type Receiver struct {
	window [Window]slot
	top    uint64 // the highest sequence number
	kept   int    // octets in slots
	free   [][]byte
	drops  [Drops]uint32
	failed bool // some of drops is not 0

	report   Report // the last
	reported bool   // it has not been asked for

	// Of the payload under way.

	seq    uint64
	late   bool   // it is too old for the window
	head   bool   // what the payload before began is still to be looked at
	offset int    // BlockOffset
	blocks []byte // what is still to be looked at
	whole  []byte // the packet that was put together last
}

// slot is what waits of one payload.
type slot struct {
	seq  uint64 // 0: nothing
	kind kind
	left int   // octets of the packet under way where the payload begins
	head piece // at its beginning, of the packet that goes on or ends there
	tail piece // at its end, of the packet that begins there
}

// piece is a part of a packet; none has no octets. It lies in the payload under
// way as long as that is looked at, and then in memory of the Receiver.
type piece struct {
	octets []byte
	kept   bool
}

// kind says what a payload means to the packet that the one before began.
type kind uint8

const (
	kindEnd    kind = iota // it ends in it, if left is not 0
	kindMiddle             // it fills all of it, and goes on
	kindPad                // it is not in it, but may go on after it
)

// Open begins with the payload, of the sequence number seq, that no other has.
// Next returns its packets, and must be called until there is none before the
// next Open; the payload is not to be changed until then.
func (r *Receiver) Open(seq uint64, payload []byte) {
	r.seq, r.head, r.blocks = seq, false, nil
	offset, blocks, err := parse(payload)
	if err != nil {
		r.drop(DropMalformed)
		return
	}
	if payload[0] == subtypeCongestion {
		r.report, r.reported = parseReport(payload), true
	}
	r.late = seq+Window <= r.top
	r.top = max(r.top, seq)
	r.offset, r.blocks = offset, blocks
	r.head = offset > 0
	if r.late {
		return
	}
	s := r.slot(seq)
	r.clear(s)
	s.seq, s.kind, s.left = seq, kindEnd, offset
	switch {
	case offset > len(blocks):
		s.kind = kindMiddle
	case offset == 0 && (len(blocks) == 0 || blocks[0]>>4 == blockPad):
		s.kind = kindPad
	}
}

// Next returns the next packet, or nil if there is no other. It is valid until the
// next call, or the packet is a part of the payload.
func (r *Receiver) Next() (pkt []byte, part bool) {
	if r.head {
		r.head = false
		n := min(r.offset, len(r.blocks))
		piece := r.blocks[:n]
		r.blocks = r.blocks[n:]
		if pkt = r.continued(piece); pkt != nil {
			return pkt, false
		}
	}
	if b := r.blocks; len(b) > 0 && b[0]>>4 != blockPad {
		n := blockLen(b)
		switch {
		case n < 0:
			r.drop(DropMalformed)
		case n == 0 || n > len(b):
			r.blocks = nil
			return r.begun(b), false
		default:
			r.blocks = b[n:]
			return b[:n:n], true
		}
	}
	r.blocks = nil
	// A pad payload may be what was missing between two pieces.
	if s := r.slot(r.seq); !r.late && s.seq == r.seq && s.kind == kindPad && r.seq < r.top {
		return r.complete(r.end(r.seq + 1)), false
	}
	return nil, false
}

// Report returns the report that came since the last call; any is false where none
// did.
func (r *Receiver) Report() (report Report, any bool) {
	report, any = r.report, r.reported
	r.reported = false
	return report, any
}

// Drops returns what was dropped since the last call; any is false where nothing
// was.
func (r *Receiver) Drops() (n [Drops]uint32, any bool) {
	if !r.failed {
		return n, false
	}
	n = r.drops
	r.drops, r.failed = [Drops]uint32{}, false
	return n, true
}

func (r *Receiver) drop(d Drop) {
	r.drops[d]++
	r.failed = true
}

func (r *Receiver) slot(seq uint64) *slot { return &r.window[seq%Window] }

// at returns what waits of the payload seq, or nil.
func (r *Receiver) at(seq uint64) *slot {
	if s := r.slot(seq); s.seq == seq && seq != 0 {
		return s
	}
	return nil
}

// clear makes s ready for another payload. What waits in it waits no longer.
func (r *Receiver) clear(s *slot) {
	for _, p := range [...]*piece{&s.head, &s.tail} {
		if p.octets != nil {
			r.drop(DropLost)
			r.release(p)
		}
	}
	s.seq = 0
}

// continued takes the octets at the beginning of the payload, of a packet that
// began earlier.
func (r *Receiver) continued(octets []byte) []byte {
	if r.late {
		r.drop(DropLost)
		return nil
	}
	s := r.slot(r.seq)
	s.head = piece{octets: octets}
	last := r.seq
	if s.kind == kindMiddle {
		last = r.end(r.seq + 1)
	}
	pkt := r.complete(last)
	r.keep(&s.head)
	return pkt
}

// begun takes the octets at the end of the payload, with which a packet begins.
func (r *Receiver) begun(octets []byte) []byte {
	if r.late {
		r.drop(DropLost)
		return nil
	}
	s := r.slot(r.seq)
	s.tail = piece{octets: octets}
	pkt := r.complete(r.end(r.seq + 1))
	r.keep(&s.tail)
	return pkt
}

// end returns the number of the payload, from seq on, in which the packet ends
// that goes on there, and 0 where that is not known yet.
func (r *Receiver) end(seq uint64) uint64 {
	for ; seq <= r.top; seq++ {
		s := r.at(seq)
		if s == nil || s.kind == kindEnd && s.left == 0 {
			return 0
		}
		if s.kind == kindEnd {
			return seq
		}
	}
	return 0
}

// complete puts the packet together that ends in the payload last, if all of its
// pieces are there.
func (r *Receiver) complete(last uint64) []byte {
	s := r.at(last)
	if s == nil || s.head.octets == nil {
		return nil
	}
	left := s.left
	first := last - 1
	for ; ; first-- {
		if s = r.at(first); s == nil || first+Window <= last {
			return nil
		}
		if s.kind == kindEnd {
			break
		}
		if s.kind == kindPad {
			continue
		}
		n := len(s.head.octets)
		if n == 0 {
			return nil
		}
		if s.left-n != left {
			r.giveUp(first, last)
			return nil
		}
		left = s.left
	}
	if s.tail.octets == nil {
		return nil
	}
	// left octets follow the piece with which the packet begins.
	if len(s.tail.octets)+left > maxPacket {
		r.giveUp(first, last)
		return nil
	}
	r.whole = append(r.whole[:0], s.tail.octets...)
	r.release(&s.tail)
	for seq := first + 1; seq <= last; seq++ {
		p := &r.at(seq).head
		r.whole = append(r.whole, p.octets...)
		r.release(p)
	}
	if blockLen(r.whole) != len(r.whole) {
		r.drop(DropLost)
		return nil
	}
	return r.whole
}

// giveUp drops the pieces after the payload first up to the payload last, which do
// not fit each other.
func (r *Receiver) giveUp(first, last uint64) {
	for seq := first + 1; seq <= last; seq++ {
		if p := &r.at(seq).head; p.octets != nil {
			r.drop(DropLost)
			r.release(p)
		}
	}
}

// keep copies the piece to memory of the Receiver, if it is still there.
func (r *Receiver) keep(p *piece) {
	if p.octets == nil || p.kept {
		return
	}
	if r.kept+len(p.octets) > maxKept {
		r.sweep()
	}
	if r.kept+len(p.octets) > maxKept {
		r.drop(DropLimit)
		*p = piece{}
		return
	}
	var b []byte
	if n := len(r.free); n > 0 {
		b = r.free[n-1][:0]
		r.free[n-1] = nil
		r.free = r.free[:n-1]
	}
	r.kept += len(p.octets)
	*p = piece{octets: append(b, p.octets...), kept: true}
}

// release takes the piece away.
func (r *Receiver) release(p *piece) {
	if p.kept {
		r.kept -= len(p.octets)
		if len(r.free) < maxFree {
			r.free = append(r.free, p.octets)
		}
	}
	*p = piece{}
}

// sweep drops what waits of payloads that are too old for the window.
func (r *Receiver) sweep() {
	for i := range r.window {
		if s := &r.window[i]; s.seq != 0 && s.seq+Window <= r.top {
			r.clear(s)
		}
	}
}
