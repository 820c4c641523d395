package ike

import (
	"container/heap"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"caponier/internal/dataplane"
	"caponier/internal/ike/message"
	"caponier/internal/ike/step"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// sa is one IKE SA of the table.
type sa struct {
	// Constant after adoption.
	spi   message.SPI
	shard *shard

	// Owned by the shard.
	machine   step.Machine
	deadline  time.Time
	index     int // in the shard's heap, or -1
	gone      bool
	successor *sa         // has taken over after a rekeying: orders go there
	notices   []v2.Notice // of the event under way, that orders may wait for
	kept      bool        // the keyring has its keys
	keptFor   string      // under this connection

	// Guarded by Daemon.mu.
	conn       string // name of the connection; empty until the peer is known
	born       time.Time
	up         time.Time      // when it was established, or its first predecessor; zero before
	closing    bool           // being deleted: nothing new is asked of it
	over       bool           // closed, with its SAs removed, or replaced
	identities [2]v2.Identity // local and remote, once up
	initKey    initKey
	children   upTunnels
	saids      few[ipsec.SAID] // what it installed in the data plane
	first      *v2.Child       // set up with the IKE SA itself, where we are the initiator
	pending    []v2.Event      // CreateChild and DeleteChild, asked for before it was up
}

func (s *sa) established() bool { return !s.up.IsZero() }

// shard is one goroutine with the IKE SAs that it owns.
type shard struct {
	d     *Daemon
	inbox chan item
	queue deadlines
	told  []item // what machines have said to one another, to be given at once
}

// item is one thing for a shard to do: an event for a machine, or a function to
// run where machines may be looked at.
type item struct {
	sa *sa
	ev v2.Event
	fn func()
}

func newShard(d *Daemon) *shard {
	return &shard{d: d, inbox: make(chan item, inboxSize)}
}

// post hands an event to the owner of s. A datagram that finds the inbox full
// is dropped, for the peer will repeat it; other events wait.
func (sh *shard) post(s *sa, ev v2.Event) {
	it := item{sa: s, ev: ev}
	if _, fromNetwork := ev.(v2.Received); fromNetwork {
		select {
		case sh.inbox <- it:
		default:
			sh.d.counters.inboxFull.Add(1)
		}
		return
	}
	select {
	case sh.inbox <- it:
	case <-sh.d.stop:
	}
}

// do runs fn in the shard and waits for it. It returns false where the daemon
// stops; fn may be running even then.
func (sh *shard) do(fn func()) bool {
	done := make(chan struct{})
	select {
	case sh.inbox <- item{fn: func() { fn(); close(done) }}:
	case <-sh.d.stop:
		return false
	}
	select {
	case <-done:
		return true
	case <-sh.d.stop:
		return false
	}
}

func (sh *shard) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if len(sh.queue) > 0 {
			timer.Reset(max(0, sh.queue[0].deadline.Sub(sh.d.now())))
		} else {
			timer.Reset(time.Hour)
		}
		select {
		case it := <-sh.inbox:
			if it.fn != nil {
				it.fn()
			} else {
				sh.take(it.sa, it.ev)
			}
		case <-timer.C:
			now := sh.d.now()
			// Each SA at most once: the inbox must get its turn.
			for n := len(sh.queue); n > 0 && len(sh.queue) > 0 && !sh.queue[0].deadline.After(now); n-- {
				sh.step(sh.queue[0], v2.Timeout{})
			}
		case <-sh.d.stop:
			return
		}
	}
}

// take gives an event from the inbox to s, or to the IKE SA that has replaced
// it meanwhile: what is asked of the one holds for the other.
func (sh *shard) take(s *sa, ev v2.Event) {
	for ; s.successor != nil; s = s.successor {
		switch ev.(type) {
		case v2.Received, v2.Timeout, v2.Signed, v2.Verified:
			sh.step(s, ev)
			return
		case v2.Close:
			sh.step(s, ev)
		default:
		}
	}
	if order, ok := ev.(v2.CreateChild); ok && order.Flow == nil && sh.d.hasChild(s, order.Child.Name) {
		return // it came up while the order was on its way
	}
	sh.step(s, ev)
}

// step gives an event to s, and lets the orders that wait know what came of it.
func (sh *shard) step(s *sa, ev v2.Event) {
	sh.feed(s, ev)
	for _, order := range sh.d.takePending(s) {
		sh.feed(s, order)
	}
	sh.d.settle(s)
	for len(sh.told) > 0 {
		it := sh.told[0]
		sh.told = sh.told[1:]
		sh.step(it.sa, it.ev)
	}
}

var errPanic = errors.New("the machine of the IKE SA failed")

// feed gives one event to the machine of s and carries out what it answers. A
// machine that panics is removed with its SAs: one bad peer must not end the
// gateway.
func (sh *shard) feed(s *sa, ev v2.Event) {
	if s.gone {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			sh.d.log.Error("IKE machine failed; its SAs are removed",
				"connection", s.conn, "spi", s.spi.String(), "panic", p, "stack", string(debug.Stack()))
			sh.d.noticed(s, v2.Notice{Kind: v2.IKEDown, Code: "internal-error", Err: errPanic})
			sh.remove(s)
		}
	}()
	// What is to be told to the machine at once waits until all its actions are
	// carried out: they have an order.
	var answers []v2.Event
	for _, a := range s.machine.Step(sh.d.now(), ev) {
		if answer := sh.perform(s, a); answer != nil {
			answers = append(answers, answer)
		}
		if s.gone {
			return
		}
	}
	sh.schedule(s, s.machine.Deadline())
	sh.keepKeys(s)
	for _, answer := range answers {
		sh.feed(s, answer)
	}
}

