package operations

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"caponier/internal/lab/netns"
)

// marker begins the payload of all traffic: in clear, the tap recognises it.
const marker = "OPERATIONS-TEST-PAYLOAD"

var answered = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

// ping sends n echo requests from one address to another and returns how many
// were answered.
func ping(t *testing.T, from netns.NS, src, dst netip.Addr, n int) int {
	t.Helper()
	// ping's status is 1 where no answer comes.
	out, _ := from.Command(within(t, time.Minute), "ping", "-n", "-c", strconv.Itoa(n), "-i", "0.2", "-W", "2",
		"-I", src.String(), dst.String()).CombinedOutput()
	m := answered.FindSubmatch(out)
	if m == nil {
		t.Fatalf("ping %s: %s", dst, out)
	}
	got, err := strconv.Atoi(string(m[2]))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// mustPing fails unless every request is answered.
func mustPing(t *testing.T, from netns.NS, src, dst netip.Addr, n int) {
	t.Helper()
	if got := ping(t, from, src, dst, n); got != n {
		t.Errorf("ping from %s to %s: %d of %d were answered", src, dst, got, n)
	}
}

// flow is a steady UDP conversation: one end sends numbered packets, the other
// returns each.
type flow struct {
	t    *testing.T
	near net.PacketConn
	far  net.PacketConn
	to   netip.AddrPort
	stop chan struct{}
	wg   sync.WaitGroup

	mu   sync.Mutex
	sent map[uint32]time.Time
	got  map[uint32]int
	last time.Time // of the last answer
}

func bind(t *testing.T, n netns.NS, a netip.Addr) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	err := n.Do(func() error {
		var err error
		c, err = net.ListenPacket("udp", netip.AddrPortFrom(a, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// startFlow sends a packet in each interval until end.
func startFlow(t *testing.T, from netns.NS, src netip.Addr, to netns.NS, dst netip.Addr, interval time.Duration, size int) *flow {
	t.Helper()
	f := &flow{
		t: t, near: bind(t, from, src), far: bind(t, to, dst), stop: make(chan struct{}),
		sent: make(map[uint32]time.Time), got: make(map[uint32]int),
	}
	f.to = f.far.LocalAddr().(*net.UDPAddr).AddrPort()
	f.wg.Go(f.echo)
	f.wg.Go(f.receive)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.send(interval, size)
	}()
	f.wg.Go(func() { <-done })
	t.Cleanup(func() {
		f.halt()
		<-done
		f.near.Close()
		f.far.Close()
		f.wg.Wait()
	})
	return f
}

func (f *flow) halt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
}

func (f *flow) send(interval time.Duration, size int) {
	b := make([]byte, max(size, len(marker)+4))
	copy(b, marker)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := uint32(0); ; n++ {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		binary.BigEndian.PutUint32(b[len(marker):], n)
		f.mu.Lock()
		f.sent[n] = time.Now()
		f.mu.Unlock()
		// Unreachable is as good as lost.
		_, _ = f.near.WriteTo(b, net.UDPAddrFromAddrPort(f.to))
	}
}

func (f *flow) echo() {
	b := make([]byte, 2048)
	for {
		n, from, err := f.far.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = f.far.WriteTo(b[:n], from)
		}
	}
}

func (f *flow) receive() {
	b := make([]byte, 2048)
	for {
		n, _, err := f.near.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < len(marker)+4 {
			continue
		}
		f.mu.Lock()
		f.got[binary.BigEndian.Uint32(b[len(marker):])]++
		f.last = time.Now()
		f.mu.Unlock()
	}
}

// tally is what became of a flow's packets.
type tally struct{ sent, lost, twice int }

func (f *flow) tally() (c tally) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.sent = len(f.sent)
	for n := range f.sent {
		switch f.got[n] {
		case 0:
			c.lost++
		case 1:
		default:
			c.twice++
		}
	}
	return c
}

// end stops the flow, waits for the last answers and counts.
func (f *flow) end() tally {
	f.halt()
	time.Sleep(500 * time.Millisecond)
	return f.tally()
}

// mustBeWhole ends the flow, which must have lost and doubled nothing.
func (f *flow) mustBeWhole(what string) {
	f.t.Helper()
	c := f.end()
	if c.lost != 0 || c.twice != 0 || c.sent == 0 {
		f.t.Errorf("%s: of %d packets %d were lost and %d came twice; lost: %s", what, c.sent, c.lost, c.twice, f.lostOnes())
	}
	f.t.Logf("%s: %d packets, none lost", what, c.sent)
}

func (f *flow) lostOnes() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := ""
	for n := uint32(0); int(n) < len(f.sent); n++ {
		if f.got[n] == 0 && len(text) < 400 {
			text += fmt.Sprintf("%d@%s ", n, f.sent[n].Format("05.000"))
		}
	}
	return text
}

// passes waits until answers come again.
func (f *flow) passes(patience time.Duration, when string) {
	f.t.Helper()
	since := time.Now()
	eventually(f.t, patience, "answer "+when, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.last.After(since)
	})
}

// talk makes a TCP connection, has a line returned, and returns how long that
// took.
func talk(t *testing.T, from netns.NS, src netip.Addr, to netns.NS, dst netip.Addr) time.Duration {
	t.Helper()
	l, err := to.Listen("tcp", netip.AddrPortFrom(dst, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	}()
	began := time.Now()
	var c net.Conn
	err = from.Do(func() error {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: src.AsSlice()}}
		var err error
		c, err = d.DialContext(t.Context(), "tcp", l.Addr().String())
		return err
	})
	if err != nil {
		t.Errorf("TCP from %s to %s: %v", src, dst, err)
		return 0
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(marker))
	if _, err := io.WriteString(c, marker); err != nil {
		t.Errorf("TCP from %s to %s: %v", src, dst, err)
	}
	if _, err := io.ReadFull(c, b); err != nil || string(b) != marker {
		t.Errorf("TCP from %s to %s: answer %q, %v", src, dst, b, err)
	}
	return time.Since(began)
}
