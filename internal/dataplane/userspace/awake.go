package userspace

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"

	"caponier/internal/netio"
)

// Linger is how long a worker that stays awake keeps asking after the last packet:
// longer than from one frame of a voice call to the next (20 ms) and from one state
// of a game to the next, so that a conversation finds it awake throughout.
const Linger = 50 * time.Millisecond

// smallBatch is how many packets a worker that stays awake takes at once.
const smallBatch = 16

// CanStayAwake is how many workers may stay awake at once: one processor is left for
// everything else, control among it. On a machine with one it is none.
func CanStayAwake() int { return runtime.GOMAXPROCS(0) - 1 }

// permits are those of the process: the bound is about its processors.
var permits = sync.OnceValue(func() *netio.Permits { return netio.NewPermits(CanStayAwake()) })

// awake are the lanes of one worker in one goroutine. After a packet it keeps asking
// all devices of the worker for a while before it sleeps, so that the next one
// need not wake anybody.
type awake struct {
	watch *netio.Watch
	lanes []lane
	tally *tally
}

// lane carries what is at hand, without waiting.
type lane interface {
	syscall.Conn
	once() error
}

func (l *outbound) once() error {
	pkts, err := l.reader.Read()
	if err == nil && len(pkts) > 0 {
		l.carry(pkts)
	}
	return err
}

func (l *outbound) SyscallConn() (syscall.RawConn, error) { return l.reader.SyscallConn() }

func (l *inbound) once() error {
	pkts, err := l.reader.Read()
	if err == nil && len(pkts) > 0 {
		l.carry(pkts)
	}
	return err
}

func (l *inbound) SyscallConn() (syscall.RawConn, error) { return l.reader.SyscallConn() }

func (l *framed) SyscallConn() (syscall.RawConn, error) { return l.reader.SyscallConn() }

// stayAwake puts the lanes of each worker together. Those of raw sockets belong to
// the first, those of frames are dealt out.
func (p *Plane) stayAwake() error {
	n := len(p.out)
	for _, out := range p.out {
		w, err := netio.NewWatch(Linger, permits())
		if err != nil {
			return fmt.Errorf("user-space data plane: %w", err)
		}
		out.reader.Small(smallBatch)
		p.awake = append(p.awake, &awake{watch: w, lanes: []lane{out}, tally: &out.tally})
	}
	// The UDP sockets of either family come in the order of the workers, then those
	// of the protocols.
	sockets := len(p.opts.Devices.UDP4) + len(p.opts.Devices.UDP6)
	for i, in := range p.in {
		in.reader.Small(smallBatch)
		owner := p.awake[0]
		if i < sockets {
			owner = p.awake[i%n]
		}
		owner.lanes = append(owner.lanes, in)
	}
	for i, f := range p.framed {
		f.reader.Small(smallBatch)
		p.awake[i%n].lanes = append(p.awake[i%n].lanes, f)
	}
	for _, a := range p.awake {
		for i, l := range a.lanes {
			if err := a.watch.Add(i, l); err != nil {
				return fmt.Errorf("user-space data plane: wait for several devices: %w", err)
			}
		}
	}
	return nil
}

// loop works until the plane is closed.
func (a *awake) loop() error {
	for {
		ready, err := a.watch.Wait()
		if err != nil {
			return err
		}
		var errs []error
		for _, i := range ready {
			if err := a.lanes[i].once(); err != nil {
				errs = append(errs, err)
			}
		}
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
	}
}

// end gives everything back, when the loop has ended and the devices are closed.
func (a *awake) end() {
	for _, l := range a.lanes {
		_ = l.once() // sees the end: what it was read into goes
	}
	a.watch.Release()
}
