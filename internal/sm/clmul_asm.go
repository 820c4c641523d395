//go:build amd64 || arm64

package sm

import "golang.org/x/sys/cpu"

// carryless reports whether products may be called here.
func carryless() bool { return cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasPMULL }

// products multiplies three pairs of polynomials over GF(2), the low half of
// each product first.
//
//go:noescape
func products(z *[6]uint64, a, b *[3]uint64)
