package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
)

// counted is a number that others read.
type counted struct{ atomic.Uint64 }

// notifyBuffer is the size of the queue of notifications in octets: some ten
// thousand of them.
const notifyBuffer = 8 << 20

var groups = []uint32{
	xfrm.GroupAcquire, xfrm.GroupExpire, xfrm.GroupSA, xfrm.GroupPolicy, xfrm.GroupMigrate, xfrm.GroupMapping,
}

// subscribe opens the connection on which the kernel speaks by itself.
func subscribe() (*socket, error) {
	sock, err := newSocket()
	if err != nil {
		return nil, fmt.Errorf("connect to the kernel's IPsec: %w", needsAdmin(err))
	}
	for _, g := range groups {
		if err := sock.nl.JoinGroup(g); err != nil {
			sock.nl.Close()
			return nil, fmt.Errorf("listen to the kernel's IPsec: %w", needsAdmin(err))
		}
	}
	// A smaller queue overruns earlier, which is noticed.
	_ = sock.nl.SetReadBuffer(notifyBuffer)
	return sock, nil
}

// listen takes what the kernel says until Close.
func (p *Plane) listen() {
	for {
		err := p.notify.receive(func(m netlink.Message) {
			select {
			case <-p.stop:
			default:
				p.notice(m)
			}
		})
		select {
		case <-p.stop:
			return
		default:
		}
		switch {
		case err == nil:
		case errors.Is(err, unix.ENOBUFS):
			// The kernel had more to say than the queue holds, and something is lost.
			if p.overruns.Add(1) == 1 {
				p.log.Warn("the kernel's notifications overran; the state is read again")
			}
			p.resync()
		default:
			p.unreadable("notification", 1)
			select {
			case <-p.stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

// unreadable counts messages that cannot be parsed, and says so once.
func (p *Plane) unreadable(what string, n int) {
	if n > 0 && p.unread.Add(uint64(n)) == uint64(n) {
		p.log.Warn("messages of the kernel that this version cannot read; from now on they are only counted", "first", what)
	}
}

// notice acts on one notification.
func (p *Plane) notice(m netlink.Message) {
	var err error
	switch uint16(m.Header.Type) {
	case xfrm.MsgAcquire:
		var a xfrm.Acquire
		if a, err = xfrm.ParseAcquire(m.Data); err == nil {
			p.acquire(&a)
		}
	case xfrm.MsgExpire:
		var e xfrm.Expire
		if e, err = xfrm.ParseExpire(m.Data); err == nil {
			p.expire(&e)
		}
	case xfrm.MsgMapping:
		var x xfrm.Mapping
		if x, err = xfrm.ParseMapping(m.Data); err == nil {
			p.mapping(&x)
		}
	case xfrm.MsgPolExpire:
		var x xfrm.PolicyExpire
		if x, err = xfrm.ParsePolicyExpire(m.Data); err == nil && isOwn(x.Policy.Index) {
			p.heal("expired")
		}
	case xfrm.MsgMigrate:
		if _, err = xfrm.ParseMigrate(m.Data); err == nil && m.Header.PID != p.req.id() {
			p.resync()
		}
	case xfrm.MsgDelSA:
		var s xfrm.State
		if s, err = xfrm.ParseDeletedState(m.Data); err == nil && m.Header.PID != p.req.id() {
			p.lost(s.ID)
		}
		s.Wipe()
	case xfrm.MsgFlushSA:
		if m.Header.PID != p.req.id() {
			p.resync()
		}
	case xfrm.MsgDelPolicy:
		var id xfrm.PolicyID
		if id, err = xfrm.ParsePolicyID(m.Data); err == nil && isOwn(id.Index) && m.Header.PID != p.req.id() {
			p.heal("deleted")
		}
	case xfrm.MsgFlushPol:
		if m.Header.PID != p.req.id() {
			p.heal("flushed")
		}
	}
	if err != nil {
		p.unreadable(fmt.Sprintf("message of type %#x", uint16(m.Header.Type)), 1)
	}
}

// larval is the state that stands for a packet's wish for an SA.
type larval struct {
	id    xfrm.StateID
	src   netip.Addr
	seq   uint32
	reqID uint32
	mode  uint8
	asked time.Time
}

func larvalOf(s *xfrm.State) larval {
	return larval{id: s.ID, src: s.Src, seq: s.Seq, reqID: s.ReqID, mode: s.Mode}
}

// acquire raises the tunnel of a policy that a packet met. The kernel asks once
// for each reqid, until the larval state is removed or 30 seconds old, whatever
// became of the wish: see endWaits.
func (p *Plane) acquire(a *xfrm.Acquire) {
	if !isOwn(a.Policy.Index) {
		return
	}
	p.mu.Lock()
	policy, ok := p.byIndex(&a.Policy)
	carried := ok && p.carries(policy, &a.Selector)
	if ok && len(a.Policy.Templates) > 0 {
		t := a.Policy.Templates[0]
		p.waiting[policy.ReqID] = larval{id: a.ID, src: a.Src, seq: a.Seq, reqID: t.ReqID, mode: t.Mode, asked: time.Now()}
	}
	if carried {
		p.endWait(policy.ReqID)
	}
	p.mu.Unlock()
	if ok && !carried {
		p.events.Push(acquireEvent(policy, &a.Selector))
	}
}

// carries reports whether there are SAs for a packet of the policy: the packet
// came while one was moved, or just before it was added.
func (p *Plane) carries(policy *ipsec.Policy, packet *xfrm.Selector) bool {
	inside := func(sa *ipsec.SA) bool {
		return slices.ContainsFunc(pairsOf(sa.LocalTS, sa.RemoteTS), func(x pair) bool {
			sels, err := x.selectors()
			return err == nil && slices.ContainsFunc(sels, func(s xfrm.Selector) bool { return covers(&s, packet) })
		})
	}
	serving := p.serving(policy.ReqID)
	has := func(protocol ipsec.Protocol) bool {
		return slices.ContainsFunc(serving, func(sa *ipsec.SA) bool { return sa.Protocol == protocol && inside(sa) })
	}
	return has(policy.Protocol) && (!policy.WithAH || has(ipsec.AH))
}

// covers reports whether every packet of b is one of a.
func covers(a, b *xfrm.Selector) bool {
	within := func(p, q netip.Prefix) bool { return p.Bits() <= q.Bits() && p.Contains(q.Addr()) }
	return within(a.Src, b.Src) && within(a.Dst, b.Dst) && (a.Protocol == 0 || a.Protocol == b.Protocol) &&
		(a.SrcPort^b.SrcPort)&a.SrcMask == 0 && (a.DstPort^b.DstPort)&a.DstMask == 0
}

// byIndex finds the policy of the SPD behind one of the kernel.
func (p *Plane) byIndex(x *xfrm.Policy) (*ipsec.Policy, bool) {
	have := p.installed[slotOf(x)]
	best := p.book.best(slotOf(x))
	if have == nil || best == nil || best.policy >= len(p.policies) || have.Index != x.Index {
		return nil, false
	}
	policy := p.policies[best.policy]
	return &policy, policy.Action == ipsec.Protect
}

func acquireEvent(p *ipsec.Policy, s *xfrm.Selector) ipsec.Acquire {
	return ipsec.Acquire{
		Policy: p.Name, Connection: p.Connection, Tunnel: p.Tunnel, ReqID: p.ReqID,
		Flow: ipsec.Flow{
			Src: s.Src.Addr(), Dst: s.Dst.Addr(), Protocol: s.Protocol, SrcPort: s.SrcPort, DstPort: s.DstPort,
		},
	}
}

// endWait lets the next packet that finds no SA ask again. Packets that the
// kernel holds leave by themselves.
func (p *Plane) endWait(reqID uint32) {
	l, ok := p.waiting[reqID]
	if !ok {
		return
	}
	delete(p.waiting, reqID)
	if err := p.req.removeLarval(l); err != nil {
		p.log.Debug("larval state not removed; it goes by itself", "reqid", reqID, "error", err)
	}
}

// endWaits ends what has waited for an SA for as long as AcquireTimeout: a packet
// that the peer did not take would keep the others of its reqid from asking.
func (p *Plane) endWaits() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for reqID, l := range p.waiting {
		if !p.closed && time.Since(l.asked) >= p.opts.AcquireTimeout {
			p.endWait(reqID)
		}
	}
}

// expire passes on a limit. After the hard one the kernel has removed the state.
func (p *Plane) expire(x *xfrm.Expire) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byState[x.State.ID]
	if e == nil || e.seq != x.State.Seq {
		return // larval, somebody else's, or its predecessor
	}
	if !x.Hard {
		e.soft = true
		p.events.Push(ipsec.Expire{ID: e.sa.ID(), Connection: e.sa.Connection, Tunnel: e.sa.Tunnel})
		return
	}
	p.totals.retire(e.sa.Direction, &x.State)
	p.gone(e)
}

// gone says that the kernel has an SA no more.
func (p *Plane) gone(e *entry) {
	id := e.sa.ID()
	if err := p.forget(e); err != nil {
		p.log.Warn("policies not changed after an SA ended", "spi", id.SPI, "error", err)
	}
	p.events.Push(ipsec.Expire{ID: id, Connection: e.sa.Connection, Tunnel: e.sa.Tunnel, Hard: true})
}

// lost says that somebody else has removed an SA: for IKE it has expired.
func (p *Plane) lost(id xfrm.StateID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byState[id]
	if e == nil {
		return
	}
	if s, err := p.req.state(id); err == nil { // the deletion of one before it
		s.Wipe()
		return
	}
	p.log.Warn("somebody else has removed an SA from the kernel", "spi", e.sa.SPI, "connection", e.sa.Connection, "tunnel", e.sa.Tunnel)
	p.gone(e)
}

// mapping passes on that the peer's packets come from elsewhere, once for each
// place.
func (p *Plane) mapping(x *xfrm.Mapping) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, e := range p.byState {
		if id.Dst == x.ID.Dst && id.SPI == x.ID.SPI && id.Proto == x.ID.Proto && e.sa.Direction == ipsec.In && e.sa.Remote != x.New && e.moved != x.New {
			e.moved = x.New
			p.events.Push(ipsec.AddressChanged{ID: e.sa.ID(), Connection: e.sa.Connection, Tunnel: e.sa.Tunnel, Remote: x.New})
		}
	}
}
