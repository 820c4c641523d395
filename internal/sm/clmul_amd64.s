#include "textflag.h"

// func products(z *[6]uint64, a, b *[3]uint64)
TEXT ·products(SB), NOSPLIT, $0-24
	MOVQ z+0(FP), AX
	MOVQ a+8(FP), BX
	MOVQ b+16(FP), CX
	MOVQ (BX), X0
	MOVQ 8(BX), X1
	MOVQ 16(BX), X2
	MOVQ (CX), X3
	MOVQ 8(CX), X4
	MOVQ 16(CX), X5
	PCLMULQDQ $0, X3, X0
	PCLMULQDQ $0, X4, X1
	PCLMULQDQ $0, X5, X2
	MOVOU X0, (AX)
	MOVOU X1, 16(AX)
	MOVOU X2, 32(AX)
	RET
