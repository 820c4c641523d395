package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"

	"caponier/internal/lab/netns"
)

// udpLoad is a stream of datagrams.
type udpLoad struct {
	size     int     // octets of data in a datagram
	rate     float64 // offered, bit/s of data; 0: as fast as one thread sends
	duration time.Duration
	targets  []netip.Addr // sent to in turn, instead of the one address
}

// udpResult is what the two ends counted.
type udpResult struct {
	sent, received, reordered uint64
	rate                      float64 // received, bit/s of data
	packets                   float64 // received per second
}

// lossPercent is the part of the datagrams that did not arrive.
func (r udpResult) lossPercent() float64 {
	if r.sent == 0 || r.received >= r.sent {
		return 0
	}
	return 100 * float64(r.sent-r.received) / float64(r.sent)
}

const (
	udpPort  = 5300
	udpBatch = 64 // datagrams in one system call
	// Each datagram starts with the number of its stream and its own.
	minDatagram = 12
	// udpBuffer is the receiving socket's, so that what is lost was lost on the way.
	udpBuffer = 16 << 20
	// drain is how long the receiver waits for a datagram after the last.
	drain = 150 * time.Millisecond
)

// streams numbers the streams of this process, so that stragglers of one are
// not counted in the next.
var streams atomic.Uint32

// measureUDP sends from one namespace to an address in another, or to the targets
// there, until the duration is over or ctx ends.
func measureUDP(ctx context.Context, from, to netns.NS, dst netip.Addr, l udpLoad) (udpResult, error) {
	if l.size < minDatagram {
		return udpResult{}, fmt.Errorf("a datagram of %d octets cannot hold its number: at least %d", l.size, minDatagram)
	}
	var in, out *net.UDPConn
	if len(l.targets) > 0 {
		dst = netip.IPv4Unspecified()
	}
	err := to.Do(func() (err error) {
		in, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, udpPort)))
		return err
	})
	if err != nil {
		return udpResult{}, fmt.Errorf("receiving datagrams: %w", err)
	}
	defer in.Close()
	err = from.Do(func() (err error) {
		if len(l.targets) > 0 {
			out, err = net.ListenUDP("udp4", nil)
		} else {
			out, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, udpPort)))
		}
		return err
	})
	if err != nil {
		return udpResult{}, fmt.Errorf("sending datagrams: %w", err)
	}
	defer out.Close()
	if err := errors.Join(forceBuffer(in, syscall.SO_RCVBUFFORCE, udpBuffer), forceBuffer(out, syscall.SO_SNDBUFFORCE, udpBuffer)); err != nil {
		return udpResult{}, err
	}

	stream := streams.Add(1)
	r := receiver{conn: ipv4.NewPacketConn(in), stream: stream}
	done := make(chan error, 1)
	go func() { done <- r.run(l.size) }()
	began := time.Now()
	sent, err := sendStream(ctx, ipv4.NewPacketConn(out), stream, l, began)
	r.settle(in)
	if err := errors.Join(err, <-done); err != nil {
		return udpResult{}, err
	}
	result := udpResult{sent: sent, received: r.received.Load(), reordered: r.reordered}
	if took := time.Duration(r.last.Load() - began.UnixNano()).Seconds(); result.received > 0 && took > 0 {
		result.packets = float64(result.received) / took
		result.rate = result.packets * float64(l.size) * 8
	}
	return result, nil
}

func forceBuffer(c *net.UDPConn, option, size int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, option, size) })
	if err := errors.Join(err, set); err != nil {
		return fmt.Errorf("socket buffers of %d octets: %w", size, err)
	}
	return nil
}

// sendStream returns how many datagrams the kernel took.
func sendStream(ctx context.Context, c *ipv4.PacketConn, stream uint32, l udpLoad, began time.Time) (uint64, error) {
	batch := make([]ipv4.Message, udpBatch)
	for i := range batch {
		b := make([]byte, l.size)
		binary.BigEndian.PutUint32(b, stream)
		batch[i].Buffers = [][]byte{b}
	}
	targets := make([]net.Addr, len(l.targets))
	for i, a := range l.targets {
		targets[i] = net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, udpPort))
	}
	perSecond := l.rate / 8 / float64(l.size)
	var sent uint64
	for ctx.Err() == nil {
		elapsed := time.Since(began)
		if elapsed >= l.duration {
			break
		}
		n := udpBatch
		if l.rate > 0 {
			due := uint64(elapsed.Seconds() * perSecond)
			if due <= sent {
				time.Sleep(50 * time.Microsecond)
				continue
			}
			n = int(min(due-sent, udpBatch))
		}
		for i := range n {
			number := sent + uint64(i) + 1
			binary.BigEndian.PutUint64(batch[i].Buffers[0][4:], number)
			if len(targets) > 0 {
				batch[i].Addr = targets[number%uint64(len(targets))]
			}
		}
		taken, err := c.WriteBatch(batch[:n], 0)
		if err != nil && !isPassing(err) {
			return sent, fmt.Errorf("sending datagrams: %w", err)
		}
		sent += uint64(max(taken, 0))
	}
	return sent, nil
}

// isPassing tells the errors that a sender under load, or one that just learned
// the path's MTU, goes on after.
func isPassing(err error) bool {
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.EAGAIN) ||
		errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.ECONNREFUSED)
}

// receiver counts the datagrams of one stream.
type receiver struct {
	conn      *ipv4.PacketConn
	stream    uint32
	highest   uint64
	reordered uint64 // arrived after one that was sent later; of run until it returns
	received  atomic.Uint64
	last      atomic.Int64 // when the last arrived, UnixNano
}

// run counts until the socket's deadline.
func (r *receiver) run(size int) error {
	batch := make([]ipv4.Message, udpBatch)
	for i := range batch {
		batch[i].Buffers = [][]byte{make([]byte, size+1)}
	}
	for {
		n, err := r.conn.ReadBatch(batch, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receiving datagrams: %w", err)
		}
		if n := r.count(batch[:n], size); n > 0 {
			r.received.Add(n)
			r.last.Store(time.Now().UnixNano())
		}
	}
}

func (r *receiver) count(batch []ipv4.Message, size int) (n uint64) {
	for i := range batch {
		b := batch[i].Buffers[0][:batch[i].N]
		if len(b) != size || binary.BigEndian.Uint32(b) != r.stream {
			continue
		}
		n++
		if seq := binary.BigEndian.Uint64(b[4:]); seq < r.highest {
			r.reordered++
		} else {
			r.highest = seq
		}
	}
	return n
}

// settle waits until nothing more comes, and ends run.
func (r *receiver) settle(in *net.UDPConn) {
	for before := r.received.Load(); ; {
		time.Sleep(drain)
		now := r.received.Load()
		if now == before {
			break
		}
		before = now
	}
	_ = in.SetReadDeadline(time.Unix(1, 0)) // it fails only on a closed socket
}
