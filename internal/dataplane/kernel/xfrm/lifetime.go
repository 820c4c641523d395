package xfrm

import (
	"math"
	"time"
)

// NoLimit is XFRM_INF.
const NoLimit uint64 = math.MaxUint64

// Limits is struct xfrm_lifetime_cfg. Octets and packets without a limit are
// NoLimit, seconds without one are 0.
type Limits struct {
	SoftBytes, HardBytes     uint64
	SoftPackets, HardPackets uint64
	SoftAdded, HardAdded     uint64 // seconds since it was added
	SoftUsed, HardUsed       uint64 // seconds since it was first used
}

// Unlimited are Limits that never end anything.
var Unlimited = Limits{SoftBytes: NoLimit, HardBytes: NoLimit, SoftPackets: NoLimit, HardPackets: NoLimit}

func (l *Limits) put(b []byte) {
	for i, v := range []uint64{
		l.SoftBytes, l.HardBytes, l.SoftPackets, l.HardPackets,
		l.SoftAdded, l.HardAdded, l.SoftUsed, l.HardUsed,
	} {
		native.PutUint64(b[8*i:], v)
	}
}

func parseLimits(b []byte) (l Limits) {
	for i, v := range []*uint64{
		&l.SoftBytes, &l.HardBytes, &l.SoftPackets, &l.HardPackets,
		&l.SoftAdded, &l.HardAdded, &l.SoftUsed, &l.HardUsed,
	} {
		*v = native.Uint64(b[8*i:])
	}
	return l
}

// Usage is struct xfrm_lifetime_cur: what passed so far, and when it was added
// and first used, in seconds since 1970.
type Usage struct {
	Bytes, Packets uint64
	Added, Used    uint64
}

const usageLen = 32

func (u *Usage) put(b []byte) {
	for i, v := range []uint64{u.Bytes, u.Packets, u.Added, u.Used} {
		native.PutUint64(b[8*i:], v)
	}
}

func parseUsage(b []byte) (u Usage) {
	for i, v := range []*uint64{&u.Bytes, &u.Packets, &u.Added, &u.Used} {
		*v = native.Uint64(b[8*i:])
	}
	return u
}

// Time turns the kernel's seconds into a time; zero stays the zero Time.
func Time(seconds uint64) time.Time {
	if seconds == 0 || seconds > math.MaxInt64 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}
