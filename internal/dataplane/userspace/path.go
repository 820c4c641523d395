package userspace

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/sad"
)

// routeAge is how long the MTU of a route is taken for what it was, and
// routesPerTick how many routes are looked up again in one Tick.
const (
	routeAge      = 30 * time.Second
	routesPerTick = 64
)

// routes keeps the MTUs of the routes to peers.
type routes struct {
	ask func(local, remote netip.Addr) int // nil: nothing is known

	mu    sync.Mutex
	known map[[2]netip.Addr]int // guarded by mu
	due   [][2]netip.Addr       // to be looked up again; guarded by mu
	next  time.Time             // when all of them are due; guarded by mu
	now   atomic.Bool           // they are due at once: something did not fit
}

// maxRoutes bounds what is kept.
const maxRoutes = 100_000

// mtu is the MTU of the route, as it was within the last routeAge.
func (r *routes) mtu(pair [2]netip.Addr) int {
	if r.ask == nil {
		return 0
	}
	r.mu.Lock()
	n, ok := r.known[pair]
	r.mu.Unlock()
	if ok {
		return n
	}
	return r.lookUp(pair)
}

func (r *routes) lookUp(pair [2]netip.Addr) int {
	n := r.ask(pair[0], pair[1])
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= maxRoutes {
		r.known = make(map[[2]netip.Addr]int)
	}
	r.known[pair] = n
	return n
}

// take returns the routes that are to be looked up now.
func (r *routes) take(db *sad.DB, now time.Time) [][2]netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now.Swap(false) || !now.Before(r.next) {
		r.next = now.Add(routeAge)
		r.due = db.Routes()
		for pair := range r.known {
			delete(r.known, pair) // those that are in use come back
		}
	}
	n := min(len(r.due), routesPerTick)
	batch := r.due[:n:n]
	r.due = r.due[n:]
	return batch
}

// remeasure looks up routes again, a few at a time.
func (p *Plane) remeasure(now time.Time) {
	if p.routes.ask == nil {
		return
	}
	for _, pair := range p.routes.take(p.sad, now) {
		p.sad.Reroute(pair, p.routes.lookUp(pair))
	}
}

// endpoint is where an SA leads, with the MTU of the route.
func (p *Plane) endpoint(d ipsec.Direction, local, remote netip.AddrPort, encap bool) sad.Endpoint {
	ep := sad.Endpoint{Local: local, Remote: remote, Encap: encap}
	if d == ipsec.Out {
		ep.MTU = p.routes.mtu([2]netip.Addr{local.Addr(), remote.Addr()})
	}
	return ep
}

// listener hears what routers say of packets that were too long.
type listener struct {
	plane   *Plane
	icmp    netio.Device
	version uint8
	pkts    []netio.Packet
	tally   tally
}

func newListener(p *Plane, icmp netio.Device, version uint8) *listener {
	return &listener{plane: p, icmp: icmp, version: version, pkts: netio.NewBatch(16, packet.MinMTU6)}
}

func (l *listener) loop() error {
	for {
		n, err := l.icmp.ReadBatch(l.pkts)
		if err != nil {
			return err
		}
		for i := range l.pkts[:n] {
			l.hear(l.pkts[i].Data())
		}
		l.tally.publish()
	}
}

// hear takes one ICMP message. Others than those about long packets are none of
// the plane's business.
func (l *listener) hear(b []byte) {
	m, ok := packet.ParseTooBig(b, l.version)
	if !ok {
		return
	}
	id, mtu, known, changed := l.plane.sad.TooBig(&m, l.plane.opts.Now())
	udp := m.Protocol == packet.ProtocolUDP && m.SrcPort == l.plane.opts.Devices.UDPPort
	switch {
	case !known && !udp && m.Protocol != packet.ProtocolESP && m.Protocol != packet.ProtocolAH:
		// It is about somebody else's packet.
	case !known:
		l.tally.add(pathUnverified, 1)
	case changed:
		l.tally.add(pathLearned, 1)
		l.plane.log.Info("path MTU learned", "spi", id.SPI.String(), "peer", id.Peer.String(), "mtu", mtu)
	}
}
