package sm

import (
	"sync"

	"golang.org/x/sys/cpu"
)

var engines = sync.OnceValue(func() []*engine {
	var es []*engine
	x := &cpu.X86
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ && x.HasAVX512GFNI && x.HasAVX512VPCLMULQDQ && x.HasBMI2 {
		es = append(es, &engine{
			name:  "avx512-gfni",
			keys:  keysDelta,
			cbc:   [2]kernel{kCbcLanes16AVX512, kCbcLanes32AVX512},
			hash:  [2]kernel{kSm3Lanes16AVX512, kSm3Lanes32AVX512},
			outer: [2]kernel{kSm3Outer16AVX512, kSm3Outer32AVX512},
			fused: [2]kernel{kFusedLanes16AVX512, kFusedLanes32AVX512},
			units: []unit{
				{blocks: 16, ctr: kCtr16AVX512, ecb: kBlocks16AVX512},
				{blocks: 32, ctr: kCtr32AVX512, ecb: kBlocks32AVX512},
				{blocks: 64, ctr: kCtr64AVX512, ecb: kBlocks64AVX512},
				{blocks: 96, ctr: kCtr96AVX512, ecb: kBlocks96AVX512, mixed: true},
			},
			tag:     kTagAVX512,
			powers:  kPowersAVX512,
			minHash: 3,
		})
	}
	return append(es, &portableEngine)
})
