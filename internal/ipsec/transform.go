package ipsec

// TransformType is an IKEv2 transform type (RFC 7296, Section 3.3.2).
type TransformType uint8

// The transform types.
const (
	TypeEncr  TransformType = 1 // encryption algorithm
	TypePRF   TransformType = 2 // pseudorandom function
	TypeInteg TransformType = 3 // integrity algorithm
	TypeKE    TransformType = 4 // key exchange method
	TypeESN   TransformType = 5 // extended sequence numbers
)

// Transform names one algorithm by its number in the IANA registry "Internet
// Key Exchange Version 2 (IKEv2) Parameters", with the key length where the
// algorithm has several. It is comparable. Package suite knows the names and
// the constructors.
type Transform struct {
	Type    TransformType
	ID      uint16
	KeyBits uint16 // 0 where the algorithm has one key length
}

// Encryption algorithms. The number of octets in a name is the length of the
// ICV.
const (
	EncrDES      uint16 = 2  // RFC 2405
	Encr3DES     uint16 = 3  // RFC 2451
	EncrNull     uint16 = 11 // RFC 2410; ESP only
	EncrAESCBC   uint16 = 12 // RFC 3602
	EncrAESCTR   uint16 = 13 // RFC 3686, RFC 5930
	EncrAESCCM8  uint16 = 14 // RFC 4309, RFC 5282
	EncrAESCCM12 uint16 = 15
	EncrAESCCM16 uint16 = 16
	EncrAESGCM8  uint16 = 18 // RFC 4106, RFC 5282
	EncrAESGCM12 uint16 = 19
	EncrAESGCM16 uint16 = 20
	// EncrNullAESGMAC is ENCR_NULL_AUTH_AES_GMAC (RFC 4543); ESP only.
	EncrNullAESGMAC      uint16 = 21
	EncrChaCha20Poly1305 uint16 = 28 // RFC 7634
)

// Pseudorandom functions.
const (
	PRFHMACMD5    uint16 = 1 // RFC 2104
	PRFHMACSHA1   uint16 = 2
	PRFAESXCBC    uint16 = 4 // RFC 4434
	PRFHMACSHA256 uint16 = 5 // RFC 4868
	PRFHMACSHA384 uint16 = 6
	PRFHMACSHA512 uint16 = 7
	PRFAESCMAC    uint16 = 8 // RFC 4615
)

// Integrity algorithms.
const (
	IntegNone          uint16 = 0
	IntegHMACMD596     uint16 = 1  // RFC 2403
	IntegHMACSHA196    uint16 = 2  // RFC 2404
	IntegAESXCBC96     uint16 = 5  // RFC 3566
	IntegAESCMAC96     uint16 = 8  // RFC 4494
	IntegHMACSHA256128 uint16 = 12 // RFC 4868
	IntegHMACSHA384192 uint16 = 13
	IntegHMACSHA512256 uint16 = 14
)

// Key exchange methods.
const (
	KENone     uint16 = 0
	KEMODP768  uint16 = 1 // RFC 2409
	KEMODP1024 uint16 = 2
	KEMODP1536 uint16 = 5 // RFC 3526
	KEMODP2048 uint16 = 14
	KEMODP3072 uint16 = 15
	KEMODP4096 uint16 = 16
	KEMODP6144 uint16 = 17
	KEMODP8192 uint16 = 18
	KEECP256   uint16 = 19 // RFC 5903
	KEECP384   uint16 = 20
	KEECP521   uint16 = 21
	KEX25519   uint16 = 31 // RFC 8031
	KEX448     uint16 = 32
)

// Algorithms of SM4 (GB/T 32907-2016) and SM3 (GB/T 32905-2016). IANA has
// numbers for none of them: these are from the private-use range of each
// registry (RFC 7296, Section 3.3.2), beginning with the number of the national
// standard, and mean something only to a peer configured alike. They are not
// those of GM/T 0022, which is another protocol.
const (
	EncrSM4CBC   uint16 = 32907 // like AES-CBC, with a key of 128 bits
	EncrSM4GCM16 uint16 = 32908 // like AES-GCM

	PRFHMACSM3 uint16 = 32905

	IntegHMACSM3    uint16 = 32905 // the whole output as the ICV
	IntegHMACSM3128 uint16 = 32906 // truncated to 128 bits
	IntegHMACSM396  uint16 = 32907 // truncated to 96 bits
)

// Extended sequence numbers (RFC 4303, Section 2.2.1).
const (
	ESNNo  uint16 = 0
	ESNYes uint16 = 1
)

// Proposal is an unordered set of transforms to choose from, one of each type
// (RFC 7296, Section 3.3). Within a type, the order is the preference.
type Proposal []Transform

// Of returns the transforms of type t, in order of preference.
func (p Proposal) Of(t TransformType) []Transform {
	var out []Transform
	for _, x := range p {
		if x.Type == t {
			out = append(out, x)
		}
	}
	return out
}

// First returns the preferred transform of type t, or the zero Transform.
func (p Proposal) First(t TransformType) Transform {
	for _, x := range p {
		if x.Type == t {
			return x
		}
	}
	return Transform{}
}
