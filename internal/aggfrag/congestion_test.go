package aggfrag

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestReport: congestion information lies where the diagram says (RFC 9347, Section
// 6.1.2), times are cut off at what the fields hold, and packets come as ever.
func TestReport(t *testing.T) {
	const us = time.Microsecond
	long := Report{LossEventRate: 1, RTT: time.Hour, EchoDelay: time.Hour, TransmitDelay: time.Hour}
	tests := []struct {
		report, back Report
	}{
		{Report{}, Report{}},
		{Report{
			Probing: true, LossEventRate: 0x01020304, RTT: 0x2aaaaa * us, EchoDelay: 0x155555 * us, TransmitDelay: 0x0fedcb * us,
			TVal: 0xa1a2a3a4, TEcho: 0xb1b2b3b4,
		}, Report{
			Probing: true, LossEventRate: 0x01020304, RTT: 0x2aaaaa * us, EchoDelay: 0x155555 * us, TransmitDelay: 0x0fedcb * us,
			TVal: 0xa1a2a3a4, TEcho: 0xb1b2b3b4,
		}},
		{Report{Marked: true, RTT: 1500}, Report{Marked: true, RTT: us}},
		{long, Report{LossEventRate: 1, RTT: 0x3fffff * us, EchoDelay: 0x1fffff * us, TransmitDelay: 0x1fffff * us}},
	}
	packet := datagram(4, 60, 1)
	for _, tt := range tests {
		var p Packer
		p.StartReport(make([]byte, 100), 0, &tt.report)
		p.Add(packet, true)
		payload := p.Finish()
		b := tt.back
		want := []string{"1", "0", flag(b.Probing), flag(b.Marked), "0"}
		for _, n := range []uint64{
			uint64(b.LossEventRate), uint64(b.RTT / us), uint64(b.EchoDelay / us), uint64(b.TransmitDelay / us), uint64(b.TVal), uint64(b.TEcho),
		} {
			want = append(want, strconv.FormatUint(n, 10))
		}
		if got := pythonLines(t, [][]byte{payload}, "report"); got[0] != strings.Join(want, ",") {
			t.Errorf("another reader finds %s, want %s", got[0], strings.Join(want, ","))
		}
		var rx Receiver
		out := unpack(&rx, 1, payload)
		if got, some := rx.Report(); !some || got != tt.back {
			t.Errorf("%+v comes as %+v", tt.report, got)
		}
		if diff := cmp.Diff([][]byte{packet}, out); diff != "" {
			t.Errorf("packets differ (-want +got):\n%s", diff)
		}
		if _, some := rx.Report(); some {
			t.Error("the same report comes twice")
		}
		for n := range ReportLen {
			unpack(&rx, uint64(n+2), payload[:n])
			if _, some := rx.Report(); some {
				t.Fatalf("a report of %d octets", n)
			}
		}
	}
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// TestPayloadsWithReports: with reports the payloads of a constant rate hold less, and
// all packets still.
func TestPayloadsWithReports(t *testing.T) {
	for _, spread := range []bool{true, false} {
		pace := NewPace(1_000_000)
		var want, got [][]byte
		for i, n := range []int{176, 177, 60, 20, 100, 1000, 40} {
			b := datagram(4, n, i)
			if pace.Put(b); spread || n <= 200-ReportLen {
				want = append(want, b)
			}
		}
		var rx Receiver
		lost := 0
		for seq := range uint64(20) {
			payload, _, _, n := pace.Fill(make([]byte, 200), spread, &Report{TVal: uint32(seq)})
			lost += n
			got = append(got, unpack(&rx, seq+1, payload)...)
		}
		if diff := cmp.Diff(want, got); diff != "" || lost != 7-len(want) {
			t.Errorf("spread %v: %d lost (-want +got):\n%s", spread, lost, diff)
		}
	}
}

// TestLossEventRate: what RFC 5348, Section 5.1 and Section 5.4 say of losses.
func TestLossEventRate(t *testing.T) {
	all := func(l *Loss, from, n uint64) {
		for seq := from; seq < from+n; seq++ {
			l.Arrived(seq, 0, 0)
		}
	}
	t.Run("none", func(t *testing.T) {
		var l Loss
		all(&l, 7, 1000)
		if n := l.EventRate(); n != 0 {
			t.Errorf("one in %d", n)
		}
	})
	t.Run("order", func(t *testing.T) { // two places late is no loss, three are
		var l Loss
		for _, seq := range []uint64{1, 3, 4, 2, 5, 7, 8, 6, 9} {
			l.Arrived(seq, 0, 0)
		}
		if n := l.EventRate(); n != 0 {
			t.Errorf("one in %d, and nothing was lost", n)
		}
		for _, seq := range []uint64{11, 12, 13, 10} {
			l.Arrived(seq, 0, 0)
		}
		if n := l.EventRate(); n == 0 {
			t.Error("no loss, and one is known")
		}
	})
	t.Run("intervals", func(t *testing.T) { // every tenth
		var l Loss
		for seq := uint64(1); seq < 1000; seq++ {
			if seq%10 != 0 {
				l.Arrived(seq, 0, 0)
			}
		}
		if n := l.EventRate(); n != 10 {
			t.Errorf("one in %d, want 10", n)
		}
		all(&l, 1000, 100_000) // and then none
		if n := l.EventRate(); n < 10_000 {
			t.Errorf("one in %d after 100,000 without loss", n)
		}
	})
	t.Run("one round trip", func(t *testing.T) {
		var l Loss
		now := time.Duration(0)
		for seq := uint64(1); seq < 100_000; seq++ {
			now += time.Millisecond
			if seq%10 != 0 {
				l.Arrived(seq, now, 100*time.Millisecond)
			}
		}
		if n := l.EventRate(); n < 100 || n > 110 {
			t.Errorf("one in %d, want one in each 100 ms", n)
		}
	})
	t.Run("gaps", func(t *testing.T) {
		var l Loss
		all(&l, 1, 100)
		all(&l, 1<<40, 100)
		all(&l, 1<<20, 100) // long past
		all(&l, 1<<40+1000, 3)
		if n := l.EventRate(); n == 0 || n > 100 {
			t.Errorf("one in %d", n)
		}
	})
	t.Run("by chance", func(t *testing.T) {
		for _, percent := range []int{1, 5, 20, 50} {
			r := rand.New(rand.NewPCG(uint64(percent), 1))
			var l Loss
			var sum, n float64
			for seq := uint64(1); seq < 200_000; seq++ {
				if r.IntN(100) >= percent {
					l.Arrived(seq, 0, 0)
				}
				if seq%1000 == 0 {
					sum, n = sum+float64(l.EventRate()), n+1
				}
			}
			// The average is of whole intervals, and counts the open one where it is long.
			if mean, want := sum/n, 100/float64(percent); mean < want*0.9 || mean > want*1.5 {
				t.Errorf("%d%% lost: one in %.1f, want %.1f", percent, mean, want)
			}
		}
	})
}

// TestBreaker: RFC 9347, Section 2.4.2.1.
func TestBreaker(t *testing.T) {
	const second = time.Second
	tests := map[string]struct {
		rate  func(now time.Duration) uint32 // of the report at that time
		every time.Duration                  // 0: no report ever
		want  bool
	}{
		"no loss":       {func(time.Duration) uint32 { return 0 }, second, false},
		"little":        {func(time.Duration) uint32 { return 11 }, second, false},
		"the limit":     {func(time.Duration) uint32 { return 10 }, second, false},
		"more":          {func(time.Duration) uint32 { return 9 }, second, true},
		"all":           {func(time.Duration) uint32 { return 1 }, second, true},
		"more at times": {func(now time.Duration) uint32 { return uint32(2 + 50*(now/(20*second)%2)) }, second, false},
		"no reports":    {nil, 0, true},
		"none any more": {func(now time.Duration) uint32 { return 0 }, 100 * second, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := NewBreaker(10, 30*second)
			heard, rate, tripped := time.Duration(-1), uint32(0), false
			for now := 5 * second; now < 95*second; now += second / 4 {
				if tt.every != 0 && (now-5*second)%tt.every == 0 {
					heard, rate = now, tt.rate(now)
				}
				was := tripped
				tripped = b.Look(now, heard, rate)
				if tripped && !was && now < 35*second {
					t.Fatalf("tripped after %v", now-5*second)
				}
				if was && !tripped {
					t.Fatal("no longer tripped")
				}
			}
			if tripped != tt.want {
				t.Errorf("tripped %v, want %v", tripped, tt.want)
			}
		})
	}
}
