package isakmp

import (
	"net/netip"

	"caponier/internal/ike/message"
)

// ParseNATOriginal reads the body of a NAT-OA payload: the address that a host
// knows itself by (RFC 3947, Section 5.2).
func ParseNATOriginal(b []byte) (netip.Addr, error) {
	if len(b) >= 4 {
		if a, ok := netip.AddrFromSlice(b[4:]); ok && (b[0] == byte(message.IDIPv4)) == a.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, syntaxf("NAT-OA of %d octets", len(b))
}

// NATOriginal is the NAT-OA payload for an address.
func NATOriginal(a netip.Addr) Payload {
	kind := message.IDIPv6
	if a = a.Unmap(); a.Is4() {
		kind = message.IDIPv4
	}
	return Payload{Type: TypeNATOriginal, Body: append([]byte{byte(kind), 0, 0, 0}, a.AsSlice()...)}
}

// Vendor IDs.
const (
	// VendorNATT announces NAT traversal by RFC 3947: MD5 of "RFC 3947".
	VendorNATT = "\x4a\x13\x1c\x81\x07\x03\x58\x45\x5c\x57\x28\xf2\x0e\x95\x45\x2f"
	// VendorDPD announces Dead Peer Detection (RFC 3706, Section 5.1), version 1.0.
	VendorDPD = "\xaf\xca\xd7\x13\x68\xa1\xf1\xc9\x6b\x86\x96\xfc\x77\x57\x01\x00"
)
