package netio

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// setIPsec says how the kernel's own IPsec treats the socket.
func (s *Socket) setIPsec(opts SocketOptions) error {
	var optErr error
	err := s.raw.Control(func(fd uintptr) {
		if opts.PastIPsec {
			optErr = passIPsec(int(fd), s.family)
		}
		if opts.UDPEncap && optErr == nil {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_ENCAP, unix.UDP_ENCAP_ESPINUDP)
			if optErr != nil {
				optErr = fmt.Errorf("hand ESP in UDP to the kernel (UDP_ENCAP): %w", optErr)
			}
		}
	})
	return errors.Join(err, optErr)
}

// The parts of struct xfrm_userpolicy_info that are not zero (linux/xfrm.h).
const (
	userPolicyLen    = 168
	userPolicyFamily = 40
	userPolicyDir    = 160
)

// passIPsec gives the socket policies of its own, which allow everything and
// come before those of the gateway.
func passIPsec(fd int, f Family) error {
	level, option, family := unix.IPPROTO_IP, unix.IP_XFRM_POLICY, uint16(unix.AF_INET)
	if f == IPv6 {
		level, option, family = unix.IPPROTO_IPV6, unix.IPV6_XFRM_POLICY, unix.AF_INET6
	}
	const dirIn, dirOut = 0, 1
	for _, dir := range []byte{dirIn, dirOut} {
		b := make([]byte, userPolicyLen)
		binary.NativeEndian.PutUint16(b[userPolicyFamily:], family)
		b[userPolicyDir] = dir
		if err := unix.SetsockoptString(fd, level, option, string(b)); err != nil {
			return fmt.Errorf("let IKE pass the IPsec policies: %w", needs(err, capNetAdmin))
		}
	}
	return nil
}
