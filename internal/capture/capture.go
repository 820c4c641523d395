// Package capture shows operators the packets of the gateway as they pass, inner
// and outer ones, and on request the keys to read the outer ones.
//
// Whoever carries packets hands them to the Listeners of a Tap. As a rule nobody
// listens: then a Tap costs one atomic load for a batch of packets, and nothing
// else. A Session copies what it wants to a queue of its own, which has a bound:
// what finds it full is counted and left out, and carried all the same.
package capture

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"caponier/internal/ipsec"
)

// Side says on which side of the gateway a packet was seen.
type Side uint8

// The sides.
const (
	Inner Side = iota // what the tunnels carry, in clear
	Outer             // what the wire shows: ESP and IKE
)

// String returns inner or outer.
func (s Side) String() string {
	if s == Outer {
		return "outer"
	}
	return "inner"
}

// MarshalText makes JSON show what String shows.
func (s Side) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what String prints.
func (s *Side) UnmarshalText(b []byte) error {
	switch string(b) {
	case "inner":
		*s = Inner
	case "outer":
		*s = Outer
	default:
		return fmt.Errorf("capture: %q is neither inner nor outer", b)
	}
	return nil
}

// Packet is a packet that passed.
type Packet struct {
	Time      time.Time       `json:"time"`
	Side      Side            `json:"side"`
	Direction ipsec.Direction `json:"direction"`
	// Connection and Tunnel are the names in the configuration; empty where the
	// gateway did not know at this point.
	Connection string `json:"connection,omitempty"`
	Tunnel     string `json:"tunnel,omitempty"`
	// Segment is the size of the segments of a super-packet, which stands for
	// several packets of one flow, or 0.
	Segment int `json:"segment,omitempty"`
	// Data is the packet from its IP header on. The IP and UDP headers of outer
	// packets are the kernel's: they are rebuilt from the addresses.
	Data []byte `json:"data"`
}

// Limits of a session's queue, and on sessions.
const (
	queuePackets = 8192
	queueOctets  = 16 << 20
	maxSessions  = 4
)

// ErrBusy says that too many sessions are open.
var ErrBusy = errors.New("too many captures at once")

// Tap is where packets pass. The zero value is ready, and nil is a Tap that
// nobody can listen at. Its methods may be called from several goroutines.
type Tap struct {
	live atomic.Pointer[Listeners]
	mu   sync.Mutex // serializes changes of live
}

// Listeners are the sessions of the moment. All methods do nothing for none.
type Listeners []*Session

// Listeners returns who listens now, nil if nobody does. The caller may keep it
// for a batch of packets.
func (t *Tap) Listeners() Listeners {
	if t == nil {
		return nil
	}
	if l := t.live.Load(); l != nil {
		return *l
	}
	return nil
}

// Open begins to listen to one connection, or to all where connection is empty.
func (t *Tap) Open(connection string) (*Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.Listeners()
	if len(now) >= maxSessions {
		return nil, fmt.Errorf("%w: %d are under way", ErrBusy, len(now))
	}
	s := &Session{tap: t, connection: connection, queue: make(chan Packet, queuePackets)}
	next := append(slices.Clone(now), s)
	t.live.Store(&next)
	return s, nil
}

func (t *Tap) remove(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(t.Listeners()), func(x *Session) bool { return x == s })
	if len(next) == 0 {
		t.live.Store(nil)
		return
	}
	t.live.Store(&next)
}

// Inner passes a packet of the protected side. segment is not 0 for a
// super-packet.
func (l Listeners) Inner(d ipsec.Direction, connection, tunnel string, packet []byte, segment int) {
	l.of(connection).put(Packet{Side: Inner, Direction: d, Connection: connection, Tunnel: tunnel, Segment: segment}, len(packet),
		func() []byte { return append([]byte(nil), packet...) })
}

// Sealed is an ESP or AH packet, without its IP and UDP headers.
type Sealed struct {
	Local, Remote netip.AddrPort
	Protocol      ipsec.Protocol
	UDP           bool // it travels in UDP
	Whole         bool // Data has its IP header
	TrafficClass  uint8
	Data          []byte
}

