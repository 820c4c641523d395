package kernel

import (
	"time"

	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
)

// resync reads the kernel's states again after notifications were lost, and
// raises the events that they would have raised.
func (p *Plane) resync() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	seen := make(map[*entry]bool, len(p.sas))
	bad, err := p.req.states(func(s *xfrm.State) {
		if s.ID.SPI == 0 {
			p.reacquire(s)
			return
		}
		e := p.byState[s.ID]
		if e == nil || e.seq != s.Seq {
			return
		}
		seen[e] = true
		if !e.soft && pastSoft(&e.sa.Lifetime.Soft, &s.Usage, time.Since(e.added)) {
			e.soft = true
			p.events.Push(ipsec.Expire{ID: e.sa.ID(), Connection: e.sa.Connection, Tunnel: e.sa.Tunnel})
		}
	})
	p.unreadable("state", bad)
	if err != nil {
		p.log.Error("the kernel's states are not read again", "error", err)
		return
	}
	for _, e := range p.sas {
		if !seen[e] {
			p.gone(e)
		}
	}
	p.healLocked("lost")
}

func pastSoft(l *ipsec.Limit, u *xfrm.Usage, age time.Duration) bool {
	return l.Time != 0 && age >= l.Time || l.Bytes != 0 && u.Bytes >= l.Bytes || l.Packets != 0 && u.Packets >= l.Packets
}

// reacquire raises the acquire of a larval state once more: control takes it
// for one of a tunnel that is coming up already, where it was told before.
func (p *Plane) reacquire(s *xfrm.State) {
	for i := range p.policies {
		policy := &p.policies[i]
		if policy.Action != ipsec.Protect || !policy.Acquire || policy.ReqID != s.ReqID {
			continue
		}
		if _, told := p.waiting[policy.ReqID]; told {
			return
		}
		l := larvalOf(s)
		l.asked = time.Now()
		p.waiting[policy.ReqID] = l
		p.events.Push(acquireEvent(policy, &s.Selector))
		return
	}
}

// heal puts back policies of ours that somebody else has removed: without them,
// traffic would leave in clear.
func (p *Plane) heal(how string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.healLocked(how)
	}
}

func (p *Plane) healLocked(how string) {
	have := make(map[slot]*xfrm.Policy)
	bad, err := p.req.policies(func(x *xfrm.Policy) {
		if isOwn(x.Index) {
			have[slotOf(x)] = x
		}
	})
	p.unreadable("policy", bad)
	if err != nil {
		p.log.Error("the kernel's policies are not read again", "error", err)
		return
	}
	touched := make(map[slot]bool)
	missing := 0
	for s, x := range p.installed {
		touched[s] = true
		if have[s] == nil {
			missing++
			p.marks.release(x.Index)
		}
	}
	for s := range have {
		touched[s] = true
	}
	p.installed = have
	if missing == 0 {
		return
	}
	p.healed.Add(uint64(missing))
	p.log.Warn("policies of the gateway were removed from the kernel by somebody else; they are put back", "how", how, "policies", missing)
	if err := p.apply(p.book, touched); err != nil {
		p.log.Error("policies are not put back", "error", err)
	}
}

// ticker looks after what the kernel does not tell.
func (p *Plane) ticker() {
	t := time.NewTicker(p.opts.Tick)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			p.firstUses()
			p.endWaits()
			p.events.Flush()
		}
	}
}

// maxLooks bounds the requests of a tick.
const maxLooks = 256

// firstUses raises FirstUse for inbound SAs that have carried something: the
// kernel has no notification for it.
func (p *Plane) firstUses() {
	p.mu.Lock()
	defer p.mu.Unlock()
	looks := 0
	for _, e := range p.sas {
		if e.used || p.closed {
			continue
		}
		if looks++; looks > maxLooks {
			return // maps are walked in another order each time
		}
		s, err := p.req.state(e.state)
		if err != nil {
			continue
		}
		if s.Usage.Packets > 0 {
			e.used = true
			p.events.Push(ipsec.FirstUse{ID: e.sa.ID(), Connection: e.sa.Connection, Tunnel: e.sa.Tunnel})
		}
		s.Wipe()
	}
}
