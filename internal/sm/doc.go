// Package sm has the block cipher SM4 (GB/T 32907-2016), alone and in the modes
// ECB, CTR, CBC and GCM, and the hash function SM3 (GB/T 32905-2016) with HMAC,
// at the speed of the hardware, one packet at a time and many side by side.
//
// Nothing is looked up in memory by what is secret, on no path: the S-box is
// computed, by instructions of the machine or as a circuit. The assembly is
// written by internal/sm/gen from the definition of the cipher; docs/sm-kernels.md
// explains the ideas behind it.
package sm

//go:generate go run ./gen .
