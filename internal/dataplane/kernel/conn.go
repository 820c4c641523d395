package kernel

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"caponier/internal/dataplane"
	"caponier/internal/dataplane/kernel/xfrm"
)

// conn is a connection to the kernel for requests. Several goroutines may use
// it.
type conn struct {
	mu   sync.Mutex
	sock *socket
	out  []byte // the request
	seq  uint32
	// ends hears which states are removed, while takeState removes one. It is nil
	// where nobody does.
	ends *socket
}

// maxRequest has room for every request: a state with its algorithms, keys and
// window is the longest. A buffer that grew would leave keys behind.
const maxRequest = 1 << 13

func dial() (*conn, error) {
	sock, err := newSocket()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, &MissingError{What: "IPsec", Needs: "CONFIG_XFRM_USER or module xfrm_user"}
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the kernel's IPsec: %w", needsAdmin(err))
	}
	// Its words for errors are a comfort, no more.
	_ = sock.nl.SetOption(netlink.ExtendedAcknowledge, true)
	return &conn{sock: sock, out: make([]byte, 0, maxRequest)}, nil
}

func (c *conn) close() error {
	err := c.sock.nl.Close()
	if c.ends != nil {
		err = errors.Join(err, c.ends.nl.Close())
	}
	return err
}

// id is what the kernel's notifications of our own requests carry.
func (c *conn) id() uint32 { return c.sock.nl.PID() }

// request appends the payload of a request.
type request func(b []byte) ([]byte, error)

// plain makes a request of an appender that cannot fail.
func plain(appendTo func(b []byte) []byte) request {
	return func(b []byte) ([]byte, error) { return appendTo(b), nil }
}

// nothing is the request without a payload.
func nothing(b []byte) ([]byte, error) { return b, nil }

// order sends a request that is answered by an acknowledgement or an error.
func (c *conn) order(kind uint16, flags netlink.HeaderFlags, r request) error {
	return c.ask(kind, flags|netlink.Acknowledge, r, func([]byte) {})
}

// ask sends a request and calls each for the payloads of the answers, which are
// wiped after it.
func (c *conn) ask(kind uint16, flags netlink.HeaderFlags, r request, each func(payload []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := r(c.out[:headerLen])
	defer func() { xfrm.Wipe(b) }()
	switch {
	case err != nil:
		return err
	case len(b) > maxRequest:
		return fmt.Errorf("%w: request of %d octets", xfrm.ErrInvalid, len(b))
	}
	c.seq++
	putHeader(b, kind, netlink.Request|flags, c.seq, c.id())
	if err := c.sock.send(b); err != nil {
		return fmt.Errorf("ask the kernel: %w", err)
	}
	var refused error
	for last := false; !last; {
		if err := c.sock.receive(func(m netlink.Message) {
			if m.Header.Sequence != c.seq || last {
				return // the rest of an answer that was given up
			}
			switch m.Header.Type {
			case netlink.Error, netlink.Done:
				refused, last = refusal(m), true
			case netlink.Noop:
			default:
				each(m.Data)
				last = m.Header.Flags&netlink.Multi == 0 && flags&netlink.Acknowledge == 0
			}
		}); err != nil {
			return fmt.Errorf("hear the kernel: %w", err)
		}
	}
	return refused
}

// addState adds a state. A larval one of its very name, which stands for what a
// packet once asked for, gives way to it.
func (c *conn) addState(s *xfrm.State) error {
	err := c.sendState(xfrm.MsgNewSA, netlink.Create|netlink.Excl, s)
	if !errors.Is(err, dataplane.ErrExists) {
		return err
	}
	there, unread := c.state(s.ID)
	defer there.Wipe()
	if unread != nil || algorithmsOf(&there) != "" {
		return err
	}
	return c.updateState(s)
}

func (c *conn) updateState(s *xfrm.State) error { return c.sendState(xfrm.MsgUpdSA, 0, s) }

func (c *conn) sendState(kind uint16, flags netlink.HeaderFlags, s *xfrm.State) error {
	return explainState(c.order(kind, flags, s.Append), s)
}

func (c *conn) deleteState(id xfrm.StateID) error {
	err := c.order(xfrm.MsgDelSA, 0, plain(id.Append))
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// takeState removes a state and returns it as it was in the end: one that is read
// first may count some packets more before it goes. The caller wipes it.
func (c *conn) takeState(id xfrm.StateID, seq uint32) (xfrm.State, error) {
	if err := c.ends.nl.JoinGroup(xfrm.GroupSA); err != nil {
		return xfrm.State{}, fmt.Errorf("listen to the kernel's IPsec: %w", needsAdmin(err))
	}
	defer func() { _ = c.ends.nl.LeaveGroup(xfrm.GroupSA) }() // what comes is looked through next time
	if err := c.order(xfrm.MsgDelSA, 0, plain(id.Append)); err != nil {
		return xfrm.State{}, explainState(err, &xfrm.State{ID: id})
	}
	const patience = 5 * time.Second // the kernel has said it before it has answered
	if err := c.ends.nl.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return xfrm.State{}, err
	}
	var last xfrm.State
	for found := false; !found; {
		err := c.ends.receive(func(m netlink.Message) {
			if uint16(m.Header.Type) != xfrm.MsgDelSA || found {
				return
			}
			s, err := xfrm.ParseDeletedState(m.Data)
			if found = err == nil && s.ID == id && s.Seq == seq && s.Replay != nil; found {
				last = s
				return
			}
			s.Wipe()
		})
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return xfrm.State{}, fmt.Errorf("%w: %w", errNumbersLost, err)
		}
	}
	return last, nil
}

