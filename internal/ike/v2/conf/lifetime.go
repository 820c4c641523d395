package conf

import (
	"time"

	"caponier/internal/ipsec"
)

// Lifetimes. Each side rekeys at a moment of its own, so that both seldom start
// at once (RFC 7296, Section 2.8).
const (
	margin = 10 // percent of the lifetime before its end, at least
	jitter = 10 // percent more, at random

	// leastMargin is what is left of a short lifetime for its rekeying: a request
	// may have to be repeated, and the data plane looks at the clock once a second.
	leastMargin = 2 * time.Second
)

// Soften sets soft limits before the hard ones. random returns a number from 0
// to n-1.
func Soften(hard ipsec.Limit, random func(n int64) int64) ipsec.Lifetime {
	soften := func(n uint64) uint64 { return uint64(soften(int64(min(n, 1<<62)), random)) }
	soft := ipsec.Limit{}
	if hard.Time > 0 {
		soft.Time = SoftenTime(hard.Time, random)
	}
	if hard.Bytes > 0 {
		soft.Bytes = soften(hard.Bytes)
	}
	if hard.Packets > 0 {
		soft.Packets = soften(hard.Packets)
	}
	return ipsec.Lifetime{Soft: soft, Hard: hard}
}

// SoftenTime returns a point before the end of a lifetime, with leastMargin or
// half of it left.
func SoftenTime(life time.Duration, random func(n int64) int64) time.Duration {
	missing := min(leastMargin, life/2) - time.Duration(percent(int64(life), margin))
	return time.Duration(soften(int64(life), random)) - max(missing, 0)
}

// soften returns a point before the end of a lifetime of n: margin percent, and
// a random part of jitter percent more.
func soften(n int64, random func(n int64) int64) int64 {
	return n - percent(n, margin) - random(percent(n, jitter))
}

// percent does not overflow.
func percent(n, p int64) int64 { return n/100*p + n%100*p/100 }
