package aggfrag

import (
	"encoding/binary"
	"time"
)

// Pace makes payloads of one length at a constant rate, whatever there is to carry,
// so that nobody sees from outside how much it is: the mode without congestion
// control (RFC 9347, Section 2.4.1). Packets wait in a queue
// for payloads; a payload for which nothing waits is all padding.
//
// It belongs to one SA and one goroutine at a time.
type Pace struct {
	rate  uint64 // bit/s
	limit int    // octets of the queue

	begun  bool
	next   time.Duration // when the next payload is due
	packer Packer
	// queue holds packets, each behind two octets of length; the first begins at
	// start, and rest octets of it are still to be sent if it was begun.
	queue []byte
	start int
	rest  int
}

// Bounds of the queue: what the rate carries in queueTime, within two lengths.
const (
	queueTime  = 100 * time.Millisecond
	queueLeast = 64 << 10
	queueMost  = 4 << 20
)

// behind is how late a payload may be. What could not be sent by then is left out,
// so that no burst makes up for it.
const behind = 10 * time.Millisecond

// lengthLen is the length of the length before a packet in the queue.
const lengthLen = 2

// NewPace makes one for so many bits in a second.
func NewPace(rate uint64) *Pace {
	octets := rate / 8 / uint64(time.Second/queueTime)
	return &Pace{rate: rate, limit: int(min(max(octets, queueLeast), queueMost))}
}

// Put queues a copy of the packet b. It reports false where the queue is full.
func (p *Pace) Put(b []byte) bool {
	need := lengthLen + len(b)
	if len(b) == 0 || len(b) > maxPacket || len(p.queue)-p.start+need > p.limit {
		return false
	}
	if p.start > 0 && len(p.queue)+need > cap(p.queue) {
		p.queue = p.queue[:copy(p.queue, p.queue[p.start:])]
		p.start = 0
	}
	p.queue = binary.BigEndian.AppendUint16(p.queue, uint16(len(b)))
	p.queue = append(p.queue, b...)
	return true
}

// Interval is how long it is from one payload to the next, of which each makes so
// many octets outside.
func (p *Pace) Interval(octets int) time.Duration {
	return max(time.Duration(uint64(octets)*8*uint64(time.Second)/p.rate), 1)
}

// Due returns how many payloads are to leave now, of which each makes so many
// octets outside, and how long it is until the next. The first is due at once. now
// is by any clock that does not go back.
func (p *Pace) Due(now time.Duration, octets int) (n int, wait time.Duration) {
	interval := p.Interval(octets)
	if !p.begun {
		p.begun, p.next = true, now
	}
	p.next = max(p.next, now-behind)
	if now < p.next {
		return 0, p.next - now
	}
	n = int((now-p.next)/interval) + 1
	p.next += time.Duration(n) * interval
	return n, p.next - now
}

// Drop empties the queue, and returns how many packets were in it.
func (p *Pace) Drop() (packets int) {
	for p.start < len(p.queue) {
		p.start += lengthLen + int(binary.BigEndian.Uint16(p.queue[p.start:]))
		packets++
	}
	p.queue, p.start, p.rest = p.queue[:0], 0, 0
	return packets
}

// Fill makes the next payload in dst, in its full length, and returns how many
// packets end in it, and how many octets of packets it holds. spread is as for
// Packer.Add; lost are packets too long for it. With a report, the payload brings
// it.
func (p *Pace) Fill(dst []byte, spread bool, report *Report) (payload []byte, packets, octets, lost int) {
	if report != nil {
		p.packer.StartReport(dst, p.rest, report)
	} else {
		p.packer.Start(dst, p.rest)
	}
	for p.start < len(p.queue) {
		b := p.queue[p.start+lengthLen:]
		b = b[:binary.BigEndian.Uint16(p.queue[p.start:])]
		whole := p.rest == 0
		if whole && !spread && len(b) > len(dst)-p.packer.head {
			lost++
			p.start += lengthLen + len(b)
			continue
		}
		end := p.start + lengthLen + len(b)
		if whole {
			rest := p.packer.Add(b, spread)
			if len(rest) == len(b) {
				break
			}
			octets += len(b) - len(rest)
			p.rest = len(rest)
		} else {
			b = b[len(b)-p.rest:]
			p.rest = len(p.packer.Continue(b))
			octets += len(b) - p.rest
		}
		if p.rest > 0 {
			break
		}
		p.start = end
	}
	if p.start == len(p.queue) {
		p.queue, p.start = p.queue[:0], 0
	}
	return p.packer.Pad(), p.packer.Packets(), octets, lost
}
