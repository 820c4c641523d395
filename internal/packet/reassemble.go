package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"
)

// ReassemblyLimits bound what strangers can make a Reassembler keep.
type ReassemblyLimits struct {
	// Datagrams is how many may be incomplete at a time, and PerSource how many
	// of one source address. Where one more begins, the oldest is given up.
	Datagrams, PerSource int
	// Octets bounds the payload of all together.
	Octets int
	// Fragments is how many one datagram may have.
	Fragments int
	// Timeout is how long a datagram may take, from its first fragment on.
	Timeout time.Duration
}

// DefaultReassemblyLimits let 64 senders at a time fragment what they send.
func DefaultReassemblyLimits() ReassemblyLimits {
	return ReassemblyLimits{Datagrams: 1024, PerSource: 64, Octets: 4 << 20, Fragments: 128, Timeout: 30 * time.Second}
}

// ReassemblyDrop says why fragments went nowhere. It is an index for counters.
type ReassemblyDrop uint8

// The reasons.
const (
	// FragmentKept is none: the fragment waits for others, or was there already.
	FragmentKept ReassemblyDrop = iota
	// FragmentMalformed: no fragment, one that ends in the middle of a unit but
	// is not the last, has no payload, or reaches past the longest packet.
	FragmentMalformed
	// FragmentOverlap: it overlaps another, or contradicts the known end. The
	// whole datagram is given up, with what may still come of it (RFC 5722).
	FragmentOverlap
	// FragmentTooMany: the datagram has more pieces than Fragments.
	FragmentTooMany
	// FragmentECN: some fragments met congestion, and others cannot say so (RFC
	// 3168, Section 5.3).
	FragmentECN
	// FragmentEvicted: the datagram was given up for want of room.
	FragmentEvicted
	// FragmentLate: the datagram was not complete in time.
	FragmentLate

	// ReassemblyDrops is the length of an array indexed by ReassemblyDrop.
	ReassemblyDrops = iota
)

var reassemblyNames = [ReassemblyDrops]string{
	FragmentMalformed: "fragment-malformed",
	FragmentOverlap:   "fragment-overlap",
	FragmentTooMany:   "fragment-too-many",
	FragmentECN:       "fragment-ecn",
	FragmentEvicted:   "fragment-evicted",
	FragmentLate:      "fragment-late",
}

// Name is the stable name of the counter for this reason, "" for none.
func (d ReassemblyDrop) Name() string {
	if int(d) >= len(reassemblyNames) {
		return ""
	}
	return reassemblyNames[d]
}

// Reassembler puts fragments together again (RFC 791, Section 3.2; RFC 8200,
// Section 4.5; RFC 5722). It knows no clock: whoever owns it says what time it
// is. It belongs to one goroutine.
type Reassembler struct {
	limits ReassemblyLimits
	open   map[datagramKey]*datagram
	source map[netip.Addr]int // datagrams of each
	// The incomplete datagrams, the oldest first.
	oldest, newest *datagram
	free           *datagram // with memory for the next ones
	kept           int       // octets of it
	octets         int
	whole          []byte
	drops          [ReassemblyDrops]uint64
}

// datagramKey names a datagram. The protocol belongs to that of IPv4 only.
type datagramKey struct {
	src, dst netip.Addr
	id       uint32
	protocol uint8
}

// datagram is what has come of a packet.
type datagram struct {
	key        datagramKey
	began      time.Time
	prev, next *datagram

	header  []byte // of the first fragment, without the IPv6 fragment header
	payload []byte // with holes
	spans   []span // what is there, in order
	size    int    // of the payload; -1 while the last fragment is missing
	ecn     [4]bool
	spoilt  bool // to be given up; it stays to swallow what comes of it
}

type span struct{ from, to int }

// NewReassembler makes one.
func NewReassembler(limits ReassemblyLimits) *Reassembler {
	return &Reassembler{
		limits: limits,
		open:   make(map[datagramKey]*datagram),
		source: make(map[netip.Addr]int),
	}
}

// Drops returns how many fragments or datagrams were dropped for the reason.
func (r *Reassembler) Drops(d ReassemblyDrop) uint64 { return r.drops[d] }

// Pending is how many datagrams are incomplete.
func (r *Reassembler) Pending() int { return len(r.open) }

// Add takes the fragment b, decoded to p. It returns the whole packet where that
// completes it, valid until the next Add, or else nil and why.
func (r *Reassembler) Add(now time.Time, b []byte, p *Info) (whole []byte, drop ReassemblyDrop) {
	whole, drop = r.add(now, b, p)
	if drop != FragmentKept {
		r.drops[drop]++
	}
	return whole, drop
}

