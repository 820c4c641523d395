package keys

import (
	"crypto/sha1" // RFC 7296, Section 2.23 says SHA-1; it protects nothing there
	"encoding/binary"
	"net/netip"

	"caponier/internal/secret"
	"caponier/internal/suite"
)

// keyPad is what a shared secret is mixed with first, so that the IKE daemon
// need not keep it in clear (RFC 7296, Section 2.15).
const keyPad = "Key Pad for IKEv2"

// AuthOctets returns the octets that one side signs or proves (RFC 7296,
// Section 2.15): its first message from the first octet of the header, the
// nonce of the other side, and prf(SK_p, ID') of its own. idBody is the body of
// its ID payload behind the generic header: type, three reserved octets, data.
func AuthOctets(prf suite.PRF, firstMessage, peerNonce []byte, skP secret.Key, idBody []byte) []byte {
	return join(firstMessage, peerNonce, prf.Sum(skP.Bytes(), idBody))
}

// PSKAuth returns the authentication data of a shared key: prf(prf(psk, "Key
// Pad for IKEv2"), octets), with octets from AuthOctets (RFC 7296, Section
// 2.15). Compare with hmac.Equal or subtle.ConstantTimeCompare.
func PSKAuth(prf suite.PRF, psk secret.Key, octets []byte) []byte {
	padded := prf.Sum(psk.Bytes(), []byte(keyPad))
	defer clear(padded)
	return prf.Sum(padded, octets)
}

// NATDetection returns the data of NAT_DETECTION_SOURCE_IP and
// NAT_DETECTION_DESTINATION_IP: SHA-1 of the SPIs as in the header, the address
// and the port (RFC 7296, Section 2.23). An IPv4-mapped address counts as IPv4.
func NATDetection(spiI, spiR uint64, a netip.AddrPort) []byte {
	data := binary.BigEndian.AppendUint64(nil, spiI)
	data = binary.BigEndian.AppendUint64(data, spiR)
	data = append(data, a.Addr().Unmap().AsSlice()...)
	data = binary.BigEndian.AppendUint16(data, a.Port())
	sum := sha1.Sum(data)
	return sum[:]
}
