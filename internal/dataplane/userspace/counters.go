package userspace

import (
	"math/bits"
	"sync/atomic"

	"caponier/internal/esp"
	"caponier/internal/ipsec"
)

// counter indexes the totals of a lane. From espDrops on stand the reasons of
// package esp.
type counter uint8

const (
	outPackets counter = iota // inner packets that left sealed
	outOctets
	inPackets // inner packets delivered
	inOctets
	bypassPackets
	keepalives
	ikeMessages
	ecnUnused
	innerFragmented // packets that were cut before sealing
	outFragmented   // sealed packets that the kernel cuts
	mssClamped
	errorsSent
	pathLearned

	dropMalformed
	dropTruncated
	dropNoPolicy
	dropDiscard
	dropNoSA
	dropHoldOverflow
	dropHoldTimeout
	dropReservedSPI
	dropIKEOverflow
	dropSend
	dropDeliver
	dropBypass
	dropFragment
	dropECN
	dropTooBig
	dropErrors
	pathUnverified

	eventsLost
	readErrors
	panics

	espDrops
	counters = espDrops + esp.Drops
)

var counterNames = [espDrops]string{
	outPackets:       "out-packets",
	outOctets:        "out-octets",
	inPackets:        "in-packets",
	inOctets:         "in-octets",
	bypassPackets:    "bypass-packets",
	keepalives:       "nat-keepalives",
	ikeMessages:      "ike-messages",
	ecnUnused:        "ecn-unused",
	innerFragmented:  "inner-fragmented",
	outFragmented:    "outer-fragmented",
	mssClamped:       "mss-clamped",
	errorsSent:       "too-big-errors-sent",
	pathLearned:      "path-mtu-learned",
	dropMalformed:    "malformed",
	dropTruncated:    "truncated",
	dropNoPolicy:     "no-policy",
	dropDiscard:      "policy-discard",
	dropNoSA:         "no-sa",
	dropHoldOverflow: "hold-overflow",
	dropHoldTimeout:  "hold-timeout",
	dropReservedSPI:  "reserved-spi",
	dropIKEOverflow:  "ike-overflow",
	dropSend:         "send-failed",
	dropDeliver:      "deliver-failed",
	dropBypass:       "bypass-failed",
	dropFragment:     "fragment-lost",
	dropECN:          "ecn-lost",
	dropTooBig:       "too-big",
	dropErrors:       "too-big-errors-limited",
	pathUnverified:   "path-mtu-unverified",
	eventsLost:       "events-lost",
	readErrors:       "read-errors",
	panics:           "worker-panics",
}

// espDrop is the counter of an error of package esp or sad.
func espDrop(err error) counter {
	drop, _ := err.(esp.Drop) //nolint:errorlint // the drops of esp are values, never wrapped
	return espDrops + counter(drop)
}

// tally counts for one goroutine, without atomics until publish.
type tally struct {
	own    [counters]uint64
	dirty  uint64 // bit i: own[i] is not published
	public [counters]atomic.Uint64
}

// A compile-time check that dirty has a bit for every counter.
const _ = uint(64 - counters)

func (t *tally) add(c counter, n uint64) {
	t.own[c] += n
	t.dirty |= 1 << c
}

func (t *tally) publish() {
	for t.dirty != 0 {
		i := bits.TrailingZeros64(t.dirty)
		t.dirty &= t.dirty - 1
		t.public[i].Store(t.own[i])
	}
}

// addTo adds the published totals to sums by name.
func (t *tally) addTo(sums map[string]uint64) {
	for i := range t.public {
		name := ""
		if counter(i) < espDrops {
			name = counterNames[i]
		} else {
			name = esp.Drop(counter(i) - espDrops).Name(ipsec.ESP)
		}
		if name != "" {
			sums[name] += t.public[i].Load()
		}
	}
}
