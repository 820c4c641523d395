package afxdp

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelRoom is what the kernel keeps free at the start of a chunk
// (XDP_PACKET_HEADROOM), in octets.
const kernelRoom = unix.XDP_PACKET_HEADROOM

// Sizes of chunks, in octets: powers of two up to the size of a page.
const (
	smallChunk = 2048
	largeChunk = 4096
)

// chunkFor is the size of the chunks for frames of up to frame octets. Frames for
// which no chunk is large enough stay with the kernel.
func chunkFor(frame int) int {
	if frame <= smallChunk-kernelRoom {
		return smallChunk
	}
	return largeChunk
}

// umem is the memory that a socket shares with the kernel (UMEM), cut into chunks
// of which each holds one frame. The first ringSize are for what is received: each
// is in the fill ring, with the kernel, in the receive ring, or between two of
// these in the hands of the reader. The others are for what is sent, and go round
// by the transmit and the completion ring.
type umem struct {
	area  []byte
	chunk int
}

// newUMEM makes the memory and registers it for the socket fd.
func newUMEM(fd, chunk int) (*umem, error) {
	area, err := unix.Mmap(-1, 0, 2*ringSize*chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("memory for frames: %w", err)
	}
	u := &umem{area: area, chunk: chunk}
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(&area[0]))),
		Len:  uint64(len(area)),
		Size: uint32(chunk),
	}
	if err := setsockopt(fd, unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg)); err != nil {
		u.free()
		if errors.Is(err, unix.ENOBUFS) {
			err = fmt.Errorf("needs CAP_IPC_LOCK, or a limit of locked memory (LimitMEMLOCK) of %d octets more: %w", len(area), err)
		}
		return nil, fmt.Errorf("share memory for frames with the kernel: %w", err)
	}
	return u, nil
}

// frame is the octets of a descriptor.
func (u *umem) frame(d unix.XDPDesc) []byte { return u.area[d.Addr : d.Addr+uint64(d.Len)] }

// base is the address of the chunk that an address lies in.
func (u *umem) base(addr uint64) uint64 { return addr &^ uint64(u.chunk-1) }

// sending is the address of the i-th chunk for what is sent.
func (u *umem) sending(i int) uint64 { return uint64((ringSize + i) * u.chunk) }

func (u *umem) free() {
	// Nothing can be done about memory that the kernel does not take back.
	_ = unix.Munmap(u.area)
	u.area = nil
}
