package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"caponier/internal/dataplane/kernel/xfrm"
)

// socket is a connection to the kernel's IPsec whose messages pass through one
// buffer in each direction, which is wiped after each: they hold keys, of which
// the library's own way would leave copies on the heap.
type socket struct {
	nl  *netlink.Conn
	raw syscall.RawConn
	in  []byte
}

func newSocket() (*socket, error) {
	nl, err := netlink.Dial(unix.NETLINK_XFRM, nil)
	if err != nil {
		return nil, err
	}
	raw, err := nl.SyscallConn()
	if err != nil {
		nl.Close()
		return nil, err
	}
	return &socket{nl: nl, raw: raw, in: make([]byte, 1<<16)}, nil
}

// send sends one message, header and all.
func (s *socket) send(b []byte) error {
	var sent error
	err := s.raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(sent, unix.EAGAIN)
	})
	if err != nil {
		return err
	}
	return sent
}

// receive waits for a datagram and calls each for its messages, whose Data is
// valid during the call.
func (s *socket) receive(each func(m netlink.Message)) error {
	n, err := 0, error(nil)
	if waited := s.raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC)
		if err == nil && n > len(s.in) {
			s.in = make([]byte, n) // the old one was wiped
		}
		if err == nil {
			n, _, err = unix.Recvfrom(int(fd), s.in, unix.MSG_TRUNC)
		}
		return !errors.Is(err, unix.EAGAIN)
	}); waited != nil {
		return waited
	}
	if err != nil {
		return err
	}
	if n > len(s.in) {
		xfrm.Wipe(s.in)
		return fmt.Errorf("netlink: a message of %d octets was cut", n)
	}
	defer xfrm.Wipe(s.in[:n])
	return eachMessage(s.in[:n], each)
}

const headerLen = unix.SizeofNlMsghdr

// eachMessage takes a datagram of netlink apart.
func eachMessage(b []byte, each func(m netlink.Message)) error {
	for len(b) > 0 {
		if len(b) < headerLen {
			return xfrm.ErrShort
		}
		n := binary.NativeEndian.Uint32(b)
		if n < headerLen || uint64(n) > uint64(len(b)) {
			return xfrm.ErrShort
		}
		each(netlink.Message{
			Header: netlink.Header{
				Length: n, Type: netlink.HeaderType(binary.NativeEndian.Uint16(b[4:])), Flags: netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:])),
				Sequence: binary.NativeEndian.Uint32(b[8:]), PID: binary.NativeEndian.Uint32(b[12:]),
			},
			Data: b[headerLen:n:n],
		})
		b = b[min((int(n)+3)&^3, len(b)):]
	}
	return nil
}

// putHeader writes the header of a message, which ends at the end of b.
func putHeader(b []byte, kind uint16, flags netlink.HeaderFlags, seq, pid uint32) {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], uint16(flags))
	binary.NativeEndian.PutUint32(b[8:], seq)
	binary.NativeEndian.PutUint32(b[12:], pid)
}

// refusal is the error of an NLMSG_ERROR or NLMSG_DONE, nil for an acknowledgement;
// with the kernel's own words, where it has some.
func refusal(m netlink.Message) error {
	if len(m.Data) < 4 {
		if m.Header.Type == netlink.Done {
			return nil
		}
		return xfrm.ErrShort
	}
	number := int32(binary.NativeEndian.Uint32(m.Data))
	if number == 0 {
		return nil
	}
	return &netlink.OpError{Op: "xfrm", Err: unix.Errno(-number), Message: words(m)}
}

// words is the NLMSGERR_ATTR_MSG of an extended acknowledgement.
func words(m netlink.Message) string {
	const withTLVs netlink.HeaderFlags = 0x200 // NLM_F_ACK_TLVS
	rest := m.Data[4:]
	if m.Header.Flags&withTLVs == 0 || len(rest) < headerLen {
		return ""
	}
	skip := headerLen
	if m.Header.Flags&netlink.Capped == 0 { // the request itself comes back
		skip = int(binary.NativeEndian.Uint32(rest)+3) &^ 3
	}
	if skip < headerLen || skip > len(rest) {
		return ""
	}
	ad, err := netlink.NewAttributeDecoder(rest[skip:])
	if err != nil {
		return ""
	}
	for ad.Next() {
		if ad.Type() == 1 { // NLMSGERR_ATTR_MSG
			return ad.String()
		}
	}
	return ""
}
