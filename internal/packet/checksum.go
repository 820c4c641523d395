package packet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Sum adds b to the running one's complement sum of RFC 1071, and returns the
// new sum. Only the last piece that is added may have an odd length. Start with
// 0, end with Fold.
func Sum(sum uint64, b []byte) uint64 {
	var carry uint64
	if len(b) >= sumBlock {
		var blocks uint64
		blocks, b = sumBlocks(b)
		sum, carry = bits.Add64(sum, blocks, 0)
		sum += carry
	}
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), 0)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[24:]), carry)
		sum, carry = bits.Add64(sum, 0, carry)
		sum += carry
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), 0)
		sum += carry
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(last[:]), 0)
		sum += carry
	}
	return sum
}

// sumBlock is what sumBlocks adds in one go, in octets.
const sumBlock = 128

// sumBlocks sums the whole blocks at the start of b, and returns the rest. Words
// are taken in the order of the machine, which one's complement sums allow (RFC
// 1071, Section 2), in one chain of additions with carry.
func sumBlocks(b []byte) (sum uint64, rest []byte) {
	var carry uint64
	for len(b) >= sumBlock {
		x := (*[sumBlock]byte)(b)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[0:]), 0)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[24:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[32:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[40:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[48:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[56:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[64:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[72:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[80:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[88:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[96:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[104:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[112:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(x[120:]), carry)
		sum, carry = bits.Add64(sum, 0, carry)
		sum += carry
		b = b[sumBlock:]
	}
	return uint64(bits.ReverseBytes16(Fold(sum))), b
}

// Fold reduces a running sum to 16 bits, without the final complement.
func Fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum)
}

// Checksum returns the Internet checksum of b (RFC 1071).
func Checksum(b []byte) uint16 { return ^Fold(Sum(0, b)) }

// PseudoHeaderSum starts the running sum of a TCP, UDP or ICMPv6 checksum with
// the pseudo header (RFC 793, Section 3.1; RFC 8200, Section 8.1). length is
// that of the transport header and its payload. Its Fold is what a checksum
// offload expects in the checksum field.
func PseudoHeaderSum(src, dst netip.Addr, protocol uint8, length int) uint64 {
	var sum uint64
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		sum = uint64(binary.BigEndian.Uint32(s[:])) + uint64(binary.BigEndian.Uint32(d[:]))
	} else {
		s, d := src.As16(), dst.As16()
		sum = Sum(Sum(0, s[:]), d[:])
		sum = sum>>32 + sum&0xffffffff
	}
	return sum + uint64(protocol) + uint64(length)
}

// TransportChecksum returns the checksum of a TCP, UDP or ICMPv6 segment whose
// checksum field is zero; over a segment with its checksum in place it returns
// 0 if that is right. In a UDP header a checksum of 0 is written as 0xffff
// (RFC 768); PutUDP leaves that to the caller.
func TransportChecksum(src, dst netip.Addr, protocol uint8, segment []byte) uint16 {
	return ^Fold(Sum(PseudoHeaderSum(src, dst, protocol, len(segment)), segment))
}
