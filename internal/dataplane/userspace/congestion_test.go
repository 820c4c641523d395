package userspace

import (
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// congested are two planes that send to each other at a constant rate, 100
// packets of 1,000 octets in a second, and require reports for a limit of 10 %.
type congested struct {
	*fitPlanes
	start time.Time
	lose  [2]func(n int) bool // of what a plane sends, by number
	sent  [2]int
}

func newCongested(t testing.TB) *congested {
	f := newFitPlanes(t, 1500, func(sa *ipsec.SA) {
		sa.Aggfrag = ipsec.AggfragSA{
			On: true, Reports: true, Pace: ipsec.Pace{Rate: 800, Size: 1000, LossLimit: 10, LossTime: 8 * time.Second},
		}
		if sa.Direction == ipsec.Out {
			sa.Aggfrag.Back = map[ipsec.SPI]ipsec.SPI{1001: 1000, 1000: 1001}[sa.SPI]
		}
	})
	none := func(int) bool { return false }
	return &congested{fitPlanes: f, start: f.now, lose: [2]func(int) bool{none, none}}
}

// run lets time pass, and returns how many packets of datagrams came out at plane 1.
func (c *congested) run(d time.Duration) (arrived int) {
	c.t.Helper()
	for end := c.now.Add(d); c.now.Before(end); c.now = c.now.Add(50 * time.Millisecond) {
		for side := range 2 {
			c.plane[side].tick()
			c.plane[side].pacer.pace(c.now.Sub(c.plane[side].born))
			wire := drain(c.t, c.plane[side].opts.Devices.UDP4[0].(*netio.Mem), c.wires[side])
			var kept []netio.Packet
			for i := range wire {
				c.sent[side]++
				if !c.lose[side](c.sent[side]) {
					wire[i].Local, wire[i].Remote = outer[1-side], outer[side]
					kept = append(kept, wire[i])
				}
			}
			c.plane[1-side].in[0].carry(kept)
			if side == 0 {
				arrived += len(drain(c.t, c.plane[1].opts.Devices.Inner[0].(*netio.Mem), c.inner[1]))
			}
		}
	}
	return arrived
}

func (c *congested) tripped(side int) bool {
	for _, sa := range c.plane[side].SAs() {
		if sa.Tripped {
			return true
		}
	}
	return false
}

// TestCircuitBreaker: while the peer reports that more than the limit is lost, for as
// long as the time says, the tunnel goes on; then nothing is sent any more (RFC 9347,
// Section 2.4.2.1), and the next SA begins anew.
func TestCircuitBreaker(t *testing.T) {
	c := newCongested(t)
	c.run(10 * time.Second)
	c.send(plain(testPacket(500)))
	if n := c.run(time.Second); n != 1 || c.tripped(0) || c.tripped(1) {
		t.Fatalf("%d packets arrived without loss, want 1; tripped: %v, %v", n, c.tripped(0), c.tripped(1))
	}
	c.lose[0] = func(n int) bool { return n%20 == 0 } // 5 %
	c.run(15 * time.Second)
	if c.tripped(0) || c.tripped(1) {
		t.Fatal("tripped below the limit")
	}
	c.lose[0] = func(n int) bool { return n%4 == 0 }
	c.run(6 * time.Second)
	if c.tripped(0) {
		t.Fatal("tripped before the time")
	}
	c.run(6 * time.Second)
	if !c.tripped(0) || c.tripped(1) {
		t.Fatalf("after 12 s above the limit, tripped: %v, %v", c.tripped(0), c.tripped(1))
	}
	before := c.sent[0]
	c.send(plain(testPacket(500)), plain(testPacket(600)))
	if n := c.run(time.Second); n != 0 || c.sent[0] != before {
		t.Errorf("%d packets arrived, %d payloads were sent of an SA that is switched off", n, c.sent[0]-before)
	}
	c.plane[0].pacer.tally.publish()
	if c.count(0, "aggfrag-breaker-trips") != 1 || c.count(0, "aggfrag-breaker-open") != 2 {
		t.Errorf("counters: %v", c.plane[0].Counters())
	}
	newer := testSA(ipsec.Out, 5000, 0, true)
	newer.Aggfrag = ipsec.AggfragSA{On: true, Reports: true, Pace: ipsec.Pace{Rate: 800, LossLimit: 10, LossTime: 8 * time.Second}, Back: 1000}
	if err := c.plane[0].AddSA(newer); err != nil {
		t.Fatal(err)
	}
	c.lose[0] = func(int) bool { return true }
	c.run(time.Second)
	if c.sent[0] == before {
		t.Error("the next SA sends nothing")
	}
}

// TestSilenceTripsTheBreaker: reports that do not come are no good news.
func TestSilenceTripsTheBreaker(t *testing.T) {
	c := newCongested(t)
	c.run(5 * time.Second)
	c.lose[1] = func(int) bool { return true }
	c.run(6 * time.Second)
	if c.tripped(0) {
		t.Fatal("tripped before the time")
	}
	c.run(6 * time.Second)
	if !c.tripped(0) {
		t.Error("12 s without a report, and not tripped")
	}
}

// TestReportsDoNotAllocate: neither to send them nor to take them in.
func TestReportsDoNotAllocate(t *testing.T) {
	c := newCongested(t)
	c.run(2 * time.Second)
	wire, now := netio.NewBatch(64, 4000), 2*time.Second
	round := func() {
		now += 10 * time.Millisecond
		c.plane[0].pacer.pace(now)
		n, err := c.wires[0].ReadBatch(wire)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			wire[i].Local, wire[i].Remote = outer[1], outer[0]
		}
		c.plane[1].in[0].carry(wire[:n])
	}
	for range 300 {
		round()
	}
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