func (r *Reassembler) add(now time.Time, b []byte, p *Info) ([]byte, ReassemblyDrop) {
	header, field, ok := unfragmentable(b, p)
	if !ok {
		return nil, FragmentMalformed
	}
	payload := b[p.HeaderLen:p.TotalLen]
	if p.Version == 6 {
		// Behind the first fragment's header stands what may be more of them, which
		// Decode has walked through: the payload begins behind the fragment header.
		payload = b[len(header)+fragmentHeaderLen : p.TotalLen]
	}
	if !p.IsFragment() {
		// An atomic fragment, which has nothing to do with others (RFC 6946).
		r.whole = build(r.whole[:0], header, payload, p.TrafficClass)
		r.whole[field] = b[len(header)]
		return r.whole, FragmentKept
	}
	end := p.FragmentOffset + len(payload)
	if len(payload) == 0 || p.MoreFragments && len(payload)%fragmentUnit != 0 || len(header)+end > 0xffff {
		return nil, FragmentMalformed
	}
	r.Expire(now)
	d := r.find(now, p)
	if d.spoilt {
		return nil, FragmentOverlap
	}
	switch fits := d.place(span{p.FragmentOffset, end}, payload, p.MoreFragments, r.limits.Fragments); fits {
	case placed:
	case repeated:
		return nil, FragmentKept
	case crowded:
		return nil, r.spoil(d, FragmentTooMany)
	case overlaps:
		return nil, r.spoil(d, FragmentOverlap)
	}
	d.ecn[p.TrafficClass&ecnBits] = true
	if p.FragmentOffset == 0 {
		d.header = append(d.header[:0], header...)
		if p.Version == 6 {
			d.header[field] = b[len(header)] // what the fragment header says follows
		}
	}
	if grown := end - len(d.payload); grown > 0 {
		d.payload = append(d.payload, make([]byte, grown)...)
		r.octets += grown
	}
	copy(d.payload[p.FragmentOffset:], payload)
	if r.octets > r.limits.Octets {
		r.shrink(d)
		if d.spoilt {
			return nil, FragmentEvicted
		}
	}
	if d.size < 0 || len(d.header) == 0 || len(d.spans) != 1 || d.spans[0] != (span{0, d.size}) {
		return nil, FragmentKept
	}
	class, lost := d.class()
	if lost {
		r.remove(d)
		return nil, FragmentECN
	}
	if len(d.header)+d.size > 0xffff {
		r.remove(d)
		return nil, FragmentMalformed
	}
	r.whole = build(r.whole[:0], d.header, d.payload[:d.size], class)
	r.remove(d)
	return r.whole, FragmentKept
}

// unfragmentable returns the headers that each fragment repeats, without the
// fragment header, and for IPv6 where in them the field stands that names it.
func unfragmentable(b []byte, p *Info) (header []byte, field int, ok bool) {
	switch p.Version {
	case 4:
		if !p.IsFragment() {
			return nil, 0, false
		}
		return b[:p.HeaderLen], -1, true
	case 6:
		at, field := IPv6HeaderLen, 6
		for range maxExtensionHeaders {
			switch b[field] {
			case ProtocolHopByHop, ProtocolRouting, ProtocolDestination:
				field = at
				at += 8 + int(b[at+1])*8
			case ProtocolFragment:
				return b[:at], field, true
			default:
				return nil, 0, false
			}
		}
	}
	return nil, 0, false
}

// build appends the packet of these headers and payload to dst.
func build(dst, header, payload []byte, class uint8) []byte {
	dst = append(dst, header...)
	n := len(header) + len(payload)
	if dst[0]>>4 == 6 {
		binary.BigEndian.PutUint16(dst[ipv6LengthAt:], uint16(n-IPv6HeaderLen))
		SetTrafficClass(dst, class)
		return append(dst, payload...)
	}
	dst[1] = class
	binary.BigEndian.PutUint16(dst[ipv4LengthAt:], uint16(n))
	dst[6], dst[7] = dst[6]&0x40, 0
	dst[ipv4ChecksumAt], dst[ipv4ChecksumAt+1] = 0, 0
	binary.BigEndian.PutUint16(dst[ipv4ChecksumAt:], Checksum(dst))
	return append(dst, payload...)
}

