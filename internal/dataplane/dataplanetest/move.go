package dataplanetest

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// flow is a stream of numbered packets from one gateway's network to the other's.
type flow struct {
	stop chan struct{}
	done sync.WaitGroup

	mu   sync.Mutex
	sent int
	seen map[int]int // how often each number has arrived
	next int         // the one behind the highest of them
}

// ahead is how many packets of a flow may be on the way where a plane keeps those
// that wait for an SA: fewer than any plane keeps, however long the moment lasts.
const ahead = 64

// flow starts one that sends a packet every so often, unless limit, where it is not
// 0, are on the way.
func (l *link) flow(from int, every time.Duration, limit int) *flow {
	f := &flow{stop: make(chan struct{}), seen: make(map[int]int)}
	f.done.Go(func() {
		for t := time.NewTicker(every); ; {
			select {
			case <-f.stop:
				t.Stop()
				return
			case <-t.C:
			}
			f.mu.Lock()
			n := f.sent
			if limit != 0 && n-f.next >= limit {
				f.mu.Unlock()
				continue
			}
			f.sent++
			f.mu.Unlock()
			_ = l.gw[from].Inner.Inject(newPacket(from, false, n), netip.AddrPort{}, netip.AddrPort{})
		}
	})
	go func() {
		for b := range l.read[1-from] {
			f.mu.Lock()
			n := int(binary.BigEndian.Uint32(b[len(b)-4:]))
			f.seen[n]++
			f.next = max(f.next, n+1)
			f.mu.Unlock()
		}
	}()
	return f
}

// numbers are the sequence numbers that have been on the wire, each of which may be
// there once (RFC 4303, Section 3.3.3).
type numbers struct {
	seen  map[uint32]bool
	again []uint32
}

func (n *numbers) add(esp []byte) {
	seq := binary.BigEndian.Uint32(esp[4:])
	if n.seen[seq] {
		n.again = append(n.again, seq)
	}
	n.seen[seq] = true
}

func (n *numbers) check(t *testing.T) {
	t.Helper()
	if len(n.again) > 0 {
		t.Errorf("sequence numbers were used twice: %d", n.again)
	}
}

func (f *flow) count() (sent, arrived int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent, len(f.seen)
}

// removed is how many packets the plane of a gateway has counted as lost with an
// SA that moved.
func (l *link) removed(gw int) (n int) {
	counters := l.gw[gw].Backend.Counters()
	for _, name := range l.gw[gw].Removed {
		n += int(counters[name])
	}
	return n
}

// end stops the sender. From number first on, all must arrive but those that lost
// counts; none twice.
func (f *flow) end(t *testing.T, name string, first int, lost func() int) {
	t.Helper()
	close(f.stop)
	f.done.Wait()
	var missing, twice []int
	for late := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		missing, twice = nil, nil
		f.mu.Lock()
		for n := range f.sent {
			switch {
			case f.seen[n] > 1:
				twice = append(twice, n)
			case f.seen[n] == 0 && n >= first:
				missing = append(missing, n)
			}
		}
		f.mu.Unlock()
		if len(missing) == lost() || time.Now().After(late) {
			break
		}
	}
	if n := lost(); len(missing) != n || len(twice) > 0 {
		t.Errorf("of %d packets %s from number %d on, missing are %v, of which %d were counted; twice came %v", f.sent, name, first, missing, n, twice)
	}
}

// testMappingsUnderTraffic has a NAT give a gateway other ports and addresses
// while packets flow in both directions, and somebody replay each of them: control
// follows, and no number is used twice or taken twice.
func testMappingsUnderTraffic(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	var mu sync.Mutex
	used := numbers{seen: make(map[uint32]bool)}
	mapped := netip.AddrPortFrom(addr4[0], port)
	l.disturb(func(from int, p *netio.Packet) int {
		mu.Lock()
		defer mu.Unlock()
		if from == 0 {
			p.Local = mapped
		} else { // the NAT knows its old mappings for a while
			used.add(p.Data())
			p.Remote = netip.AddrPortFrom(addr4[0], port)
		}
		return 2
	})
	to, fro := l.flow(0, 2*time.Millisecond, 0), l.flow(1, 2*time.Millisecond, ahead)
	in := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 1}
	out := ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: spi, Peer: addr4[0]}
	first := 0
	for _, text := range []string{
		"192.0.2.1:61000", "192.0.2.1:61001", "198.51.100.9:61001", "198.51.100.9:61002", "198.51.100.77:4500", "192.0.2.1:4500",
	} {
		next := netip.MustParseAddrPort(text)
		mu.Lock()
		same := mapped.Addr() == next.Addr()
		mapped = next
		mu.Unlock()
		for event[ipsec.AddressChanged](l, 1).Remote != next { // nothing but packets of before
		}
		u := dataplane.AddressUpdate{Local: netip.AddrPortFrom(addr4[1], port), Remote: next, Encap: true}
		for _, id := range []ipsec.SAID{in, out} {
			if err := l.gw[1].UpdateSA(id, u); err != nil {
				t.Fatal(err)
			}
		}
		out.Peer = next.Addr()
		if l.gw[1].Gap && !same {
			first, _ = to.count()
		}
		_, before := to.count()
		for late := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			if _, now := to.count(); now >= before+20 {
				break
			}
			if time.Now().After(late) {
				t.Fatalf("nothing arrives from %s", next)
			}
		}
	}
	to.end(t, "to the gateway that follows", first, func() int { return 0 })
	l.endMoved(fro, "from it", out, &used)
	sent, _ := to.count()
	l.status(1, in, "the number of the last packet", func(s ipsec.SAStatus) bool { return s.Sequence == uint64(sent) })
}

// testMovesOften has control lead an outbound SA from address to address and back
// while packets leave through it, closer to each other than moves ever are.
func testMovesOften(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	home := netip.AddrPortFrom(addr4[0], port)
	used := numbers{seen: make(map[uint32]bool)}
	l.disturb(func(from int, p *netio.Packet) int {
		if from == 1 {
			used.add(p.Data())
			p.Remote = home // all of them are the receiver's
		}
		return 1
	})
	fro := l.flow(1, 500*time.Microsecond, ahead)
	out := ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: spi, Peer: addr4[0]}
	const moves = 60
	for n := range moves {
		next := home
		if n%2 == 0 {
			next = netip.MustParseAddrPort("198.51.100.9:61000")
		}
		time.Sleep(10 * time.Millisecond)
		u := dataplane.AddressUpdate{Local: netip.AddrPortFrom(addr4[1], port), Remote: next, Encap: true}
		if err := l.gw[1].UpdateSA(out, u); err != nil {
			t.Fatalf("move %d: %v", n, err)
		}
		out.Peer = next.Addr()
	}
	l.endMoved(fro, "through the SA that moves", out, &used)
}

// endMoved ends a flow through the outbound SA of gateway 1, which has moved: every
// packet has arrived that no counter has, and each has a number of its own.
func (l *link) endMoved(f *flow, what string, out ipsec.SAID, used *numbers) {
	t := l.t
	t.Helper()
	f.end(t, what, 0, func() int { return l.removed(1) })
	l.disturb(nil)
	used.check(t)
	if t.Failed() {
		t.Logf("counters: %v and %v", l.gw[0].Backend.Counters(), l.gw[1].Backend.Counters())
	}
	sent, _ := f.count()
	sent -= l.removed(1)
	l.status(1, out, "one number for each packet", func(s ipsec.SAStatus) bool { return s.Sequence == uint64(sent) && s.Packets == uint64(sent) })
}
