package sm

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/cpu"
)

type kernel = func(unsafe.Pointer)

var engines = sync.OnceValue(func() []*engine {
	var es []*engine
	x := &cpu.X86
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ && x.HasAVX512GFNI && x.HasAVX512VPCLMULQDQ && x.HasBMI2 {
		es = append(es, &engine{
			name:  "avx512-gfni",
			keys:  keysDelta,
			cbc:   [2]kernel{cbcLanes16AVX512, cbcLanes32AVX512},
			hash:  [2]kernel{sm3Lanes16AVX512, sm3Lanes32AVX512},
			outer: [2]kernel{sm3Outer16AVX512, sm3Outer32AVX512},
			fused: [2]kernel{fusedLanes16AVX512, fusedLanes32AVX512},
		})
	}
	return append(es, &portableEngine)
})