func (sh *shard) schedule(s *sa, deadline time.Time) {
	s.deadline = deadline
	switch {
	case deadline.IsZero() && s.index >= 0:
		heap.Remove(&sh.queue, s.index)
	case deadline.IsZero():
	case s.index >= 0:
		heap.Fix(&sh.queue, s.index)
	default:
		heap.Push(&sh.queue, s)
	}
}

// perform carries out one action of the machine of s. It returns what the
// machine has to hear at once, or nil.
func (sh *shard) perform(s *sa, a v2.Action) v2.Event {
	d := sh.d
	switch a := a.(type) {
	case v2.Send:
		d.show(ipsec.Out, s.conn, netio.Datagram{Data: a.Data, Local: a.Local, Remote: a.Remote})
		d.send(netio.Datagram{Data: a.Data, Local: a.Local, Remote: a.Remote})
	case v2.SendKeepAlive:
		if sock := d.sockets[a.Local.Port()]; sock != nil {
			if err := sock.SendKeepAlive(a.Local, a.Remote); err != nil {
				d.log.Debug("keepalive not sent", "remote", a.Remote, "error", err)
			}
		}
	case v2.Sign:
		return sh.async(s, func() v2.Event {
			auth, err := contain(func() (message.Auth, error) { return d.auth.Sign(a.Connection.Name, a.Scheme, a.Octets) })
			return v2.Signed{Token: a.Token, Auth: auth, Err: err}
		}, v2.Signed{Token: a.Token, Err: errBusy})
	case v2.Verify:
		return sh.async(s, func() v2.Event {
			_, err := contain(func() (struct{}, error) { return struct{}{}, d.auth.Verify(a) })
			return v2.Verified{Token: a.Token, Err: err}
		}, v2.Verified{Token: a.Token, Err: errBusy})
	case v2.InstallSA:
		id := a.SA.ID()
		if err := d.backend.AddSA(a.SA); err != nil {
			d.log.Error("SA not installed", "connection", a.SA.Connection, "tunnel", a.SA.Tunnel, "spi", id.SPI, "error", err)
			return v2.InstallFailed{ID: id, Err: err}
		}
		d.claim(s, id)
		d.log.Debug("SA installed", "connection", a.SA.Connection, "tunnel", a.SA.Tunnel, "spi", id.SPI.String(),
			"direction", id.Direction.String(), "protocol", id.Protocol.String())
	case v2.MoveSA:
		err := d.backend.UpdateSA(a.ID, dataplane.AddressUpdate{Local: a.Local, Remote: a.Remote, Encap: a.Encap})
		if err != nil {
			d.log.Error("SA not moved to the new address", "spi", a.ID.SPI, "remote", a.Remote, "error", err)
			return nil
		}
		if a.ID.Direction == ipsec.Out { // the peer's address is part of its name
			d.disclaim(a.ID)
			a.ID.Peer = a.Remote.Addr()
			d.claim(s, a.ID)
		}
	case v2.RemoveSA:
		d.disclaim(a.ID)
		d.log.Debug("SA removed", "connection", s.conn, "spi", a.ID.SPI.String(), "direction", a.ID.Direction.String(),
			"protocol", a.ID.Protocol.String())
		sh.deleteSA(a.ID)
	case v2.Succeed:
		d.succeed(s, a)
	case v2.Report:
		d.noticed(s, a.What)
	case v2.Done:
		sh.remove(s)
	default:
		return sh.performV1(s, a)
	}
	return nil
}

var errBusy = errors.New("too many handshakes at once")

// async runs job on the pool, and gives the machine what it returns. Where the
// pool has no room it returns busy.
func (sh *shard) async(s *sa, job func() v2.Event, busy v2.Event) v2.Event {
	select {
	case sh.d.authJobs <- func() { sh.post(s, job()) }:
		return nil
	default:
		return busy
	}
}

// contain calls f, which works on what a peer sent, and makes an error of a
// panic.
func contain[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	return f()
}

// deleteSA takes an SA out of the data plane, which may have removed it already.
func (sh *shard) deleteSA(id ipsec.SAID) {
	if err := sh.d.backend.DeleteSA(id); err != nil && !errors.Is(err, dataplane.ErrNotFound) {
		sh.d.log.Error("SA not removed", "spi", id.SPI, "error", err)
	}
}

// remove takes s out of every table. What its machine left installed goes too.
func (sh *shard) remove(s *sa) {
	if s.gone {
		return
	}
	s.gone = true
	sh.schedule(s, time.Time{})
	sh.d.keys.ForgetIKE(uint64(s.spi))
	for _, id := range sh.d.forget(s) {
		sh.deleteSA(id)
	}
}

func (d *Daemon) send(dg netio.Datagram) {
	sock := d.sockets[dg.Local.Port()]
	if sock == nil {
		d.log.Error("no socket for IKE message", "local", dg.Local)
		return
	}
	d.counters.sent.Add(1)
	if err := sock.Send(dg); err != nil {
		// The machine repeats requests, and peers repeat theirs.
		d.log.Debug("IKE message not sent", "remote", dg.Remote, "error", err)
	}
}

// deadlines is a heap of the SAs that wait for a time.
type deadlines []*sa

func (q deadlines) Len() int           { return len(q) }
func (q deadlines) Less(i, j int) bool { return q[i].deadline.Before(q[j].deadline) }
func (q deadlines) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *deadlines) Push(x any) {
	s := x.(*sa)
	s.index = len(*q)
	*q = append(*q, s)
}

func (q *deadlines) Pop() any {
	old := *q
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	s.index = -1
	return s
}
