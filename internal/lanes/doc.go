// Package lanes has the international algorithms of ESP for many packets at once,
// where that pays: AES in CBC mode, Triple DES in CBC mode, and HMAC with MD5,
// SHA-1 and SHA-256. A block of CBC encryption or of a hash waits for the one
// before, but not for other packets: they stand in the lanes of wide registers.
//
// It needs AVX-512; Supported says what this machine has and what passes its
// known-answer test. For the rest, and for packets alone, there is Go's crypto.
// Nothing is looked up in memory by what is secret. The assembly is written by
// internal/lanes/gen; docs/lanes.md explains the ideas and has the measurements.
package lanes

//go:generate go run ./gen .
