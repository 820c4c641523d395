package aggfrag

import (
	"encoding/binary"
	"math"
	"math/bits"
	"time"
)

// Report is congestion information, the header of sub-type 1 (RFC 9347, Section
// 6.1.2): what one end says, in the payloads that it sends, of those that it
// receives. Times are in microseconds there, and cut off at what its fields hold.
type Report struct {
	// Probing is the P flag: payloads may be lost because the path MTU is probed.
	Probing bool
	// Marked is the E flag: congestion marks count as losses in LossEventRate.
	Marked bool
	// LossEventRate is the inverse of the rate of loss events: one in so many
	// payloads. 0 is none.
	LossEventRate uint32
	// RTT is the sender's estimate of the round trip; 0 where it has none.
	RTT time.Duration
	// TVal is to come back as TEcho, with EchoDelay, how long it was kept.
	TVal, TEcho uint32
	EchoDelay   time.Duration
	// TransmitDelay is how long it is from one payload of the sender to the next.
	TransmitDelay time.Duration
}

// The bits of the times of a Report, which fill eight octets.
const (
	rttBits   = 22
	delayBits = 21
)

// put writes the header of sub-type 1 to b.
func (r *Report) put(b []byte, offset int) {
	b[0], b[1] = subtypeCongestion, 0
	if r.Probing {
		b[1] |= 2
	}
	if r.Marked {
		b[1] |= 1
	}
	binary.BigEndian.PutUint16(b[2:], uint16(offset))
	binary.BigEndian.PutUint32(b[4:], r.LossEventRate)
	times := micros(r.RTT, rttBits)<<(2*delayBits) | micros(r.EchoDelay, delayBits)<<delayBits | micros(r.TransmitDelay, delayBits)
	binary.BigEndian.PutUint64(b[8:], times)
	binary.BigEndian.PutUint32(b[16:], r.TVal)
	binary.BigEndian.PutUint32(b[20:], r.TEcho)
}

// parseReport reads the header of sub-type 1, which b is longer than.
func parseReport(b []byte) Report {
	times := binary.BigEndian.Uint64(b[8:])
	field := func(shift, n int) time.Duration {
		return time.Duration(times>>shift&(1<<n-1)) * time.Microsecond
	}
	return Report{
		Probing: b[1]&2 != 0, Marked: b[1]&1 != 0,
		LossEventRate: binary.BigEndian.Uint32(b[4:]),
		RTT:           field(2*delayBits, rttBits), EchoDelay: field(delayBits, delayBits), TransmitDelay: field(0, delayBits),
		TVal: binary.BigEndian.Uint32(b[16:]), TEcho: binary.BigEndian.Uint32(b[20:]),
	}
}

func micros(d time.Duration, n int) uint64 {
	return uint64(min(max(d.Microseconds(), 0), 1<<n-1))
}

// Loss measures the rate of loss events among the payloads of one SA (RFC 5348,
// Section 5). A number is lost when three later ones have come without it, and
// losses within one round trip are one event.
//
// The zero value is ready. It belongs to one goroutine.
type Loss struct {
	next  uint64 // the lowest number that is not settled
	seen  uint64 // bit i: next+i has come
	begun time.Duration
	open  uint64               // payloads since the last event began
	past  [len(weights)]uint64 // and between those before it, the newest first
	n     int                  // of past
}

// weights are those of the average of the intervals between events, in fifths.
var weights = [...]uint64{5, 5, 5, 5, 4, 3, 2, 1}

const (
	// overtaken is by how many later numbers a lost one is known.
	overtaken = 3
	// longestGap is the most numbers that are settled one by one. A longer gap is
	// one event.
	longestGap = 1 << 12
)

// Arrived takes note of the payload of the sequence number seq. now is by any clock
// that does not go back, and rtt what the sender says of the round trip.
func (l *Loss) Arrived(seq uint64, now, rtt time.Duration) {
	switch {
	case l.next == 0:
		l.next = seq
	case seq < l.next:
		return
	case seq-l.next > longestGap:
		l.lost(now, rtt)
		l.next, l.seen = seq, 0
	}
	for seq-l.next > 63 {
		l.settle(now, rtt)
	}
	l.seen |= 1 << (seq - l.next)
	for l.seen&1 != 0 || bits.OnesCount64(l.seen) >= overtaken {
		l.settle(now, rtt)
	}
}

func (l *Loss) settle(now, rtt time.Duration) {
	if l.seen&1 != 0 {
		l.open++
	} else {
		l.lost(now, rtt)
	}
	l.seen >>= 1
	l.next++
}

func (l *Loss) lost(now, rtt time.Duration) {
	if l.n > 0 && now-l.begun < rtt {
		l.open++
		return
	}
	copy(l.past[1:], l.past[:])
	l.past[0] = max(l.open, 1)
	l.n = min(l.n+1, len(l.past))
	l.open, l.begun = 1, now
}

// EventRate is the inverse of the rate of loss events, 0 where there was none
// (RFC 5348, Section 5.4).
func (l *Loss) EventRate() uint32 {
	if l.n == 0 {
		return 0
	}
	// The interval that is not over counts where it is in favour of the sender.
	with := weights[0] * l.open
	var without, withWeights, withoutWeights uint64 = 0, weights[0], 0
	for i := range l.n {
		without += weights[i] * l.past[i]
		withoutWeights += weights[i]
		if i+1 < len(weights) {
			with += weights[i+1] * l.past[i]
			withWeights += weights[i+1]
		}
	}
	return uint32(min(max(with/withWeights, without/withoutWeights, 1), math.MaxUint32))
}

// Breaker is the circuit breaker of a sender that does not give way to congestion
// (RFC 9347, Section 2.4.2.1): it trips when the peer has reported, for a time
// without break, that more is lost than may be, or nothing at all, for then nothing
// arrives, or no report comes back.
type Breaker struct {
	percent uint32
	after   time.Duration

	begun   bool
	good    time.Duration // when it was well last
	tripped bool
}

// NewBreaker makes one for losses above so many percent that last so long.
func NewBreaker(percent uint8, after time.Duration) *Breaker {
	return &Breaker{percent: uint32(percent), after: after}
}

// Look reports whether the breaker has tripped by now. heard is when the last
// report came, of this rate, and negative if none has. Once tripped it stays so.
func (b *Breaker) Look(now, heard time.Duration, rate uint32) (tripped bool) {
	if !b.begun {
		b.begun, b.good = true, now
	}
	if heard >= 0 && (rate == 0 || uint64(rate)*uint64(b.percent) >= 100) {
		b.good = max(b.good, heard)
	}
	if now-b.good > b.after {
		b.tripped = true
	}
	return b.tripped
}
