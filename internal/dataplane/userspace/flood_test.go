package userspace

import (
	"encoding/binary"
	"fmt"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// BenchmarkFlood opens packets of one SA, alone and with as many others between
// them that are dropped: what a flood costs those who are served. The figure is for
// a packet that is served.
func BenchmarkFlood(b *testing.B) {
	const batch, stock = 64, 1 << 13
	for _, size := range []int{64, 1300} {
		a, z, aInner, bInner := twoPlanes(b, true, 1)
		out, in := a.out[0], reader(z, true)
		feed := netio.NewBatch(batch, 1400)
		for i := range feed {
			feed[i].Len = copy(feed[i].Buf[feed[i].Off:], testPacket(size))
		}
		// Sealed ahead, so that the time is that of opening.
		sealed := netio.NewBatch(stock, size+64)
		for n := 0; n < stock; n += batch {
			if _, err := aInner.WriteBatch(feed); err != nil {
				b.Fatal(err)
			}
			pkts, err := out.reader.Read()
			if err != nil {
				b.Fatal(err)
			}
			out.carry(pkts)
			if pkts, err = in.reader.Read(); err != nil || len(pkts) != batch {
				b.Fatalf("%d packets sealed, %v", len(pkts), err)
			}
			for i := range pkts {
				p := &sealed[n+i]
				p.Len = copy(p.Buf[p.Off:], pkts[i].Data())
				p.Local, p.Remote = pkts[i].Local, pkts[i].Remote
			}
		}
		served := netio.NewBatch(stock, size+64)
		fresh := func() {
			sa := testSA(ipsec.In, 1001, 1, true)
			if err := z.DeleteSA(sa.ID()); err != nil {
				b.Fatal(err)
			}
			if err := z.AddSA(sa); err != nil {
				b.Fatal(err)
			}
			for i := range sealed {
				copy(served[i].Buf, sealed[i].Buf)
				served[i].Off, served[i].Len = sealed[i].Off, sealed[i].Len
				served[i].Local, served[i].Remote = sealed[i].Local, sealed[i].Remote
			}
		}
		for _, x := range []struct {
			flood string
			alter func(b []byte)
		}{
			{"none", nil},
			{"replays", func([]byte) {}},
			{"unknown-spi", func(b []byte) { binary.BigEndian.PutUint32(b, 0xdeadbeef) }},
			{"garbage", func(b []byte) { clear(b[:4]); b[3] = 7 }},
		} {
			b.Run(fmt.Sprintf("size=%d/flood=%s", size, x.flood), func(b *testing.B) {
				sink := netio.NewBatch(2*batch, 1400)
				mixed := make([]netio.Packet, 0, 2*batch)
				strange := netio.NewBatch(batch, size+64)
				b.ReportAllocs()
				for n := 0; n < b.N; n += batch {
					at := n % stock
					b.StopTimer()
					if at == 0 {
						fresh()
					}
					mixed = mixed[:0]
					for i := range batch {
						mixed = append(mixed, served[at+i])
						if x.alter != nil {
							s := &strange[i]
							old := &sealed[max(0, at-batch)+i]
							s.Off, s.Len, s.Local, s.Remote = netio.Headroom, copy(s.Buf[netio.Headroom:], old.Data()), old.Local, old.Remote
							x.alter(s.Data())
							mixed = append(mixed, *s)
						}
					}
					b.StartTimer()
					in.carry(mixed)
					b.StopTimer()
					if k, err := bInner.ReadBatch(sink); err != nil || k < batch {
						b.Fatalf("%d packets came through, %v: %v", k, err, z.Counters())
					}
					b.StartTimer()
				}
			})
		}
	}
}
