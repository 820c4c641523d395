package operations

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"caponier/internal/lab/netns"
)

// tap sees every frame that the gateways send outside.
type tap struct {
	a, b int // the switch's ports

	mu    sync.Mutex
	armed bool
	leaks []string // inner packets in clear, while armed
	count crossing //  of all packets, ever
	sas   map[direction]*sequence
	// The first packets of each kind, from the outer IP header on.
	esp, ike [][]byte
}

// crossing is how many packets were seen, by kind.
type crossing struct{ esp, ike, clear, other int }

func (o crossing) since(before crossing) crossing {
	return crossing{o.esp - before.esp, o.ike - before.ike, o.clear - before.clear, o.other - before.other}
}

// direction is one SA as the wire shows it.
type direction struct {
	src netip.Addr
	spi uint32
}

// sequence is the sequence numbers of one SA.
type sequence struct {
	seen    map[uint32]int
	highest uint32
}

// keepPackets is how many packets of a kind the tap keeps.
const keepPackets = 200

func listen(t *testing.T, s *site) *tap {
	t.Helper()
	p := &tap{sas: make(map[direction]*sequence)}
	var err error
	for name, index := range map[string]*int{"porta": &p.a, "portb": &p.b} {
		if *index, err = indexOf(s.wire, name); err != nil {
			t.Fatal(err)
		}
	}
	capture, err := s.wire.Watch(p.see)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := capture.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// outer is the network header of a packet.
type outer struct {
	src, dst netip.Addr
	protocol byte
	payload  []byte
}

func parse(p []byte) (o outer, ok bool) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4 && len(p) >= int(p[0]&15)*4:
		o.src, o.dst = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
		o.protocol, o.payload = p[9], p[int(p[0]&15)*4:]
	case len(p) >= 40 && p[0]>>4 == 6:
		o.src, o.dst = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
		o.protocol, o.payload = p[6], p[40:]
	default:
		return o, false
	}
	return o, true
}

func (p *tap) see(f netns.Frame) {
	if f.Outgoing || f.Interface != p.a && f.Interface != p.b || len(f.Data) < 14 {
		return
	}
	packet := f.Data[14:]
	o, ok := parse(packet)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if isInner(o.src) || isInner(o.dst) || bytes.Contains(packet, []byte(marker)) {
		p.count.clear++
		if p.armed && len(p.leaks) < 10 {
			p.leaks = append(p.leaks, fmt.Sprintf("%s to %s, protocol %d", o.src, o.dst, o.protocol))
		}
		return
	}
	if o.protocol == 50 {
		p.esPacket(o.src, o.payload, packet)
		return
	}
	if o.protocol == 17 && len(o.payload) > 12 {
		switch src, body := binary.BigEndian.Uint16(o.payload), o.payload[8:]; {
		case src == 500, src == 4500 && binary.BigEndian.Uint32(body) == 0:
			p.count.ike++
			if len(p.ike) < keepPackets {
				p.ike = append(p.ike, bytes.Clone(packet))
			}
			return
		case src == 4500:
			p.esPacket(o.src, body, packet)
			return
		}
	}
	p.count.other++
}

func (p *tap) esPacket(src netip.Addr, b, packet []byte) {
	p.count.esp++
	if len(b) < 8 {
		return
	}
	id := direction{src, binary.BigEndian.Uint32(b)}
	s := p.sas[id]
	if s == nil {
		s = &sequence{seen: make(map[uint32]int)}
		p.sas[id] = s
	}
	n := binary.BigEndian.Uint32(b[4:])
	s.seen[n]++
	s.highest = max(s.highest, n)
	if len(p.esp) < keepPackets {
		p.esp = append(p.esp, bytes.Clone(packet))
	}
}

// arm begins to hold every inner packet in clear against the gateways.
func (p *tap) arm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed, p.leaks = true, nil
}

// mustBeTight fails where something leaked since arm.
func (p *tap) mustBeTight(t *testing.T, when string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.armed {
		t.Fatal("the tap is not armed")
	}
	for _, l := range p.leaks {
		t.Errorf("%s: in clear: %s", when, l)
	}
	p.leaks = nil
}

func (p *tap) inClear() int { return p.seen().clear }

// seen is what crossed the wire so far.
func (p *tap) seen() crossing {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// mustHaveNoGaps fails where a sequence number of an SA is missing or was used
// twice on the wire.
func (p *tap) mustHaveNoGaps(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, s := range p.sas {
		if missing := int(s.highest) - len(s.seen); missing != 0 {
			t.Errorf("SA %08x from %s: %d sequence numbers up to %d are missing", id.spi, id.src, missing, s.highest)
		}
		for n, times := range s.seen {
			if times > 1 || n == 0 {
				t.Errorf("SA %08x from %s: sequence number %d was sent %d times", id.spi, id.src, n, times)
			}
		}
	}
}

// captured returns packets of the kind that one address sent.
func (p *tap) captured(src netip.Addr, ike bool) [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.esp
	if ike {
		list = p.ike
	}
	return slices.DeleteFunc(slices.Clone(list), func(b []byte) bool {
		o, _ := parse(b)
		return o.src != src
	})
}

// highest is the highest sequence number that an SA has sent.
func (p *tap) highest(spi string) (highest uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, s := range p.sas {
		if fmt.Sprintf("%08x", id.spi) == spi {
			highest = max(highest, s.highest)
		}
	}
	return highest
}
