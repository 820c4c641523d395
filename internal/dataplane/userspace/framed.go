package userspace

import (
	"errors"
	"net"

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

// awaits returns what tells the capture of frames which inbound SAs there are; nil
// where nothing is captured.
func (o *Options) awaits() func(ipsec.Protocol, ipsec.SPI, bool) {
	hub, log := o.Devices.Frames, o.Logger
	if hub == nil {
		return nil
	}
	return func(p ipsec.Protocol, spi ipsec.SPI, may bool) {
		sa := frame.SA{Protocol: p, SPI: spi}
		if !may {
			hub.Dismiss(sa)
		} else if err := hub.Admit(sa); err != nil {
			log.Warn("packets of unknown SAs are not dropped early for now", "error", err)
		}
	}
}

// sift has packets of unknown SAs dropped where they arrive, unless somebody
// captures packets, and may want to see them.
func (p *Plane) sift() {
	hub := p.opts.Devices.Frames
	if hub == nil || p.closed.Load() {
		return
	}
	if err := hub.Sift(p.opts.Tap.Listeners() == nil); err != nil && !errors.Is(err, net.ErrClosed) {
		p.log.Warn("cannot change which packets are dropped early", "error", err)
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
		if err := l.once(); err != nil {
			return err
		}
	}
}

// once carries what is read at once.
func (l *framed) once() error {
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
	return nil
}

func (l *framed) addTo(sums map[string]uint64) {
	l.out.tally.addTo(sums)
	for _, in := range []*inbound{l.udp, l.esp, l.ah} {
		in.tally.addTo(sums)
	}
}
