package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Capture sees every frame that enters or leaves the interfaces of a namespace.
type Capture struct {
	fd       int
	stop     chan struct{}
	finished chan struct{}
	err      error // why it ended by itself; read after finished
}

// Frame is a captured frame, from its Ethernet header on. Data is valid only
// during the call it is passed to. A train of UDP datagrams that the kernel moves
// as one appears cut into its datagrams, as the wire would show them; their UDP
// checksums are those of the train.
type Frame struct {
	Interface int // index
	Outgoing  bool
	Train     bool // Data was cut from a train
	Data      []byte
}

// Watch captures in the namespace and calls see for each frame, from one
// goroutine, until Close.
func (n NS) Watch(see func(Frame)) (*Capture, error) {
	c := &Capture{stop: make(chan struct{}), finished: make(chan struct{})}
	err := n.Do(func() error {
		// Without a protocol, nothing arrives before the options are set.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("capturing in namespace %s needs CAP_NET_RAW: %w", n.Name, err)
		}
		c.fd = fd
		// Best effort: a small buffer loses frames only under load.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
		// Close is noticed at the next time-out.
		tv := unix.NsecToTimeval((50 * time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)}); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	go c.run(see)
	return c, nil
}

func (c *Capture) run(see func(Frame)) {
	defer close(c.finished)
	buf := make([]byte, 1<<17)
	for {
		n, from, err := unix.Recvfrom(c.fd, buf, 0)
		if err == nil {
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && n >= vnetHeader {
				f := Frame{Interface: ll.Ifindex, Outgoing: ll.Pkttype == unix.PACKET_OUTGOING}
				cut(buf[:vnetHeader], buf[vnetHeader:n], func(frame []byte, train bool) {
					f.Data, f.Train = frame, train
					see(f)
				})
			}
			continue
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			// Linux before 6.2 has no word for a train of datagrams: EINVAL.
			c.err = fmt.Errorf("the capture saw nothing any more: %w", err)
			return
		}
		select {
		case <-c.stop:
			return
		default:
		}
	}
}

// Close ends the capture. After it returns, see is not called again. The error
// says that the capture had ended by itself, so that what was seen is not all.
func (c *Capture) Close() error {
	close(c.stop)
	<-c.finished
	return errors.Join(c.err, unix.Close(c.fd))
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