// find returns the datagram that p is a fragment of.
func (r *Reassembler) find(now time.Time, p *Info) *datagram {
	key := datagramKey{p.Src, p.Dst, p.FragmentID, 0}
	if p.Version == 4 {
		key.protocol = p.Protocol
	}
	if d := r.open[key]; d != nil {
		return d
	}
	if r.source[p.Src] >= r.limits.PerSource {
		for d := r.oldest; d != nil; d = d.next {
			if d.key.src == p.Src {
				r.evict(d)
				break
			}
		}
	} else if len(r.open) >= r.limits.Datagrams {
		r.evict(r.oldest)
	}
	d := r.free
	if d == nil {
		d = new(datagram)
	} else {
		r.free = d.next
		r.kept -= cap(d.payload)
	}
	*d = datagram{key: key, began: now, size: -1, header: d.header[:0], payload: d.payload[:0], spans: d.spans[:0], prev: r.newest}
	if r.newest != nil {
		r.newest.next = d
	} else {
		r.oldest = d
	}
	r.newest = d
	r.open[key] = d
	r.source[key.src]++
	return d
}

// fit is what came of placing a fragment.
type fit uint8

const (
	placed fit = iota
	repeated
	overlaps
	crowded
)

// place notes that s is there.
func (d *datagram) place(s span, payload []byte, more bool, most int) fit {
	if d.size >= 0 && s.to > d.size || !more && d.size >= 0 && s.to != d.size {
		return overlaps
	}
	if !more && len(d.spans) > 0 && d.spans[len(d.spans)-1].to > s.to {
		return overlaps
	}
	i := 0
	for i < len(d.spans) && d.spans[i].to <= s.from {
		i++
	}
	if i < len(d.spans) && d.spans[i].from < s.to {
		if d.spans[i].from <= s.from && s.to <= d.spans[i].to && bytes.Equal(d.payload[s.from:s.to], payload) {
			return repeated // an exact copy harms nobody (RFC 8200, Section 4.5)
		}
		return overlaps
	}
	if !more {
		d.size = s.to
	}
	// It may close the gap on either side.
	left := i > 0 && d.spans[i-1].to == s.from
	right := i < len(d.spans) && d.spans[i].from == s.to
	switch {
	case left && right:
		d.spans[i-1].to = d.spans[i].to
		d.spans = append(d.spans[:i], d.spans[i+1:]...)
	case left:
		d.spans[i-1].to = s.to
	case right:
		d.spans[i].from = s.from
	default:
		if len(d.spans) >= most {
			return crowded
		}
		d.spans = append(d.spans, span{})
		copy(d.spans[i+1:], d.spans[i:])
		d.spans[i] = s
	}
	return placed
}

// class returns the ECN of the whole, with the DSCP of the first fragment.
func (d *datagram) class() (class uint8, lost bool) {
	class = d.header[1]
	if d.header[0]>>4 == 6 {
		class = d.header[0]<<4 | d.header[1]>>4
	}
	if d.ecn[CE] {
		if d.ecn[NotECT] {
			return 0, true
		}
		class |= CE
	}
	return class, false
}

// spoil gives d up, but keeps its name until its time is over.
func (r *Reassembler) spoil(d *datagram, why ReassemblyDrop) ReassemblyDrop {
	d.spoilt = true
	r.octets -= len(d.payload)
	d.payload, d.spans = d.payload[:0], d.spans[:0]
	return why
}

// shrink makes room by giving up the oldest, and last of all d itself.
func (r *Reassembler) shrink(d *datagram) {
	for old := r.oldest; old != nil && r.octets > r.limits.Octets; {
		next := old.next
		if old != d {
			r.evict(old)
		}
		old = next
	}
	if r.octets > r.limits.Octets {
		r.spoil(d, FragmentEvicted)
	}
}

func (r *Reassembler) evict(d *datagram) {
	if !d.spoilt {
		r.drops[FragmentEvicted]++
	}
	r.remove(d)
}

func (r *Reassembler) remove(d *datagram) {
	delete(r.open, d.key)
	if r.source[d.key.src]--; r.source[d.key.src] == 0 {
		delete(r.source, d.key.src)
	}
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		r.oldest = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		r.newest = d.prev
	}
	r.octets -= len(d.payload)
	if r.kept += cap(d.payload); r.kept > r.limits.Octets {
		r.kept -= cap(d.payload)
		d.payload = nil
	}
	d.prev, d.next = nil, r.free
	r.free = d
}

// Expire gives up what was not complete in time.
func (r *Reassembler) Expire(now time.Time) {
	for r.oldest != nil && now.Sub(r.oldest.began) >= r.limits.Timeout {
		if !r.oldest.spoilt {
			r.drops[FragmentLate]++
		}
		r.remove(r.oldest)
	}
}
