package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"caponier/internal/lab/netns"
	"caponier/internal/packet"
)

// echoLoad is one series of pings.
type echoLoad struct {
	size     int // octets of data, as ping -s counts them
	count    int
	interval time.Duration // from an answer to the next request
}

// echoTimeout is when a request counts as lost.
const echoTimeout = time.Second

const (
	echoReply    = 0 // RFC 792
	echoRequest  = 8
	icmpHeader   = 8
	minEcho      = 8 // the sequence number of the series
	protocolICMP = syscall.IPPROTO_ICMP
)

// measureEcho pings from inside the namespace and returns the round trips in
// seconds; what was lost is not among them. The far kernel answers. The socket
// blocks, on a thread of its own, so that the scheduler of Go adds nothing to
// what is measured.
func measureEcho(ctx context.Context, from netns.NS, to netip.Addr, l echoLoad) (trips []float64, lost int, err error) {
	err = from.Do(func() error {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, protocolICMP)
		if err != nil {
			return fmt.Errorf("pinging: %w", err)
		}
		defer func() { _ = syscall.Close(fd) }()
		if err := syscall.Connect(fd, &syscall.SockaddrInet4{Addr: to.As4()}); err != nil {
			return fmt.Errorf("pinging %v: %w", to, err)
		}
		e := echo{fd: fd, id: uint16(time.Now().UnixNano()), request: make([]byte, icmpHeader+max(l.size, minEcho))}
		pause := syscall.NsecToTimespec(l.interval.Nanoseconds())
		for range l.count {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			took, err := e.once()
			switch {
			case err == nil:
				trips = append(trips, took.Seconds())
			case errors.Is(err, errLost):
				lost++
			default:
				return err
			}
			_ = syscall.Nanosleep(&pause, nil) // an early return only shortens a pause
		}
		return nil
	})
	return trips, lost, err
}

var errLost = errors.New("no answer")

// echo is a pinger on a connected raw socket.
type echo struct {
	fd      int
	id      uint16
	seq     uint64
	request []byte
	answer  [65536]byte
}

// once sends one request and waits for its answer, not for a late one.
func (e *echo) once() (time.Duration, error) {
	e.seq++
	m := e.request
	m[0], m[1], m[2], m[3] = echoRequest, 0, 0, 0
	binary.BigEndian.PutUint16(m[4:], e.id)
	binary.BigEndian.PutUint16(m[6:], uint16(e.seq))
	binary.BigEndian.PutUint64(m[icmpHeader:], e.seq)
	binary.BigEndian.PutUint16(m[2:], packet.Checksum(m))

	began := time.Now()
	if _, err := syscall.Write(e.fd, m); err != nil {
		if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENOBUFS) {
			return 0, errLost
		}
		return 0, fmt.Errorf("sending a ping: %w", err)
	}
	for {
		left := echoTimeout - time.Since(began)
		if left <= 0 {
			return 0, errLost
		}
		tv := syscall.NsecToTimeval(left.Nanoseconds())
		if err := syscall.SetsockoptTimeval(e.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &tv); err != nil {
			return 0, err
		}
		n, err := syscall.Read(e.fd, e.answer[:])
		took := time.Since(began)
		switch {
		case err == nil && e.answers(e.answer[:n]):
			return took, nil
		case err == nil, errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN):
		case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.ECONNREFUSED):
			return 0, errLost
		default:
			return 0, fmt.Errorf("waiting for a ping: %w", err)
		}
	}
}

// answers reports whether an IPv4 packet is the reply to the last request.
func (e *echo) answers(ip []byte) bool {
	if len(ip) < 20 || len(ip) < int(ip[0]&15)*4 {
		return false
	}
	m := ip[int(ip[0]&15)*4:]
	return len(m) == len(e.request) && m[0] == echoReply &&
		binary.BigEndian.Uint16(m[4:]) == e.id && binary.BigEndian.Uint64(m[icmpHeader:]) == e.seq
}