// errNumbersLost says that a state is gone, and nobody knows which numbers it has
// used.
var errNumbersLost = errors.New("the kernel does not tell how far the state has counted")

// state reads one state. The caller wipes it.
func (c *conn) state(id xfrm.StateID) (xfrm.State, error) {
	return c.one(xfrm.MsgGetSA, plain(id.Append), &xfrm.State{ID: id})
}

// one sends a request that is answered by one state. about is what it is about,
// for errors.
func (c *conn) one(kind uint16, r request, about *xfrm.State) (xfrm.State, error) {
	var s xfrm.State
	unread := errors.New("the kernel does not answer")
	if err := c.ask(kind, 0, r, func(payload []byte) { s, unread = xfrm.ParseState(payload) }); err != nil {
		return xfrm.State{}, explainState(err, about)
	}
	return s, unread
}

// states calls f for every state of the kernel, and wipes it after. bad counts
// those that cannot be read.
func (c *conn) states(f func(s *xfrm.State)) (bad int, err error) {
	var all []xfrm.State // f may ask for more
	err = c.ask(xfrm.MsgGetSA, netlink.Dump, nothing, func(payload []byte) {
		s, err := xfrm.ParseState(payload)
		if err != nil {
			bad++
			return
		}
		s.Wipe()
		all = append(all, s)
	})
	if err != nil {
		return bad, fmt.Errorf("read the kernel's states: %w", needsAdmin(err))
	}
	for i := range all {
		f(&all[i])
	}
	return bad, nil
}

// policies reads every policy of the kernel.
func (c *conn) policies(f func(p *xfrm.Policy)) (bad int, err error) {
	var all []*xfrm.Policy
	err = c.ask(xfrm.MsgGetPolicy, netlink.Dump, nothing, func(payload []byte) {
		p, err := xfrm.ParsePolicy(payload)
		if err != nil {
			bad++
			return
		}
		all = append(all, &p)
	})
	if errors.Is(err, unix.ENOENT) { // a table without any
		return 0, nil
	}
	if err != nil {
		return bad, fmt.Errorf("read the kernel's policies: %w", needsAdmin(err))
	}
	for _, p := range all {
		f(p)
	}
	return bad, nil
}

func (c *conn) addPolicy(p *xfrm.Policy) error {
	return c.order(xfrm.MsgNewPolicy, netlink.Create|netlink.Excl, p.Append)
}

func (c *conn) updatePolicy(p *xfrm.Policy) error {
	return c.order(xfrm.MsgUpdPolicy, netlink.Replace, p.Append)
}

func (c *conn) deletePolicy(s *slot) error {
	id := s.id()
	err := c.order(xfrm.MsgDelPolicy, 0, plain(id.Append))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// removeLarval removes the larval state of an acquire. A state can only be
// removed by its SPI, which the larval one is given for the purpose.
func (c *conn) removeLarval(l larval) error {
	req := xfrm.SPIRequest{State: xfrm.State{
		ID: l.id, Src: l.src, Seq: l.seq, ReqID: l.reqID, Mode: l.mode,
	}, Min: 0x100, Max: 0xffffffff}
	s, err := c.one(xfrm.MsgAllocSPI, req.Append, &req.State)
	if err != nil {
		return err
	}
	s.Wipe()
	return c.deleteState(s.ID)
}
