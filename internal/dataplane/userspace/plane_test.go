package userspace

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"caponier/internal/dataplane/dataplanetest"
	"caponier/internal/netio"
)

// memDevices makes devices for a plane with the number of workers, and the
// test's ends of those of the first worker.
func memDevices(workers int) (Devices, *netio.Mem, dataplanetest.Outer) {
	const depth = 1024
	mem := func() (near, far *netio.Mem) { return netio.NewMemPair(depth, 2000) }
	d := Devices{UDPPort: 4500}
	var inner *netio.Mem
	var outer dataplanetest.Outer
	for i := range workers {
		in, inFar := mem()
		u4, u4Far := mem()
		u6, u6Far := mem()
		d.Inner, d.UDP4, d.UDP6 = append(d.Inner, in), append(d.UDP4, u4), append(d.UDP6, u6)
		if i == 0 {
			inner, outer.UDP4, outer.UDP6 = inFar, u4Far, u6Far
		}
	}
	d.ESP4, outer.ESP4 = mem()
	d.ESP6, outer.ESP6 = mem()
	d.Clear4, outer.Whole4 = mem()
	d.Clear6, outer.Whole6 = mem()
	d.AH4, outer.AH4 = mem()
	d.AH6, outer.AH6 = mem()
	return d, inner, outer
}

// setApart takes all devices that are read in one goroutine.
func setApart(t *testing.T, d *Devices) {
	t.Helper()
	all := append(append([]netio.Device{d.ESP4, d.ESP6, d.AH4, d.AH6}, d.Inner...), append(d.UDP4, d.UDP6...)...)
	for _, x := range all {
		if err := x.(*netio.Mem).SetApart(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConformance(t *testing.T) {
	// With two workers, the first's socket gets every packet, as happens where
	// the kernel cannot steer: half of them belong to SAs of the other.
	for _, c := range []struct {
		workers int
		awake   bool
	}{{1, false}, {2, false}, {1, true}, {2, true}} {
		t.Run(fmt.Sprintf("workers=%d,awake=%v", c.workers, c.awake), func(t *testing.T) {
			dataplanetest.Run(t, func(t *testing.T, _ dataplanetest.Place) *dataplanetest.Instance {
				d, inner, outer := memDevices(c.workers)
				if c.awake {
					setApart(t, &d)
				}
				p, err := New(Options{Devices: d, Rand: rand.Reader, Tick: 5 * time.Millisecond, StayAwake: c.awake})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { p.Close() })
				return &dataplanetest.Instance{Backend: p, Inner: inner, Outer: outer}
			})
		})
	}
}
