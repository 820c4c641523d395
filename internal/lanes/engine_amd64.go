package lanes

import "golang.org/x/sys/cpu"

func hasInstructions(f Feature) bool {
	x := &cpu.X86
	if !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512VL || !x.HasAVX512DQ || !x.HasBMI2 {
		return false
	}
	switch f {
	case AESCBC:
		return x.HasAES && x.HasAVX512VAES
	case AESGCM:
		return x.HasAES && x.HasAVX512VAES && x.HasAVX512VPCLMULQDQ
	case TripleDESCBC:
		return x.HasAVX512VBMI && x.HasAVX512GFNI
	default:
		return true
	}
}
