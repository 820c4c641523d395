package kernel

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"caponier/internal/dataplane/kernel/xfrm"
)

// conn is a connection to the kernel for requests. Several goroutines may use
// it.
type conn struct{ nl *netlink.Conn }

func dial() (*conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_XFRM, nil)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, &MissingError{What: "IPsec", Needs: "CONFIG_XFRM_USER or module xfrm_user"}
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the kernel's IPsec: %w", needsAdmin(err))
	}
	// Its words for errors are a comfort, no more.
	_ = nl.SetOption(netlink.ExtendedAcknowledge, true)
	return &conn{nl}, nil
}

func (c *conn) close() error { return c.nl.Close() }

// id is what the kernel's notifications of our own requests carry.
func (c *conn) id() uint32 { return c.nl.PID() }

// order sends a request that is answered by an acknowledgement or an error.
func (c *conn) order(kind uint16, flags netlink.HeaderFlags, payload []byte) error {
	_, err := c.ask(kind, flags|netlink.Acknowledge, payload)
	return err
}

// ask sends a request and returns the payloads of the answers.
func (c *conn) ask(kind uint16, flags netlink.HeaderFlags, payload []byte) ([]netlink.Message, error) {
	return c.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags},
		Data:   payload,
	})
}

func (c *conn) addState(s *xfrm.State) error {
	return c.sendState(xfrm.MsgNewSA, netlink.Create|netlink.Excl, s)
}

func (c *conn) updateState(s *xfrm.State) error { return c.sendState(xfrm.MsgUpdSA, 0, s) }

func (c *conn) sendState(kind uint16, flags netlink.HeaderFlags, s *xfrm.State) error {
	b, err := s.Append(nil)
	defer xfrm.Wipe(b)
	if err != nil {
		return err
	}
	return explainState(c.order(kind, flags, b), s)
}

func (c *conn) deleteState(id xfrm.StateID) error {
	err := c.order(xfrm.MsgDelSA, 0, id.Append(nil))
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// state reads one state. The caller wipes it.
func (c *conn) state(id xfrm.StateID) (xfrm.State, error) {
	msgs, err := c.ask(xfrm.MsgGetSA, 0, id.Append(nil))
	if err != nil {
		return xfrm.State{}, explainState(err, &xfrm.State{ID: id})
	}
	if len(msgs) == 0 {
		return xfrm.State{}, errors.New("the kernel does not answer")
	}
	defer xfrm.Wipe(msgs[0].Data)
	return xfrm.ParseState(msgs[0].Data)
}

// states calls f for every state of the kernel, and wipes it after. bad counts
// those that cannot be read.
func (c *conn) states(f func(s *xfrm.State)) (bad int, err error) {
	msgs, err := c.ask(xfrm.MsgGetSA, netlink.Dump, nil)
	if err != nil {
		return 0, fmt.Errorf("read the kernel's states: %w", needsAdmin(err))
	}
	for _, m := range msgs {
		s, err := xfrm.ParseState(m.Data)
		xfrm.Wipe(m.Data)
		if err != nil {
			bad++
			continue
		}
		f(&s)
		s.Wipe()
	}
	return bad, nil
}

// policies reads every policy of the kernel.
func (c *conn) policies(f func(p *xfrm.Policy)) (bad int, err error) {
	msgs, err := c.ask(xfrm.MsgGetPolicy, netlink.Dump, nil)
	if errors.Is(err, unix.ENOENT) { // a table without any
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the kernel's policies: %w", needsAdmin(err))
	}
	for _, m := range msgs {
		p, err := xfrm.ParsePolicy(m.Data)
		if err != nil {
			bad++
			continue
		}
		f(&p)
	}
	return bad, nil
}

func (c *conn) addPolicy(p *xfrm.Policy) error {
	b, err := p.Append(nil)
	if err != nil {
		return err
	}
	return c.order(xfrm.MsgNewPolicy, netlink.Create|netlink.Excl, b)
}

func (c *conn) updatePolicy(p *xfrm.Policy) error {
	b, err := p.Append(nil)
	if err != nil {
		return err
	}
	return c.order(xfrm.MsgUpdPolicy, netlink.Replace, b)
}

func (c *conn) deletePolicy(s *slot) error {
	id := s.id()
	err := c.order(xfrm.MsgDelPolicy, 0, id.Append(nil))
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
	b, err := req.Append(nil)
	if err != nil {
		return err
	}
	msgs, err := c.ask(xfrm.MsgAllocSPI, 0, b)
	if err != nil || len(msgs) == 0 {
		return err
	}
	defer xfrm.Wipe(msgs[0].Data)
	s, err := xfrm.ParseState(msgs[0].Data)
	if err != nil {
		return err
	}
	s.Wipe()
	return c.deleteState(s.ID)
}
