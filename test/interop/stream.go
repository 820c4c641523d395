package interop

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"caponier/internal/lab/netns"
)

// streamInterval is how often a Stream sends.
const streamInterval = 10 * time.Millisecond

// Stream is continuous traffic: numbered datagrams from one host, which the
// other sends back.
type Stream struct {
	client, server net.Conn
	stop           chan struct{}
	sending        sync.WaitGroup

	mu       sync.Mutex
	sent     uint32
	answered map[uint32]bool
}

// StartStream begins to send from one namespace to an address in the other,
// until Stop or the end of the test.
func StartStream(t testing.TB, from, to netns.NS, addr netip.Addr) *Stream {
	t.Helper()
	s := &Stream{stop: make(chan struct{}), answered: make(map[uint32]bool)}
	var server *net.UDPConn
	must(t, to.Do(func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	}))
	s.server = server
	t.Cleanup(func() { _ = server.Close() })
	client, err := from.Dial(t.Context(), "udp", server.LocalAddr().String())
	must(t, err)
	s.client = client
	t.Cleanup(func() { _ = client.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			n, peer, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDPAddrPort(buf[:n], peer)
		}
	}()
	go s.receive()
	s.sending.Go(s.send)
	return s
}

func (s *Stream) send() {
	tick := time.NewTicker(streamInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		number := s.sent
		s.sent++
		s.mu.Unlock()
		_, _ = s.client.Write(binary.BigEndian.AppendUint32(nil, number))
	}
}

func (s *Stream) receive() {
	buf := make([]byte, 64)
	for {
		n, err := s.client.Read(buf)
		if err != nil {
			if s.closed() {
				return
			}
			time.Sleep(streamInterval) // an ICMP error
			continue
		}
		if n == 4 {
			s.mu.Lock()
			s.answered[binary.BigEndian.Uint32(buf)] = true
			s.mu.Unlock()
		}
	}
}

func (s *Stream) closed() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// Stop ends the stream and returns how many datagrams were sent, and the
// numbers of those that were not answered within five seconds.
func (s *Stream) Stop() (sent int, lost []uint32) {
	close(s.stop)
	s.sending.Wait()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s.mu.Lock()
		sent, lost = int(s.sent), nil
		for i := range s.sent {
			if !s.answered[i] {
				lost = append(lost, i)
			}
		}
		s.mu.Unlock()
		if len(lost) == 0 || time.Now().After(deadline) {
			return sent, lost
		}
	}
}
