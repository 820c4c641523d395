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

// Encryption algorithms.
const (
	EncrNull   uint16 = 11
	EncrAESCBC uint16 = 12
	// EncrAESGCM16 is AES-GCM with a 16-octet ICV (RFC 4106, RFC 5282).
	EncrAESGCM16 uint16 = 20
)

// Pseudorandom functions (RFC 4868).
const (
	PRFHMACSHA256 uint16 = 5
	PRFHMACSHA384 uint16 = 6
	PRFHMACSHA512 uint16 = 7
)

// Integrity algorithms (RFC 4868).
const (
	IntegNone          uint16 = 0
	IntegHMACSHA256128 uint16 = 12
	IntegHMACSHA384192 uint16 = 13
	IntegHMACSHA512256 uint16 = 14
)

// Key exchange methods (RFC 3526, RFC 5903, RFC 8031).
const (
	KENone     uint16 = 0
	KEMODP2048 uint16 = 14
	KEECP256   uint16 = 19
	KEECP384   uint16 = 20
	KEX25519   uint16 = 31
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
