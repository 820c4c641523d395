package app

import (
	"caponier/internal/capture"
	"caponier/internal/control"
	"caponier/internal/ipsec"
	"caponier/internal/netio/overhear"
)

// overhear has a session of a capture see the ESP and AH that the kernel carries,
// which never come to the gateway. It goes on until stop is called.
func (a *app) overhear(session *capture.Session) (stop func(), err error) {
	l, err := overhear.Listen(natPort)
	if err != nil {
		return nil, control.Errorf(control.CodeRefused, "the kernel carries ESP, and the gateway cannot listen to it: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		to := listening{owner: a.kernel.Owner, listeners: capture.Listeners{session}, at: make(map[ipsec.SAID]sighting)}
		if err := l.Run(to.hear); err != nil {
			a.slog.Warn("a capture shows ESP no more", "error", err)
		}
	}()
	return func() {
		if err := l.Close(); err != nil {
			a.slog.Debug("a capture's socket", "error", err)
		}
		<-ended
	}, nil
}

// listening is what one session has overheard.
type listening struct {
	owner     func(ipsec.SAID) (connection, tunnel string, ok bool)
	listeners capture.Listeners
	at        map[ipsec.SAID]sighting
}

// sighting is the last packet of an SA, and the device where it was.
type sighting struct {
	sequence uint32
	device   int
}

// hear passes on a packet of an SA of ours, once.
func (l *listening) hear(p *overhear.Packet) {
	id := ipsec.SAID{Direction: ipsec.In, Protocol: p.Protocol, SPI: p.SPI}
	local, remote := p.Dst, p.Src
	if p.Outgoing {
		id.Direction, id.Peer = ipsec.Out, p.Dst.Addr()
		local, remote = p.Src, p.Dst
	}
	connection, tunnel, ok := l.owner(id)
	if !ok {
		delete(l.at, id)
		return
	}
	now := sighting{p.Sequence, p.Device}
	last, again := l.at[id]
	if again && last.sequence == now.sequence && last.device != now.device {
		return // the device above, or below, has shown it
	}
	l.at[id] = now
	l.listeners.IPsec(id.Direction, connection, tunnel, &capture.Sealed{
		Local: local, Remote: remote, Protocol: p.Protocol, UDP: p.UDP, Whole: true, Data: p.Data,
	})
}
