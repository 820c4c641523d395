package netio

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Offload names ways to move many packets as one. All are used where the kernel
// has them; options name those that are not to be.
type Offload uint8

// The offloads.
const (
	// OffloadTCP: a TUN device delivers and takes TCP super-packets.
	OffloadTCP Offload = 1 << iota
	// OffloadUDP: the same for UDP (Linux 6.2).
	OffloadUDP
	// OffloadUDPSend: trains of datagrams are sent as one (UDP_SEGMENT, Linux
	// 4.18).
	OffloadUDPSend
	// OffloadUDPReceive: and received as one (UDP_GRO, Linux 5.0).
	OffloadUDPReceive

	// NoOffload leaves everything to be moved packet by packet.
	NoOffload = OffloadTCP | OffloadUDP | OffloadUDPSend | OffloadUDPReceive
)

// sendsTrains reports whether the kernel knows UDP_SEGMENT. What the device
// behind the route makes of it shows only when a train is sent.
func (s *Socket) sendsTrains() bool {
	if corruptsTrains(release()) {
		return false
	}
	ok := false
	err := s.raw.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		ok = err == nil
	})
	return err == nil && ok
}

// receiveTrains asks for trains and reports whether the kernel delivers them.
func (s *Socket) receiveTrains() bool {
	if !s.trains {
		return false
	}
	ok := false
	err := s.raw.Control(func(fd uintptr) {
		ok = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	})
	return err == nil && ok
}

func release() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// corruptsTrains reports whether a kernel of this release is known to garble
// trains whose datagrams are all of one length: Linux 7.0 to 7.1.4.
func corruptsTrains(release string) bool {
	release, _, _ = strings.Cut(release, "-")
	var version [3]int
	for i, field := range strings.SplitN(release, ".", len(version)) {
		n, err := strconv.Atoi(field)
		if err != nil {
			break
		}
		version[i] = n
	}
	return version[0] == 7 && (version[1] == 0 || version[1] == 1 && version[2] <= 4)
}
