package config

import (
	"strconv"
	"time"
)

// IKE is the section gateway.ike.
type IKE struct {
	// The n-th repetition of a request waits Timeout * Base^n, and never more than
	// Limit; after Tries repetitions the peer is dead.
	Timeout, Limit time.Duration
	Base           float64
	Tries          int
	// How many IKE SAs may be half-open in all, and of one address.
	HalfOpen, HalfOpenPerAddress int
}

var ikeKeys []key[IKE]

func init() {
	ikeKeys = []key[IKE]{
		{
			name: "retransmit-timeout", kind: kindDuration, def: "2s", effect: EffectAtOnce,
			set: func(d *decoder, v *IKE, n *node, _ string) { d.duration(&v.Timeout, n, time.Second) },
			get: func(v *IKE) any { return v.Timeout },
		},
		{
			name: "retransmit-base", kind: "number, 1 to 10", def: "1.8", effect: EffectAtOnce,
			set: func(d *decoder, v *IKE, n *node, _ string) {
				var err error
				if v.Base, err = strconv.ParseFloat(n.Text, 64); err != nil || !(v.Base >= 1 && v.Base <= 10) {
					d.errorf(n, "%q is not a number from 1 to 10, such as 1.8", n.Text)
				}
			}, get: func(v *IKE) any { return v.Base },
		},
		{
			name: "retransmit-limit", kind: kindDuration, def: "30s", effect: EffectAtOnce,
			set: func(d *decoder, v *IKE, n *node, _ string) { d.duration(&v.Limit, n, time.Second) },
			get: func(v *IKE) any { return v.Limit },
		},
		{
			name: "retransmit-tries", kind: "number, 1 to 20", def: "5", effect: EffectAtOnce,
			set: func(d *decoder, v *IKE, n *node, _ string) { number(d, &v.Tries, n, 1, 20) },
			get: func(v *IKE) any { return v.Tries },
		},
		{
			name: "half-open", kind: "number, 16 to 65536", def: "4096", effect: EffectAtOnce,
			set: func(d *decoder, v *IKE, n *node, _ string) { number(d, &v.HalfOpen, n, 16, 65536) },
			get: func(v *IKE) any { return v.HalfOpen },
		},
		{
			name: "half-open-per-address", kind: "number, 1 to 65536", def: "64", effect: EffectAtOnce,
			set: func(d *decoder, v *IKE, n *node, _ string) { number(d, &v.HalfOpenPerAddress, n, 1, 65536) },
			get: func(v *IKE) any { return v.HalfOpenPerAddress },
		},
	}
}
