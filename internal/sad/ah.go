package sad

import (
	"net/netip"

	"caponier/internal/ah"
	"caponier/internal/drop"
)

// OpenAH verifies the whole IP packet pkt and takes AH off in place, as
// ah.Inbound.Open does, and counts it. The caller must still ask Admit about the
// inner packet.
func (w *Worker) OpenAH(in *In, pkt []byte) (inner []byte, err error) {
	w.touch(in)
	if in.over() {
		in.now.expired++
		return nil, drop.Lifetime
	}
	inner, seq, err := in.ah.Open(pkt)
	return inner, w.opened(in, inner, seq, err, netip.AddrPort{})
}

// SealAH gives each item the next sequence number of the SA and seals it, as
// ah.Outbound.Seal does. Limits are those of Seal; the octets counted are of
// what AH was put around.
func (w *Worker) SealAH(o *Out, items []ah.SealItem) {
	if len(items) == 0 {
		return
	}
	c, err := w.Claim(o, len(items))
	for i := range items {
		if i < c.left {
			c.seq++
			items[i].Seq, items[i].Err = c.seq, nil
		} else {
			items[i].Err = err
		}
	}
	items = items[:c.left]
	c.sealer.ah.SealBatch(items)
	for i := range items {
		if items[i].Err == nil {
			c.sealed++
			c.bytes += uint64(len(items[i].Packet) - o.overhead(items[i].Packet))
		}
	}
	w.Settle(&c)
}

// overhead is by how much AH made pkt longer.
func (o *Out) overhead(pkt []byte) int {
	return o.layout.ah.Overhead(o.sa.Mode, pkt[0]>>4)
}

// Insert makes room for AH in a packet of transport mode (ah.Outbound.Insert).
func (o *Out) Insert(dst, pkt []byte) (n int, nextHeader uint8, err error) {
	return o.layout.ah.Insert(dst, pkt)
}
