package sm

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// candidates returns the engines whose instructions this machine has.
func candidates() []*engine {
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
			open:  kOpenLanes16AVX512,
			units: []unit{
				{16, kCtr16AVX512, kSeal16AVX512, kOpen16AVX512, kBlocks16AVX512, false},
				{32, kCtr32AVX512, kSeal32AVX512, kOpen32AVX512, kBlocks32AVX512, false},
				{64, kCtr64AVX512, kSeal64AVX512, kOpen64AVX512, kBlocks64AVX512, false},
				{96, kCtr96AVX512, kSeal96AVX512, kOpen96AVX512, kBlocks96AVX512, true},
			},
			ghash:   kGhashAVX512,
			powers:  kPowersAVX512,
			pooled:  [2]kernel{kSealPooledAVX512, kOpenPooledAVX512},
			minHash: 2,
			minOpen: 5,
		})
	}
	if x.HasAVX2 && x.HasPCLMULQDQ {
		var ecx uint32
		cpuid7(unsafe.Pointer(&ecx))
		if ecx&gfni != 0 {
			es = append(es, &engine{
				name:   "avx2-gfni",
				keys:   keysKappa,
				cbc:    [2]kernel{kCbcLanes16AVX2GFNI, kCbcLanes32AVX2GFNI},
				hash:   [2]kernel{kSm3Lanes16AVX2, kSm3Lanes32AVX2},
				outer:  [2]kernel{kSm3Outer16AVX2, kSm3Outer32AVX2},
				whole:  true,
				ghash:  kGhashAVX2,
				powers: kPowersAVX2,
				units: []unit{
					{blocks: 8, ctr: kCtr8AVX2GFNI, ecb: kBlocks8AVX2GFNI},
					{blocks: 16, ctr: kCtr16AVX2GFNI, ecb: kBlocks16AVX2GFNI},
					{blocks: 32, ctr: kCtr32AVX2GFNI, ecb: kBlocks32AVX2GFNI},
				},
				minHash: 5,
			})
		}
		if x.HasAES {
			es = append(es, &engine{
				name:   "avx2-aes",
				keys:   keysRounds,
				cbc:    [2]kernel{kCbcLanes16AVX2AES, kCbcLanes32AVX2AES},
				hash:   [2]kernel{kSm3Lanes16AVX2, kSm3Lanes32AVX2},
				outer:  [2]kernel{kSm3Outer16AVX2, kSm3Outer32AVX2},
				whole:  true,
				ghash:  kGhashAVX2,
				powers: kPowersAVX2,
				units: []unit{
					{blocks: 8, ctr: kCtr8AVX2AES, ecb: kBlocks8AVX2AES},
					{blocks: 16, ctr: kCtr16AVX2AES, ecb: kBlocks16AVX2AES},
					{blocks: 32, ctr: kCtr32AVX2AES, ecb: kBlocks32AVX2AES},
				},
				minHash: 5,
			})
		}
	}
	return append(es, goEngines()...)
}

const gfni = 1 << 8 // in ECX of CPUID's leaf 7
