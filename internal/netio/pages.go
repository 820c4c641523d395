package netio

import "golang.org/x/sys/unix"

// pages is memory for packets that the garbage collector knows nothing of. Readers
// have room for far more than usually comes; as part of the heap all of it would
// count as living, and what the heap gives out again it fills with zeros first.
// Here a page that no packet reaches is never backed by memory.
//
// Nothing may refer to it any more when it is given back.
type pages struct {
	mem    []byte
	mapped bool
}

// newPages returns n octets, all zero.
func newPages(n int) pages {
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return pages{mem: make([]byte, n)}
	}
	// Huge pages would be backed whole by the first packet. Kernels without them
	// refuse the advice.
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE)
	return pages{mem, true}
}

func (p *pages) release() {
	if p.mapped {
		_ = unix.Munmap(p.mem) // it fails only for what is not mapped
	}
	*p = pages{}
}
