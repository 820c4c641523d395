package aggfrag

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestRateIsConstant: what leaves in a time depends on the rate and the length alone,
// however irregularly it is asked for.
func TestRateIsConstant(t *testing.T) {
	const octets = 1000
	for _, rate := range []uint64{80_000, 8_000_000, 800_000_000} {
		interval := time.Duration(octets * 8 * uint64(time.Second) / rate)
		for seed := range uint64(10) {
			r := rand.New(rand.NewPCG(seed, 1))
			p := NewPace(rate)
			now, sent := 5*time.Second, 0
			begin := now
			for now < begin+2*time.Second {
				n, wait := p.Due(now, octets)
				if sent += n; wait <= 0 || wait > interval {
					t.Fatalf("wait for %v, and the interval is %v", wait, interval)
				}
				if want := int((now-begin)/interval) + 1; sent != want {
					t.Fatalf("%d payloads after %v at %d bit/s, want %d", sent, now-begin, rate, want)
				}
				now += time.Duration(r.Int64N(int64(behind)))
			}
		}
	}
}

// TestNoBurstMakesUp: after a pause, no more leaves than in the longest that is not
// too late.
func TestNoBurstMakesUp(t *testing.T) {
	p := NewPace(8_000_000) // 1,000 octets in a millisecond
	p.Due(0, 1000)
	if n, _ := p.Due(time.Minute, 1000); n != 11 {
		t.Errorf("%d payloads after a minute, want those of 10 ms", n)
	}
	if n, wait := p.Due(time.Minute, 1000); n != 0 || wait != time.Millisecond {
		t.Errorf("then %d and %v, want the next in a millisecond", n, wait)
	}
}

// TestPayloadsAreOfOneLength: with much to carry, little and nothing, and what is
// carried comes out as it was, here and where the format was read otherwise.
func TestPayloadsAreOfOneLength(t *testing.T) {
	for _, spread := range []bool{true, false} {
		r := rand.New(rand.NewPCG(3, 4))
		p := NewPace(1_000_000)
		var rx Receiver
		var sent, got, payloads [][]byte
		dst := make([]byte, 1000)
		seq, lost := uint64(0), 0
		for range 3000 {
			for range r.IntN(3) * r.IntN(3) {
				b := datagram(4+2*r.IntN(2), 40+r.IntN([]int{60, 1500, 5000}[r.IntN(3)]), len(sent))
				if p.Put(b) && (spread || len(b) <= len(dst)-HeaderLen) {
					sent = append(sent, b)
				}
			}
			for range 1 + r.IntN(4) {
				payload, _, octets, gone := p.Fill(dst, spread, nil)
				lost += gone
				if len(payload) != len(dst) || octets > len(dst)-HeaderLen {
					t.Fatalf("a payload of %d octets holds %d", len(payload), octets)
				}
				seq++
				got = append(got, unpack(&rx, seq, payload)...)
				if len(payloads) < 300 {
					payloads = append(payloads, bytes.Clone(payload))
				}
			}
		}
		for len(got) < len(sent) && seq < 1_000_000 {
			payload, _, _, _ := p.Fill(dst, spread, nil)
			seq++
			got = append(got, unpack(&rx, seq, payload)...)
		}
		if !slices.EqualFunc(got, sent, bytes.Equal) {
			t.Errorf("spread %v: %d packets came, want %d as they were", spread, len(got), len(sent))
		}
		if spread != (lost == 0) {
			t.Errorf("spread %v: %d packets were too long", spread, lost)
		}
		if drops, any := rx.Drops(); any {
			t.Errorf("spread %v: dropped %v", spread, drops)
		}
		for p.start < len(p.queue) || p.rest > 0 { // so that no packet is cut off
			p.Fill(dst, spread, nil)
		}
		if !spread {
			if out := python(t, payloads, "decode"); len(out) == 0 || !subsequence(out, sent) {
				t.Errorf("another decoder finds %d packets", len(out))
			}
		}
	}
}

func TestQueueHasBounds(t *testing.T) {
	for rate, limit := range map[uint64]int{1000: queueLeast, 100_000_000: 1_250_000, 100_000_000_000: queueMost} {
		p := NewPace(rate)
		n := 0
		for p.Put(datagram(4, 1000, n)) {
			n++
		}
		if want := limit / 1002; n != want || cap(p.queue) > 2*limit {
			t.Errorf("at %d bit/s %d packets of 1,000 octets wait in %d, want %d", rate, n, cap(p.queue), want)
		}
		if p.Put(nil) || p.Put(make([]byte, 70_000)) {
			t.Error("what is no packet waits")
		}
	}
}

func TestPaceDoesNotAllocate(t *testing.T) {
	p, b, dst := NewPace(1_000_000), datagram(4, 700, 1), make([]byte, 1000)
	now := time.Duration(0)
	round := func() {
		for range 9 {
			p.Put(b)
		}
		for range 10 {
			p.Due(now, 1000)
			p.Fill(dst, true, nil)
			now += time.Millisecond
		}
	}
	for range 100 {
		round()
	}
	if n := testing.AllocsPerRun(1000, round); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
