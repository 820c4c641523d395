package userspace

import (
	"math/bits"
	"sync/atomic"

	"caponier/internal/drop"
	"caponier/internal/ipsec"
)

// counter indexes the totals of a lane. From espDrops on stand the reasons of
// package drop for ESP, from ahDrops on those for AH.
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
	aggfragOut    // payloads of AGGFRAG mode that left
	aggfragIn     // and that came
	aggfragSpread // packets that were spread over several
	aggfragIdle   // payloads of a constant rate that held nothing
	aggfragTrips  // SAs of a constant rate that were switched off

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
	dropObscure
	dropErrors
	pathUnverified
	dropAggfragMalformed
	dropAggfragLost
	dropAggfragLimit
	dropAggfragQueue
	dropAggfragTripped

	eventsLost
	readErrors
	panics

	espDrops
	ahDrops  = espDrops + drop.Count
	counters = ahDrops + drop.Count
)

var counterNames = [espDrops]string{
	outPackets:           "out-packets",
	outOctets:            "out-octets",
	inPackets:            "in-packets",
	inOctets:             "in-octets",
	bypassPackets:        "bypass-packets",
	keepalives:           "nat-keepalives",
	ikeMessages:          "ike-messages",
	ecnUnused:            "ecn-unused",
	innerFragmented:      "inner-fragmented",
	outFragmented:        "outer-fragmented",
	mssClamped:           "mss-clamped",
	errorsSent:           "too-big-errors-sent",
	pathLearned:          "path-mtu-learned",
	aggfragOut:           "aggfrag-payloads-sent",
	aggfragIn:            "aggfrag-payloads-received",
	aggfragSpread:        "aggfrag-spread",
	aggfragIdle:          "aggfrag-payloads-idle",
	aggfragTrips:         "aggfrag-breaker-trips",
	dropMalformed:        "malformed",
	dropTruncated:        "truncated",
	dropNoPolicy:         "no-policy",
	dropDiscard:          "policy-discard",
	dropNoSA:             "no-sa",
	dropHoldOverflow:     "hold-overflow",
	dropHoldTimeout:      "hold-timeout",
	dropReservedSPI:      "reserved-spi",
	dropIKEOverflow:      "ike-overflow",
	dropSend:             "send-failed",
	dropDeliver:          "deliver-failed",
	dropBypass:           "bypass-failed",
	dropFragment:         "fragment-lost",
	dropECN:              "ecn-lost",
	dropTooBig:           "too-big",
	dropObscure:          "ports-unknown",
	dropErrors:           "too-big-errors-limited",
	pathUnverified:       "path-mtu-unverified",
	dropAggfragMalformed: "aggfrag-malformed",
	dropAggfragLost:      "aggfrag-piece-lost",
	dropAggfragLimit:     "aggfrag-piece-limit",
	dropAggfragQueue:     "aggfrag-queue-full",
	dropAggfragTripped:   "aggfrag-breaker-open",
	eventsLost:           "events-lost",
	readErrors:           "read-errors",
	panics:               "worker-panics",
}

// espDrop is the counter of an error of package esp or sad.
func espDrop(err error) counter { return dropOf(ipsec.ESP, err) }

// dropOf is the counter of an error of package esp, ah or sad.
func dropOf(p ipsec.Protocol, err error) counter {
	reason, _ := err.(drop.Reason) //nolint:errorlint // reasons are values, never wrapped
	if p == ipsec.AH {
		return ahDrops + counter(reason)
	}
	return espDrops + counter(reason)
}

// tally counts for one goroutine, without atomics until publish.
type tally struct {
	own    [counters]uint64
	dirty  [(counters + 63) / 64]uint64 // a bit for each of own that is not published
	public [counters]atomic.Uint64
}

func (t *tally) add(c counter, n uint64) {
	t.own[c] += n
	t.dirty[c/64] |= 1 << (c % 64)
}

func (t *tally) publish() {
	for w := range t.dirty {
		for t.dirty[w] != 0 {
			i := w*64 + bits.TrailingZeros64(t.dirty[w])
			t.dirty[w] &= t.dirty[w] - 1
			t.public[i].Store(t.own[i])
		}
	}
}

// addTo adds the published totals to sums by name.
func (t *tally) addTo(sums map[string]uint64) {
	for i := range t.public {
		name := ""
		switch c := counter(i); {
		case c < espDrops:
			name = counterNames[c]
		case c < ahDrops:
			name = drop.Reason(c - espDrops).Name(ipsec.ESP)
		default:
			name = drop.Reason(c - ahDrops).Name(ipsec.AH)
		}
		if name != "" {
			sums[name] += t.public[i].Load()
		}
	}
}
