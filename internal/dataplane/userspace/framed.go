package userspace

import (
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/netio/frame"
)

// framed is the lane of one socket that captures frames: it takes what comes both
// ways, since one interface may have both sides. It belongs to one goroutine.
type framed struct {
	reader       *frame.Reader
	out          *outbound
	udp, esp, ah *inbound
}

// framedLanes makes the lanes of all sockets. The first of their workers is that of
// the number first.
func (p *Plane) framedLanes(first int) {
	d := &p.opts.Devices
	if d.Frames == nil {
		return
	}
	for i, r := range d.Frames.Readers() {
		worker := i % len(d.Inner)
		x := d.exits(worker)
		for e, kind := range map[exit]frame.WriterKind{
			exitUDP4: frame.SealedUDP, exitUDP6: frame.SealedUDP, exitESP4: frame.SealedESP, exitESP6: frame.SealedESP,
		} {
			if x[e] != nil {
				x[e] = d.Frames.Writer(kind, i, x[e])
			}
		}
		inside := d.Frames.Writer(frame.Deliver, i, d.Inner[worker])
		p.framed = append(p.framed, &framed{
			reader: r,
			out:    newOutbound(p, p.sad.Worker(first+i), x),
			udp:    newInbound(p, ipsec.ESP, true, inside),
			esp:    newInbound(p, ipsec.ESP, false, inside),
			ah:     newInbound(p, ipsec.AH, false, inside),
		})
	}
}

// sockets returns how many lanes of frames there are.
func (d *Devices) sockets() int {
	if d.Frames == nil {
		return 0
	}
	return len(d.Frames.Readers())
}

// loop works until the capture has ended.
func (l *framed) loop() error {
	for {
		b, err := l.reader.Read()
		if err != nil {
			return err
		}
		if len(b.Inner) > 0 {
			l.out.carry(b.Inner)
		}
		inbound := func(in *inbound, pkts []netio.Packet) {
			for len(pkts) > 0 {
				n := min(len(pkts), netio.MaxRead)
				in.carry(pkts[:n])
				pkts = pkts[n:]
			}
		}
		inbound(l.udp, b.UDP)
		inbound(l.esp, b.ESP)
		inbound(l.ah, b.AH)
	}
}

func (l *framed) addTo(sums map[string]uint64) {
	l.out.tally.addTo(sums)
	for _, in := range []*inbound{l.udp, l.esp, l.ah} {
		in.tally.addTo(sums)
	}
}
