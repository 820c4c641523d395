package ike

import (
	"errors"
	"hash/fnv"
	"net/netip"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/message"
	"caponier/internal/ike/step"
	v1 "caponier/internal/ike/v1"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// Enveloper does what the digital envelope of GM/T 0022 needs private keys and
// certificates for. Like an Authenticator's, its methods may block and are called
// from several goroutines.
type Enveloper interface {
	// Unwrap decrypts the key in a peer's envelope with the encryption key of the
	// connection.
	Unwrap(connection string, ciphertext []byte) (secret.Key, suite.SM2Encoding, error)
	// Envelope does what step.Envelope asks for.
	Envelope(a step.Envelope) (ciphertext, signature []byte, err error)
	// Examine does what step.Examine asks for.
	Examine(a step.Examine) (style suite.SM2Style, form int, err error)
}

var errNoEnveloper = errors.New("this gateway has no keys for GM/T 0022")

// newInitiator makes the machine that speaks the connection's version of IKE.
func (d *Daemon) newInitiator(c *v2.Connection, local, remote netip.AddrPort) (step.Machine, *shard) {
	if c.GM != nil {
		return v1.NewInitiator(d.env, c, local, remote), d.shardOfPeer(remote.Addr())
	}
	m := v2.NewInitiator(&d.env, c, local, remote)
	return m, d.shardFor(m)
}

// shardOfPeer chooses the owner of an IKE SA of version 1: all those of one peer
// have the same, for they hand IPsec SAs over to one another.
func (d *Daemon) shardOfPeer(peer netip.Addr) *shard {
	h := fnv.New64a()
	_, _ = h.Write(peer.Unmap().AsSlice())
	return d.shards[h.Sum64()%uint64(len(d.shards))]
}

// dispatchV1 finds the owner of a message of ISAKMP by the cookie that we chose: the
// header does not say which of the two it is. It returns false where nobody here
// speaks this version.
func (d *Daemon) dispatchV1(h message.Header, ev v2.Received) bool {
	d.mu.Lock()
	s := d.bySPI[h.ResponderSPI]
	if s == nil || s.machine.Initiator() {
		s = d.bySPI[h.InitiatorSPI]
		if s != nil && !s.machine.Initiator() {
			s = nil
		}
	}
	if s == nil && h.ResponderSPI == 0 {
		s = d.halfOpen[initKey{ev.Remote, h.InitiatorSPI}]
	}
	d.mu.Unlock()
	if s != nil {
		if !s.v1() {
			return false
		}
		s.shard.post(s, ev)
		return true
	}
	candidates := d.candidates(ev.Local.Addr(), ev.Remote.Addr(), speaksGM).All()
	switch {
	case len(candidates) == 0:
		return false
	case h.ResponderSPI != 0 || h.InitiatorSPI == 0 || isakmp.ExchangeType(h.Exchange) != isakmp.MainMode:
		d.counters.unknownSPI.Add(1)
	default:
		d.adoptResponder(v1.NewResponder(d.env, candidates, ev.Local, ev.Remote), d.shardOfPeer(ev.Remote.Addr()), h, ev)
	}
	return true
}

// v1 reports whether the IKE SA is of version 1.
func (s *sa) v1() bool {
	_, ok := s.machine.(*v1.Machine)
	return ok
}

// performV1 carries out the actions that only machines of version 1 ask for.
func (sh *shard) performV1(s *sa, a v2.Action) v2.Event {
	d := sh.d
	switch a := a.(type) {
	case step.Unwrap:
		return sh.async(s, func() v2.Event {
			type answer struct {
				key      secret.Key
				encoding suite.SM2Encoding
			}
			x, err := contain(func() (x answer, err error) {
				if d.enveloper == nil {
					return x, errNoEnveloper
				}
				x.key, x.encoding, err = d.enveloper.Unwrap(a.Connection.Name, a.Ciphertext)
				return x, err
			})
			return step.Unwrapped{Token: a.Token, Key: x.key, Encoding: x.encoding, Err: err}
		}, step.Unwrapped{Token: a.Token, Err: errBusy})
	case step.Envelope:
		return sh.async(s, func() v2.Event {
			x, err := contain(func() (x [2][]byte, err error) {
				defer a.Key.Wipe()
				if d.enveloper == nil {
					return x, errNoEnveloper
				}
				x[0], x[1], err = d.enveloper.Envelope(a)
				return x, err
			})
			return step.Enveloped{Token: a.Token, Ciphertext: x[0], Signature: x[1], Err: err}
		}, step.Enveloped{Token: a.Token, Err: errBusy})
	case step.Examine:
		return sh.async(s, func() v2.Event {
			type answer struct {
				style suite.SM2Style
				form  int
			}
			x, err := contain(func() (x answer, err error) {
				if d.enveloper == nil {
					return x, errNoEnveloper
				}
				x.style, x.form, err = d.enveloper.Examine(a)
				return x, err
			})
			return step.Examined{Token: a.Token, Style: x.style, Form: x.form, Err: err}
		}, step.Examined{Token: a.Token, Err: errBusy})
	case step.Begin:
		d.mu.Lock()
		next := d.adoptLocked(a.Machine, sh, s.conn)
		d.mu.Unlock()
		sh.told = append(sh.told, item{sa: next, ev: a.Event})
	case step.Tell:
		d.tellMachine(s, a)
	case step.TakeOver:
		d.mu.Lock()
		elders := d.eldersLocked(s)
		d.mu.Unlock()
		for _, x := range elders {
			sh.tell(x, step.Yield{To: s.machine})
		}
	}
	return nil
}

// tellMachine passes an event on from s to another machine.
func (d *Daemon) tellMachine(s *sa, a step.Tell) {
	d.mu.Lock()
	to := d.bySPI[a.To.LocalSPI()]
	if to != nil && to.machine != a.To {
		to = nil
	}
	if _, inherits := a.Event.(step.Inherit); inherits && to != nil {
		for _, x := range s.children {
			to.children.change(x.name, x.up)
		}
		s.children = nil
		for _, id := range s.saids {
			to.saids.add(id)
			d.bySA[id] = to
		}
		s.saids = nil
	}
	d.mu.Unlock()
	if to != nil {
		s.shard.tell(to, a.Event)
		return
	}
	// It is gone, so that nobody else steps it: it gives up what was left to it.
	for _, left := range a.To.Step(d.now(), a.Event) {
		s.shard.perform(s, left)
	}
}

// tell gives an event to another IKE SA from within the owner of one: at once where
// they have the same owner, and otherwise without waiting, for a shard that waits
// for another's inbox could wait for ever.
func (sh *shard) tell(to *sa, ev v2.Event) {
	if to.shard == sh {
		sh.told = append(sh.told, item{sa: to, ev: ev})
		return
	}
	sh.d.wg.Go(func() { to.shard.post(to, ev) })
}

// eldersLocked returns the IKE SAs of version 1 that have to yield to s, which has just
// come up: those of the same connection between the same identities.
func (d *Daemon) eldersLocked(s *sa) []*sa {
	c := d.conns[s.conn]
	if c == nil || !s.v1() {
		return nil
	}
	var out []*sa
	for _, x := range c.sas {
		if x != s && x.v1() && x.established() && !x.closing && x.identities == s.identities {
			out = append(out, x)
		}
	}
	return out
}
