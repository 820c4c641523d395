package netio

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// OwnerOf returns which of n workers receives the ESP packets with this SPI,
// when the kernel steers them (ListenUDP).
func OwnerOf(spi uint32, n int) int { return int(spi % uint32(n)) }

// steer attaches the program that chooses among the n sockets of a port. It
// sees the UDP payload: the SPI, or the zeros of the non-ESP marker (RFC 3948,
// Section 2.2), which go to the first socket as everything does that is too
// short for the load.
func (s *Socket) steer(n int) error {
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(n)},
		{Code: unix.BPF_RET | unix.BPF_A},
	}
	var optErr error
	err := s.raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
			&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
	})
	if err == nil {
		err = optErr
	}
	if err != nil {
		return fmt.Errorf("steer packets to %d workers by SPI: %w", n, err)
	}
	return nil
}
