package userspace

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// flood is what comes between the packets of an SA, as many as they are, to be
// dropped.
type flood struct {
	name  string
	alter func(b []byte) // makes it of a packet that has been; nil: there is none
}

var floods = []flood{
	{"none", nil},
	{"replays", func([]byte) {}},
	{"unknown-spi", func(b []byte) { binary.BigEndian.PutUint32(b, 1<<31|rand.Uint32()) }},
	{"garbage", func(b []byte) { clear(b[:4]); b[3] = 7 }},
	// An authentic SPI and a sequence number not seen yet have to be opened.
	{"forged", func(b []byte) {
		binary.BigEndian.PutUint32(b[4:], binary.BigEndian.Uint32(b[4:])+100)
		b[len(b)-1] ^= 1
	}},
}

const floodBatch, floodStock = 64, 1 << 13

// flooded is a lane with sealed packets to open.
type flooded struct {
	b      testing.TB
	z      *Plane
	in     *inbound
	bInner *netio.Mem

	sealed, served, strange, sink []netio.Packet
	mixed                         []netio.Packet
}

func newFlooded(b testing.TB, size, workers int) *flooded {
	a, z, aInner, bInner := twoPlanes(b, true, workers)
	out := a.out[0]
	x := &flooded{
		b: b, z: z, in: reader(z, true), bInner: bInner,
		// Sealed ahead, so that the time is that of opening.
		sealed: netio.NewBatch(floodStock, size+64), served: netio.NewBatch(floodStock, size+64),
		strange: netio.NewBatch(floodBatch, size+64), sink: netio.NewBatch(2*floodBatch, 1400),
	}
	feed := netio.NewBatch(floodBatch, 1400)
	for i := range feed {
		feed[i].Len = copy(feed[i].Buf[feed[i].Off:], testPacket(size))
	}
	for n := 0; n < floodStock; n += floodBatch {
		if _, err := aInner.WriteBatch(feed); err != nil {
			b.Fatal(err)
		}
		pkts, err := out.reader.Read()
		if err != nil {
			b.Fatal(err)
		}
		out.carry(pkts)
		if pkts, err = x.in.reader.Read(); err != nil || len(pkts) != floodBatch {
			b.Fatalf("%d packets sealed, %v", len(pkts), err)
		}
		for i := range pkts {
			p := &x.sealed[n+i]
			p.Len = copy(p.Buf[p.Off:], pkts[i].Data())
			p.Local, p.Remote = pkts[i].Local, pkts[i].Remote
		}
	}
	return x
}

// turn opens all packets with a flood between them, and returns the nanoseconds for
// one that is served: the median of the batches, which whatever else the machine does
// leaves alone.
func (x *flooded) turn(f flood) float64 {
	sa := testSA(ipsec.In, 1001, 1, true)
	if err := x.z.DeleteSA(sa.ID()); err != nil {
		x.b.Fatal(err)
	}
	if err := x.z.AddSA(sa); err != nil {
		x.b.Fatal(err)
	}
	for i := range x.sealed {
		p, s := &x.served[i], &x.sealed[i]
		copy(p.Buf, s.Buf)
		p.Off, p.Len, p.Local, p.Remote = s.Off, s.Len, s.Local, s.Remote
	}
	took := make([]float64, 0, floodStock/floodBatch)
	for at := 0; at < floodStock; at += floodBatch {
		x.mixed = x.mixed[:0]
		for i := range floodBatch {
			x.mixed = append(x.mixed, x.served[at+i])
			if f.alter != nil {
				s, old := &x.strange[i], &x.sealed[max(0, at-floodBatch)+i]
				s.Off, s.Len, s.Local, s.Remote = netio.Headroom, copy(s.Buf[netio.Headroom:], old.Data()), old.Local, old.Remote
				f.alter(s.Data())
				x.mixed = append(x.mixed, *s)
			}
		}
		began := time.Now()
		x.in.carry(x.mixed)
		took = append(took, float64(time.Since(began).Nanoseconds()))
		if k, err := x.bInner.ReadBatch(x.sink); err != nil || k != floodBatch {
			x.b.Fatalf("%s: %d packets came through, %v: %v", f.name, k, err, x.z.Counters())
		}
	}
	return middle(took) / floodBatch
}

// BenchmarkFlood opens packets of one SA, alone and with as many others between
// them that are dropped: what a flood costs those who are served. Each turn has
// every flood once, and a figure is the median of the turns: the time for a packet
// that is served, and for a flood its ratio to that without.
func BenchmarkFlood(b *testing.B) {
	for _, size := range []int{64, 1300} {
		for _, workers := range []int{1, 2} {
			b.Run(fmt.Sprintf("size=%d/workers=%d", size, workers), func(b *testing.B) {
				x := newFlooded(b, size, workers)
				ratios := make([][]float64, len(floods))
				var alone []float64
				b.ResetTimer()
				for range b.N {
					took := make([]float64, len(floods))
					for i, f := range floods {
						took[i] = x.turn(f)
					}
					alone = append(alone, took[0])
					for i := range floods {
						ratios[i] = append(ratios[i], took[i]/took[0])
					}
				}
				b.ReportMetric(0, "ns/op") // of all floods together: nothing to read
				b.ReportMetric(middle(alone), "ns/packet")
				for i, f := range floods[1:] {
					b.ReportMetric(middle(ratios[i+1]), "×"+f.name)
				}
			})
		}
	}
}

func middle[T cmp.Ordered](list []T) T {
	slices.Sort(list)
	return list[len(list)/2]
}

// Whatever comes between packets that are served is counted for what it is, and
// they are all served; whether its SPI would be another worker's does not matter.
func TestFloodIsDropped(t *testing.T) {
	want := map[string]string{"replays": "esp-replay", "unknown-spi": "sa-not-found", "garbage": "reserved-spi"}
	for _, workers := range []int{1, 2} {
		x := newFlooded(t, 64, workers)
		for _, f := range floods {
			before := x.z.Counters()
			x.turn(f)
			after := x.z.Counters()
			if reason := want[f.name]; reason != "" && after[reason]-before[reason] != floodStock {
				t.Errorf("%d workers: %d of %d %s are counted", workers, after[reason]-before[reason], floodStock, f.name)
			}
		}
	}
}