// IPsec passes a packet that is sealed.
func (l Listeners) IPsec(d ipsec.Direction, connection, tunnel string, s *Sealed) {
	src, dst := ends(d, s.Local, s.Remote)
	l.of(connection).put(Packet{Side: Outer, Direction: d, Connection: connection, Tunnel: tunnel}, len(s.Data), func() []byte {
		if s.Whole {
			return slices.Clone(s.Data)
		}
		if s.UDP {
			return inUDP(src, dst, s.TrafficClass, nil, s.Data)
		}
		return inIP(src.Addr(), dst.Addr(), uint8(s.Protocol), s.TrafficClass, s.Data)
	})
}

// nonESP is the marker before IKE messages on any port but 500 (RFC 3948,
// Section 2.2).
var nonESP = make([]byte, 4)

// IKE passes an IKE message, without the non-ESP marker. Before the peer has said
// who it is, it may be for one of several connections.
func (l Listeners) IKE(d ipsec.Direction, connections []string, local, remote netip.AddrPort, message []byte) {
	src, dst := ends(d, local, remote)
	p := Packet{Side: Outer, Direction: d}
	if len(connections) == 1 {
		p.Connection = connections[0]
	}
	l.of(connections...).put(p, len(message), func() []byte {
		if local.Port() == ikePort {
			return inUDP(src, dst, 0, nil, message)
		}
		return inUDP(src, dst, 0, nonESP, message)
	})
}

// ikePort is where IKE begins (RFC 7296, Section 2).
const ikePort = 500

func ends(d ipsec.Direction, local, remote netip.AddrPort) (src, dst netip.AddrPort) {
	if d == ipsec.In {
		return remote, local
	}
	return local, remote
}

// of returns those that want the packets of a connection.
func (l Listeners) of(connections ...string) Listeners {
	return slices.DeleteFunc(slices.Clone(l), func(s *Session) bool {
		return s.connection != "" && !slices.Contains(connections, s.connection)
	})
}

// put gives p to all sessions. data makes its only copy, which they share.
func (l Listeners) put(p Packet, size int, data func() []byte) {
	for _, s := range l {
		if !s.hasRoom(size) {
			continue
		}
		if p.Data == nil {
			p.Time, p.Data = time.Now(), data()
		}
		s.add(p)
	}
}

// Session is one who listens.
type Session struct {
	tap        *Tap
	connection string // empty: all
	queue      chan Packet
	octets     atomic.Int64 // in queue
	dropped    atomic.Uint64
}

// hasRoom counts the packet where there is none.
func (s *Session) hasRoom(size int) bool {
	if len(s.queue) < cap(s.queue) && s.octets.Load()+int64(size) <= queueOctets {
		return true
	}
	s.dropped.Add(1)
	return false
}

func (s *Session) add(p Packet) {
	s.octets.Add(int64(len(p.Data)))
	select {
	case s.queue <- p:
	default: // others were faster
		s.octets.Add(-int64(len(p.Data)))
		s.dropped.Add(1)
	}
}

// Read waits for packets and returns some, of some most octets in all; none where
// ctx ends first. The packets are not to be changed: other sessions may have them.
func (s *Session) Read(ctx context.Context, most int) []Packet {
	var out []Packet
	take := func(p Packet) {
		s.octets.Add(-int64(len(p.Data)))
		out = append(out, p)
		most -= len(p.Data)
	}
	select {
	case p := <-s.queue:
		take(p)
	case <-ctx.Done():
		return nil
	}
	for most > 0 {
		select {
		case p := <-s.queue:
			take(p)
		default:
			return out
		}
	}
	return out
}

// Dropped is how many packets found the queue full.
func (s *Session) Dropped() uint64 { return s.dropped.Load() }

// Close ends the session. What is in the queue is lost. It is idempotent.
func (s *Session) Close() { s.tap.remove(s) }
