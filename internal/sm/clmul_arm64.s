#include "textflag.h"

// func products(z *[6]uint64, a, b *[3]uint64)
TEXT ·products(SB), NOSPLIT, $0-24
	MOVD z+0(FP), R0
	MOVD a+8(FP), R1
	MOVD b+16(FP), R2
	VLD1 (R1), [V0.D1, V1.D1, V2.D1]
	VLD1 (R2), [V3.D1, V4.D1, V5.D1]
	VPMULL V0.D1, V3.D1, V3.Q1
	VPMULL V1.D1, V4.D1, V4.Q1
	VPMULL V2.D1, V5.D1, V5.Q1
	VST1 [V3.D2, V4.D2, V5.D2], (R0)
	RET
